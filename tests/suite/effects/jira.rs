//! The kind `jira`, against a stand-in on loopback: what is made and told, and what answers mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::{CausedBy, Decision, ProposalChange, RiskLevel};
use stockwarden::events::fact::Move;
use stockwarden::events::ids::{LocationId, VariantId};
use stockwarden::handlers::registry::{KINDS, Surroundings};
use stockwarden::handlers::{Guarantee, Handler, Handlers, Job, Resolution, Update, Verdict};

use super::harness::{decision, job};
use super::jira_server::{EMAIL, Fault, Issue, JiraServer, TOKEN};

pub fn configured(toml: &str) -> Result<Arc<dyn Handler>, String> {
    let config = HandlerConfig { kind: "jira".into(), table: toml::from_str(toml).expect("toml") };
    let env = Env::of([("JIRA_TOKEN", TOKEN), ("JIRA_SECRET", "jira-webhook-secret")]);
    let configs = BTreeMap::from([("jira".to_owned(), config)]);
    let handlers = Handlers::build_in(
        KINDS,
        &configs,
        &Surroundings { public_url: Some("https://sw.example/".to_owned()), ..Surroundings::new(&env) },
    );
    handlers.map(|h| h.get("jira").expect("jira").handler.clone()).map_err(|e| e[0].to_string())
}

pub fn settings(url: &str, more: &str) -> String {
    let timeout = if more.contains("timeout") { "" } else { "timeout = \"1s\"\n" };
    format!(
        "base_url = \"{url}\"\nemail = \"{EMAIL}\"\ntoken = {{ env = \"JIRA_TOKEN\" }}\nproject = \"REP\"\n\
         allow_private_addresses = true\n{timeout}{more}"
    )
}

pub fn handler(jira: &JiraServer, more: &str) -> Arc<dyn Handler> {
    configured(&settings(&format!("http://{}", jira.address), more)).expect("handler")
}

pub fn now() -> DateTime<Utc> {
    "2026-11-20T10:00:00Z".parse().expect("time")
}

pub fn jira_job(decision: &Decision) -> Job {
    job(decision, json!({"to": "jira"}))
}

async fn send(handler: &dyn Handler, job: &Job) -> Verdict {
    let request = handler.prepare(job, now()).expect("request");
    handler.send(job, &request, now()).await
}

#[tokio::test]
async fn the_issue_says_what_where_how_fast_how_long_and_why_and_carries_the_ids() {
    let jira = JiraServer::start().await;
    let handler =
        handler(&jira, "labels = [\"auto\"]\nfields = { customfield_1 = \"{{vendor}}\", customfield_2 = { value = \"x\" } }");
    let mut decision = decision(1);
    decision.severity = RiskLevel::Critical;
    decision.location_id = Some(LocationId(77));
    decision.title = Some("Bottle\r\n\u{202e}green".into());
    decision.inputs.hours_left = Some(2.1);
    decision.inputs.rate_fast = Some(1.9);
    let routed = json!({"to": "jira", "issue_type": "10007", "labels": ["urgent"], "fields": {"customfield_3": "{{quantity}}"}, "digest": "1h"});
    let verdict = send(&*handler, &job(&decision, routed)).await;
    let reference = Some("10001".to_owned());
    assert_eq!(verdict, Verdict::Done { response: Some("REP-1".into()), reference });
    let Issue { fields, properties, .. } = jira.issues().pop().expect("an issue");
    assert_eq!(fields["summary"], "Reorder 24 × TB-750 – Bottle green for a.example");
    assert_eq!((&fields["issuetype"], &fields["priority"]), (&json!({"id": "10007"}), &json!({"name": "High"})));
    assert_eq!(fields["labels"], json!(["stockwarden", format!("stockwarden-{}", decision.decision_id), "auto", "urgent"]));
    assert_eq!(
        (&fields["customfield_1"], &fields["customfield_2"]["value"], &fields["customfield_3"]),
        (&json!("Acme"), &json!("x"), &json!(24))
    );
    let text = fields["description"].to_string();
    for part in [
        "TB-750 – Bottle green",
        "has 4 units available at location 77 of a.example",
        "runs out in about 2.1 h",
        "fell to 4, below 10",
        "Suggested order: 24",
        "Sells now: 1.90 an hour",
        "low (version 3)",
        &format!("https://sw.example/v1/reorders/{}", decision.proposal_id),
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let ids = &properties["stockwarden.reorder"];
    assert_eq!((&ids["decision_id"], &ids["route_id"]), (&json!(decision.decision_id), &json!("0")));
    assert_eq!(ids["variant_id"], "9007199254740993");
    assert_eq!(handler.guarantee(), Guarantee::DetectAndRepair);
}

#[tokio::test]
async fn no_secret_is_frozen() {
    let jira = JiraServer::start().await;
    let request = handler(&jira, "").prepare(&jira_job(&decision(1)), now()).expect("request");
    let request = String::from_utf8(request).expect("text");
    assert!(!request.contains(TOKEN) && !request.contains(EMAIL), "{request}");
}

async fn verdict_on(fault: Fault) -> Verdict {
    let jira = JiraServer::start().await;
    jira.fault("POST /rest/api/3/issue", fault);
    let verdict = send(&*handler(&jira, ""), &jira_job(&decision(1))).await;
    assert_eq!(jira.state().seen.len(), 1, "one request, whatever the answer");
    verdict
}

#[tokio::test]
async fn every_answer_has_its_verdict() {
    for (status, header, after) in [
        ("429 Too Many Requests", "Retry-After: 7\r\n", Some(7)),
        ("503 Service Unavailable", "Retry-After: 30\r\n", Some(30)),
        ("503 Service Unavailable", "", None),
    ] {
        let verdict = verdict_on(Fault::status(status, header, r#"{"errorMessages":["Rate limit exceeded."]}"#)).await;
        let Verdict::Retry { after: found, reason, .. } = verdict else { panic!("{status}: {verdict:?}") };
        assert_eq!((found, reason.contains("Rate limit exceeded.")), (after.map(Duration::from_secs), true), "{status}");
    }
    let errors = r#"{"errorMessages":[],"errors":{"priority":"Field 'priority' cannot be set."}}"#;
    for (status, body, want) in [
        ("400 Bad Request", errors, "priority: Field 'priority' cannot be set. (priority_map = {}"),
        ("401 Unauthorized", "", "make a new API token"),
        ("403 Forbidden", "", "give it the right"),
        ("404 Not Found", "", "check base_url"),
        ("302 Found", "", "redirects are not followed"),
    ] {
        let verdict = verdict_on(Fault::status(status, "", body)).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains(want)), "{status}: {verdict:?}");
    }
    for fault in [
        Fault::CommitThenDrop,
        Fault::CommitThenHang,
        Fault::Garbled("<html>"),
        Fault::Garbled("{\"key\":\"REP-1\"}"),
        Fault::Instead("this is not HTTP\r\n\r\n".into()),
        Fault::status("500 Internal Server Error", "", ""),
        Fault::status("502 Bad Gateway", "", ""),
        Fault::status("504 Gateway Timeout", "", ""),
    ] {
        let verdict = verdict_on(fault.clone()).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{fault:?}: {verdict:?}");
    }
}

#[tokio::test]
async fn a_jira_that_is_not_there_had_no_effect() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", nobody.local_addr().expect("address"));
    drop(nobody);
    let handler = configured(&settings(&url, "")).expect("handler");
    let verdict = send(&*handler, &jira_job(&decision(1))).await;
    assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
}

#[tokio::test]
async fn what_jira_refuses_for_good_says_what_to_mend() {
    let jira = JiraServer::start().await;
    for (routed, want) in [
        (json!({"to": "jira", "project": "NOPE"}), "check the route's project"),
        (json!({"to": "jira", "priority": "Nonesuch"}), "priority_map"),
    ] {
        let verdict = send(&*handler(&jira, ""), &job(&decision(1), routed)).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains(want)), "{verdict:?}");
    }
    for (routed, want) in [
        (json!({"to": "jira", "projct": "REP"}), "did you mean \"project\""),
        (json!({"to": "jira", "labels": ["two words"]}), "labels hold no spaces"),
        (json!({"to": "jira", "labels": "urgent"}), "a list of labels"),
        (json!({"to": "jira", "fields": {"a": "{{skuu}}"}}), "skuu"),
        (json!({"to": "jira", "fields": {"summary": "x"}}), "summary"),
        (json!({"to": "jira", "priority": ["High"]}), "priority"),
    ] {
        let error = handler(&jira, "").prepare(&job(&decision(1), routed), now()).expect_err(want);
        assert!(error.contains(want), "{error}");
    }
    assert!(jira.issues().is_empty());
}

#[test]
fn a_wrong_configuration_is_refused_with_its_key() {
    let site =
        |more: &str| format!("base_url = \"https://a.example\"\nemail = \"{EMAIL}\"\ntoken = {{ env = \"JIRA_TOKEN\" }}\n{more}");
    let own = |url: &str, email: &str| format!("base_url = \"{url}\"\nemail = \"{email}\"\ntoken = {{ env = \"JIRA_TOKEN\" }}");
    assert!(configured(&site("")).is_ok());
    for (toml, want) in [
        (own("http://a.example", EMAIL), "unencrypted"),
        (own("https://127.0.0.1", EMAIL), "allow_private_addresses"),
        (own("https://me:pw@a.example", EMAIL), "credentials"),
        (own("https://a.example/?x", EMAIL), "base_url"),
        (own("https://a.example", "bot:x"), "email"),
        (site("webhook_secret = { env = \"NOT_SET\" }"), "NOT_SET"),
        (site("labels = [\"two words\"]"), "labels"),
        (site("labels = [\"stockwarden-x\"]"), "labels"),
        (site("fields = { labels = [\"x\"] }"), "fields.labels"),
        (site("fields = { a = \"{{nope}}\" }"), "nope"),
        (site("priority_map = { critcal = \"High\" }"), "did you mean \"critical\""),
        (site("status_map = { done = \"recieved\" }"), "did you mean \"received\""),
        (site("transitions = { orderd = \"31\" }"), "did you mean \"ordered\""),
        (site("index_lag = \"soon\""), "index_lag"),
        (site("projekt = \"REP\""), "projekt"),
    ] {
        let error = configured(&toml).err().unwrap_or_else(|| panic!("taken: {toml}"));
        assert!(error.contains(want) && !error.contains("me:pw"), "{toml}: {error}");
    }
}

fn change(moved: Option<Move>, state: &str) -> ProposalChange {
    ProposalChange {
        proposal_id: uuid::Uuid::from_u128(1),
        organisation: "acme".into(),
        shop: "a.example".into(),
        variant_id: VariantId(7),
        state: state.into(),
        quantity: Some(24),
        received: 0,
        assigned_to: None,
        snoozed_until: None,
        snoozed_level: None,
        moved,
        by: Some("Petra Buyer".into()),
        via: Some("slack".into()),
        note: Some("asked for\nexpress".into()),
        eta: Some(1_795_168_800_000),
        reference: Some("PO-7".into()),
        caused_by: CausedBy { topic: "stock-facts".into(), partition: 3, offset: 1042 },
        changed_at: 1_795_168_800_000,
    }
}

fn update(moved: Option<Move>, state: &str, reference: Option<&str>) -> Job {
    let update = Update { change: change(moved, state), reference: reference.map(str::to_owned) };
    Job { update: Some(update), ..jira_job(&decision(1)) }
}

/// An update of an issue.
pub fn acknowledged(issue: &str) -> Job {
    update(Some(Move::Acknowledge), "acknowledged", Some(issue))
}

#[tokio::test]
async fn what_happens_elsewhere_is_told_on_the_issue_and_moves_it_where_that_is_configured() {
    let jira = JiraServer::start().await;
    let handler = handler(&jira, "transitions = { acknowledged = \"21\", ordered = \"to done\" }");
    assert!(handler.follows(&change(Some(Move::Snooze), "sent")));
    send(&*handler, &jira_job(&decision(1))).await;
    assert!(matches!(
        send(&*handler, &update(Some(Move::Acknowledge), "acknowledged", Some("10001"))).await,
        Verdict::Done { .. }
    ));
    assert_eq!(jira.issues()[0].status(), "In Progress");
    assert!(matches!(send(&*handler, &update(Some(Move::Ordered), "ordered", Some("10001"))).await, Verdict::Done { .. }));
    let issue = jira.issues().pop().expect("issue");
    assert_eq!(issue.status(), "Done");
    let told: Vec<String> = issue.comments.iter().map(Value::to_string).collect();
    assert!(
        told[0].contains("Acknowledged by Petra Buyer via slack.") && told[0].contains("Note: asked for express"),
        "{}",
        told[0]
    );
    assert!(told[1].contains("Ordered: 24 units by Petra Buyer via slack, reference PO-7, expected 2026-11-20T"), "{}", told[1]);
    // A snooze of what is ordered, and a transition that is not possible any more.
    for moved in [Move::Snooze, Move::Ordered] {
        let verdict = send(&*handler, &update(Some(moved), "ordered", Some("10001"))).await;
        assert!(matches!(verdict, Verdict::Done { .. }), "{verdict:?}");
    }
    assert_eq!(jira.issues()[0].comments.len(), 4);
    assert_eq!(jira.state().seen.iter().filter(|s| s.starts_with("POST") && s.ends_with("transitions")).count(), 2);
}

#[tokio::test]
async fn a_comment_whose_answer_was_lost_is_not_made_again() {
    let jira = JiraServer::start().await;
    let handler = handler(&jira, "");
    send(&*handler, &jira_job(&decision(1))).await;
    let job = update(Some(Move::Acknowledge), "acknowledged", Some("10001"));
    let request = handler.prepare(&job, now()).expect("request");
    jira.fault("POST /rest/api/3/issue/10001/comment", Fault::CommitThenDrop);
    assert!(matches!(handler.send(&job, &request, now()).await, Verdict::Ambiguous { .. }));
    assert!(matches!(handler.resolve(&job, &request, now()).await, Resolution::Done { .. }));
    let mut later = update(None, "resolved", Some("10001"));
    later.update.as_mut().expect("update").change.caused_by.offset = 104;
    let request = handler.prepare(&later, now()).expect("request");
    assert!(matches!(handler.resolve(&later, &request, now()).await, Resolution::AskLater { .. }), "104 is not 1042");
    assert_eq!(handler.resolve(&later, &request, now() + Duration::from_secs(1)).await, Resolution::NotDone);
}

#[tokio::test]
async fn without_an_issue_there_is_nothing_to_tell_and_a_deleted_one_says_so() {
    let jira = JiraServer::start().await;
    let handler = handler(&jira, "");
    assert!(matches!(send(&*handler, &update(None, "expired", None)).await, Verdict::Done { .. }));
    assert!(jira.state().seen.is_empty());
    let verdict = send(&*handler, &update(None, "expired", Some("10009"))).await;
    assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains("does not exist")), "{verdict:?}");
}
