//! The kind `slack`: the decision as a message of a Slack app, with buttons, kept up to date.
//!
//! ```toml
//! [handlers.slack]
//! kind = "slack"
//! token = { env = "SLACK_TOKEN" }               # the bot's, xoxb-…
//! signing_secret = { env = "SLACK_SIGNING_SECRET" }   # without it messages have no buttons, and nobody is listened to
//! channel = "C0123456789"                       # or "#name"; a route's `channel` goes first
//! timeout = "10s"
//! api_url = "https://slack.com/api"
//! allow_private_addresses = false
//! ```
//!
//! Scopes of the app: `chat:write`; to find out what became of a message after a lost answer also `channels:history` (or
//! `groups:history` for private channels) and, for channels given by name, `channels:read`. Interactivity: the request URL is
//! `/webhooks/slack`, or `/webhooks/slack/NAME` where there are several.
//!
//! Frozen is the body of the call. It carries a `client_msg_id`, by which Slack recognises a repeat, though it does not document
//! that, and metadata with the decision and the route, by which the message is found again in the channel's history: so the guarantee is
//! best effort. The first message about a variant in a channel begins a thread, later ones answer in it. A change of the
//! proposal edits the message; an edit twice is an edit once.

mod api;
mod history;
mod inbound;
mod message;
mod probe;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use uuid::Uuid;

use self::api::{Api, Failure};
use super::registry::{duration_text, read_config};
use super::{Blame, Context, Guarantee, Handler, Job, Resolution, Update, Verdict, http};
use crate::config::SecretRef;
use crate::events::decision::{ProposalChange, Route};
use crate::ports::inbound::Inbound;
use crate::ports::targets::{Finding, Scope};

pub(super) const GUARANTEE: Guarantee = Guarantee::BestEffort;
/// Namespace of `client_msg_id`s. Fixed for ever, so that a repeat by a later version is still known.
const NAMESPACE: Uuid = Uuid::from_u128(0x3d6b_52a8_0c1f_5e7a_b2d4_91f0_6a3c_5b17);
const EVENT_TYPE: &str = "stockwarden_reorder";
const POST: &str = "chat.postMessage";
const UPDATE: &str = "chat.update";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "default_api_url")]
    api_url: String,
    token: SecretRef,
    signing_secret: Option<SecretRef>,
    channel: Option<String>,
    #[serde(default = "default_timeout", deserialize_with = "duration_text")]
    timeout: Duration,
    #[serde(default)]
    allow_private_addresses: bool,
}

fn default_api_url() -> String {
    "https://slack.com/api".to_owned()
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

pub struct Slack {
    /// Name of the instance.
    name: String,
    api: Api,
    signing_secret: Option<String>,
    /// Unless the route names its own.
    channel: Option<String>,
    /// Ids of channels that are known by name; Slack posts to a name, but shows history by id only.
    channel_ids: Mutex<BTreeMap<String, String>>,
    timeout: Duration,
    /// Effects with a send of unknown outcome: when it must have landed. In memory only.
    landing: Mutex<HashMap<String, DateTime<Utc>>>,
    secrets: Vec<String>,
}

/// What the ledger keeps.
#[derive(Serialize, Deserialize)]
struct Frozen {
    call: Call,
    /// When it was built: the message is not older.
    at: DateTime<Utc>,
    body: Box<RawValue>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Call {
    #[serde(rename = "chat.postMessage")]
    Post,
    #[serde(rename = "chat.update")]
    Update,
    /// A change of a proposal whose message was never sent.
    #[serde(rename = "none")]
    Nothing,
}

/// What is read back of a frozen body.
#[derive(Deserialize)]
struct Place {
    channel: String,
    thread_ts: Option<String>,
}

pub(super) fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    let base = http::checked_url("api_url", &config.api_url, config.allow_private_addresses)?;
    if base.query().is_some() || base.fragment().is_some() {
        return Err("api_url is followed by a method's name, so it ends with a path, such as https://slack.com/api".to_owned());
    }
    let token = context.secret("token", &config.token)?;
    let mut bearer =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| "token has characters that no token has".to_owned())?;
    bearer.set_sensitive(true);
    let signing_secret = config.signing_secret.as_ref().map(|secret| context.secret("signing_secret", secret)).transpose()?;
    let channel = config.channel.map(|c| channel(&c).map_err(|e| format!("channel: {e}"))).transpose()?;
    let client = http::client(config.timeout, config.allow_private_addresses, context)?;
    let secrets = [Some(token), signing_secret.clone()].into_iter().flatten().collect();
    let api = Api { client, base, token: bearer };
    let (name, timeout) = (context.name.clone(), config.timeout);
    let (channel_ids, landing) = (Mutex::default(), Mutex::default());
    Ok(Arc::new(Slack { name, api, signing_secret, channel, channel_ids, timeout, landing, secrets }))
}

/// An id or a name, as Slack takes it.
fn channel(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('#').unwrap_or(text);
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && name.chars().count() <= 80 && name.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is not a channel's id such as \"C0123456789\" or a name such as \"#replenishment\"")),
    }
}

/// Whether Slack takes it everywhere, which it does not with names.
fn is_id(channel: &str) -> bool {
    let rest = channel.strip_prefix(['C', 'G', 'D']);
    rest.is_some_and(|r| r.len() >= 8 && r.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
}

impl Handler for Slack {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    fn follows(&self, _: &ProposalChange) -> bool {
        true
    }

    fn follows_its_own(&self) -> bool {
        true
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn inbound(self: Arc<Self>) -> Option<Arc<dyn Inbound>> {
        Some(self)
    }

    fn probe<'a>(&'a self, scope: &'a Scope, now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.ask_all(scope, now))
    }

    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let (call, body) = match &job.update {
            None => (Call::Post, self.post_body(job)?),
            Some(Update { reference: None, .. }) => (Call::Nothing, Value::Null),
            Some(Update { reference: Some(reference), .. }) => (Call::Update, self.update_body(job, reference)?),
        };
        let write = |e: serde_json::Error| format!("the message cannot be written: {e}");
        let frozen = Frozen { call, at: now, body: to_raw_value(&body).map_err(write)? };
        serde_json::to_vec(&frozen).map_err(write)
    }

    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let Ok(frozen) = serde_json::from_slice::<Frozen>(request) else {
                return Verdict::Permanent { reason: "the request stored in the ledger cannot be read".to_owned() };
            };
            match frozen.call {
                Call::Nothing => Verdict::Done { response: Some("there is no message to change".to_owned()), reference: None },
                Call::Post => {
                    self.begins(job, now);
                    let verdict = self.post(&frozen, now).await;
                    if !matches!(verdict, Verdict::Ambiguous { .. }) {
                        self.ended(job);
                    }
                    verdict
                }
                Call::Update => self.edit(&frozen, now).await,
            }
        })
    }

    fn resolve<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        Box::pin(async move {
            match serde_json::from_slice::<Frozen>(request) {
                Ok(frozen) if frozen.call == Call::Post => self.find(job, &frozen, now).await,
                // To edit a message twice is to edit it once.
                Ok(_) => Resolution::NotDone,
                Err(_) => Resolution::CannotAsk,
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}

impl Slack {
    fn channel_of(&self, route: &Route) -> Result<String, String> {
        match (route.settings.get("channel"), &self.channel) {
            (Some(Value::String(named)), _) => channel(named).map_err(|e| format!("the route's channel: {e}")),
            (Some(other), _) => Err(format!("the route's channel is {other}; it is a text such as \"#replenishment\"")),
            (None, Some(channel)) => Ok(channel.clone()),
            (None, None) => Err("neither the route nor the handler names a channel; set channel in one of them".to_owned()),
        }
    }

    fn post_body(&self, job: &Job) -> Result<Value, String> {
        let channel = self.channel_of(&job.route)?;
        let message = message::message(&job.decision, None, self.signing_secret.is_some());
        let mut body = json!({
            "channel": channel,
            "text": message.text,
            "blocks": message.blocks,
            "metadata": metadata(job),
            "client_msg_id": Uuid::new_v5(&NAMESPACE, job.key().as_bytes()),
            "link_names": false,
            "unfurl_links": false,
            "unfurl_media": false,
        });
        if let Some(thread) = thread(job, &channel) {
            body["thread_ts"] = json!(thread);
        }
        Ok(body)
    }

    fn update_body(&self, job: &Job, reference: &str) -> Result<Value, String> {
        let (channel, ts) = reference.split_once(':').ok_or_else(|| {
            format!("\"{reference}\" is not a reference of this kind; did another kind have the handler's name before?")
        })?;
        let change = job.update.as_ref().map(|u| &u.change);
        let message = message::message(&job.decision, change, self.signing_secret.is_some());
        // No metadata: the message keeps what it has.
        Ok(json!({"channel": channel, "ts": ts, "text": message.text, "blocks": message.blocks, "link_names": false}))
    }

    async fn post(&self, frozen: &Frozen, now: DateTime<Utc>) -> Verdict {
        let body = frozen.body.get();
        let channel = serde_json::from_str::<Place>(body).map(|p| p.channel).unwrap_or_default();
        let mut answer = self.api.post(POST, body.as_bytes(), now).await;
        if matches!(&answer, Err(Failure::Refused(r)) if is_threadless(&r.code))
            && let Some(body) = without_thread(body)
        {
            // Nothing was posted; better at the top of the channel than nowhere.
            answer = self.api.post(POST, body.as_bytes(), now).await;
        }
        match answer {
            Err(failure) => failure.verdict(&channel),
            Ok(answer) => match (answer["channel"].as_str(), answer["ts"].as_str()) {
                (Some(id), Some(ts)) => {
                    self.learn(&channel, id);
                    Verdict::Done { response: Some("posted".to_owned()), reference: Some(format!("{id}:{ts}")) }
                }
                _ => Verdict::Ambiguous { reason: "Slack's answer names no message".to_owned() },
            },
        }
    }

    async fn edit(&self, frozen: &Frozen, now: DateTime<Utc>) -> Verdict {
        let body = frozen.body.get();
        let channel = serde_json::from_str::<Place>(body).map(|p| p.channel).unwrap_or_default();
        match self.api.post(UPDATE, body.as_bytes(), now).await {
            Ok(_) => Verdict::Done { response: Some("the message was changed".to_owned()), reference: None },
            // Somebody has deleted it, or it may not be edited any more: nobody is helped by more tries.
            Err(Failure::Refused(r))
                if matches!(r.code.as_str(), "message_not_found" | "cant_update_message" | "edit_window_closed") =>
            {
                Verdict::Done { response: Some(r.code), reference: None }
            }
            Err(failure) => match failure.verdict(&channel) {
                Verdict::Ambiguous { reason } => Verdict::Retry { reason, after: None, blame: Blame::Target },
                other => other,
            },
        }
    }

    fn learn(&self, name: &str, id: &str) {
        if !is_id(name) {
            let mut ids = self.channel_ids.lock().expect("no code panics while holding this lock");
            ids.insert(name.to_owned(), id.to_owned());
        }
    }
}

/// By what the message is found again.
fn metadata(job: &Job) -> Value {
    json!({
        "event_type": EVENT_TYPE,
        "event_payload": {
            "reorder_id": job.decision.proposal_id,
            "decision_id": job.id.decision_id,
            "route_id": job.id.route_id,
        },
    })
}

/// The thread of the variant in `channel`: that of the newest message there, which is its own beginning unless it answers in one.
fn thread(job: &Job, channel: &str) -> Option<String> {
    job.earlier.iter().find_map(|earlier| {
        let frozen: Frozen = serde_json::from_slice(&earlier.request).ok()?;
        let place: Place = serde_json::from_str(frozen.body.get()).ok()?;
        if frozen.call != Call::Post || place.channel != channel {
            return None;
        }
        place.thread_ts.or_else(|| Some(earlier.reference.split_once(':')?.1.to_owned()))
    })
}

/// The thread is gone, or nothing may be answered there.
fn is_threadless(code: &str) -> bool {
    matches!(
        code,
        "thread_not_found"
            | "invalid_thread_ts"
            | "thread_locked"
            | "cannot_reply_to_message"
            | "restricted_action_thread_locked"
            | "restricted_action_non_threadable_channel"
    )
}

fn without_thread(body: &str) -> Option<String> {
    let mut body: serde_json::Map<String, Value> = serde_json::from_str(body).ok()?;
    body.remove("thread_ts")?;
    serde_json::to_string(&body).ok()
}
