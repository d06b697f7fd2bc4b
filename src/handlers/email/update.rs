//! A short reply in the thread of an order mail: what became of it, who did it, and where.

use super::order::{Content, what};
use super::text::{cut, html, line};
use crate::events::decision::ProposalChange;
use crate::events::time;
use crate::handlers::Job;

/// Longest name or note, in characters.
const LIMIT: usize = 300;

pub fn content(job: &Job, change: &ProposalChange) -> Content {
    let what = what(&job.decision);
    let said = sentence(change);
    let details = details(change);
    let mut text = format!("{said}\r\n\r\n{what}\r\n");
    let mut rows = String::new();
    for (label, value) in &details {
        text.push_str(&format!("{label}: {value}\r\n"));
        rows.push_str(&format!("<br>{label}: {}\r\n", html(value)));
    }
    Content {
        subject: cut(format!("Re: {what}: {}", state(change)), LIMIT / 2),
        text,
        html: format!(
            "<!doctype html>\r\n<html><head><meta charset=\"utf-8\"></head><body>\r\n<p>{}</p>\r\n<p>{}\r\n{rows}</p>\r\n</body></html>\r\n",
            html(&said),
            html(&what)
        ),
    }
}

fn state(change: &ProposalChange) -> String {
    line(&change.state).replace('_', " ")
}

/// "Acknowledged by anna via slack."
fn sentence(change: &ProposalChange) -> String {
    let short = |text: &String| cut(line(text), LIMIT);
    let done = match (&change.snoozed_until, change.snoozed_level, change.moved) {
        (Some(until), ..) if change.moved == Some(crate::events::fact::Move::Snooze) => {
            format!("snoozed until {}", time::format(*until))
        }
        (None, Some(level), Some(crate::events::fact::Move::Snooze)) => format!("snoozed until {level} are left"),
        (.., Some(crate::events::fact::Move::Assign)) => {
            change.assigned_to.as_ref().map_or_else(|| "assigned to nobody".to_owned(), |to| format!("assigned to {}", short(to)))
        }
        _ => state(change),
    };
    let by = change.by.as_ref().map(|by| format!(" by {}", short(by))).unwrap_or_default();
    let via = change.via.as_ref().map(|via| format!(" via {}", short(via))).unwrap_or_default();
    let mut sentence = format!("{done}{by}{via}.");
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    sentence
}

fn details(change: &ProposalChange) -> Vec<(&'static str, String)> {
    let received = (change.received > 0).then(|| change.received.to_string());
    let all = [
        ("State", Some(state(change))),
        ("Quantity", change.quantity.map(|q| q.to_string())),
        ("Received so far", received),
        ("Expected", change.eta.map(time::format)),
        ("Order", change.reference.clone()),
        ("Note", change.note.clone()),
        ("At", Some(time::format(change.changed_at))),
        ("Reference", Some(change.proposal_id.to_string())),
    ];
    let said = all.into_iter().filter_map(|(label, value)| Some((label, cut(line(&value?), LIMIT))));
    said.filter(|(_, value)| !value.is_empty()).collect()
}
