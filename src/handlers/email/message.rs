//! A mail as it goes over the wire: headers, text and HTML as alternatives, lines attached.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart};
use lettre::{Address, Message};
use uuid::Uuid;

use super::order::Content;
use crate::ports::ledger::EffectId;

/// Longest Message-ID, brackets included: longer ones are folded by some servers, and a folded id threads nowhere.
const ID_LIMIT: usize = 69;

/// What is written.
pub struct Mail<'a> {
    pub from: &'a Mailbox,
    /// Not empty.
    pub to: &'a [Mailbox],
    /// With brackets.
    pub id: &'a str,
    /// Message-ID of the mail that it answers.
    pub answers: Option<&'a str>,
    pub content: Content,
    /// (file name, lines)
    pub csv: Option<(String, String)>,
    /// The decision that it is about, if it is one.
    pub decision: Option<Uuid>,
}

pub fn compose(mail: Mail<'_>, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
    let Mail { from, to, id, answers, content, csv, decision } = mail;
    let mut builder = Message::builder().from(from.clone()).subject(content.subject).date(SystemTime::from(now));
    for mailbox in to {
        builder = builder.to(mailbox.clone());
    }
    builder = builder.message_id(Some(id.to_owned())).raw_header(raw("Auto-Submitted", "auto-generated".to_owned()));
    if let Some(decision) = decision {
        builder = builder.raw_header(raw("X-Stockwarden-Decision", decision.to_string()));
    }
    if let Some(parent) = answers {
        builder = builder.in_reply_to(parent.to_owned()).references(parent.to_owned());
    }
    let alternatives = MultiPart::alternative_plain_html(content.text, content.html);
    let written = match csv {
        None => builder.multipart(alternatives),
        Some((name, lines)) => {
            let csv_type = ContentType::parse("text/csv; charset=utf-8").expect("a constant that is a content type");
            builder.multipart(MultiPart::mixed().multipart(alternatives).singlepart(Attachment::new(name).body(lines, csv_type)))
        }
    };
    written.map(|message| message.formatted()).map_err(|e| format!("the mail cannot be written: {e}"))
}

fn raw(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

/// The same for the same effect, whenever it is asked; with brackets.
pub fn message_id(effect: &EffectId, from: &Address) -> String {
    let local = format!("sw.{}", Uuid::new_v5(&effect.decision_id, effect.route_id.as_bytes()).simple());
    let room = ID_LIMIT - local.len() - "<@>".len();
    let mut domain = from.domain();
    while domain.len() > room || !domain.is_ascii() {
        // The parent domain is as much ours; without one that fits, a name that nobody has (RFC 2606).
        domain = domain.split_once('.').map_or("stockwarden.invalid", |(_, parent)| parent);
    }
    format!("<{local}@{domain}>")
}

/// Whether a stored reference is a Message-ID that can stand in a header.
pub fn is_message_id(text: &str) -> bool {
    let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    inner.is_some_and(|t| t.contains('@') && t.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_stable_shorter_than_seventy_and_differs_by_route() {
        let effect = |route: &str| EffectId { decision_id: Uuid::from_u128(7), route_id: route.to_owned() };
        let long = format!("a@{}example.com", "very-long-label.".repeat(8));
        for from in ["orders@example.com", long.as_str()] {
            let from: Address = from.parse().expect("address");
            let id = message_id(&effect("0"), &from);
            assert!(id.len() < 70 && id.starts_with("<sw.") && is_message_id(&id), "{id}");
            assert_eq!(id, message_id(&effect("0"), &from));
            assert_ne!(id, message_id(&effect("1"), &from));
        }
        assert!(!is_message_id("<a@b>\r\nBcc: <c@d>") && !is_message_id("T-1"));
    }
}
