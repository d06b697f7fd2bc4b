//! How records are read, and what becomes of those that cannot be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stockwarden::events::codec;
use stockwarden::events::dead_letter::Reason;
use stockwarden::events::fact::FactType;
use stockwarden::events::record::{NewRecord, RecordBatch, Topic};
use stockwarden::events::time;

use super::super::harness::*;
use super::super::{SHOP, Site};

const APPENDED: i64 = 1_793_500_000_000;

fn read(headers: &[(&str, &str)], value: &str) -> Result<(FactType, i64), Reason> {
    let mut batch = RecordBatch::new(0, 5);
    batch.push(5, APPENDED, Some(SHOP.as_bytes()), Some(value.as_bytes()), headers.iter().map(|(n, v)| (*n, v.as_bytes())));
    let record = batch.get(0).expect("pushed");
    codec::read(&record).map(|r| (r.fact_type, r.at.event_time)).map_err(|e| e.reason)
}

fn type_of(headers: &[(&str, &str)], value: &str) -> Result<&'static str, Reason> {
    read(headers, value).map(|(fact_type, _)| fact_type.as_str())
}

#[test]
fn a_record_without_headers_is_what_its_shape_says_and_a_bare_id_is_nothing() {
    for (value, want) in [
        (r#"{"id":1,"variants":[]}"#, "products/update"),
        (r#"{"id":1,"variants":[],"line_items":[]}"#, "products/update"),
        (r#"{"inventory_item_id":1,"location_id":2,"available":null}"#, "inventory_levels/update"),
        (r#"{"id":1,"line_items":[]}"#, "orders/create"),
        (r#"{"id":1,"line_items":[],"cancelled_at":null}"#, "orders/create"),
        (r#"{"id":1,"line_items":[],"cancelled_at":"2026-11-01T00:00:00Z"}"#, "orders/cancelled"),
    ] {
        assert_eq!(type_of(&[], value), Ok(want), "{value}");
    }
    for value in [
        r#"{"id":1}"#,
        "{}",
        r#"{"inventory_item_id":1,"location_id":2}"#,
        r#"{"inventory_item_id":1,"available":2}"#,
        r#"{"location_id":1,"available":2}"#,
        r#"{"id":1,"refund_line_items":[]}"#,
    ] {
        assert_eq!(type_of(&[], value), Err(Reason::UnknownShape), "{value}");
    }
}

#[test]
fn our_headers_go_first_then_shopifys_in_any_case_then_the_shape() {
    let product = r#"{"id":7,"variants":[],"inventory_item_id":1,"location_id":2,"available":3}"#;
    let ours = ("fact", "inventory_levels/update");
    assert_eq!(type_of(&[], product), Ok("products/update"));
    for name in ["x-shopify-topic", "X-Shopify-Topic", "X-SHOPIFY-TOPIC"] {
        let theirs = (name, "inventory_items/update");
        assert_eq!(type_of(&[theirs], product), Ok("inventory_items/update"));
        assert_eq!(type_of(&[theirs, ours], product), Ok("inventory_levels/update"));
        assert_eq!(type_of(&[ours, theirs], product), Ok("inventory_levels/update"));
    }
    // A topic that is named is believed, and not doubted by the shape.
    assert_eq!(type_of(&[("x-shopify-topic", "themes/publish")], product), Err(Reason::UnknownTopic));
    assert_eq!(type_of(&[("fact", "themes/publish")], product), Err(Reason::UnknownFact));
}

#[test]
fn an_event_time_is_triggered_at_then_updated_at_then_the_append_time_and_at_most_five_minutes_ahead() {
    let updated = |at: i64| {
        format!(r#"{{"inventory_item_id":1,"location_id":2,"available":3,"updated_at":"{}"}}"#, time::format(APPENDED + at))
    };
    let bare = r#"{"inventory_item_id":1,"location_id":2,"available":3}"#.to_owned();
    const MINUTES: i64 = 60_000;
    for (triggered, value, want) in [
        (None, &bare, 0),
        (None, &updated(-3 * MINUTES), -3 * MINUTES),
        (Some(-7 * MINUTES), &updated(-3 * MINUTES), -7 * MINUTES),
        (Some(2 * MINUTES), &updated(-3 * MINUTES), 2 * MINUTES),
        (None, &updated(5 * MINUTES), 5 * MINUTES),
        (None, &updated(5 * MINUTES + 1), 5 * MINUTES),
        (Some(60 * MINUTES), &bare, 5 * MINUTES),
    ] {
        let text = triggered.map(|at| time::format(APPENDED + at)).unwrap_or_default();
        for name in ["triggered_at", "X-Shopify-Triggered-At"] {
            // What a sender says of it in the header `event_time` is for those who read the log, and is not believed.
            let mut headers = vec![("event_time", "2001-01-01T00:00:00.000Z")];
            headers.extend(triggered.map(|_| (name, text.as_str())));
            let (_, event_time) = read(&headers, value).expect("readable");
            assert_eq!(event_time - APPENDED, want, "{name} {triggered:?} {value}");
        }
    }
}

fn letters(log: &dyn stockwarden::ports::EventLog) -> Vec<(Vec<u8>, Value)> {
    let read = |r: stockwarden::events::record::RecordRef<'_>| {
        (r.key.unwrap_or_default().to_vec(), serde_json::from_slice(r.value.expect("a value")).expect("JSON"))
    };
    read_all(log, Topic::DeadLetters).iter().flat_map(|b| b.iter().map(read).collect::<Vec<_>>()).collect()
}

#[test]
fn a_dead_letter_says_where_it_stood_why_and_what_it_was_and_of_buyers_data_the_digest_alone() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    let of_topic = |topic: &str| NewRecord {
        headers: vec![("x-shopify-topic", topic.as_bytes().to_vec())],
        ..foreign(SHOP, r#"["Jana Novakova"]"#)
    };
    let personal =
        ["orders/create", "orders/cancelled", "refunds/create", "customers/data_request", "customers/redact", "nobody/knows"];
    let at = append(&*log, vec![foreign(SHOP, "{")])[0];
    append(&*log, personal.map(of_topic).to_vec());
    append(&*log, vec![of_topic("products/update")]);
    engine.catch_up(&*log);
    engine.stop();

    let found = letters(&*log);
    assert_eq!(found.len(), personal.len() + 2);
    assert!(found.iter().all(|(key, _)| key == SHOP.as_bytes()));
    let (_, first) = &found[0];
    let message = first["message"].as_str().expect("text").to_owned();
    assert!(!message.is_empty());
    assert_eq!(
        *first,
        json!({
            "origin": {"topic": "stock-facts", "partition": at.partition, "offset": at.offset},
            "reason": "invalid_json",
            "message": message,
            "bytes": STANDARD.encode("{"),
            "size": 1,
            "at": time::format(APPENDED),
        })
    );
    let body = br#"["Jana Novakova"]"#;
    for (topic, (_, letter)) in personal.iter().zip(&found[1..]) {
        assert!(letter.get("bytes").is_none() && !letter.to_string().contains("Jana"), "{topic}: {letter}");
        assert_eq!((&letter["digest"], &letter["size"]), (&json!(hex::encode(Sha256::digest(body))), &json!(body.len())));
        assert!(letter["reason"].is_string(), "{topic}: {letter}");
    }
    let (_, product) = found.last().expect("the last");
    assert_eq!((&product["bytes"], product.get("digest")), (&json!(STANDARD.encode(body)), None));
}
