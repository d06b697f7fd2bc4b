use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/webhooks/");

/// The allowed places, written down a second time on purpose: a change of the tree has to be meant twice.
const PLACES: &[(&str, &[FactType])] = &[
    (
        "id admin_graphql_api_id title vendor product_type tags status handle created_at updated_at variants.id \
         variants.product_id variants.title variants.sku variants.barcode variants.price variants.position \
         variants.inventory_item_id variants.inventory_policy variants.inventory_quantity variants.created_at \
         variants.updated_at variants.admin_graphql_api_id variant_gids.admin_graphql_api_id variant_gids.updated_at",
        &[FactType::ProductsCreate, FactType::ProductsUpdate],
    ),
    (
        "inventory_item_id location_id available updated_at admin_graphql_api_id",
        &[FactType::LevelsUpdate, FactType::LevelsConnect, FactType::LevelsDisconnect],
    ),
    ("id sku cost tracked created_at updated_at admin_graphql_api_id", &[FactType::ItemsUpdate, FactType::ItemsCreate]),
    (
        "id created_at updated_at cancelled_at cancel_reason source_name location_id test line_items.id line_items.variant_id \
         line_items.product_id line_items.sku line_items.quantity line_items.current_quantity",
        &[FactType::OrdersCreate, FactType::OrdersCancelled],
    ),
    (
        "id order_id created_at updated_at processed_at restock refund_line_items.id refund_line_items.quantity \
         refund_line_items.line_item_id refund_line_items.location_id refund_line_items.restock_type \
         refund_line_items.line_item.variant_id refund_line_items.line_item.product_id refund_line_items.line_item.sku \
         refund_line_items.line_item.quantity",
        &[FactType::RefundsCreate],
    ),
    ("id domain myshopify_domain updated_at", &[FactType::AppUninstalled]),
    (
        "shop_id shop_domain data_request.id updated_at",
        &[FactType::CustomersDataRequest, FactType::CustomersRedact, FactType::ShopRedact],
    ),
];

fn deliveries() -> Vec<(FactType, Vec<u8>)> {
    let list: Value = serde_json::from_slice(&std::fs::read(format!("{FIXTURES}_deliveries.json")).expect("list")).expect("JSON");
    let of = |d: &Value| {
        let topic = d["headers"]["X-Shopify-Topic"].as_str().expect("topic");
        let body = std::fs::read(format!("{FIXTURES}{}", d["body_file"].as_str().expect("file"))).expect("body");
        (FactType::parse(topic).expect("known topic"), body)
    };
    list["deliveries"].as_array().expect("deliveries").iter().map(of).collect()
}

fn reads(fact_type: FactType, body: &[u8]) -> Result<(super::super::fact::Fact, i64), Reason> {
    codec::read_body(fact_type, body, 7, None, 1_000_000_000_000).map_err(|e| e.reason)
}

#[test]
fn every_fixture_is_read_the_same_before_and_after() {
    for (fact_type, body) in deliveries() {
        let small = minimise(fact_type, &body).expect("a fixture is readable");
        assert_eq!(reads(fact_type, &small), reads(fact_type, &body), "{}", fact_type.as_str());
        assert!(reads(fact_type, &small).is_ok(), "{}", fact_type.as_str());
        assert_eq!(minimise(fact_type, &small).expect("readable"), small, "minimising twice changes nothing");
    }
}

#[test]
fn no_buyers_data_html_or_image_of_the_fixtures_is_kept() {
    const NEVER: [&str; 12] = [
        "jana",
        "Jana",
        "Nov\u{e1}kov",
        "@example",
        "+420",
        "Praha",
        "Testovac",
        "\"11000\"",
        "<p>",
        "cdn.shopify",
        "Changed mind",
        "7543210987654",
    ];
    for (fact_type, body) in deliveries() {
        let small = String::from_utf8(minimise(fact_type, &body).expect("readable")).expect("UTF-8");
        for never in NEVER {
            assert!(!small.contains(never), "{} keeps {never}: {small}", fact_type.as_str());
        }
    }
}

#[test]
fn scalars_stay_as_they_were_written() {
    let body =
        br#" {"x":{"id":1},"id" : 9007199254740993,"cost":9.40,"sku":"a\/b\u00e9","\u0074racked":true,"updated_at":null} "#;
    let small = minimise(FactType::ItemsUpdate, body).expect("readable");
    assert_eq!(
        String::from_utf8(small).expect("UTF-8"),
        r#"{"id":9007199254740993,"cost":9.40,"sku":"a\/b\u00e9","tracked":true,"updated_at":null}"#
    );
}

#[test]
fn a_value_of_another_kind_leaves_only_its_kind() {
    let body =
        br#"{"id":{"name":"Jana"},"title":["Jana"],"tags":["a",{"x":"Jana"},2],"variants":"Jana","variant_gids":{"a":"Jana"}}"#;
    let small = minimise(FactType::ProductsUpdate, body).expect("JSON");
    assert_eq!(
        String::from_utf8(small).expect("UTF-8"),
        r#"{"id":{},"title":[],"tags":["a",{},2],"variants":"","variant_gids":{}}"#
    );
    let listed = br#"{"id":1,"variants":[[1,2,"Jana"]]}"#;
    assert_eq!(minimise(FactType::ProductsUpdate, listed).expect_err("refused").reason, Reason::WrongType);
}

#[test]
fn what_is_no_json_object_is_told_apart() {
    let reason = |body: &[u8]| minimise(FactType::ProductsUpdate, body).expect_err("refused").reason;
    assert_eq!(reason(b""), Reason::EmptyRecord);
    assert_eq!(reason(b" "), Reason::InvalidJson);
    assert_eq!(reason(b"[1]"), Reason::WrongType);
    assert_eq!(reason(b"[1"), Reason::InvalidJson);
    assert_eq!(reason(br#"{"id":1"#), Reason::InvalidJson);
    assert_eq!(reason(br#"{"id":1}{"#), Reason::InvalidJson);
    assert_eq!(reason(br#"{"customer":{"a":1]}"#), Reason::InvalidJson);
    assert_eq!(reason(b"{\"id\":\"\xff\"}"), Reason::InvalidJson);
    assert_eq!(minimise(FactType::ShopRegistered, b"{}").expect_err("own fact").reason, Reason::UnknownTopic);
}

#[test]
fn nesting_without_end_is_skipped_without_recursion() {
    let deep = format!(r#"{{"id":1,"customer":{}{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
    assert_eq!(minimise(FactType::ProductsDelete, deep.as_bytes()).expect("skipped"), br#"{"id":1}"#);
}

const KEYS: &[&str] = &[
    "id",
    "title",
    "tags",
    "variants",
    "variant_gids",
    "line_items",
    "refund_line_items",
    "line_item",
    "sku",
    "updated_at",
    "email",
    "customer",
    "first_name",
    "address1",
    "note",
    "phone",
    "browser_ip",
    "body_html",
    "image",
    "billing_address",
    "properties",
    "name",
    "shop_id",
    "data_request",
    "domain",
    "inventory_item_id",
    "available",
    "quantity",
    "vendor",
    "cost",
];

/// Any JSON; each text is a mark that occurs nowhere else, filled in by `mark`.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!("?")), Just(json!(null)), Just(json!(12)), Just(json!(1.5)), Just(json!(true))];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            3 => prop::collection::vec((prop::sample::select(KEYS), inner.clone()), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
            1 => prop::collection::vec(inner, 0..4).prop_map(Value::Array),
        ]
    })
}

/// Gives every text its mark; returns (place, mark).
fn mark(value: &mut Value, place: &str, marks: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => {
            *text = format!("mark-{}-", marks.len());
            marks.push((place.to_owned(), text.clone()));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| mark(v, place, marks)),
        Value::Object(fields) => {
            for (key, v) in fields {
                let below = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                mark(v, &below, marks);
            }
        }
        _ => {}
    }
}

/// Whether some list has a list as element, or stands where the fields of an object would be read by position.
fn has_list_for_object(value: &Value, object_wanted: bool) -> bool {
    match value {
        Value::Array(list) => object_wanted || list.iter().any(|v| has_list_for_object(v, true)),
        Value::Object(fields) => fields
            .iter()
            .any(|(k, v)| has_list_for_object(v, matches!(k.as_str(), "line_item" | "data_request" | "origin" | "destination"))),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_of_a_field_that_is_not_allowed_is_ever_kept(mut body in any_json(), which in 0..PLACES.len()) {
        let mut marks = Vec::new();
        mark(&mut body, "", &mut marks);
        let (places, types) = PLACES[which];
        let places: BTreeSet<&str> = places.split_whitespace().collect();
        for &fact_type in types {
            let Ok(small) = minimise(fact_type, body.to_string().as_bytes()) else { continue };
            let small = String::from_utf8(small).expect("UTF-8");
            for (place, mark) in &marks {
                prop_assert!(!small.contains(mark.as_str()) || places.contains(place.as_str()), "{} keeps {place}: {small}", fact_type.as_str());
            }
        }
    }

    #[test]
    fn what_is_read_after_is_what_was_read_before(body in any_json(), which in 0..FactType::ALL.len()) {
        let fact_type = FactType::ALL[which];
        prop_assume!(fact_type.is_webhook());
        let raw = body.to_string().into_bytes();
        match minimise(fact_type, &raw) {
            Ok(small) => prop_assert_eq!(reads(fact_type, &small), reads(fact_type, &raw)),
            Err(_) => prop_assert!(reads(fact_type, &raw).is_err() || has_list_for_object(&body, true)),
        }
    }

    /// Fixtures with one place replaced: near to what is sent, and mostly readable.
    #[test]
    fn a_fixture_with_one_place_changed_is_read_the_same(which in 0usize..22, at in 0usize..4000, new in any_json()) {
        let all = deliveries();
        let (fact_type, raw) = &all[which % all.len()];
        let mut body: Value = serde_json::from_slice(raw).expect("JSON");
        let places = count(&body);
        replace(&mut body, &mut (at % places), &new);
        let raw = body.to_string().into_bytes();
        match minimise(*fact_type, &raw) {
            Ok(small) => prop_assert_eq!(reads(*fact_type, &small), reads(*fact_type, &raw)),
            Err(_) => prop_assert!(reads(*fact_type, &raw).is_err() || has_list_for_object(&body, true)),
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

fn replace(value: &mut Value, left: &mut usize, new: &Value) -> bool {
    if *left == 0 {
        *value = new.clone();
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|v| replace(v, left, new)),
        Value::Object(fields) => fields.values_mut().any(|v| replace(v, left, new)),
        _ => false,
    }
}
