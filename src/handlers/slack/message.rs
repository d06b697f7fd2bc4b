//! What people see: the message of a decision, and the same message when its proposal has moved on.
//!
//! Limits of Block Kit (50 blocks, header 150, section 3000, field 2000, the whole about 13,000 characters) hold by what is put in:
//! a handful of blocks, every text of others cut before.

use serde_json::{Value, json};

use super::inbound::Button;
use super::text::{mrkdwn, plain};
use crate::domain::proposal::State;
use crate::events::decision::{Decision, Inputs, Kind, ProposalChange, RiskLevel};
use crate::events::fact::Move;
use crate::events::time::{self, Millis};

/// Longest name, number or place of others, in a field of its own.
const NAME: usize = 120;
/// Longest sentence of others.
const SENTENCE: usize = 600;
const HEADER: usize = 150;

/// Text and blocks of a message.
pub(super) struct Message {
    /// For notifications and clients without blocks.
    pub text: String,
    pub blocks: Vec<Value>,
}

/// `with_buttons`: somebody listens to them.
pub(super) fn message(decision: &Decision, change: Option<&ProposalChange>, with_buttons: bool) -> Message {
    let headline = headline(decision);
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "emoji": true, "text": plain(&headline, HEADER)}}),
        json!({"type": "section", "fields": fields(decision)}),
        section(&format!("*Why*\n{}", mrkdwn(&decision.reason, SENTENCE))),
    ];
    let mut text = mrkdwn(&headline, SENTENCE);
    match change {
        None => text.push_str(&format!(". {}", mrkdwn(&decision.reason, SENTENCE))),
        Some(change) => {
            let fate = fate(change);
            blocks.push(section(&fate));
            text = format!("{fate}: {text}");
        }
    }
    let buttons = if with_buttons { buttons(decision, change) } else { Vec::new() };
    if !buttons.is_empty() {
        blocks.push(json!({"type": "actions", "block_id": "reorder", "elements": buttons}));
    }
    let footer = format!(
        "rule {} (version {}) · reorder `{}` · {}",
        mrkdwn(&decision.rule_id, NAME),
        decision.rule_version,
        decision.proposal_id,
        date(decision.decided_at)
    );
    blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": footer}]}));
    Message { text, blocks }
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": {"type": "mrkdwn", "text": text}})
}

/// What it is about, at a glance.
fn headline(decision: &Decision) -> String {
    let what = decision.title.as_deref().filter(|t| !t.trim().is_empty()).or(decision.sku.as_deref());
    let what = what.map_or_else(|| decision.variant_id.map_or_else(String::new, |v| format!("variant {v}")), str::to_owned);
    let some = decision.quantity.map_or_else(String::new, |q| format!("{q} × "));
    match (decision.kind, decision.severity) {
        (Kind::Reorder, _) => format!(":package: Reorder {some}{what}"),
        (Kind::Transfer, _) => format!(":truck: Transfer {some}{what}"),
        (Kind::Warning, RiskLevel::Out) => format!(":rotating_light: Sold out: {what}"),
        (Kind::Warning, RiskLevel::Critical) => format!(":rotating_light: Nearly sold out: {what}"),
        (Kind::Warning, _) => format!(":warning: Early warning: {what}"),
    }
}

/// Pairs of name and value; at most ten may stand in a section.
fn fields(decision: &Decision) -> Vec<Value> {
    let mut fields = Vec::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            fields.push(json!({"type": "mrkdwn", "text": format!("*{name}*\n{value}")}));
        }
    };
    let name = |text: &Option<String>| text.as_deref().map(|t| mrkdwn(t, NAME));
    put("SKU", name(&decision.sku));
    put("Vendor", name(&decision.vendor));
    put("Shop", name(&decision.shop));
    put("Location", decision.location_id.map(|l| l.to_string()));
    put("Left", Some(format!("{} ({})", decision.available, decision.severity.as_str())));
    put("Quantity", decision.quantity.map(|q| q.to_string()));
    put("Sells", rate(&decision.inputs));
    put("Runs out in", decision.inputs.hours_left.map(span));
    fields
}

fn rate(inputs: &Inputs) -> Option<String> {
    let told = match (inputs.rate_fast, inputs.rate_slow) {
        (Some(now), Some(usual)) => format!("{}, usually {}", per_time(now), per_time(usual)),
        (Some(only), None) | (None, Some(only)) => per_time(only),
        (None, None) => return None,
    };
    Some(if inputs.accelerating == Some(true) { format!("{told}, accelerating") } else { told })
}

/// Units per hour, in the unit that shows most of it.
fn per_time(hourly: f64) -> String {
    if hourly >= 1.0 { format!("{hourly:.1} an hour") } else { format!("{:.1} a day", hourly * 24.0) }
}

fn span(hours: f64) -> String {
    match hours {
        h if h < 1.0 => format!("~{:.0} min", (h * 60.0).max(0.0)),
        h if h < 48.0 => format!("~{h:.1} h"),
        h => format!("~{:.0} days", h / 24.0),
    }
}

/// In the reader's own time zone, if the client can.
fn date(at: Millis) -> String {
    format!("<!date^{}^{{date_short_pretty}} {{time}}|{}>", at.div_euclid(1000), time::format(at))
}

/// What became of the proposal, by whom and where.
fn fate(change: &ProposalChange) -> String {
    let state = State::parse(&change.state);
    let mut said = match (change.moved, state) {
        (Some(Move::Snooze), _) => match (change.snoozed_until, change.snoozed_level) {
            (Some(until), _) => format!(":zzz: *Snoozed* until {}", date(until)),
            (None, Some(level)) => format!(":zzz: *Snoozed* until {level} or fewer are left"),
            (None, None) => ":bell: *No longer snoozed*".to_owned(),
        },
        (Some(Move::Assign), _) => match &change.assigned_to {
            Some(to) => format!(":bust_in_silhouette: *Assigned* to {}", mrkdwn(to, NAME)),
            None => ":bust_in_silhouette: *Assigned* to nobody".to_owned(),
        },
        (Some(Move::Received), Some(open)) if open.is_open() => {
            let of = change.quantity.map_or_else(String::new, |q| format!(" of {q}"));
            format!(":inbox_tray: *{}{of} received*", change.received)
        }
        (_, Some(State::Proposed | State::Sent)) => ":hourglass: *Open*".to_owned(),
        (_, Some(State::Acknowledged)) => ":white_check_mark: *Acknowledged*".to_owned(),
        (_, Some(State::Ordered)) => match change.quantity {
            Some(q) => format!(":shopping_trolley: *Ordered* ({q})"),
            None => ":shopping_trolley: *Ordered*".to_owned(),
        },
        (_, Some(State::InTransit)) => ":truck: *In transit*".to_owned(),
        (_, Some(State::Received)) => ":inbox_tray: *Received*".to_owned(),
        (_, Some(State::Cancelled)) => ":no_entry_sign: *Cancelled*".to_owned(),
        (_, Some(State::Expired)) => ":hourglass: *Expired*: nobody acted in time".to_owned(),
        (_, Some(State::Resolved)) => ":white_check_mark: *Resolved*: stock is back".to_owned(),
        // A state of a later version.
        (_, None) => format!("*{}*", mrkdwn(&change.state, NAME)),
    };
    if let Some(by) = &change.by {
        said.push_str(&format!(" by {}", mrkdwn(by, NAME)));
    }
    if let Some(via) = &change.via {
        said.push_str(&format!(" via {}", mrkdwn(via, NAME)));
    }
    said.push_str(&format!(" · {}", date(change.changed_at)));
    if let Some(eta) = change.eta {
        said.push_str(&format!(" · expected {}", date(eta)));
    }
    for more in [&change.reference, &change.note].into_iter().flatten() {
        said.push_str(&format!(" · {}", mrkdwn(more, SENTENCE)));
    }
    said
}

/// What can still be done: nothing once it is ordered or closed.
fn buttons(decision: &Decision, change: Option<&ProposalChange>) -> Vec<Value> {
    let state = change.map_or(Some(State::Proposed), |c| State::parse(&c.state));
    let snoozed = change.is_some_and(|c| c.snoozed_until.is_some() || c.snoozed_level.is_some());
    let offered: &[Button] = match state {
        Some(State::Proposed | State::Sent) => &[Button::Acknowledge, Button::Snooze { hours: 24 }, Button::Ordered],
        Some(State::Acknowledged) => &[Button::Snooze { hours: 24 }, Button::Ordered],
        _ => &[],
    };
    let offered = offered.iter().filter(|b| !(snoozed && matches!(b, Button::Snooze { .. })));
    offered.map(|b| b.element(decision.proposal_id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_spans_are_told_in_units_that_people_use() {
        assert_eq!((per_time(3.24).as_str(), per_time(0.5).as_str()), ("3.2 an hour", "12.0 a day"));
        assert_eq!(
            (span(0.5).as_str(), span(-1.0).as_str(), span(2.1).as_str(), span(72.0).as_str()),
            ("~30 min", "~0 min", "~2.1 h", "~3 days")
        );
        let both = Inputs { rate_fast: Some(3.0), rate_slow: Some(0.5), accelerating: Some(true), ..Inputs::default() };
        assert_eq!(rate(&both).as_deref(), Some("3.0 an hour, usually 12.0 a day, accelerating"));
        assert_eq!(rate(&Inputs::default()), None);
    }
}
