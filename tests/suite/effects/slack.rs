//! The kind `slack`, against a stand-in that answers as Slack does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::{CausedBy, Decision, Inputs, Kind, ProposalChange, RiskLevel};
use stockwarden::events::fact::Move;
use stockwarden::events::ids::{LocationId, VariantId};
use stockwarden::handlers::target::SystemLookup;
use stockwarden::handlers::{Common, Earlier, Handler, Handlers, Job, Resolution, Update, Verdict};
use stockwarden::ports::ledger::{Effect, EffectState};

use super::harness::{Node, World, decision, job, planned, route, until};
use super::slack_server::{ALL_SCOPES, CHANNEL, Fault, SlackServer, TOKEN};
use super::tap::Tap;
use crate::support::stand_in::Behaviour;

pub const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

pub fn handler_with(toml: &str) -> Result<Arc<dyn Handler>, String> {
    let config = HandlerConfig { kind: "slack".into(), table: toml::from_str(toml).expect("toml") };
    let env = Env::of([("SLACK_TOKEN", TOKEN), ("SLACK_SIGNING_SECRET", SIGNING_SECRET), ("BROKEN", "a\nb")]);
    let handlers = Handlers::build(&BTreeMap::from([("slack".to_owned(), config)]), &env, Arc::new(SystemLookup));
    handlers.map(|h| h.get("slack").expect("slack").handler.clone()).map_err(|e| e[0].to_string())
}

fn handler(server: &SlackServer) -> Arc<dyn Handler> {
    handler_with(&format!(
        "api_url = \"{}\"\ntoken = {{ env = \"SLACK_TOKEN\" }}\nsigning_secret = {{ env = \"SLACK_SIGNING_SECRET\" }}\n\
         channel = \"{CHANNEL}\"\ntimeout = \"500ms\"\nallow_private_addresses = true",
        server.url()
    ))
    .expect("handler")
}

fn at() -> DateTime<Utc> {
    "2026-11-20T10:00:00Z".parse().expect("time")
}

fn slack_job(decision: &Decision) -> Job {
    job(decision, json!({"to": "slack"}))
}

/// The body of the call that a job becomes.
fn body(handler: &dyn Handler, job: &Job) -> Value {
    let frozen: Value = serde_json::from_slice(&handler.prepare(job, at()).expect("request")).expect("JSON");
    frozen["body"].clone()
}

async fn send(handler: &dyn Handler, job: &Job) -> Verdict {
    handler.send(job, &handler.prepare(job, at()).expect("request"), at()).await
}

async fn verdict_on(fault: Fault) -> Verdict {
    let server = SlackServer::start(true, ALL_SCOPES, [fault]).await;
    send(&*handler(&server), &slack_job(&decision(1))).await
}

/// Without a server.
fn offline() -> Arc<dyn Handler> {
    let toml = "token = { env = \"SLACK_TOKEN\" }\nsigning_secret = { env = \"SLACK_SIGNING_SECRET\" }\nchannel = \"#a\"";
    handler_with(toml).expect("handler")
}

fn buttons(body: &Value) -> Vec<String> {
    let blocks = body["blocks"].as_array().expect("blocks");
    let actions = blocks.iter().filter(|b| b["type"] == "actions").flat_map(|b| b["elements"].as_array().expect("elements"));
    actions.map(|e| e["action_id"].as_str().expect("id").to_owned()).collect()
}

pub fn change(n: u128, state: &str, moved: Option<Move>) -> ProposalChange {
    ProposalChange {
        proposal_id: uuid::Uuid::from_u128(n),
        organisation: "acme".into(),
        shop: "a.example".into(),
        variant_id: VariantId(9_007_199_254_740_993),
        state: state.into(),
        quantity: Some(24),
        received: 0,
        assigned_to: None,
        snoozed_until: None,
        snoozed_level: None,
        moved,
        by: moved.map(|_| "petra (U0123456789)".into()),
        via: moved.map(|_| "jira".into()),
        note: None,
        eta: None,
        reference: None,
        caused_by: CausedBy { topic: "stock-facts".into(), partition: 0, offset: 9 },
        changed_at: 1_795_168_800_000,
    }
}

fn update_job(change: ProposalChange, reference: Option<&str>) -> Job {
    let update = Update { change, reference: reference.map(str::to_owned) };
    Job { update: Some(update), ..slack_job(&decision(1)) }
}

#[tokio::test]
async fn a_decision_becomes_a_message_that_says_what_where_how_fast_how_long_and_why() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let inputs = Inputs { rate_fast: Some(3.2), rate_slow: Some(1.1), hours_left: Some(2.1), ..Inputs::default() };
    let decision = Decision { inputs, location_id: Some(LocationId(77)), ..decision(1) };
    let job = slack_job(&decision);
    let verdict = send(&*handler(&server), &job).await;
    let Verdict::Done { reference: Some(reference), .. } = verdict else { panic!("{verdict:?}") };
    let posted = server.posted().pop().expect("a message");
    assert_eq!(reference, format!("{CHANNEL}:{}", posted.ts));
    let text = posted.body["blocks"].to_string();
    for part in ["Bottle", "TB-750", "Acme", "a.example", "77", "3.2 an hour, usually 1.1 an hour", "~2.1 h", "fell to 4", "24"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(posted.body["text"].as_str().is_some_and(|t| t.contains("Bottle") && t.contains("fell to 4")));
    assert_eq!(buttons(&posted.body), ["reorder_ack", "reorder_snooze_24h", "reorder_ordered"]);
    assert!(text.contains(&format!("\"value\":\"{}\"", decision.proposal_id)), "{text}");
    let payload = &posted.body["metadata"]["event_payload"];
    assert_eq!(payload["reorder_id"], decision.proposal_id.to_string());
    assert_eq!((&payload["decision_id"], &payload["route_id"]), (&json!(decision.decision_id), &json!("0")));
    let id = |body: &Value| body["client_msg_id"].as_str().expect("id").parse::<uuid::Uuid>().expect("UUID");
    let other = Job { id: stockwarden::ports::ledger::EffectId { route_id: "1".into(), ..job.id.clone() }, ..job.clone() };
    assert_eq!(id(&posted.body), id(&body(&*handler(&server), &job)), "the same at every build");
    assert_ne!(id(&posted.body), id(&body(&*handler(&server), &other)), "another route, another message");
}

#[test]
fn warning_reorder_and_transfer_are_told_apart_at_a_glance() {
    let header = |kind, severity| {
        let decision = Decision { kind, severity, ..decision(1) };
        body(&*offline(), &slack_job(&decision))["blocks"][0]["text"]["text"].as_str().expect("header").to_owned()
    };
    assert_eq!(header(Kind::Reorder, RiskLevel::Warning), ":package: Reorder 24 × Bottle");
    assert_eq!(header(Kind::Transfer, RiskLevel::Warning), ":truck: Transfer 24 × Bottle");
    assert_eq!(header(Kind::Warning, RiskLevel::Warning), ":warning: Early warning: Bottle");
    assert_eq!(header(Kind::Warning, RiskLevel::Out), ":rotating_light: Sold out: Bottle");
}

#[tokio::test]
async fn hostile_texts_fit_the_limits_and_ping_nobody() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    for evil in ["<!channel> ", "&", "🧴\n", "<@U0123456789>", "a<https://evil.example|b>", "\u{202e}\0", " ", "x"] {
        let evil = evil.repeat(10_000);
        let some = Some(evil.clone());
        let decision = Decision {
            title: some.clone(),
            sku: some.clone(),
            vendor: some.clone(),
            shop: some.clone(),
            reason: evil.clone(),
            rule_id: evil.clone(),
            ..decision(1)
        };
        let handler = handler(&server);
        let verdict = send(&*handler, &slack_job(&decision)).await;
        assert!(matches!(verdict, Verdict::Done { .. }), "{verdict:?}");
        let mut changed = change(1, "ordered", Some(Move::Ordered));
        (changed.by, changed.via, changed.note, changed.reference) = (some.clone(), some.clone(), some.clone(), some.clone());
        changed.assigned_to = some;
        let posted = server.posted().pop().expect("a message");
        let reference = format!("{CHANNEL}:{}", posted.ts);
        let update = Update { change: changed, reference: Some(reference) };
        let edit = Job { update: Some(update), ..slack_job(&decision) };
        let verdict = send(&*handler, &edit).await;
        assert!(matches!(&verdict, Verdict::Done { response: Some(r), .. } if r.contains("changed")), "{verdict:?}");
        let posted = server.posted().pop().expect("a message");
        for body in [&posted.body, &posted.edits[0]] {
            let text = body.to_string();
            for ping in ["<!channel", "<!here", "<@U", "<https"] {
                assert!(!text.contains(ping), "{ping} is in {text}");
            }
            assert!(!body["blocks"][0]["text"]["text"].as_str().expect("header").contains('\n'));
        }
        server.clear();
    }
}

#[test]
fn without_a_signing_secret_there_are_no_buttons() {
    let handler = handler_with("token = { env = \"SLACK_TOKEN\" }\nchannel = \"#a\"").expect("handler");
    assert!(buttons(&body(&*handler, &slack_job(&decision(1)))).is_empty());
    assert_eq!(buttons(&body(&*offline(), &slack_job(&decision(1)))).len(), 3);
}

#[tokio::test]
async fn every_refusal_has_its_verdict_and_says_what_to_mend() {
    for (code, mend) in [
        ("invalid_auth", "token"),
        ("account_inactive", "token"),
        ("token_revoked", "token"),
        ("channel_not_found", CHANNEL),
        ("not_in_channel", "invite"),
        ("is_archived", "unarchive"),
        ("msg_blocks_too_long", "report"),
        ("missing_scope", "scope"),
        ("restricted_action_read_only_channel", "administrators"),
        ("something_new", "docs.slack.dev"),
    ] {
        let verdict = verdict_on(Fault::Error(code)).await;
        let fits = matches!(&verdict, Verdict::Permanent { reason } if reason.contains(code) && reason.contains(mend));
        assert!(fits && !format!("{verdict:?}").contains(TOKEN), "{code}: {verdict:?}");
    }
    for code in ["internal_error", "fatal_error", "service_unavailable", "request_timeout"] {
        let verdict = verdict_on(Fault::Error(code)).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{code}: {verdict:?}");
    }
    let known = verdict_on(Fault::Error("duplicate_message_not_found")).await;
    assert!(matches!(known, Verdict::AlreadyDone { .. }), "{known:?}");
}

fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> Fault {
    let Behaviour::Answer(bytes) = Behaviour::status(status, headers, body) else { unreachable!() };
    Fault::Answer(bytes)
}

#[tokio::test]
async fn a_limit_is_waited_out_as_long_as_slack_says() {
    let body = r#"{"ok":false,"error":"ratelimited"}"#;
    for (status, headers, wait) in [
        ("429 Too Many Requests", &[("retry-after", "7")][..], Some(7)),
        ("429 Too Many Requests", &[][..], None),
        ("200 OK", &[("retry-after", "30")][..], Some(30)),
    ] {
        let verdict = verdict_on(answer(status, headers, body)).await;
        let Verdict::Retry { after, .. } = verdict else { panic!("{status}: {verdict:?}") };
        assert_eq!(after, wait.map(Duration::from_secs), "{status}");
    }
}

#[tokio::test]
async fn what_does_not_say_whether_it_was_done_is_ambiguous() {
    for fault in [
        Fault::CommitThenDrop,
        Fault::Drop,
        Fault::CommitThenHang,
        Fault::CommitThenError("internal_error"),
        answer("200 OK", &[], "<html>"),
        answer("200 OK", &[], "{}"),
        answer("200 OK", &[], r#"{"ok":true}"#),
        answer("200 OK", &[], r#"{"ok":true,"channel":"C0123456789""#),
        answer("200 OK", &[], r#"{"ok":false,"error":7}"#),
        answer("503 Service Unavailable", &[], ""),
        answer("504 Gateway Timeout", &[], "<html>"),
        Fault::Answer("this is not HTTP\r\n\r\n".into()),
    ] {
        let verdict = verdict_on(fault.clone()).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{fault:?}: {verdict:?}");
    }
    for (fault, why) in [
        (answer("302 Found", &[("location", "http://127.0.0.1:1/")], ""), "redirects are not followed"),
        (answer("404 Not Found", &[], "<html>"), "api_url"),
    ] {
        let verdict = verdict_on(fault).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains(why)), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_slack_that_is_not_there_had_no_effect() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let toml = format!(
        "api_url = \"http://{nobody}\"\ntoken = {{ env = \"SLACK_TOKEN\" }}\nchannel = \"#a\"\nallow_private_addresses = true"
    );
    assert!(matches!(send(&*handler_with(&toml).expect("handler"), &slack_job(&decision(1))).await, Verdict::Retry { .. }));
}

#[tokio::test]
async fn a_lost_message_is_found_in_the_history_and_one_that_never_came_is_not() {
    for (named, fault, found) in [
        (CHANNEL, Fault::CommitThenDrop, true),
        (CHANNEL, Fault::Drop, false),
        ("#replenishment", Fault::CommitThenDrop, true),
        ("#replenishment", Fault::Drop, false),
    ] {
        let server = SlackServer::start(true, ALL_SCOPES, [fault]).await;
        let handler = handler(&server);
        let lost = job(&decision(1), json!({"to": "slack", "channel": named}));
        let request = handler.prepare(&lost, at()).expect("request");
        assert!(matches!(handler.send(&lost, &request, at()).await, Verdict::Ambiguous { .. }));
        // Others of the same channel lie on top of it.
        for n in 2..4 {
            send(&*handler, &slack_job(&decision(n))).await;
        }
        let resolution = handler.resolve(&lost, &request).await;
        if found {
            let ts = server.posted()[0].ts.clone();
            let expected = format!("{CHANNEL}:{ts}");
            assert!(
                matches!(&resolution, Resolution::Done { reference: Some(r), .. } if *r == expected),
                "{named}: {resolution:?}"
            );
        } else {
            assert_eq!(resolution, Resolution::NotDone, "{named}");
        }
        let asked = server.calls("conversations.history");
        assert!(asked.len() >= 2, "it turns pages");
        let oldest = "oldest=1795168200";
        assert!(asked.iter().all(|r| r.head.contains(oldest) && r.head.contains("include_all_metadata=true")), "{asked:?}");
        assert!(asked.iter().all(|r| !r.head.contains("xoxb")));
    }
}

#[tokio::test]
async fn a_lost_answer_in_a_thread_is_found_there() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let first = slack_job(&decision(1));
    let request = handler.prepare(&first, at()).expect("request");
    let Verdict::Done { reference: Some(reference), .. } = handler.send(&first, &request, at()).await else { panic!("posted") };
    server.fail(Fault::CommitThenDrop);
    let second = Job { earlier: vec![Earlier { request, reference }], ..slack_job(&decision(2)) };
    let request = handler.prepare(&second, at()).expect("request");
    assert!(matches!(handler.send(&second, &request, at()).await, Verdict::Ambiguous { .. }));
    let resolution = handler.resolve(&second, &request).await;
    let expected = format!("{CHANNEL}:{}", server.posted()[1].ts);
    assert!(matches!(&resolution, Resolution::Done { reference: Some(r), .. } if *r == expected), "{resolution:?}");
}

#[tokio::test]
async fn a_history_that_cannot_be_asked_now_is_asked_later_and_one_that_is_closed_is_not() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let (handler, job) = (handler(&server), slack_job(&decision(1)));
    let request = handler.prepare(&job, at()).expect("request");
    for fault in [
        answer("429 Too Many Requests", &[("retry-after", "60")], ""),
        Fault::Error("ratelimited"),
        Fault::Error("internal_error"),
        Fault::Drop,
        Fault::CommitThenHang,
        answer("200 OK", &[], "<html>"),
        answer("502 Bad Gateway", &[], ""),
    ] {
        server.fail_reading(fault.clone());
        let resolution = handler.resolve(&job, &request).await;
        assert!(matches!(resolution, Resolution::AskLater { .. }), "{fault:?}: {resolution:?}");
    }
    for fault in [Fault::Error("missing_scope"), Fault::Error("not_in_channel"), Fault::Error("token_revoked")] {
        server.fail_reading(fault.clone());
        assert_eq!(handler.resolve(&job, &request).await, Resolution::CannotAsk, "{fault:?}");
    }
}

#[test]
fn messages_about_a_variant_answer_in_the_thread_of_the_first_in_their_channel() {
    let handler = offline();
    let in_channel = |n: u128, channel: &str, earlier: &[Earlier]| {
        let job = Job { earlier: earlier.to_vec(), ..job(&decision(n), json!({"to": "slack", "channel": channel})) };
        let request = handler.prepare(&job, at()).expect("request");
        let thread = body(&*handler, &job)["thread_ts"].as_str().map(str::to_owned);
        (thread, Earlier { request, reference: format!("C0000000{channel}:{n}.000") })
    };
    let (thread, first) = in_channel(1, "A", &[]);
    assert_eq!(thread, None);
    let (thread, second) = in_channel(2, "A", std::slice::from_ref(&first));
    assert_eq!(thread.as_deref(), Some("1.000"));
    // The newest is an answer itself; and the first has left the ledger.
    let (thread, _) = in_channel(3, "A", std::slice::from_ref(&second));
    assert_eq!(thread.as_deref(), Some("1.000"));
    let (thread, other) = in_channel(4, "B", &[second.clone(), first]);
    assert_eq!(thread, None, "another channel has its own thread");
    let edit = handler.prepare(&update_job(change(1, "ordered", None), Some("C0000000A:1.000")), at()).expect("request");
    let edit = Earlier { request: edit, reference: "C0000000A:7.000".into() };
    let junk = Earlier { request: b"{}".to_vec(), reference: "x".into() };
    let (thread, _) = in_channel(5, "A", &[junk, edit, other, second]);
    assert_eq!(thread.as_deref(), Some("1.000"), "edits and other channels do not count");
}

#[tokio::test]
async fn where_the_thread_is_gone_the_message_stands_in_the_channel() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let first = slack_job(&decision(1));
    let request = handler.prepare(&first, at()).expect("request");
    let Verdict::Done { reference: Some(reference), .. } = handler.send(&first, &request, at()).await else { panic!("posted") };
    server.clear();
    let second = Job { earlier: vec![Earlier { request, reference }], ..slack_job(&decision(2)) };
    assert!(matches!(send(&*handler, &second).await, Verdict::Done { .. }));
    let posted = server.posted();
    assert_eq!((posted.len(), &posted[0].body["thread_ts"]), (1, &Value::Null));
}

#[tokio::test]
async fn a_change_edits_the_message_and_takes_away_the_buttons_that_do_no_more() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let Verdict::Done { reference, .. } = send(&*handler, &slack_job(&decision(1))).await else { panic!("posted") };
    let snoozed = ProposalChange { snoozed_until: Some(1_795_255_200_000), ..change(1, "sent", Some(Move::Snooze)) };
    let partly = ProposalChange { received: 10, ..change(1, "in_transit", Some(Move::Received)) };
    for (change, says, left) in [
        (snoozed, "*Snoozed* until <!date^1795255200^", &["reorder_ack", "reorder_ordered"][..]),
        (change(1, "acknowledged", Some(Move::Acknowledge)), "*Acknowledged*", &["reorder_snooze_24h", "reorder_ordered"]),
        (change(1, "ordered", Some(Move::Ordered)), "*Ordered* (24)", &[]),
        (partly, "*10 of 24 received*", &[]),
        (change(1, "cancelled", Some(Move::Cancel)), "*Cancelled*", &[]),
        (change(1, "resolved", None), "*Resolved*", &[]),
        (change(1, "expired", None), "*Expired*", &[]),
        (change(1, "teleported", None), "*teleported*", &[]),
    ] {
        let who = change.by.clone();
        let verdict = send(&*handler, &update_job(change, reference.as_deref())).await;
        assert!(matches!(verdict, Verdict::Done { .. }), "{says}: {verdict:?}");
        let edit = server.posted()[0].edits.last().expect("an edit").clone();
        let text = edit["blocks"].to_string();
        assert!(text.contains(says) && text.contains("Bottle"), "{says} is not in {text}");
        assert!(edit["text"].as_str().is_some_and(|t| t.contains(says)));
        assert_eq!(text.contains("by petra (U0123456789) via jira"), who.is_some(), "{text}");
        assert_eq!(buttons(&edit), left, "{says}");
    }
    assert_eq!(server.posted().len(), 1, "nothing else is said");
}

#[tokio::test]
async fn an_edit_is_repeated_without_doubt_and_one_of_nothing_is_done() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let acknowledged = || change(1, "acknowledged", Some(Move::Acknowledge));
    let nothing = update_job(acknowledged(), None);
    assert!(matches!(send(&*handler, &nothing).await, Verdict::Done { reference: None, .. }));
    assert!(server.calls("chat.update").is_empty());
    let gone = update_job(acknowledged(), Some("C0123456789:1.000"));
    let verdict = send(&*handler, &gone).await;
    assert!(matches!(&verdict, Verdict::Done { response: Some(r), .. } if r == "message_not_found"), "{verdict:?}");
    for fault in [Fault::Drop, Fault::Error("internal_error")] {
        server.fail(fault);
        assert!(matches!(send(&*handler, &gone).await, Verdict::Retry { .. }));
    }
    let request = handler.prepare(&gone, at()).expect("request");
    assert_eq!(handler.resolve(&gone, &request).await, Resolution::NotDone);
    server.fail(Fault::Error("is_archived"));
    assert!(matches!(send(&*handler, &gone).await, Verdict::Permanent { .. }));
}

#[test]
fn a_wrong_configuration_is_refused_with_its_key() {
    let token = "token = { env = \"SLACK_TOKEN\" }";
    for (toml, want) in [
        ("channel = \"#a\"".to_owned(), "token"),
        ("token = { env = \"NOT_SET\" }".to_owned(), "NOT_SET"),
        ("token = \"xoxb-plain\"".to_owned(), "token"),
        ("token = { env = \"BROKEN\" }".to_owned(), "token"),
        (format!("{token}\nchannel = \"two words\""), "channel"),
        (format!("{token}\nchannel = \"\""), "channel"),
        (format!("{token}\napi_url = \"ftp://slack.com\""), "api_url"),
        (format!("{token}\napi_url = \"https://slack.com/api?x=1\""), "api_url"),
        (format!("{token}\napi_url = \"http://127.0.0.1/api\""), "allow_private_addresses"),
        (format!("{token}\nsigning_secret = {{ env = \"NOT_SET\" }}"), "NOT_SET"),
        (format!("{token}\nchanel = \"#a\""), "chanel"),
    ] {
        let refused = handler_with(&toml).err();
        assert!(refused.as_ref().is_some_and(|e| e.contains(want)), "{toml}: {refused:?}");
        assert!(refused.is_some_and(|e| !e.contains("t0ken") && !e.contains("xoxb-plain")), "{toml}");
    }
    let handler = handler_with(token).expect("a default channel is not needed");
    let without = handler.prepare(&slack_job(&decision(1)), at()).expect_err("no channel");
    assert!(without.contains("set channel"), "{without}");
    for wrong in [json!({"to": "slack", "channel": "a b"}), json!({"to": "slack", "channel": 7})] {
        assert!(handler.prepare(&job(&decision(1), wrong), at()).is_err_and(|e| e.contains("channel")));
    }
}

async fn settled(world: &World, node: &Node, n: u128) -> Effect {
    until("it is settled", async || {
        world.clock.advance(Duration::from_secs(3));
        Some(node.row(n).await).filter(|r| matches!(r.state, EffectState::Done | EffectState::Failed))
    })
    .await
}

async fn through_the_ledger(server: &SlackServer) -> Effect {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[planned(1, "slack", &decision(1), &route(json!({"to": "slack"})))]).await;
    node.sender("slack", Common::default(), handler(server));
    settled(&world, &node, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_ledger_a_lost_answer_is_one_message() {
    for fault in [Fault::CommitThenDrop, Fault::CommitThenHang, Fault::CommitThenError("fatal_error"), Fault::Drop] {
        let server = SlackServer::start(false, ALL_SCOPES, [fault.clone()]).await;
        let row = through_the_ledger(&server).await;
        let posted = server.posted();
        assert_eq!((posted.len(), row.possible_duplicate, row.state), (1, false, EffectState::Done), "{fault:?}");
        assert_eq!(row.reference, Some(format!("{CHANNEL}:{}", posted[0].ts)), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_scope_the_same_message_is_sent_again_and_shown_as_a_possible_duplicate() {
    for (remembers, messages) in [(true, 1), (false, 2)] {
        let server = SlackServer::start(remembers, &[], [Fault::CommitThenDrop]).await;
        let row = through_the_ledger(&server).await;
        assert_eq!((server.posted().len(), row.possible_duplicate), (messages, true), "{remembers}");
        let calls = server.calls("chat.postMessage");
        assert!(calls.len() == 2 && calls[0].body == calls[1].body, "the same bytes: {calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_ledger_a_revoked_token_fails_visibly_and_shows_no_secret() {
    let echo = format!("{{\"ok\":false,\"error\":\"token_revoked\",\"x\":\"{TOKEN}\"}}");
    let server = SlackServer::start(true, ALL_SCOPES, [answer("200 OK", &[], &echo)]).await;
    let row = through_the_ledger(&server).await;
    assert!(row.response.as_deref().is_some_and(|r| r.contains("token_revoked") && r.contains("install the app again")));
    let told = answer("404 Not Found", &[], &format!("you sent {TOKEN} and {SIGNING_SECRET}"));
    let row = through_the_ledger(&SlackServer::start(true, ALL_SCOPES, [told]).await).await;
    let response = row.response.expect("a reason");
    assert!(response.contains("you sent ***") && !response.contains(TOKEN) && !response.contains(SIGNING_SECRET), "{response}");
    let request = String::from_utf8(row.request.expect("frozen")).expect("text");
    assert!(!request.contains(TOKEN) && !request.contains(SIGNING_SECRET));
}
