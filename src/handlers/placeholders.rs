//! `{{field}}` in what customers write themselves (bodies of targets, mails): which fields there are, and what they print.

use serde_json::{Map, Value};

use super::Job;

/// Fields of a decision, beside `route.*` and what lies inside `inputs` and `caused_by`.
pub(super) const FIELDS: &[&str] = &[
    "decision_id",
    "proposal_id",
    "organisation",
    "shop",
    "variant_id",
    "inventory_item_id",
    "location_id",
    "sku",
    "title",
    "vendor",
    "rule_id",
    "rule_version",
    "kind",
    "severity",
    "quantity",
    "available",
    "inputs",
    "reason",
    "caused_by",
    "seq",
    "decided_at",
    "route",
];

/// What lies inside `inputs`; which of them a decision has depends on its rule.
pub(super) const INPUTS: &[&str] = &[
    "previous",
    "threshold",
    "position",
    "lead_time_days",
    "probability",
    "horizon_hours",
    "rate_fast",
    "rate_slow",
    "hours_left",
    "accelerating",
    "adjustments",
];

/// What lies inside `caused_by`.
pub(super) const CAUSED_BY: &[&str] = &["topic", "partition", "offset"];

/// Whether a decision can have it. What a route says of its own is known to the rules alone.
pub(super) fn is_field(path: &str) -> bool {
    match path.split_once('.') {
        None => FIELDS.contains(&path),
        Some(("inputs", rest)) => INPUTS.contains(&rest),
        Some(("caused_by", rest)) => CAUSED_BY.contains(&rest),
        Some(("route", rest)) => !rest.is_empty(),
        Some(_) => false,
    }
}

/// The decision as recorded, with `route` (id, to and its settings) in place of `routes`: what the other routes say, addresses for
/// example, is nobody else's business.
pub(super) fn document(job: &Job) -> Map<String, Value> {
    let mut document = job.recorded.clone();
    document.remove("routes");
    let mut route = job.route.settings.clone();
    route.insert("to".to_owned(), Value::String(job.route.to.clone()));
    route.insert("id".to_owned(), Value::String(job.id.route_id.clone()));
    document.insert("route".to_owned(), Value::Object(route));
    document
}

/// What stands at `path`, steps divided by dots; null if nothing does.
pub(super) fn find<'a>(document: &'a Map<String, Value>, path: &str) -> &'a Value {
    let mut steps = path.split('.');
    let first = steps.next().and_then(|root| document.get(root));
    steps.fold(first, |found, step| found.and_then(|v| v.get(step))).unwrap_or(&Value::Null)
}

/// A value within other text.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
