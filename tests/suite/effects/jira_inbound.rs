//! What Jira says: signatures, and which events move a proposal. The fixtures are deliveries as the documentation has them.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use stockwarden::events::fact::Move;
use stockwarden::ports::inbound::{Asked, Heard, Inbound, Refusal, Request, Subject};

use super::jira::{configured, handler, settings};
use super::jira_server::{Fault, JiraServer};

const BODY: &[u8] = include_bytes!("../../fixtures/jira/webhook_issue_updated.json");
const HEADERS: &str = include_str!("../../fixtures/jira/webhook_issue_updated.headers.json");
const SECRET: &str = "webhook_secret = { env = \"JIRA_SECRET\" }\n";

fn offline(more: &str) -> Arc<dyn Inbound> {
    let handler = configured(&settings("http://127.0.0.1:9", &format!("{SECRET}{more}"))).expect("handler");
    handler.inbound().expect("it listens")
}

fn fixture_header(name: &str) -> Option<String> {
    let headers: Value = serde_json::from_str(HEADERS).expect("JSON");
    let headers = headers["headers"].as_object().expect("headers");
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str().expect("text").to_owned())
}

async fn hear(inbound: &dyn Inbound, body: &[u8], header: &(dyn Fn(&str) -> Option<String> + Sync)) -> Result<Heard, Refusal> {
    inbound.hear(Request { header, body, now: chrono::Utc::now() }).await
}

/// Signed as Jira does it.
async fn hear_signed(inbound: &dyn Inbound, event: &Value) -> Result<Heard, Refusal> {
    let body = event.to_string().into_bytes();
    let mut mac = Hmac::<Sha256>::new_from_slice(b"jira-webhook-secret").expect("key");
    mac.update(&body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    hear(inbound, &body, &|name| (name == "x-hub-signature").then(|| signature.clone())).await
}

fn event() -> Value {
    serde_json::from_slice(BODY).expect("JSON")
}

/// A change of the status to (id, name, category).
fn moved_to(id: &str, name: &str, category: &str) -> Value {
    let mut event = event();
    event["changelog"]["items"] = json!([{"field": "status", "from": "1", "fromString": "To Do", "to": id, "toString": name}]);
    event["issue"]["fields"]["status"] = json!({"id": id, "name": name, "statusCategory": {"key": category}});
    event
}

async fn meaning(inbound: &dyn Inbound, event: &Value) -> Option<Move> {
    let mut asked = hear_signed(inbound, event).await.expect("heard").asked;
    assert!(asked.len() <= 1);
    asked.pop().map(|a| a.moved)
}

#[tokio::test]
async fn a_delivery_of_jira_is_a_move_of_the_issues_proposal() {
    let heard = hear(&*offline(""), BODY, &fixture_header).await.expect("heard");
    let [Asked { subject, moved, by, details, dedupe_id }] = heard.asked.try_into().expect("one");
    assert_eq!((subject, moved), (Subject::Reference("10042".into()), Move::Ordered));
    assert_eq!(by, "Petra Buyer (557058:18cf44bb-bc9b-4e8d-b1b7-882969ddc8e5)");
    assert_eq!(details.note.as_deref(), Some("OPS-42: To Do → Done"));
    assert_eq!(dedupe_id.as_deref(), Some("a8a7f1f0-3d6c-4a5e-9a43-6e0d6a1c0001"));
}

#[tokio::test]
async fn nothing_is_believed_without_the_right_signature_of_the_very_bytes() {
    let inbound = offline("");
    let other_body = String::from_utf8_lossy(BODY).replace("10042", "10043").into_bytes();
    let signed = |signature: Option<&str>| {
        let signature = signature.map(str::to_owned);
        move |name: &str| if name == "x-hub-signature" { signature.clone() } else { fixture_header(name) }
    };
    let right = fixture_header("x-hub-signature").expect("signature");
    assert!(hear(&*inbound, BODY, &signed(Some(&right))).await.is_ok());
    let of_another_secret = format!("sha256={}", "0".repeat(64));
    let cut = &right[..right.len() - 2];
    for (body, signature) in [
        (BODY, None),
        (BODY, Some(of_another_secret.as_str())),
        (BODY, Some(cut)),
        (BODY, Some("sha256=")),
        (BODY, Some("sha256=zz")),
        (BODY, Some(right.trim_start_matches("sha256="))),
        (other_body.as_slice(), Some(right.as_str())),
        (b"".as_slice(), Some(right.as_str())),
    ] {
        let refused = hear(&*inbound, body, &signed(signature)).await;
        assert!(matches!(refused, Err(Refusal::BadSignature(_))), "{signature:?}: {refused:?}");
    }
    let without_secret = configured(&settings("http://127.0.0.1:9", "")).expect("handler").inbound().expect("it listens");
    let refused = hear(&*without_secret, BODY, &fixture_header).await;
    assert!(matches!(&refused, Err(Refusal::BadSignature(why)) if why.contains("webhook_secret")), "{refused:?}");
}

#[tokio::test]
async fn a_status_means_what_the_map_says_by_id_then_name_then_category() {
    let inbound = offline("status_map = { 10007 = \"cancel\", \"Goods in\" = \"received\", 5 = \"ignore\" }");
    for (id, name, category, expected) in [
        ("3", "Working", "indeterminate", Some(Move::Acknowledge)),
        ("4", "Closed", "done", Some(Move::Ordered)),
        ("10007", "Won't do", "done", Some(Move::Cancel)),
        ("6", "goods in", "done", Some(Move::Received)),
        ("5", "Parked", "indeterminate", None),
        ("1", "To Do", "new", None),
    ] {
        assert_eq!(meaning(&*inbound, &moved_to(id, name, category)).await, expected, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_change_of_status_is_heard_and_changes_nothing() {
    let inbound = offline("");
    let mut other_field = event();
    other_field["changelog"]["items"] = json!([{"field": "assignee", "to": "x"}]);
    let mut comment = event();
    comment["webhookEvent"] = "comment_created".into();
    let mut no_changelog = event();
    no_changelog["changelog"] = Value::Null;
    let mut duplicate = event();
    duplicate["issue"]["fields"]["labels"] = json!(["stockwarden", "stockwarden-duplicate"]);
    for event in [other_field, comment, no_changelog, duplicate, json!({})] {
        assert_eq!(meaning(&*inbound, &event).await, None, "{event}");
    }
    for unreadable in [json!([]), json!({"issue": {"id": {}}}), json!(3)] {
        let refused = hear_signed(&*inbound, &unreadable).await;
        assert!(matches!(refused, Err(Refusal::Unreadable(_))), "{unreadable}: {refused:?}");
    }
    let mut path = moved_to("4", "Closed", "done");
    path["issue"] = json!({"id": "../../myself", "key": "X-1"});
    assert!(matches!(hear_signed(&*inbound, &path).await, Err(Refusal::Unreadable(_))));
}

#[tokio::test]
async fn an_event_without_fields_is_looked_up_and_sent_again_if_that_does_not_work() {
    let jira = JiraServer::start().await;
    let handler = handler(&jira, SECRET);
    let job = super::harness::job(&super::harness::decision(1), json!({"to": "jira"}));
    let request = handler.prepare(&job, chrono::Utc::now()).expect("request");
    handler.send(&job, &request, chrono::Utc::now()).await;
    let inbound = handler.inbound().expect("it listens");
    let bare = |id: &str, to: &str| {
        let mut event = moved_to(to, "Whatever", "done");
        event["issue"] = json!({"id": id, "key": "REP-1"});
        event
    };
    // The issue stands at 10000, "To Do".
    assert_eq!(meaning(&*inbound, &bare("10001", "10000")).await, None, "of the category new");
    assert_eq!(meaning(&*inbound, &bare("10001", "10002")).await, None, "it has moved on; another event tells that");
    assert_eq!(meaning(&*inbound, &bare("10077", "10002")).await, None, "an issue that is gone");
    let transition = super::jira::acknowledged("10001");
    let request = handler_of(&jira).prepare(&transition, chrono::Utc::now()).expect("request");
    handler_of(&jira).send(&transition, &request, chrono::Utc::now()).await;
    assert_eq!(meaning(&*inbound, &bare("10001", "10001")).await, Some(Move::Acknowledge));
    for fault in [Fault::status("503 Service Unavailable", "", ""), Fault::CommitThenDrop, Fault::Garbled("<html>")] {
        jira.fault("GET /rest/api/3/issue/10001", fault);
        let refused = hear_signed(&*inbound, &bare("10001", "10001")).await;
        assert!(matches!(refused, Err(Refusal::Unavailable(_))), "{refused:?}");
    }
}

fn handler_of(jira: &JiraServer) -> Arc<dyn stockwarden::handlers::Handler> {
    handler(jira, "transitions = { acknowledged = \"21\" }")
}
