//! The kind `slack`, against a stand-in that answers as Slack does.

mod inbound;
mod ledger;
mod lost;
mod message;
pub(crate) mod server;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::{CausedBy, Decision, ProposalChange};
use stockwarden::events::fact::Move;
use stockwarden::events::ids::VariantId;
use stockwarden::handlers::target::SystemLookup;
use stockwarden::handlers::{Handler, Handlers, Job, Update, Verdict};

use self::server::{CHANNEL, Fault, SlackServer, TOKEN};
use super::harness::{decision, job};
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

/// When what was sent at [`at`] has either come or not.
fn later() -> DateTime<Utc> {
    at() + chrono::TimeDelta::seconds(11)
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

fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> Fault {
    let Behaviour::Answer(bytes) = Behaviour::status(status, headers, body) else { unreachable!() };
    Fault::Answer(bytes)
}
