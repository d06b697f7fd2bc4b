//! Effects that failed for good: what stands in the ledger until somebody mends the cause and has them tried again.

use serde_json::{Value, json};

use super::{Admin, AdminError, Refusal};
use crate::ports::ledger::{Effect, EffectFilter, EffectId, EffectState};

/// As many as anybody reads, or wants to be sent at a time.
const MAX_LIMIT: usize = 10_000;

/// `DECISION/ROUTE`, if it is of that form.
pub(super) fn parse(text: &str) -> Option<EffectId> {
    let (decision, route) = text.split_once('/')?;
    Some(EffectId { decision_id: decision.parse().ok()?, route_id: route.to_owned() })
}

impl Admin {
    /// The newest first.
    pub(super) async fn failed_effects(&self, limit: usize, shop: Option<&str>) -> Result<Vec<Value>, AdminError> {
        let failed = self.failed(None).await?;
        let of_shop = failed.iter().filter(|e| shop.is_none_or(|s| e.planned.shop == s));
        Ok(of_shop.take(limit.clamp(1, MAX_LIMIT)).map(row).collect())
    }

    pub(super) async fn failed_effect(&self, id: &EffectId) -> Result<Value, AdminError> {
        let filter = EffectFilter { decision_id: Some(id.decision_id), ..EffectFilter::default() };
        let found = self.ledger.list(filter).await?.into_iter().find(|e| e.planned.id == *id);
        let effect = found.ok_or_else(|| unknown(id))?;
        let mut shown = row(&effect);
        let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        shown["decision"] = parsed(&effect.planned.decision);
        shown["route"] = parsed(&effect.planned.route);
        shown["request"] = effect.request.map(|r| String::from_utf8_lossy(&r).into_owned()).into();
        Ok(shown)
    }

    /// True if it had failed, and is planned again.
    pub(super) async fn retry_effect(&self, id: &EffectId) -> Result<bool, AdminError> {
        Ok(self.ledger.retry(id, self.now()).await?)
    }

    pub(super) async fn retry_effects(&self, handler: Option<String>) -> Result<Value, AdminError> {
        let mut retried = Vec::new();
        for effect in self.failed(handler).await? {
            if self.retry_effect(&effect.planned.id).await? {
                retried.push(json!({ "effect": name(&effect.planned.id) }));
            }
        }
        Ok(json!({ "retried": retried, "skipped": [] }))
    }

    async fn failed(&self, handler: Option<String>) -> Result<Vec<Effect>, AdminError> {
        let limit = i64::try_from(MAX_LIMIT).expect("a small number");
        let filter = EffectFilter { handler, state: Some(EffectState::Failed), limit, ..EffectFilter::default() };
        Ok(self.ledger.list(filter).await?)
    }
}

pub(super) fn name(id: &EffectId) -> String {
    format!("{}/{}", id.decision_id, id.route_id)
}

fn unknown(id: &EffectId) -> AdminError {
    let message = format!("there is no effect {}", name(id));
    AdminError::refused(Refusal::NotFound, message, "stockwarden dead-letters list names those that failed")
}

fn row(effect: &Effect) -> Value {
    json!({
        "effect": name(&effect.planned.id),
        "state": effect.state,
        "handler": effect.planned.handler,
        "key": effect.planned.shop,
        "attempts": effect.attempts,
        "reason": effect.response,
        "at": effect.updated_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
    })
}
