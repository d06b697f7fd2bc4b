//! A reorder as JSON: the decision's fields, what became of it, and each of its routes (DESIGN §5).

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use crate::ports::ledger::EffectState;
use crate::ports::reorders::{Reorder, RouteState};

/// Attributes that a change carries where they are set.
const ATTRIBUTES: [&str; 5] = ["assigned_to", "snoozed_until", "snoozed_level", "eta", "reference"];

/// `kinds` are the configured handlers with their kinds. Stored JSON is shown as it is, also what this version does not know.
pub fn view(reorder: &Reorder, kinds: &BTreeMap<String, String>) -> Value {
    let mut shown = object(&reorder.opening.decision);
    let change = reorder.change.as_deref().map(object).unwrap_or_default();
    let of_change = |key: &str| change.get(key).cloned().unwrap_or_default();
    let proposed = shown.get("quantity").cloned().unwrap_or_default();
    let quantity = change.get("quantity").cloned().unwrap_or_else(|| proposed.clone());
    let mut set = |key: &str, value: Value| shown.insert(key.to_owned(), value);
    set("reorder_id", json!(reorder.opening.proposal_id));
    set("proposal_id", json!(reorder.opening.proposal_id));
    set("organisation", json!(reorder.opening.organisation));
    set("state", json!(reorder.state));
    set("quantity", quantity);
    set("proposed_quantity", proposed);
    set("received", change.get("received").cloned().unwrap_or_else(|| json!(0)));
    for key in ATTRIBUTES {
        set(key, of_change(key));
    }
    let changed_by = (!change.is_empty()).then(|| {
        json!({
            "move": of_change("move"),
            "by": of_change("by"),
            "via": of_change("via"),
            "note": of_change("note"),
            "at": of_change("changed_at"),
        })
    });
    set("changed_by", changed_by.unwrap_or_default());
    set("opened_at", time(reorder.opening.opened_at));
    set("updated_at", time(reorder.updated_at));
    let (updates, routes): (Vec<_>, Vec<_>) = reorder.routes.iter().partition(|r| r.updates.is_some());
    set("routes", routes.into_iter().map(|r| route(r, kinds)).collect());
    set("updates", updates.into_iter().map(|r| route(r, kinds)).collect());
    Value::Object(shown)
}

fn route(r: &RouteState, kinds: &BTreeMap<String, String>) -> Value {
    let mut shown = json!({
        "route_id": r.route_id,
        "handler": r.handler,
        "kind": kinds.get(&r.handler),
        "state": r.state,
        "attempts": r.attempts,
        "reference": r.reference,
        "possible_duplicate": r.possible_duplicate,
        "updated_at": time(r.updated_at),
    });
    // What the target said to what it did; else why it has not done it.
    let said = if r.state == EffectState::Done { "response" } else { "reason" };
    shown[said] = json!(r.response);
    if let Some(first) = &r.updates {
        shown["updates"] = json!(first);
    }
    shown
}

/// Empty if it is none.
fn object(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).unwrap_or_default()
}

fn time(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}
