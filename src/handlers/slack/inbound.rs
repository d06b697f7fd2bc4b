//! Buttons: what Slack posts to `/webhooks/slack` when somebody presses one.
//!
//! Trusted is what carries a fresh signature by the app's signing secret. Everything signed is answered with 200, also what means
//! nothing here (a button that opens a link, a button of a later version): Slack shows people an error for anything else.

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use hmac::{Hmac, Mac};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use super::Slack;
use super::text::line;
use crate::events::fact::{Move, MoveDetails};
use crate::ports::inbound::{Asked, Heard, Inbound, Refusal, Request, Subject};

/// Older requests, and ones from the future, are refused.
const MAX_AGE: i64 = 300;
/// Longest snooze that a button may ask for.
const MAX_SNOOZE_HOURS: i64 = 24 * 365;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Button {
    Acknowledge,
    /// A full day rather than "until the morning": the same for readers in every time zone.
    Snooze {
        hours: i64,
    },
    Ordered,
}

impl Button {
    fn action_id(self) -> String {
        match self {
            Button::Acknowledge => "reorder_ack".to_owned(),
            Button::Snooze { hours } => format!("reorder_snooze_{hours}h"),
            Button::Ordered => "reorder_ordered".to_owned(),
        }
    }

    fn parse(action_id: &str) -> Option<Button> {
        match action_id {
            "reorder_ack" => Some(Button::Acknowledge),
            "reorder_ordered" => Some(Button::Ordered),
            other => {
                let hours = other.strip_prefix("reorder_snooze_")?.strip_suffix('h')?.parse().ok()?;
                (1..=MAX_SNOOZE_HOURS).contains(&hours).then_some(Button::Snooze { hours })
            }
        }
    }

    pub(super) fn element(self, proposal: Uuid) -> Value {
        let text = match self {
            Button::Acknowledge => "Acknowledge".to_owned(),
            Button::Snooze { hours } => format!("Snooze {hours} h"),
            Button::Ordered => "Mark as ordered".to_owned(),
        };
        let mut element = json!({
            "type": "button",
            "action_id": self.action_id(),
            "text": {"type": "plain_text", "text": text},
            "value": proposal.to_string(),
        });
        if self == Button::Acknowledge {
            element["style"] = json!("primary");
        }
        element
    }
}

#[derive(Deserialize)]
struct Interaction {
    #[serde(rename = "type")]
    kind: String,
    user: Option<User>,
    #[serde(default)]
    actions: Vec<Action>,
}

#[derive(Deserialize)]
struct User {
    id: String,
    username: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Action {
    #[serde(default)]
    action_id: String,
    value: Option<String>,
    #[serde(default)]
    action_ts: String,
}

impl Inbound for Slack {
    fn hear<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Heard, Refusal>> {
        Box::pin(std::future::ready(hear(self.signing_secret.as_deref(), &request)))
    }
}

fn hear(secret: Option<&str>, request: &Request<'_>) -> Result<Heard, Refusal> {
    let form = form(request.body);
    let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    // Slack's look at the certificate may come unsigned, asks for nothing and is told nothing.
    if field("ssl_check") == Some("1") {
        return Ok(Heard::default());
    }
    let Some(secret) = secret else {
        return Err(Refusal::BadSignature("this handler has no signing_secret, so it listens to nobody".to_owned()));
    };
    verify(secret, request)?;
    match field("payload") {
        Some(payload) => interaction(payload, request.now),
        None => event(request.body),
    }
}

/// Signed over the raw body, whatever is in it.
fn verify(secret: &str, request: &Request<'_>) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::BadSignature(why.to_owned()));
    let (Some(timestamp), Some(signature)) =
        ((request.header)("x-slack-request-timestamp"), (request.header)("x-slack-signature"))
    else {
        return refuse("the request is not signed by Slack");
    };
    let Ok(at) = timestamp.parse::<i64>() else { return refuse("X-Slack-Request-Timestamp is not a number") };
    if request.now.timestamp().saturating_sub(at).saturating_abs() > MAX_AGE {
        return refuse("the request is more than five minutes off; is this machine's clock right?");
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("v0:{timestamp}:").as_bytes());
    mac.update(request.body);
    let told = signature.strip_prefix("v0=").and_then(|s| hex::decode(s).ok()).unwrap_or_default();
    // In constant time.
    match mac.verify_slice(&told) {
        Ok(()) => Ok(()),
        Err(_) => refuse("the signature does not fit; is signing_secret that of this app?"),
    }
}

/// The pairs of `application/x-www-form-urlencoded`.
fn form(body: &[u8]) -> Vec<(String, String)> {
    let (Ok(text), Ok(mut url)) = (std::str::from_utf8(body), Url::parse("form:/")) else { return Vec::new() };
    url.set_query(Some(text));
    url.query_pairs().into_owned().collect()
}

fn interaction(payload: &str, now: DateTime<Utc>) -> Result<Heard, Refusal> {
    let unreadable = |e: serde_json::Error| Refusal::Unreadable(format!("the payload cannot be read: {e}"));
    let read: Interaction = serde_json::from_str(payload).map_err(unreadable)?;
    if read.kind != "block_actions" {
        return Ok(Heard::default());
    }
    let user = read.user.ok_or_else(|| Refusal::Unreadable("the payload names no user".to_owned()))?;
    let asked = read.actions.iter().filter_map(|action| asked(&user, action, now)).collect();
    Ok(Heard { asked, answer: None })
}

/// None: a button of somebody else's, or one that only opens a link.
fn asked(user: &User, action: &Action, now: DateTime<Utc>) -> Option<Asked> {
    let button = Button::parse(&action.action_id)?;
    let proposal = action.value.as_deref()?.parse().ok()?;
    let mut details = MoveDetails::default();
    let moved = match button {
        Button::Acknowledge => Move::Acknowledge,
        Button::Ordered => Move::Ordered,
        Button::Snooze { hours } => {
            // From the press, so that a second delivery asks for the same.
            let pressed = action.action_ts.split('.').next().and_then(|s| s.parse().ok());
            let pressed = pressed.and_then(|s| DateTime::from_timestamp(s, 0)).unwrap_or(now);
            details.until = Some(pressed.checked_add_signed(TimeDelta::hours(hours))?.timestamp_millis());
            Move::Snooze
        }
    };
    let id = line(&user.id, 50);
    let by = match user.name.as_deref().or(user.username.as_deref()) {
        Some(name) => format!("{} ({id})", line(name, 100)),
        None => id,
    };
    Some(Asked {
        subject: Subject::Proposal(proposal),
        moved,
        by,
        details,
        dedupe_id: Some(format!("{}/{}/{}", user.id, action.action_id, action.action_ts)),
    })
}

/// What comes as JSON: Slack's check of the address, which is answered, and events, which nobody ordered.
fn event(body: &[u8]) -> Result<Heard, Refusal> {
    let unreadable = |e: serde_json::Error| Refusal::Unreadable(format!("neither a form with a payload nor JSON: {e}"));
    let event: Value = serde_json::from_slice(body).map_err(unreadable)?;
    match (event["type"].as_str(), event["challenge"].as_str()) {
        (Some("url_verification"), Some(challenge)) => {
            Ok(Heard { asked: Vec::new(), answer: Some(json!({"challenge": challenge})) })
        }
        _ => Ok(Heard::default()),
    }
}
