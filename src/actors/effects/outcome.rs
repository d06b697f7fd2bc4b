//! Outcomes come back as facts: [`EffectSettled`] in `stock-facts`.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::breaker::Backoff;
use super::clock::Environment;
use super::health::Health;
use crate::events::fact::{EffectSettled, FactType, VERSION, header};
use crate::events::record::{NewRecord, Topic};
use crate::events::time;
use crate::ports::ledger::{EffectState, Settled};
use crate::ports::{EventLog, LogError};

/// Name of our own facts' source.
const SOURCE: &str = "dispatcher";
const PART: &str = "outcomes to the log";

/// Appends outcomes; see `actors::effects` for when.
#[derive(Clone)]
pub struct Outcomes {
    pub log: Arc<dyn EventLog>,
    pub env: Environment,
    pub health: Arc<Health>,
}

impl Outcomes {
    /// Returns when the fact is durable, however long the log is away.
    pub async fn append(&self, record: NewRecord) {
        let mut attempt = 0;
        loop {
            match self.log.append(vec![record.clone()]).await {
                Ok(_) => return self.health.well(PART),
                Err(LogError::Refused { size, reason }) => {
                    return tracing::error!(size, reason, "the log refuses the outcome of an effect; the ledger has it");
                }
                Err(e) => {
                    attempt += 1;
                    self.health.problem(PART, &e);
                    self.env.clock.sleep(Backoff::SERVICE.wait(attempt, self.env.random())).await;
                }
            }
        }
    }
}

/// State and parts of the fact that `settled` makes; none where nothing has been decided yet.
pub(super) fn fact(job: &crate::handlers::Job, handler: &str, settled: &Settled) -> Option<EffectSettled> {
    let (state, reference, reason, possible_duplicate) = match settled {
        Settled::Retry { .. } => return None,
        Settled::Done { reference, possible_duplicate, .. } => (EffectState::Done, reference.clone(), None, *possible_duplicate),
        Settled::Ambiguous { reason, .. } => (EffectState::Ambiguous, None, Some(reason.clone()), false),
        Settled::Failed { reason } => (EffectState::Failed, None, Some(reason.clone()), false),
    };
    // An update tells what the facts have said; that it arrived makes no state.
    if job.update.is_some() {
        return None;
    }
    Some(EffectSettled {
        decision_id: job.decision.decision_id,
        proposal_id: job.decision.proposal_id,
        // A decision for a pooled SKU belongs to no variant's actor; its outcome stands in the ledger only.
        variant_id: job.decision.variant_id?,
        route_id: job.id.route_id.clone(),
        handler: handler.to_owned(),
        state: state.as_str().to_owned(),
        reference,
        reason,
        possible_duplicate,
    })
}

/// The fact as a record of the shop.
pub(super) fn record(shop: &str, fact: &EffectSettled, now: DateTime<Utc>) -> NewRecord {
    let dedupe = format!("{}/{}/{}", fact.decision_id, fact.route_id, fact.state);
    NewRecord {
        topic: Topic::Facts,
        partition: None,
        key: Some(shop.as_bytes().to_vec()),
        headers: vec![
            (header::FACT, FactType::EffectSettled.as_str().into()),
            (header::VERSION, VERSION.to_string().into()),
            (header::DEDUPE_ID, dedupe.into()),
            (header::SOURCE, SOURCE.into()),
            (header::EVENT_TIME, time::format(now.timestamp_millis()).into()),
        ],
        value: Some(serde_json::to_vec(fact).expect("a fact is plain data")),
    }
}
