//! What Shopify's answers mean for an effect (contracts §4).

use serde_json::Value;

use crate::handlers::{Blame, Resolution, Verdict};
use crate::shopify::{Answer, CallError};

/// A transfer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    gid: String,
    told: String,
}

impl Made {
    fn read(transfer: &Value) -> Option<Made> {
        let gid = transfer.get("id")?.as_str()?.to_owned();
        let text = |name: &str| transfer.get(name).and_then(Value::as_str).unwrap_or_default();
        Some(Made { told: format!("transfer {} {}", text("name"), text("status")), gid })
    }

    fn and(mut self, more: Option<&str>) -> Made {
        if let Some(more) = more {
            self.told = format!("{}; {more}", self.told);
        }
        self
    }

    pub(super) fn verdict(self) -> Verdict {
        Verdict::Done { response: Some(self.told), reference: Some(self.gid) }
    }

    pub(super) fn resolution(self) -> Resolution {
        Resolution::Done { response: Some(self.told), reference: Some(self.gid) }
    }
}

/// An answer to a mutation.
#[derive(Debug, PartialEq)]
pub(super) enum Judged {
    Said(Verdict),
    /// Another request with the same key is under way.
    Concurrent {
        said: String,
    },
    /// The key failed inside Shopify and is never carried out again.
    KeyIsDead,
}

pub(super) fn judge(answer: &Answer) -> Judged {
    // The one field of the mutation, whichever of the two it was.
    let Some(payload) = answer.data.as_object().and_then(|fields| fields.values().next()).filter(|p| p.is_object()) else {
        return Judged::Said(Verdict::Ambiguous { reason: format!("an answer without its payload: {}", answer.data) });
    };
    if let Some(made) = payload.get("inventoryTransfer").and_then(Made::read) {
        return Judged::Said(made.and(answer.warning.as_deref()).verdict());
    }
    let errors: Vec<UserError> =
        payload.get("userErrors").and_then(Value::as_array).into_iter().flatten().map(UserError::read).collect();
    let Some(first) = errors.first() else {
        return Judged::Said(Verdict::Ambiguous { reason: "an answer with neither a transfer nor a reason".to_owned() });
    };
    match first.code.as_str() {
        "IDEMPOTENCY_CONCURRENT_REQUEST" => Judged::Concurrent { said: first.told() },
        "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED" => Judged::KeyIsDead,
        _ => {
            let told = errors.iter().take(5).map(UserError::told).collect::<Vec<_>>().join("; ");
            Judged::Said(Verdict::Permanent { reason: format!("Shopify makes no such transfer: {told}; {}", mend(&first.code)) })
        }
    }
}

struct UserError {
    code: String,
    message: String,
    field: String,
}

impl UserError {
    fn read(error: &Value) -> UserError {
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let steps = error.get("field").and_then(Value::as_array).into_iter().flatten();
        let field = steps.filter_map(Value::as_str).collect::<Vec<_>>().join(".");
        UserError { code: text("code"), message: text("message"), field }
    }

    fn told(&self) -> String {
        let at = if self.field.is_empty() { String::new() } else { format!(" at {}", self.field) };
        let code = if self.code.is_empty() { String::new() } else { format!(" ({}{at})", self.code) };
        format!("{}{code}", self.message)
    }
}

/// What somebody has to do before a retry can help.
fn mend(code: &str) -> &'static str {
    match code {
        "UNTRACKED_ITEM" => "have Shopify track this item's quantity, or take the variant out of the rule",
        "BUNDLED_ITEM" => "a bundle has no stock of its own: make rules for its components instead",
        "INVENTORY_STATE_NOT_ACTIVE" => "stock the item at both locations in Shopify, then retry",
        "ITEM_NOT_FOUND" => "the item is no longer in the shop; the decision can be cancelled",
        "LOCATION_NOT_FOUND" => "set origin and destination of the route to locations of this shop",
        "LOCATION_NOT_ACTIVE" => "activate the location in Shopify, or set another one in the route",
        "LOCATION_REQUIRED" => "give the route the missing origin or destination, or ready = false",
        "TRANSFER_ORIGIN_CANNOT_BE_THE_SAME_AS_DESTINATION" => "set different locations as origin and destination of the route",
        "INVALID_QUANTITY" => "check quantity, pack and maximum of the rule",
        "INVALID_TAG" | "TAG_EXCEEDS_MAX_LENGTH" => "check the tags of the route",
        "IDEMPOTENCY_KEY_PARAMETER_MISMATCH" => {
            "the same key came with another content before: look for the transfer in Shopify by its tags before anything is sent again"
        }
        _ => "mend what it names, then retry",
    }
}

/// The oldest of the transfers with the tag; the search itself is by words, and its answer may hold others.
pub(super) fn found(answer: &Answer, tag: &str) -> Result<Option<Made>, CallError> {
    let nodes = answer.data.pointer("/inventoryTransfers/nodes").and_then(Value::as_array);
    let Some(nodes) = nodes else {
        return Err(CallError::Unknown("an answer to the search without its list".to_owned()));
    };
    let has = |node: &&Value| {
        let tags = node.get("tags").and_then(Value::as_array);
        tags.is_none_or(|tags| tags.iter().filter_map(Value::as_str).any(|t| t.eq_ignore_ascii_case(tag)))
    };
    let mut hits: Vec<Made> = nodes.iter().filter(has).filter_map(Made::read).collect();
    // Ids grow.
    hits.sort_by_key(|made| (number(&made.gid), made.gid.clone()));
    let several = match hits.len() {
        0 | 1 => None,
        n => Some(format!("{n} transfers bear its tag {tag}, this is the oldest; cancel the others in Shopify")),
    };
    Ok(hits.into_iter().next().map(|made| made.and(Some("found by its tag")).and(several.as_deref())))
}

fn number(gid: &str) -> u64 {
    gid.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

/// A mutation that gave no data.
pub(super) fn not_called(e: CallError) -> Verdict {
    match e {
        CallError::Refused(reason) | CallError::Unauthorized(reason) => Verdict::Permanent { reason },
        CallError::Throttled { reason, after } => Verdict::Retry { reason, after: Some(after), blame: Blame::Effect },
        CallError::Away { reason, after } => Verdict::Retry { reason, after, blame: Blame::Target },
        CallError::Unknown(reason) => Verdict::Ambiguous { reason },
    }
}

/// A search before a mutation that gave no data: whatever became of it, nothing was made.
pub(super) fn not_searched(e: CallError) -> Verdict {
    match not_called(e) {
        Verdict::Ambiguous { reason } => Verdict::Retry { reason, after: None, blame: Blame::Target },
        verdict => verdict,
    }
}

/// A search after a mutation that gave no data.
pub(super) fn not_asked(e: CallError) -> Resolution {
    match e {
        CallError::Throttled { reason, after } => Resolution::AskLater { reason, after: Some(after) },
        CallError::Away { reason, after } => Resolution::AskLater { reason, after },
        CallError::Refused(reason) | CallError::Unauthorized(reason) | CallError::Unknown(reason) => {
            Resolution::AskLater { reason, after: None }
        }
    }
}
