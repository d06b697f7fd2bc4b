//! The kind `email`, against a real SMTP server that `./test` provides (scripts/smtp_sink.py).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::{CausedBy, Decision, ProposalChange};
use stockwarden::events::fact::Move;
use stockwarden::events::ids::VariantId;
use stockwarden::handlers::target::SystemLookup;
use stockwarden::handlers::{Blame, Common, Handler, Handlers, Job, Update, Verdict};
use stockwarden::ports::ledger::EffectState;
use uuid::Uuid;

use super::email_server::OwnServer;
use super::harness::{World, decision, job, planned, route, until};
use super::tap::Tap;

/// Address and folder of the server.
pub(super) fn server() -> (String, PathBuf) {
    let get = |name: &str| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: these tests need an SMTP server; run ./test email"))
    };
    (get("STOCKWARDEN_TEST_SMTP"), get("STOCKWARDEN_TEST_SMTP_DIR").into())
}

pub(super) fn build(toml: &str) -> Result<Arc<dyn Handler>, String> {
    let config = HandlerConfig { kind: "email".into(), table: toml::from_str(toml).expect("toml") };
    let env = Env::of([("SMTP_PASSWORD", "pa55word")]);
    let handlers = Handlers::build(&BTreeMap::from([("mail".to_owned(), config)]), &env, Arc::new(SystemLookup));
    handlers.map(|h| h.get("mail").expect("mail").handler.clone()).map_err(|e| e[0].to_string())
}

pub(super) fn handler() -> Arc<dyn Handler> {
    let (address, _) = server();
    build(&format!("smtp_url = \"smtp://{address}\"\nfrom = \"Stockwarden <orders@example.com>\"\ntimeout = \"10s\""))
        .expect("handler")
}

/// An address that no other test has; `word` tells the server what to do.
pub(super) fn address(word: &str) -> String {
    format!("{word}-{}@supplier.example", Uuid::new_v4().simple())
}

pub(super) fn mail_job(decision: &Decision, to: &str) -> Job {
    job(decision, serde_json::json!({"to": "mail", "address": to}))
}

pub(super) async fn send(handler: &dyn Handler, job: &Job) -> Verdict {
    let request = handler.prepare(job, Utc::now()).expect("request");
    handler.send(job, &request, Utc::now()).await
}

/// Mails that the server has kept for this address.
pub(super) fn kept(to: &str) -> Vec<Vec<u8>> {
    let (_, folder) = server();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "eml") {
            let mail = std::fs::read(&path).expect("mail");
            if String::from_utf8_lossy(&mail).contains(to) {
                found.push(mail);
            }
        }
    }
    found
}

pub(super) fn header<'a>(mail: &'a str, name: &str) -> Option<&'a str> {
    let head = mail.split("\r\n\r\n").next()?;
    head.split("\r\n").find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn an_order_request_arrives_as_text_html_and_csv_with_a_stable_id() {
    let (handler, to, decision) = (handler(), address("orders"), decision(1));
    let verdict = send(&*handler, &mail_job(&decision, &to)).await;
    let Verdict::Done { response: Some(response), reference } = verdict else { panic!("{verdict:?}") };
    assert!(response.starts_with("250"), "{response}");
    let mails = kept(&to);
    assert_eq!(mails.len(), 1);
    let mail = String::from_utf8(mails[0].clone()).expect("ASCII");
    let id = header(&mail, "Message-ID").expect("id");
    assert_eq!(reference.as_deref(), Some(id), "the ledger knows it by its id");
    assert!(id.len() < 70 && id.ends_with("@example.com>"), "{id}");
    assert_eq!(header(&mail, "Auto-Submitted"), Some("auto-generated"));
    assert_eq!(header(&mail, "In-Reply-To"), None, "the opening mail answers none");
    assert!(header(&mail, "From").is_some_and(|f| f.contains("orders@example.com")));
    for part in ["text/plain", "text/html", "text/csv", "attachment", "\"TB-750\""] {
        assert!(mail.contains(part), "{part} is missing in {mail}");
    }
}

#[tokio::test]
async fn what_follows_on_a_proposal_is_in_its_thread() {
    let handler = handler();
    let (first, second) = (address("orders"), address("orders"));
    let opening = decision(1);
    let following = Decision { decision_id: Uuid::from_u128(2), ..opening.clone() };
    send(&*handler, &mail_job(&opening, &first)).await;
    send(&*handler, &mail_job(&following, &second)).await;
    let opening = String::from_utf8(kept(&first).remove(0)).expect("ASCII");
    let following = String::from_utf8(kept(&second).remove(0)).expect("ASCII");
    let id = header(&opening, "Message-ID").expect("id");
    assert_eq!((header(&following, "In-Reply-To"), header(&following, "References")), (Some(id), Some(id)));
    assert_ne!(header(&following, "Message-ID"), Some(id));
}

#[tokio::test]
async fn what_became_of_a_proposal_is_a_reply_that_says_state_who_and_where() {
    let (handler, to, decision) = (handler(), address("orders"), decision(1));
    let mut job = mail_job(&decision, &to);
    let Verdict::Done { reference, .. } = send(&*handler, &job).await else { panic!("sent") };
    job.id.route_id = "0~7".into();
    let change = ProposalChange { note: Some("by\r\nBcc: x@y.example <b>".into()), ..change(&decision) };
    job.update = Some(Update { change: change.clone(), reference: reference.clone() });
    assert!(handler.follows(&change));
    for internal in [Move::Assign, Move::Snooze] {
        let change = ProposalChange { moved: Some(internal), ..change.clone() };
        assert!(!handler.follows(&change), "{internal:?} is not the vendor's business");
    }
    send(&*handler, &job).await;
    let mail =
        kept(&to).into_iter().map(|m| String::from_utf8(m).expect("ASCII")).find(|m| m.contains("In-Reply-To")).expect("reply");
    assert_eq!((header(&mail, "In-Reply-To"), header(&mail, "References")), (reference.as_deref(), reference.as_deref()));
    assert_ne!(header(&mail, "Message-ID"), reference.as_deref());
    assert!(header(&mail, "Subject").is_some_and(|s| s.starts_with("Re: ") || s.contains("=?utf-8")), "{mail}");
    assert!(mail.contains("Acknowledged by anna via slack.") && mail.contains("State: acknowledged"), "{mail}");
    assert!(mail.contains("&lt;b&gt;") && !mail.contains("\r\nBcc"), "{mail}");
    // What a first send gave that is no Message-ID is not put into a header.
    job.update = Some(Update { change, reference: Some("<a@b>\r\nBcc: x@y.example".into()) });
    let request = String::from_utf8(handler.prepare(&job, Utc::now()).expect("request")).expect("ASCII");
    assert!(!request.contains("\r\nBcc") && !request.contains("In-Reply-To"), "{request}");
}

pub(super) fn change(decision: &Decision) -> ProposalChange {
    ProposalChange {
        proposal_id: decision.proposal_id,
        organisation: decision.organisation.clone(),
        shop: "a.example".into(),
        variant_id: VariantId(7),
        state: "acknowledged".into(),
        quantity: Some(24),
        received: 0,
        assigned_to: None,
        snoozed_until: None,
        snoozed_level: None,
        moved: Some(Move::Acknowledge),
        by: Some("anna".into()),
        via: Some("slack".into()),
        note: None,
        eta: None,
        reference: None,
        caused_by: CausedBy { offset: 9, ..decision.caused_by.clone() },
        changed_at: 1_795_168_900_000,
    }
}

#[tokio::test]
async fn titles_from_outside_add_no_header_no_recipient_and_no_markup() {
    let (handler, to) = (handler(), address("orders"));
    let hostile = Decision {
        sku: Some("=1+1\r\nBcc: victim@example.net".into()),
        title: Some("<script>x</script>\r\n\r\nBcc: victim@example.net\r\n.\r\nMAIL FROM:<a@b.c>\r\n\u{202e}ü \u{0}".into()),
        reason: "\r\n.\r\n<img src=x>".into(),
        ..decision(1)
    };
    assert!(matches!(send(&*handler, &mail_job(&hostile, &to)).await, Verdict::Done { .. }));
    let mails = kept(&to);
    assert_eq!(mails.len(), 1);
    let mail = String::from_utf8(mails[0].clone()).expect("ASCII");
    let head = mail.split("\r\n\r\n").next().expect("head");
    assert!(!head.split("\r\n").any(|l| l.to_ascii_lowercase().starts_with("bcc")), "{head}");
    let html =
        mail.split("text/html").nth(1).and_then(|rest| rest.split("</html>").next()).expect("an HTML part").replace("=\r\n", "");
    assert!(html.contains("&lt;script&gt;") && !html.contains("<script>") && !html.contains("<img"), "{html}");
    // The address itself is refused when it brings more than itself.
    let bad = handler.prepare(&mail_job(&decision(1), "a@b.example\r\nBcc: victim@example.net"), Utc::now());
    assert!(bad.is_err_and(|e| e.contains("address")));
}

#[tokio::test]
async fn a_recipient_who_is_refused_is_permanent_and_one_who_is_deferred_is_not() {
    let handler = handler();
    let refused = send(&*handler, &mail_job(&decision(1), &address("reject"))).await;
    assert!(matches!(&refused, Verdict::Permanent { reason } if reason.contains("no such mailbox")), "{refused:?}");
    let deferred = send(&*handler, &mail_job(&decision(1), &address("defer"))).await;
    assert!(matches!(&deferred, Verdict::Retry { blame: Blame::Effect, .. }), "{deferred:?}");
    let gone = build("smtp_url = \"smtp://127.0.0.1:1\"\nfrom = \"a@example.com\"").expect("handler");
    let away = send(&*gone, &mail_job(&decision(1), &address("orders"))).await;
    assert!(matches!(&away, Verdict::Retry { blame: Blame::Target, .. }), "{away:?}");
}

#[tokio::test]
async fn a_server_that_is_silent_before_the_message_had_no_effect() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = silent.local_addr().expect("address").port();
    let toml = format!("smtp_url = \"smtp://127.0.0.1:{port}\"\nfrom = \"a@example.com\"\ntimeout = \"100ms\"");
    let verdict = send(&*build(&toml).expect("handler"), &mail_job(&decision(1), "b@example.com")).await;
    assert!(matches!(&verdict, Verdict::Retry { reason, .. } if reason.contains("silent")), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_after_the_message_is_sent_again_byte_by_byte_and_marked() {
    let (handler, to) = (handler(), address("drop-once"));
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[planned(1, "mail", &decision(1), &route(serde_json::json!({"to": "mail", "address": to})))]).await;
    node.sender("mail", Common::default(), handler);
    node.until(1, EffectState::Ambiguous).await;
    world.clock.advance(Duration::from_secs(2));
    let row = node.until(1, EffectState::Done).await;
    assert!(row.possible_duplicate);
    let mails = until("both are on disk", async || Some(kept(&to)).filter(|m| m.len() == 2)).await;
    assert_eq!(mails[0], mails[1]);
    assert_eq!(world.log.states(), ["ambiguous", "done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_after_the_message_gets_the_same_bytes_again_and_the_row_is_marked() {
    let server = OwnServer::start().await;
    let toml = format!("smtp_url = \"smtp://127.0.0.1:{}\"\nfrom = \"a@example.com\"\ntimeout = \"3s\"", server.port);
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let route = route(serde_json::json!({"to": "mail", "address": "hang-once@supplier.example"}));
    node.plan(&[planned(1, "mail", &decision(1), &route)]).await;
    node.sender("mail", Common::default(), build(&toml).expect("handler"));
    let row = node.until(1, EffectState::Ambiguous).await;
    assert!(row.response.is_some_and(|r| r.contains("silent while taking the message")));
    world.clock.advance(Duration::from_secs(2));
    assert!(node.until(1, EffectState::Done).await.possible_duplicate);
    let mails = server.mails();
    assert_eq!((mails.len(), &mails[0]), (2, &mails[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_who_is_refused_is_seen_on_the_row_and_in_the_log_and_one_who_is_deferred_is_served_later() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let to =
        |n: u128, address: &str| planned(n, "mail", &decision(n), &route(serde_json::json!({"to": "mail", "address": address})));
    let (refused, deferred) = (address("reject"), address("defer-once"));
    node.plan(&[to(1, &refused), to(2, &deferred)]).await;
    let sender = node.sender("mail", Common::default(), handler());
    let row = node.until(1, EffectState::Failed).await;
    assert!(row.response.is_some_and(|r| r.contains("550") || r.contains("no such mailbox")));
    assert!(!row.possible_duplicate);
    until("it counts", async || (sender.state().failed == 1 && sender.state().retried == 1).then_some(())).await;
    world.clock.advance(Duration::from_secs(2));
    let row = node.until(2, EffectState::Done).await;
    assert_eq!((row.possible_duplicate, kept(&deferred).len()), (false, 1));
    assert_eq!(world.log.states(), ["failed", "done"]);
}

#[tokio::test]
async fn one_connection_carries_several_mails() {
    let (handler, to) = (handler(), address("orders"));
    for n in 1..=3 {
        assert!(matches!(send(&*handler, &mail_job(&decision(n), &to)).await, Verdict::Done { .. }));
    }
    assert_eq!(kept(&to).len(), 3);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_key() {
    let from = "from = \"a@example.com\"\n";
    for (toml, want) in [
        ("smtp_url = \"http://mail\"", "smtp://"),
        ("smtp_url = \"smtp://u:p@mail\"", "credentials"),
        ("smtp_url = \"smtp://mail\"\nusername = \"u\"", "go together"),
        ("smtp_url = \"smtp://mail\"\nusername = \"u\"\npassword = { env = \"NOT_SET\" }", "NOT_SET"),
        ("smtp_url = \"smtps://mail?tls=never\"", "smtps"),
        ("smtp_url = \"smtp://mail?tls=maybe\"", "?tls=maybe"),
        ("smtp_url = \"smtp://mail?tsl=required\"", "?tls=required"),
        ("smtp_url = \"smtp://mail/x\"", "after the host"),
        ("smtp_url = \"smtp://mail?tls=never\"\nusername = \"u\"\npassword = { env = \"SMTP_PASSWORD\" }", "in the clear"),
        ("smtp_url = \"smtp://mail?tls=when-offered\"\nusername = \"u\"\npassword = { env = \"SMTP_PASSWORD\" }", "in the clear"),
        ("smtp_url = \"smtps://mail\"\nca_file = \"/gone.pem\"", "ca_file = \"/gone.pem\""),
        ("smtp_url = \"smtps://mail\"\nca_file = \"/dev/null\"", "no certificate"),
        ("smtp_url = \"smtp://mail\"\nto = [\"nobody\"]", "to:"),
        ("smtp_url = \"smtp://mail\"\nsmpt = 1", "smpt"),
    ] {
        let refused = build(&format!("{from}{toml}")).err();
        assert!(refused.as_ref().is_some_and(|e| e.contains(want)), "{toml}: {refused:?}");
    }
    let nobody = build(&format!("{from}smtp_url = \"smtp://mail\"")).expect("handler");
    let without = nobody.prepare(&job(&decision(1), serde_json::json!({"to": "mail"})), Utc::now());
    assert!(without.is_err_and(|e| e.contains("address")), "a mail to nobody is refused before it is sent");
}

#[tokio::test]
async fn a_password_is_not_sent_to_a_server_that_does_not_encrypt() {
    let (address, _) = server();
    let toml = format!(
        "smtp_url = \"smtp+starttls://{address}\"\nfrom = \"a@example.com\"\nusername = \"u\"\npassword = {{ env = \"SMTP_PASSWORD\" }}"
    );
    let verdict = send(&*build(&toml).expect("handler"), &mail_job(&decision(1), "b@example.com")).await;
    assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains("STARTTLS")), "{verdict:?}");
}
