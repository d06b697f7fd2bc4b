//! Shopify's webhooks: signature, then reduction, then a record for the log (contracts/apis.md §1).
//!
//! The signature covers the body only. Shop, topic and webhook id come in unsigned headers (PITFALLS 22), which is why a shop
//! has to be registered, why the fold is newest-wins, and why nothing here trusts a header further than its length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::events::dead_letter::{DeadLetter, Origin, Reason, Unreadable};
use crate::events::fact::{self, FactType, header};
use crate::events::record::{NewRecord, Topic};
use crate::events::time::{self, Millis};
use crate::events::{codec, ids, minimise};

/// Name of this source in the header `source` and in the origin of dead letters.
pub const SOURCE: &str = "webhooks/shopify";

/// Longest value of a header that is taken over into the log.
const MAX_HEADER: usize = 255;

/// The headers of a delivery that matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery<'a> {
    pub shop: Option<&'a str>,
    pub topic: Option<&'a str>,
    pub hmac: Option<&'a str>,
    pub webhook_id: Option<&'a str>,
    pub triggered_at: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

/// What becomes of a signed delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Fact(NewRecord),
    /// Signed, but not understood; refusing it would cost the subscription.
    DeadLetter(Box<DeadLetter>),
}

impl<'a> Delivery<'a> {
    /// `header` looks a header up by its lower-case name, without regard to the case it came in.
    pub fn read(header: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        Delivery {
            shop: header("x-shopify-shop-domain"),
            topic: header("x-shopify-topic"),
            hmac: header("x-shopify-hmac-sha256"),
            webhook_id: header("x-shopify-webhook-id"),
            triggered_at: header("x-shopify-triggered-at"),
            traceparent: header("traceparent"),
        }
    }

    /// The shop's log key; none if the header is missing or no shop can be called so.
    pub fn shop_key(&self) -> Option<String> {
        self.shop.map(|s| s.trim().to_ascii_lowercase()).filter(|s| ids::is_shop_key(s))
    }
}

/// Whether one of `secrets` signed `body`. Every secret is tried, in constant time on the decoded bytes.
pub fn is_signed(body: &[u8], hmac_header: Option<&str>, secrets: &[impl AsRef<[u8]>]) -> bool {
    let Some(signature) = hmac_header.and_then(|h| STANDARD.decode(h.trim()).ok()) else { return false };
    secrets.iter().fold(false, |signed, secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_ref()).expect("HMAC takes keys of any length");
        mac.update(body);
        mac.verify_slice(&signature).is_ok() | signed
    })
}

/// Turns a delivery whose signature is good into what is written. `now` stands for the append time, which is not known yet.
pub fn accept(delivery: &Delivery<'_>, shop_key: &str, body: &[u8], now: Millis) -> Outcome {
    let Some(topic) = usable(delivery.topic) else {
        let why = Unreadable::new(Reason::UnknownTopic, "the header X-Shopify-Topic is missing or longer than 255 bytes");
        // What it is nobody can say, so it may hold a buyer's data.
        return Outcome::DeadLetter(Box::new(without_bytes(dead_letter(None, body, &why, now), body)));
    };
    match fact(delivery, topic, shop_key, body, now) {
        Ok(record) => Outcome::Fact(record),
        Err(why) => Outcome::DeadLetter(Box::new(dead_letter(Some(topic), body, &why, now))),
    }
}

/// A dead letter of this source.
pub fn dead_letter(topic: Option<&str>, body: &[u8], why: &Unreadable, now: Millis) -> DeadLetter {
    let origin = Origin { topic: SOURCE.to_owned(), partition: None, offset: None };
    DeadLetter::new(origin, topic, body, why, now)
}

/// The same without the bytes: for what the log refuses to take whole.
pub fn without_bytes(mut letter: DeadLetter, body: &[u8]) -> DeadLetter {
    letter.bytes = None;
    letter.digest = Some(hex::encode(Sha256::digest(body)));
    letter
}

/// A header's text, if there is one and it is no longer than what is taken over.
fn usable(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|v| !v.is_empty() && v.len() <= MAX_HEADER)
}

fn fact(delivery: &Delivery<'_>, topic: &str, shop_key: &str, body: &[u8], now: Millis) -> Result<NewRecord, Unreadable> {
    let fact_type = FactType::parse(topic).filter(|t| t.is_webhook()).ok_or_else(|| {
        Unreadable::new(
            Reason::UnknownTopic,
            format!("there is no Shopify topic \"{}\" that this version knows", topic.escape_default()),
        )
    })?;
    let value = minimise::minimise(fact_type, body)?;
    let triggered_at = usable(delivery.triggered_at).and_then(|t| time::parse_nanos(t).map(|nanos| (t, nanos)));
    let (_, event_time) = codec::read_body(fact_type, &value, 0, triggered_at.map(|(_, nanos)| nanos), now)?;
    let payload = hex::encode(Sha256::digest(body));
    // The same bytes again are the same delivery, where nothing else names it.
    let dedupe_id = usable(delivery.webhook_id).unwrap_or(&payload).as_bytes().to_vec();
    let mut headers = vec![
        (header::FACT, fact_type.as_str().as_bytes().to_vec()),
        (header::VERSION, fact::VERSION.to_string().into_bytes()),
        (header::DEDUPE_ID, dedupe_id),
        (header::SOURCE, SOURCE.as_bytes().to_vec()),
        (header::EVENT_TIME, time::format(event_time).into_bytes()),
        (header::PAYLOAD_SHA256, payload.into_bytes()),
    ];
    if let Some((text, _)) = triggered_at {
        headers.push((header::TRIGGERED_AT, text.as_bytes().to_vec()));
    }
    if let Some(traceparent) = delivery.traceparent.filter(|t| is_traceparent(t)) {
        headers.push((header::TRACEPARENT, traceparent.as_bytes().to_vec()));
    }
    Ok(NewRecord { topic: Topic::Facts, partition: None, key: Some(shop_key.as_bytes().to_vec()), headers, value: Some(value) })
}

/// W3C trace context, version 00: `00-<32 hex>-<16 hex>-<2 hex>`.
pub fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts
            .iter()
            .zip(lengths)
            .all(|(part, n)| part.len() == n && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_780_000_000_000;
    const LEVEL: &[u8] =
        br#"{"inventory_item_id":9007199254740993,"location_id":2,"available":-3,"updated_at":"2026-01-01T00:00:00Z","x":"y"}"#;

    fn sign(secret: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("key");
        mac.update(body);
        STANDARD.encode(mac.finalize().into_bytes())
    }

    fn delivery(topic: &str) -> Delivery<'_> {
        Delivery { topic: Some(topic), webhook_id: Some("w-1"), ..Delivery::default() }
    }

    fn header_of<'a>(record: &'a NewRecord, name: &str) -> Option<&'a str> {
        record.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| std::str::from_utf8(v).expect("text"))
    }

    #[test]
    fn a_signature_holds_for_its_bytes_and_each_registered_secret_only() {
        let signature = sign("old", LEVEL);
        assert!(is_signed(LEVEL, Some(&signature), &["new", "old"]));
        assert!(is_signed(LEVEL, Some(&signature), &["old", "new"]));
        assert!(!is_signed(LEVEL, Some(&signature), &["new"]));
        assert!(!is_signed(LEVEL, Some(&signature), &[] as &[&str]));
        assert!(!is_signed(LEVEL, None, &["old"]));
        for bad in ["", "!", &signature[..20], &format!("{signature}AAAA")] {
            assert!(!is_signed(LEVEL, Some(bad), &["old"]), "{bad}");
        }
        let mut bent = LEVEL.to_vec();
        bent[5] ^= 1;
        assert!(!is_signed(&bent, Some(&signature), &["old"]));
    }

    #[test]
    fn a_level_becomes_a_record_with_our_headers() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let d = Delivery {
            triggered_at: Some("2026-01-01T00:00:01.123456789Z"),
            traceparent: Some(trace),
            ..delivery("inventory_levels/update")
        };
        let Outcome::Fact(record) = accept(&d, "a.myshopify.com", LEVEL, NOW) else { panic!("not a fact") };
        assert_eq!((record.topic, record.partition, record.key.as_deref()), (Topic::Facts, None, Some(&b"a.myshopify.com"[..])));
        let value = record.value.as_deref().expect("value");
        assert_eq!(
            std::str::from_utf8(value).expect("text"),
            r#"{"inventory_item_id":9007199254740993,"location_id":2,"available":-3,"updated_at":"2026-01-01T00:00:00Z"}"#
        );
        for (name, want) in [
            ("fact", "inventory_levels/update"),
            ("version", "1"),
            ("dedupe_id", "w-1"),
            ("source", "webhooks/shopify"),
            ("event_time", "2026-01-01T00:00:01.123Z"),
            ("triggered_at", "2026-01-01T00:00:01.123456789Z"),
            ("payload_sha256", &hex::encode(Sha256::digest(LEVEL))),
            ("traceparent", trace),
        ] {
            assert_eq!(header_of(&record, name), Some(want), "{name}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_not_taken_over() {
        let d =
            Delivery { triggered_at: Some("yesterday"), traceparent: Some("00-x-y-z"), ..delivery("inventory_levels/update") };
        let Outcome::Fact(record) = accept(&d, "a.b", LEVEL, NOW) else { panic!("not a fact") };
        assert_eq!((header_of(&record, "triggered_at"), header_of(&record, "traceparent")), (None, None));
        assert_eq!(header_of(&record, "event_time"), Some("2026-01-01T00:00:00.000Z"));
    }

    /// A refusal would cost the subscription (DESIGN §10).
    #[test]
    fn without_an_id_the_bytes_name_the_delivery_and_without_a_topic_nobody_can_say_what_it_is() {
        let long = "x".repeat(MAX_HEADER + 1);
        for webhook_id in [None, Some(" "), Some(long.as_str())] {
            let d = Delivery { webhook_id, ..delivery("inventory_levels/update") };
            let Outcome::Fact(record) = accept(&d, "a.b", LEVEL, NOW) else { panic!("not a fact") };
            assert_eq!(header_of(&record, "dedupe_id"), Some(&*hex::encode(Sha256::digest(LEVEL))));
        }
        for topic in [None, Some(" "), Some(long.as_str())] {
            let d = Delivery { topic, ..delivery("") };
            let Outcome::DeadLetter(letter) = accept(&d, "a.b", LEVEL, NOW) else { panic!("understood") };
            assert_eq!((letter.reason, letter.fact, letter.bytes), (Reason::UnknownTopic, None, None));
            assert_eq!(letter.digest, Some(hex::encode(Sha256::digest(LEVEL))));
        }
    }

    #[test]
    fn what_is_not_understood_becomes_a_dead_letter_and_facts_of_our_own_are_not_understood() {
        let cases: [(&str, &[u8], Reason, bool); 6] = [
            ("inventory_levels/update", b"{", Reason::InvalidJson, true),
            ("inventory_levels/update", b"", Reason::EmptyRecord, true),
            ("inventory_levels/update", br#"{"location_id":2,"available":1}"#, Reason::MissingField, true),
            ("orders/create", b"[]", Reason::WrongType, false),
            ("themes/publish", b"{}", Reason::UnknownTopic, false),
            ("shop/registered", br#"{"shop":"a.b","organisation":"x","kind":"shopify"}"#, Reason::UnknownTopic, true),
        ];
        for (topic, body, reason, keeps) in cases {
            let Outcome::DeadLetter(letter) = accept(&delivery(topic), "a.b", body, NOW) else {
                panic!("{topic} was understood")
            };
            assert_eq!((letter.reason, letter.bytes.is_some(), letter.size), (reason, keeps, body.len()), "{topic}");
            assert_eq!(letter.digest.is_some(), !keeps, "{topic}");
            assert_eq!(letter.origin.topic, "webhooks/shopify");
        }
    }

    #[test]
    fn a_shop_is_called_by_its_domain_in_lower_case() {
        let key = |shop| Delivery { shop, ..Delivery::default() }.shop_key();
        assert_eq!(key(Some(" Demo.MyShopify.com ")).as_deref(), Some("demo.myshopify.com"));
        assert_eq!((key(None), key(Some("")), key(Some("~rules")), key(Some("a b"))), (None, None, None, None));
    }
}
