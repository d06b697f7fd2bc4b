//! What an order mail says: of one decision, or of several of a vendor (a digest).

use serde_json::{Map, Value, json};

use super::template::{Fault, Fields, Template};
use super::text::{cell, cut, html, line};
use crate::events::decision::{Decision, Kind};
use crate::events::time;
use crate::handlers::{Job, placeholders};

/// Longest subject, in characters.
const SUBJECT_LIMIT: usize = 150;

/// Fields that mails have beside those of the decision; in a digest, outside `{{#lines}}`, a decision's field is what all lines have
/// in common.
const OWN_FIELDS: &[&str] = &[
    // SKU and title, as far as they are known.
    "what",
    // "Order request", …
    "heading",
    // With one decimal; nothing where it is not known.
    "hours_left",
    // Nothing without http.public_url.
    "links.acknowledge",
    "links.snooze",
    "lines",
    // How many lines.
    "count",
    // There is one line …
    "single",
    // … or there are several.
    "digest",
];
/// In texts: the subject as it was made.
const SUBJECT: &str = "subject";

/// The texts of order mails.
#[derive(Debug, Clone)]
pub struct Templates {
    subject: Template,
    text: Template,
    html: Template,
}

impl Templates {
    /// The customer's own where they are given; the error names the template.
    pub fn new(subject: Option<&str>, text: Option<&str>, html: Option<&str>) -> Result<Templates, String> {
        let told = |key: &str| {
            let key = key.to_owned();
            move |fault: Fault| format!("templates.{key}: {fault}")
        };
        Ok(Templates {
            subject: parse(subject.unwrap_or(include_str!("templates/subject")), false).map_err(told("subject"))?,
            text: parse(text.unwrap_or(include_str!("templates/text")), true).map_err(told("text"))?,
            html: parse(html.unwrap_or(include_str!("templates/html")), true).map_err(told("html"))?,
        })
    }
}

fn parse(text: &str, has_subject: bool) -> Result<Template, Fault> {
    let own = |path: &str| OWN_FIELDS.contains(&path) || (has_subject && path == SUBJECT);
    let mut names: Vec<&str> = [placeholders::FIELDS, OWN_FIELDS].concat();
    if has_subject {
        names.push(SUBJECT);
    }
    Template::parse(text, &Fields { known: &|path| own(path) || placeholders::is_field(path), names: &names })
}

/// Links of a line.
pub struct LineLinks {
    pub acknowledge: String,
    pub snooze: String,
}

/// Subject, plain text and HTML.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// `jobs` is not empty.
pub fn content(templates: &Templates, jobs: &[Job], links: impl Fn(&Job) -> Option<LineLinks>) -> Content {
    let lines: Vec<Map<String, Value>> = jobs.iter().map(|job| line_of(job, links(job))).collect();
    let mut document = common(&lines);
    if heading_differs(jobs) {
        document.insert("heading".to_owned(), json!("Stock report"));
    }
    document.insert("count".to_owned(), json!(lines.len()));
    document.insert("single".to_owned(), json!(lines.len() == 1));
    document.insert("digest".to_owned(), json!(lines.len() > 1));
    document.insert("lines".to_owned(), Value::Array(lines.into_iter().map(Value::Object).collect()));
    let subject = cut(line(&templates.subject.fill(&document, line)), SUBJECT_LIMIT);
    document.insert(SUBJECT.to_owned(), json!(subject));
    Content { subject, text: templates.text.fill(&document, line), html: templates.html.fill(&document, html) }
}

fn heading_differs(jobs: &[Job]) -> bool {
    jobs.windows(2).any(|pair| pair[0].decision.kind != pair[1].decision.kind)
}

fn line_of(job: &Job, links: Option<LineLinks>) -> Map<String, Value> {
    let mut fields = placeholders::document(job);
    let decision = &job.decision;
    fields.insert("what".to_owned(), json!(what(decision)));
    fields.insert("heading".to_owned(), json!(heading(decision.kind)));
    fields.insert("hours_left".to_owned(), json!(decision.inputs.hours_left.map(|hours| format!("{hours:.1}"))));
    let links = links.map_or(Value::Null, |l| json!({"acknowledge": l.acknowledge, "snooze": l.snooze}));
    fields.insert("links".to_owned(), links);
    fields
}

/// What all lines say alike.
fn common(lines: &[Map<String, Value>]) -> Map<String, Value> {
    let Some((first, others)) = lines.split_first() else { return Map::new() };
    let alike = |key: &String, value: &Value| others.iter().all(|other| other.get(key) == Some(value));
    first.iter().filter(|(key, value)| alike(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

const fn heading(kind: Kind) -> &'static str {
    match kind {
        Kind::Reorder => "Order request",
        Kind::Transfer => "Transfer request",
        Kind::Warning => "Stock warning",
    }
}

/// What is short: SKU and title, as far as they are known.
pub fn what(decision: &Decision) -> String {
    let known = [decision.sku.as_deref(), decision.title.as_deref()];
    let named = known.into_iter().flatten().map(line).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" – ");
    match (named.is_empty(), decision.variant_id) {
        (false, _) => named,
        (true, Some(variant)) => format!("variant {variant}"),
        (true, None) => "an article".to_owned(),
    }
}

/// The lines as CSV (RFC 4180).
pub fn csv(jobs: &[Job]) -> String {
    let mut text = String::new();
    for (n, job) in jobs.iter().enumerate() {
        let columns = columns(&job.decision);
        if n == 0 {
            text.push_str(&columns.each_ref().map(|c| c.0).join(","));
            text.push_str("\r\n");
        }
        text.push_str(&columns.map(|c| c.1).join(","));
        text.push_str("\r\n");
    }
    text
}

fn columns(d: &Decision) -> [(&'static str, String); 12] {
    let text = |t: &Option<String>| cell(t.as_deref().unwrap_or_default());
    let number = |n: Option<String>| n.unwrap_or_default();
    [
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
    ]
}
