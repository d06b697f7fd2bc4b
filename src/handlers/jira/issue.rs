//! The issue of a decision.
//!
//! Titles, SKUs and reasons come from outside; in ADF a text is a text, whatever it holds.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::config::OfRoute;
use crate::events::decision::{Decision, Kind};
use crate::events::time;
use crate::handlers::Job;
use crate::handlers::placeholders::document;

/// On every issue of ours; also the beginning of the decision's label.
pub const LABEL: &str = "stockwarden";
/// Entity property with the ids.
pub const PROPERTY: &str = "stockwarden.reorder";
/// Fields that free `fields` may not set.
pub const OURS: [&str; 6] = ["project", "issuetype", "summary", "description", "labels", "priority"];
/// Jira's bound.
const SUMMARY_LIMIT: usize = 255;
/// Longest text of one fact.
const TEXT_LIMIT: usize = 2000;

pub fn label(decision: Uuid) -> String {
    format!("{LABEL}-{decision}")
}

/// Body of `POST /rest/api/3/issue`.
pub fn compose(job: &Job, route: &OfRoute, handler: &str, public_url: Option<&str>) -> Result<Value, String> {
    let decision = &job.decision;
    let project = route
        .project
        .as_deref()
        .ok_or_else(|| format!("no project to make an issue in: set project on the route or in [handlers.{handler}]"))?;
    let mut fields = match route.fields.fill(&document(job)) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let mut labels = vec![LABEL.to_owned(), label(decision.decision_id)];
    labels.extend(route.labels.iter().cloned());
    fields.insert("project".to_owned(), named(project, "key"));
    fields.insert("issuetype".to_owned(), named(&route.issue_type, "name"));
    fields.insert("summary".to_owned(), cut(summary(decision), SUMMARY_LIMIT).into());
    fields.insert("description".to_owned(), description(job, public_url));
    fields.insert("labels".to_owned(), labels.into());
    if let Some(priority) = route.priority.as_ref().or_else(|| route.priorities.get(decision.severity.as_str())) {
        fields.insert("priority".to_owned(), named(priority, "name"));
    }
    let ids = json!({
        "decision_id": decision.decision_id,
        "proposal_id": decision.proposal_id,
        "route_id": job.id.route_id,
        "handler": handler,
        "organisation": decision.organisation,
        "shop": decision.shop,
        "variant_id": decision.variant_id.map(|v| v.to_string()),
        "sku": decision.sku,
    });
    Ok(json!({"fields": fields, "properties": [{"key": PROPERTY, "value": ids}]}))
}

/// Things of Jira go by id or by a name.
fn named(text: &str, by: &str) -> Value {
    let by = if text.bytes().all(|b| b.is_ascii_digit()) { "id" } else { by };
    json!({by: text})
}

/// What to do about a refusal that a setting can mend.
pub fn mend(reason: &str) -> String {
    let hint = [
        ("priority:", "priority_map = {} sends none"),
        ("project:", "check the route's project and the account's rights in it"),
        ("issuetype:", "check the route's issue_type; the project has its own list"),
        ("labels:", "put the field Labels on the project's create screen"),
    ];
    match hint.iter().find(|(field, _)| reason.contains(field)) {
        Some((_, hint)) => format!("{reason} ({hint})"),
        None => reason.to_owned(),
    }
}

/// One line, without control characters, also those that turn the direction of what is read (a quantity, for example).
pub fn line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let words = text.split(|c: char| c.is_whitespace() || c.is_control() || turns(c)).filter(|w| !w.is_empty());
    cut(words.collect::<Vec<_>>().join(" "), TEXT_LIMIT)
}

/// Jira counts UTF-16 units.
fn cut(text: String, limit: usize) -> String {
    if text.encode_utf16().count() <= limit {
        return text;
    }
    let mut units = 1;
    let kept: String = text
        .chars()
        .take_while(|c| {
            units += c.len_utf16();
            units <= limit
        })
        .collect();
    format!("{kept}…")
}

/// SKU and title, as far as they are known.
fn what(decision: &Decision) -> String {
    let known = [decision.sku.as_deref(), decision.title.as_deref()];
    let named = known.into_iter().flatten().map(line).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" – ");
    match (named.is_empty(), decision.variant_id) {
        (false, _) => named,
        (true, Some(variant)) => format!("variant {variant}"),
        (true, None) => "an article".to_owned(),
    }
}

fn summary(decision: &Decision) -> String {
    let what = what(decision);
    let of = decision.shop.as_deref().map(|s| format!(" for {}", line(s))).unwrap_or_default();
    match (decision.kind, decision.quantity) {
        (Kind::Reorder, Some(quantity)) => format!("Reorder {quantity} × {what}{of}"),
        (Kind::Reorder, None) => format!("Reorder {what}{of}"),
        (Kind::Transfer, Some(quantity)) => format!("Transfer {quantity} × {what}{of}"),
        (Kind::Transfer, None) => format!("Transfer {what}{of}"),
        (Kind::Warning, _) => format!("Stock warning: {what}{of}"),
    }
}

fn description(job: &Job, public_url: Option<&str>) -> Value {
    let d = &job.decision;
    let place = match (d.location_id, d.shop.as_deref()) {
        (Some(location), Some(shop)) => format!(" at location {location} of {}", line(shop)),
        (None, Some(shop)) => format!(" in {}", line(shop)),
        (_, None) => String::new(),
    };
    let lasts = match d.inputs.hours_left {
        Some(hours) if d.available > 0 => format!("; at the present rate it runs out in about {}", span(hours)),
        _ => String::new(),
    };
    let units = if d.available == 1 { "unit" } else { "units" };
    let mut content = vec![
        paragraph(vec![strong(&what(d)), plain(&format!(" has {} {units} available{place}{lasts}.", d.available))]),
        paragraph(vec![plain(&format!("Why: {}", line(&d.reason)))]),
        bullets(facts(d)),
    ];
    if let Some(base) = public_url {
        let href = format!("{}/v1/reorders/{}", base.trim_end_matches('/'), d.proposal_id);
        content.push(paragraph(vec![link("Open in Stockwarden", &href)]));
    }
    adf(content)
}

fn span(hours: f64) -> String {
    if hours < 48.0 { format!("{hours:.1} h") } else { format!("{:.1} days", hours / 24.0) }
}

fn facts(d: &Decision) -> Vec<String> {
    let rate = |r: Option<f64>| r.map(|r| format!("{r:.2} an hour"));
    let optional = [
        ("Suggested order", d.quantity.map(|q| q.to_string())),
        ("Vendor", d.vendor.as_deref().map(line)),
        ("Sells now", rate(d.inputs.rate_fast)),
        ("Sells usually", rate(d.inputs.rate_slow)),
        ("Lead time", d.inputs.lead_time_days.map(|days| format!("{days} days"))),
        ("Threshold", d.inputs.threshold.map(|t| t.to_string())),
        ("Variant", d.variant_id.map(|v| v.to_string())),
    ];
    let known = optional.into_iter().filter_map(|(label, value)| Some((label, value?)));
    let always = [
        ("Severity", d.severity.as_str().to_owned()),
        ("Rule", format!("{} (version {})", line(&d.rule_id), d.rule_version)),
        ("Decided", time::format(d.decided_at)),
        ("Reorder", d.proposal_id.to_string()),
    ];
    known.chain(always).filter(|(_, value)| !value.is_empty()).map(|(label, value)| format!("{label}: {value}")).collect()
}

/// A document in Atlassian's format.
pub fn adf(content: Vec<Value>) -> Value {
    json!({"type": "doc", "version": 1, "content": content})
}

pub fn paragraph(content: Vec<Value>) -> Value {
    json!({"type": "paragraph", "content": content})
}

/// Not empty: Jira refuses empty texts.
pub fn plain(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn strong(text: &str) -> Value {
    json!({"type": "text", "text": text, "marks": [{"type": "strong"}]})
}

fn link(text: &str, href: &str) -> Value {
    json!({"type": "text", "text": text, "marks": [{"type": "link", "attrs": {"href": href}}]})
}

fn bullets(items: Vec<String>) -> Value {
    let items: Vec<Value> =
        items.iter().map(|text| json!({"type": "listItem", "content": [paragraph(vec![plain(text)])]})).collect();
    json!({"type": "bulletList", "content": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_jiras_units_and_stays_one_line() {
        let long = cut(line(&"𝄞\r\n".repeat(300)), SUMMARY_LIMIT);
        assert!(long.encode_utf16().count() <= SUMMARY_LIMIT && long.ends_with('…') && !long.contains('\n'), "{long}");
        assert_eq!(cut("x".repeat(255), SUMMARY_LIMIT).len(), 255);
        assert_eq!(line("a\u{202e}\tb\u{0}c"), "a b c");
    }
}
