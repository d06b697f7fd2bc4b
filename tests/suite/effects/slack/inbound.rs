//! What Slack posts when somebody presses a button, by the recorded example.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use stockwarden::events::fact::Move;
use stockwarden::ports::inbound::{Heard, Refusal, Request, Subject};

use super::{SIGNING_SECRET, handler_with};

const TIMESTAMP: i64 = 1_795_270_600;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/slack/block_actions.json")).expect("JSON")
}

fn sign(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("key");
    mac.update(format!("v0:{timestamp}:").as_bytes());
    mac.update(body);
    format!("v0={}", hex::encode(mac.finalize().into_bytes()))
}

struct Delivery {
    body: Vec<u8>,
    headers: BTreeMap<String, String>,
    now: DateTime<Utc>,
}

impl Delivery {
    fn recorded() -> Delivery {
        let fixture = fixture();
        let headers = fixture["headers"].as_object().expect("headers").iter();
        Delivery {
            body: fixture["raw_form_body"].as_str().expect("body").into(),
            headers: headers.map(|(n, v)| (n.to_ascii_lowercase(), v.as_str().expect("text").to_owned())).collect(),
            now: DateTime::from_timestamp(TIMESTAMP + 2, 0).expect("time"),
        }
    }

    fn signed(body: impl Into<Vec<u8>>) -> Delivery {
        let body = body.into();
        let headers = BTreeMap::from([
            ("x-slack-request-timestamp".to_owned(), TIMESTAMP.to_string()),
            ("x-slack-signature".to_owned(), sign(SIGNING_SECRET, TIMESTAMP, &body)),
        ]);
        Delivery { body, headers, ..Delivery::recorded() }
    }

    fn payload(payload: &Value) -> Delivery {
        let mut url: reqwest::Url = "http://x/".parse().expect("url");
        url.query_pairs_mut().append_pair("payload", &payload.to_string());
        Delivery::signed(url.query().expect("query"))
    }

    async fn heard_by(&self, toml: &str) -> Result<Heard, Refusal> {
        let inbound = handler_with(toml).expect("handler").inbound().expect("it listens");
        let header = |name: &str| self.headers.get(&name.to_ascii_lowercase()).cloned();
        inbound.hear(Request { header: &header, body: &self.body, now: self.now }).await
    }

    async fn heard(&self) -> Result<Heard, Refusal> {
        let secret = "signing_secret = { env = \"SLACK_SIGNING_SECRET\" }";
        self.heard_by(&format!("token = {{ env = \"SLACK_TOKEN\" }}\n{secret}\nchannel = \"#a\"")).await
    }
}

/// The recorded payload with another action.
fn pressed(action: &Value) -> Delivery {
    let mut payload = fixture()["payload_decoded"].clone();
    payload["actions"] = json!([action]);
    Delivery::payload(&payload)
}

#[tokio::test]
async fn the_recorded_press_is_an_acknowledgement_by_its_user() {
    let heard = Delivery::recorded().heard().await.expect("heard");
    assert_eq!((heard.asked.len(), &heard.answer), (1, &None), "answered with an empty 200");
    let asked = &heard.asked[0];
    let proposal = "0f5cfa3e-9f57-5f1c-8e65-3a0d8d2f7b11".parse().expect("UUID");
    assert_eq!((&asked.subject, asked.moved), (&Subject::Proposal(proposal), Move::Acknowledge));
    assert_eq!(asked.by, "petra (U0123456789)");
    assert_eq!(asked.dedupe_id.as_deref(), Some("U0123456789/reorder_ack/1795270600.123456"));
    // The same once more, two minutes later: the same name, so that it is carried out once.
    let again = Delivery { now: Delivery::recorded().now + chrono::TimeDelta::minutes(2), ..Delivery::recorded() };
    assert_eq!(again.heard().await.expect("heard"), heard);
}

#[tokio::test]
async fn what_is_not_signed_freshly_by_the_app_is_refused() {
    let refused = async |delivery: Delivery, what: &str| {
        let heard = delivery.heard().await;
        assert!(matches!(heard, Err(Refusal::BadSignature(_))), "{what}: {heard:?}");
        assert!(!format!("{heard:?}").contains(SIGNING_SECRET), "{what}");
    };
    let now = |seconds: i64| DateTime::from_timestamp(TIMESTAMP + seconds, 0).expect("time");
    for seconds in [-300, 300] {
        let heard = Delivery { now: now(seconds), ..Delivery::recorded() }.heard().await;
        assert!(heard.is_ok_and(|h| h.asked.len() == 1), "{seconds} s off is taken");
    }
    refused(Delivery { now: now(301), ..Delivery::recorded() }, "old").await;
    refused(Delivery { now: now(-301), ..Delivery::recorded() }, "from the future").await;
    let with = |name: &str, value: &str| {
        let mut delivery = Delivery::recorded();
        delivery.headers.insert(name.to_owned(), value.to_owned());
        delivery
    };
    let body = Delivery::recorded().body;
    refused(with("x-slack-signature", &sign("another secret", TIMESTAMP, &body)), "another secret").await;
    refused(with("x-slack-signature", ""), "no signature").await;
    refused(with("x-slack-signature", "v0=zz"), "not hex").await;
    refused(with("x-slack-signature", &sign(SIGNING_SECRET, TIMESTAMP, &body)[3..]), "another version").await;
    refused(with("x-slack-signature", &sign(SIGNING_SECRET, TIMESTAMP, &body)[..30]), "half").await;
    refused(with("x-slack-request-timestamp", "soon"), "no time").await;
    refused(with("x-slack-request-timestamp", &(TIMESTAMP + 1).to_string()), "another time than signed").await;
    refused(with("x-slack-request-timestamp", &i64::MIN.to_string()), "an absurd time").await;
    refused(Delivery { headers: BTreeMap::new(), ..Delivery::recorded() }, "unsigned").await;
    let mut changed = Delivery::recorded();
    *changed.body.last_mut().expect("a byte") ^= 1;
    refused(changed, "another body").await;
}

#[tokio::test]
async fn without_a_signing_secret_nobody_is_listened_to() {
    let heard = Delivery::recorded().heard_by("token = { env = \"SLACK_TOKEN\" }\nchannel = \"#a\"").await;
    assert!(matches!(&heard, Err(Refusal::BadSignature(why)) if why.contains("signing_secret")), "{heard:?}");
}

#[tokio::test]
async fn each_button_asks_for_its_move() {
    let action =
        |id: &str| json!({"action_id": id, "value": "0f5cfa3e-9f57-5f1c-8e65-3a0d8d2f7b11", "action_ts": "1795270600.5"});
    for (id, moved, until) in [
        ("reorder_ack", Move::Acknowledge, None),
        ("reorder_ordered", Move::Ordered, None),
        ("reorder_snooze_1h", Move::Snooze, Some((TIMESTAMP + 3600) * 1000)),
        ("reorder_snooze_24h", Move::Snooze, Some((TIMESTAMP + 86_400) * 1000)),
    ] {
        let heard = pressed(&action(id)).heard().await.expect("heard");
        assert_eq!((heard.asked[0].moved, heard.asked[0].details.until), (moved, until), "{id}");
    }
}

#[tokio::test]
async fn what_means_nothing_here_is_taken_and_ignored() {
    let id = "0f5cfa3e-9f57-5f1c-8e65-3a0d8d2f7b11";
    for action in [
        json!({"action_id": "reorder_open", "url": "https://x.example/", "action_ts": "1.0"}),
        json!({"action_id": "of_a_later_version", "value": id}),
        json!({"action_id": "reorder_ack", "value": "not a proposal"}),
        json!({"action_id": "reorder_ack"}),
        json!({"action_id": "reorder_snooze_0h", "value": id}),
        json!({"action_id": "reorder_snooze_99999999999999999999h", "value": id}),
        json!({}),
    ] {
        assert_eq!(pressed(&action).heard().await, Ok(Heard::default()), "{action}");
    }
    assert_eq!(Delivery::payload(&json!({"type": "view_submission"})).heard().await, Ok(Heard::default()));
    assert_eq!(Delivery::signed(r#"{"type":"event_callback"}"#).heard().await, Ok(Heard::default()));
}

#[tokio::test]
async fn slacks_own_checks_are_answered_as_it_expects() {
    let challenge = Delivery::signed(r#"{"type":"url_verification","token":"x","challenge":"3eZbrw1aB"}"#);
    let heard = challenge.heard().await.expect("heard");
    assert_eq!(heard, Heard { asked: vec![], answer: Some(json!({"challenge": "3eZbrw1aB"})) });
    let unsigned = Delivery { headers: BTreeMap::new(), body: b"ssl_check=1&token=x".to_vec(), ..Delivery::recorded() };
    assert_eq!(unsigned.heard().await, Ok(Heard::default()));
}

#[tokio::test]
async fn what_is_signed_but_cannot_be_read_is_said_to_be_so() {
    for body in ["", "payload=", "payload=%7B", "payload=%7B%7D", "hello", "\u{0}", "payload=[]", r#"{"type":"#] {
        let heard = Delivery::signed(body).heard().await;
        assert!(matches!(heard, Err(Refusal::Unreadable(_))), "{body:?}: {heard:?}");
    }
    let nobody = Delivery::payload(&json!({"type": "block_actions", "actions": []}));
    assert!(matches!(nobody.heard().await, Err(Refusal::Unreadable(_))));
    assert!(matches!(Delivery::signed(b"\xff\xfe=".to_vec()).heard().await, Err(Refusal::Unreadable(_))));
}
