//! The mail of a decision: plain text, HTML and the line as CSV.
//!
//! Titles, SKUs and reasons come from outside. In headers they are one line without control characters, in HTML they are escaped,
//! in CSV they are quoted and cannot begin a formula.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart};
use lettre::{Address, Message};
use uuid::Uuid;

use crate::events::decision::{Decision, Kind};
use crate::events::time;
use crate::handlers::Job;

/// Longest Message-ID, brackets included: longer ones are folded by some servers, and a folded id threads nowhere.
const ID_LIMIT: usize = 69;
/// Longest subject, in characters.
const SUBJECT_LIMIT: usize = 150;

/// The whole message. `to` is not empty.
pub fn compose(job: &Job, from: &Mailbox, to: &[Mailbox], now: DateTime<Utc>) -> Result<Message, String> {
    let decision = &job.decision;
    let id = message_id(decision.decision_id, &job.id.route_id, &from.email);
    let mut builder = Message::builder().from(from.clone()).subject(subject(decision)).date(SystemTime::from(now));
    for mailbox in to {
        builder = builder.to(mailbox.clone());
    }
    builder = builder.message_id(Some(id)).raw_header(raw("Auto-Submitted", "auto-generated".to_owned()));
    builder = builder.raw_header(raw("X-Stockwarden-Decision", decision.decision_id.to_string()));
    if decision.proposal_id != decision.decision_id {
        let opening = message_id(decision.proposal_id, &job.id.route_id, &from.email);
        builder = builder.in_reply_to(opening.clone()).references(opening);
    }
    let csv_type = ContentType::parse("text/csv; charset=utf-8").expect("a constant that is a content type");
    let attachment = Attachment::new(format!("{}-{}.csv", decision.kind.as_str(), decision.decision_id)).body(csv(job), csv_type);
    let body = MultiPart::mixed().multipart(MultiPart::alternative_plain_html(plain(job), html(job))).singlepart(attachment);
    builder.multipart(body).map_err(|e| format!("the mail cannot be written: {e}"))
}

fn raw(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

/// The same for the same decision and route, whenever it is asked; with brackets.
pub fn message_id(decision: Uuid, route_id: &str, from: &Address) -> String {
    let local = format!("sw.{}", Uuid::new_v5(&decision, route_id.as_bytes()).simple());
    let room = ID_LIMIT - local.len() - "<@>".len();
    let mut domain = from.domain();
    while domain.len() > room || !domain.is_ascii() {
        // The parent domain is as much ours; without one that fits, a name that nobody has (RFC 2606).
        domain = domain.split_once('.').map_or("stockwarden.invalid", |(_, parent)| parent);
    }
    format!("<{local}@{domain}>")
}

/// One line, without control characters, also those that turn the direction of what is read (a quantity, for example).
fn line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.split(|c: char| c.is_whitespace() || c.is_control() || turns(c)).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

fn cut(text: String, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// What is short: SKU and title, as far as they are known.
fn what(decision: &Decision) -> String {
    let known = [decision.sku.as_deref(), decision.title.as_deref()];
    let named = known.into_iter().flatten().map(line).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" – ");
    match (named.is_empty(), decision.variant_id) {
        (false, _) => named,
        (true, Some(variant)) => format!("variant {variant}"),
        (true, None) => "an article".to_owned(),
    }
}

fn subject(decision: &Decision) -> String {
    let what = what(decision);
    let text = match (decision.kind, decision.quantity) {
        (Kind::Reorder, Some(quantity)) => format!("Order request: {quantity} × {what}"),
        (Kind::Reorder, None) => format!("Order request: {what}"),
        (Kind::Transfer, Some(quantity)) => format!("Transfer request: {quantity} × {what}"),
        (Kind::Transfer, None) => format!("Transfer request: {what}"),
        (Kind::Warning, _) => format!("Stock warning: {what}"),
    };
    cut(text, SUBJECT_LIMIT)
}

/// (label, value) of everything that a reader needs.
fn facts(job: &Job) -> Vec<(&'static str, String)> {
    let d = &job.decision;
    let optional = [
        ("Quantity", d.quantity.map(|q| q.to_string())),
        ("SKU", d.sku.clone()),
        ("Article", d.title.clone()),
        ("Vendor", d.vendor.clone()),
        ("Shop", d.shop.clone()),
        ("Location", d.location_id.map(|l| l.to_string())),
    ];
    let mut facts: Vec<(&'static str, String)> =
        optional.into_iter().filter_map(|(label, value)| Some((label, line(&value?)))).filter(|(_, v)| !v.is_empty()).collect();
    facts.push(("Available", d.available.to_string()));
    if let Some(hours) = d.inputs.hours_left {
        facts.push(("Lasts for", format!("{hours:.1} h")));
    }
    facts.push(("Severity", d.severity.as_str().to_owned()));
    facts.push(("Why", line(&d.reason)));
    facts.push(("Decided", time::format(d.decided_at)));
    facts.push(("Reference", d.proposal_id.to_string()));
    facts
}

fn plain(job: &Job) -> String {
    let mut text = format!("{}\r\n\r\n", subject(&job.decision));
    for (label, value) in facts(job) {
        text.push_str(&format!("{label}: {value}\r\n"));
    }
    text.push_str("\r\nThe line is attached as CSV. This mail was sent by Stockwarden.\r\n");
    text
}

fn html(job: &Job) -> String {
    let mut rows = String::new();
    for (label, value) in facts(job) {
        rows.push_str(&format!("<tr><th align=\"left\">{label}</th><td>{}</td></tr>\r\n", escape(&value)));
    }
    format!(
        "<!doctype html>\r\n<html><head><meta charset=\"utf-8\"></head><body>\r\n<h2>{}</h2>\r\n<table>\r\n{rows}</table>\r\n\
         <p>The line is attached as CSV. This mail was sent by Stockwarden.</p>\r\n</body></html>\r\n",
        escape(&subject(&job.decision))
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn csv(job: &Job) -> String {
    let d = &job.decision;
    let text = |t: &Option<String>| cell(t.as_deref().unwrap_or_default());
    let number = |n: Option<String>| n.unwrap_or_default();
    let columns = [
        ("reference", d.proposal_id.to_string()),
        ("decision_id", d.decision_id.to_string()),
        ("kind", d.kind.as_str().to_owned()),
        ("shop", text(&d.shop)),
        ("sku", text(&d.sku)),
        ("title", text(&d.title)),
        ("vendor", text(&d.vendor)),
        ("variant_id", number(d.variant_id.map(|v| v.to_string()))),
        ("location_id", number(d.location_id.map(|l| l.to_string()))),
        ("quantity", number(d.quantity.map(|q| q.to_string()))),
        ("available", d.available.to_string()),
        ("decided_at", time::format(d.decided_at)),
    ];
    let head: Vec<&str> = columns.iter().map(|c| c.0).collect();
    let row: Vec<&str> = columns.iter().map(|c| c.1.as_str()).collect();
    format!("{}\r\n{}\r\n", head.join(","), row.join(","))
}

/// A text as a CSV cell (RFC 4180). Spreadsheets run a text that begins like a formula; an apostrophe before it stops that.
fn cell(text: &str) -> String {
    let text = line(text);
    let formula = text.starts_with(['=', '+', '-', '@']);
    format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_stable_shorter_than_seventy_and_differs_by_route() {
        let decision = Uuid::from_u128(7);
        let long = format!("a@{}example.com", "very-long-label.".repeat(8));
        for from in ["orders@example.com", long.as_str()] {
            let from: Address = from.parse().expect("address");
            let id = message_id(decision, "0", &from);
            assert!(id.len() < 70 && id.starts_with("<sw.") && id.ends_with('>') && id.contains('@'), "{id}");
            assert_eq!(id, message_id(decision, "0", &from));
            assert_ne!(id, message_id(decision, "1", &from));
        }
    }

    #[test]
    fn a_cell_is_quoted_and_begins_no_formula() {
        assert_eq!(cell("a\"b,\r\nc"), "\"a\"\"b, c\"");
        assert_eq!(cell("=HYPERLINK(1)"), "\"'=HYPERLINK(1)\"");
    }
}
