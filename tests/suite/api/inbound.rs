//! What targets say back, by a toy that reads `KEY: VALUE` lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use reqwest::Response;
use serde_json::{Value, json};
use stockwarden::api::{Limits, Listener};
use stockwarden::events::fact::{Move, MoveDetails};
use stockwarden::events::record::Topic;
use stockwarden::ports::LogError;
use stockwarden::ports::inbound::{Asked, Heard, Inbound, Refusal, Request, Subject};
use stockwarden::ports::ledger::Settled;

use super::reorders::{Desk, desk_with, uuid};
use super::site::problem;

/// The header `X-Toy` signs; the body is JSON.
#[derive(Default)]
struct Toy {
    hangs: AtomicBool,
}

impl Inbound for Toy {
    fn hear<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Heard, Refusal>> {
        Box::pin(async move {
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if (request.header)("X-TOY").as_deref() != Some("signed") {
                return Err(Refusal::BadSignature("the header X-Toy does not sign the body".into()));
            }
            let said: Value = serde_json::from_slice(request.body).map_err(|e| Refusal::Unreadable(e.to_string()))?;
            let text = |key: &str| said[key].as_str().map(str::to_owned);
            let subject = match (text("proposal"), text("reference")) {
                (Some(id), _) => Subject::Proposal(id.parse().map_err(|_| Refusal::Unreadable("no UUID".into()))?),
                (None, Some(reference)) => Subject::Reference(reference),
                (None, None) => return Ok(Heard::default()),
            };
            let asked = Asked {
                subject,
                moved: text("move").and_then(|m| Move::parse(&m)).ok_or(Refusal::Unreadable("no move".into()))?,
                by: "U123".into(),
                details: MoveDetails { note: Some("from the channel".into()), ..MoveDetails::default() },
                dedupe_id: text("id"),
            };
            Ok(Heard { asked: vec![asked], answer: Some(json!({ "text": "noted" })) })
        })
    }
}

fn listener(name: &str, kind: &str) -> Listener {
    Listener { name: name.into(), kind: kind.into(), inbound: Arc::new(Toy::default()) }
}

/// `erp` has been sent the reorders 1 and 2, `mail` none.
async fn desk() -> Desk {
    let listeners = vec![listener("erp", "slack"), listener("mail", "jira"), listener("other", "jira")];
    desk_with(Limits { query_wait: Duration::from_millis(200), ..Limits::default() }, listeners).await
}

async fn say(desk: &Desk, path: &str, body: &Value) -> Response {
    let request = desk.site.client.post(format!("{}{path}", desk.site.base)).header("x-toy", "signed");
    request.body(body.to_string()).send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_button_in_a_channel_is_a_move_by_who_pressed_it() {
    let desk = desk().await;
    let pressed = json!({"proposal": uuid(1), "move": "acknowledge", "id": "press-1"});
    let response = say(&desk, "/webhooks/slack", &pressed).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.expect("JSON"), json!({"text": "noted"}));
    let facts = desk.site.records(Topic::Facts);
    assert_eq!(
        facts[0].json(),
        json!({
            "proposal_id": uuid(1), "variant_id": "1", "move": "acknowledge", "by": "U123", "via": "erp", "note": "from the channel"
        })
    );
    assert_eq!(facts[0].header("dedupe_id"), Some("erp/press-1"));
    // Live state does not show it yet in this test; the act is known all the same.
    assert_eq!(say(&desk, "/webhooks/slack/erp", &pressed).await.status(), 200);
    assert_eq!(desk.site.records(Topic::Facts).len(), 1, "delivered twice, done once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_may_name_the_proposal_by_its_own_reference() {
    let desk = desk().await;
    desk.settle(Settled::Done { response: None, reference: Some("REP-7".into()), possible_duplicate: false }).await;
    assert_eq!(say(&desk, "/webhooks/slack", &json!({"reference": "REP-7", "move": "cancel"})).await.status(), 200);
    let facts = desk.site.records(Topic::Facts);
    assert_eq!((facts[0].json()["proposal_id"].clone(), facts[0].json()["move"].clone()), (json!(uuid(1)), json!("cancel")));
    assert_eq!(say(&desk, "/webhooks/slack", &json!({"reference": "REP-8", "move": "cancel"})).await.status(), 200);
    assert_eq!(desk.site.records(Topic::Facts).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_answered_well_so_that_the_target_does_not_repeat_it_for_ever() {
    let desk = desk().await;
    for said in [
        // Unknown; never told to this handler; of another organisation.
        json!({"proposal": uuid(99), "move": "acknowledge"}),
        json!({"proposal": uuid(3), "move": "acknowledge"}),
        json!({"proposal": uuid(5), "move": "acknowledge"}),
        // Details that cannot be meant.
        json!({"proposal": uuid(1), "move": "snooze"}),
        json!({}),
    ] {
        assert_eq!(say(&desk, "/webhooks/slack", &said).await.status(), 200, "{said}");
    }
    desk.site.queries.open_proposals.lock().expect("lock")[0].state = stockwarden::domain::proposal::State::InTransit;
    assert_eq!(say(&desk, "/webhooks/slack", &json!({"proposal": uuid(1), "move": "ordered"})).await.status(), 200);
    assert!(desk.site.records(Topic::Facts).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_signature_is_401_nonsense_400_and_an_unclear_address_404() {
    let desk = desk().await;
    let unsigned = desk.site.client.post(format!("{}/webhooks/slack", desk.site.base)).body("{}").send().await.expect("answer");
    assert!(unsigned.headers().contains_key("www-authenticate"));
    assert_eq!(problem(unsigned).await.0, 401);
    let nonsense = desk.site.client.post(format!("{}/webhooks/slack", desk.site.base)).header("X-Toy", "signed").body("{");
    assert_eq!(problem(nonsense.send().await.expect("answer")).await.0, 400);
    let large = desk.site.client.post(format!("{}/webhooks/slack", desk.site.base)).body(vec![b' '; 3 * 1024 * 1024]);
    assert_eq!(problem(large.send().await.expect("answer")).await.0, 413);
    for (path, word) in [
        ("/webhooks/jira", "/webhooks/jira/mail, /webhooks/jira/other"),
        ("/webhooks/jira/erp", "/webhooks/jira/mail, /webhooks/jira/other"),
        ("/webhooks/telex", "no handler of kind \"telex\""),
    ] {
        let (status, told) = problem(say(&desk, path, &json!({})).await).await;
        assert!(status == 404 && told["detail"].as_str().expect("detail").contains(word), "{path}: {told}");
    }
    assert_eq!(say(&desk, "/webhooks/jira/other", &json!({})).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_away_a_target_is_asked_to_come_again() {
    let desk = desk().await;
    desk.site.log.set_fault(Some(LogError::Unavailable { during: "testing".into(), reason: "it is away".into() }));
    let pressed = json!({"proposal": uuid(1), "move": "acknowledge", "id": "press-1"});
    let response = say(&desk, "/webhooks/slack", &pressed).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await.0, 503);
    desk.site.log.set_fault(None);
    assert_eq!(say(&desk, "/webhooks/slack", &pressed).await.status(), 200);
    assert_eq!(desk.site.records(Topic::Facts).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_does_not_come_to_an_end_is_not_waited_for() {
    let toy = Arc::new(Toy { hangs: AtomicBool::new(true) });
    let listeners = vec![Listener { name: "erp".into(), kind: "slack".into(), inbound: toy }];
    let desk = desk_with(Limits::default(), listeners).await;
    let began = Instant::now();
    assert_eq!(problem(say(&desk, "/webhooks/slack", &json!({})).await).await.0, 503);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
