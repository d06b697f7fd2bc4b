//! What becomes of signed deliveries.

use serde_json::{Value, json};
use stockwarden::events::codec;
use stockwarden::events::record::{RecordBatch, Topic};

use super::site::{LEVEL, SECRET, SHOP, Site, Stored};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/webhooks/");

fn read_as_fact(stored: &Stored) {
    let mut batch = RecordBatch::new(0, 0);
    let headers = stored.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes()));
    batch.push(0, 1_800_000_000_000, Some(stored.key.as_bytes()), Some(&stored.value), headers);
    let record = batch.get(0).expect("pushed");
    let read = codec::read(&record).expect("what was acknowledged as a fact is one");
    assert_eq!(Some(read.fact_type.as_str()), stored.header("fact"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fixture_delivery_is_in_the_log_where_the_answer_says_without_a_buyers_data() {
    let site = Site::new().await;
    let list: Value = serde_json::from_slice(&std::fs::read(format!("{FIXTURES}_deliveries.json")).expect("list")).expect("JSON");
    let deliveries = list["deliveries"].as_array().expect("deliveries");
    let mut answered = Vec::new();
    for delivery in deliveries {
        let body = std::fs::read(format!("{FIXTURES}{}", delivery["body_file"].as_str().expect("file"))).expect("body");
        let mut request = site.client.post(format!("{}/webhooks/shopify", site.base)).body(body);
        for (name, value) in delivery["headers"].as_object().expect("headers") {
            request = request.header(name, value.as_str().expect("text"));
        }
        let response = request.send().await.expect("answer");
        assert_eq!(response.status(), 200, "{delivery}");
        let answer: Value = response.json().await.expect("JSON");
        answered.push(answer["position"].as_str().expect("position").to_owned());
    }
    let records = site.records(Topic::Facts);
    assert_eq!((records.len(), site.records(Topic::DeadLetters).len()), (deliveries.len(), 0));
    for (delivery, position) in deliveries.iter().zip(&answered) {
        let stored = records.iter().find(|r| r.position == *position).expect("the position answered is in the log");
        let headers = &delivery["headers"];
        assert_eq!(stored.key, SHOP);
        assert_eq!(stored.header("fact"), headers["X-Shopify-Topic"].as_str());
        assert_eq!(stored.header("dedupe_id"), headers["X-Shopify-Webhook-Id"].as_str());
        assert_eq!(stored.header("triggered_at"), headers["X-Shopify-Triggered-At"].as_str());
        assert_eq!(stored.header("event_time"), Some("2026-11-20T14:15:02.110Z"));
        assert_eq!((stored.header("source"), stored.header("version")), (Some("webhooks/shopify"), Some("1")));
        read_as_fact(stored);
    }
    for stored in &records {
        let text = String::from_utf8(stored.value.clone()).expect("UTF-8");
        for never in [
            "jana",
            "Jana",
            "Nov\u{e1}k",
            "@example",
            "+420",
            "Praha",
            "Testovac",
            "<p>",
            "cdn.shopify",
            "\"customer\":",
            "\"note\":",
        ] {
            assert!(!text.contains(never), "{:?} holds {never}: {text}", stored.header("fact"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_comes_twice_is_recorded_twice_under_one_dedupe_id() {
    let site = Site::new().await;
    let (first, second) = (site.send_level().await, site.send_level().await);
    let position = async |r: reqwest::Response| r.json::<Value>().await.expect("JSON")["position"].as_str().map(str::to_owned);
    assert_ne!(position(first).await.expect("position"), position(second).await.expect("position"));
    let ids: Vec<_> = site.records(Topic::Facts).iter().map(|r| r.header("dedupe_id").map(str::to_owned)).collect();
    assert_eq!(ids, [Some("w-1".to_owned()), Some("w-1".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_names_and_the_shops_domain_know_no_case_and_a_trace_is_taken_over() {
    let site = Site::new().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let shouted = SHOP.to_ascii_uppercase();
    let request = site.delivery(&shouted, "inventory_levels/update", SECRET, LEVEL).header("traceparent", trace);
    let mut request = request.build().expect("request");
    // As HTTP/2 proxies and some buses send them.
    let headers = std::mem::take(request.headers_mut());
    for (name, value) in &headers {
        request.headers_mut().insert(
            reqwest::header::HeaderName::from_bytes(name.as_str().to_ascii_lowercase().as_bytes()).expect("name"),
            value.clone(),
        );
    }
    assert_eq!(site.client.execute(request).await.expect("answer").status(), 200);
    let records = site.records(Topic::Facts);
    assert_eq!((records[0].key.as_str(), records[0].header("traceparent")), (SHOP, Some(trace)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_of_a_megabyte_with_2048_variants_is_taken_whole() {
    let site = Site::new().await;
    let variant = |i: u64| {
        json!({"id": 9_007_199_254_740_993 + i, "product_id": 7, "title": "x".repeat(300), "sku": format!("SKU-{i}"), "option1": "y".repeat(120),
               "inventory_item_id": i, "inventory_quantity": -1, "taxable": true})
    };
    let product = json!({"id": 7, "admin_graphql_api_id": "g", "title": "t", "body_html": "<p>".repeat(1000), "variants": (0..2048).map(variant).collect::<Vec<_>>()});
    let body = product.to_string().into_bytes();
    assert!(body.len() > 1_000_000 && body.len() < 2 * 1024 * 1024, "{}", body.len());
    let response = site.delivery(SHOP, "products/update", SECRET, &body).send().await.expect("answer");
    assert_eq!(response.status(), 200);
    let records = site.records(Topic::Facts);
    read_as_fact(&records[0]);
    let kept = records[0].json();
    let variants = kept["variants"].as_array().expect("variants");
    assert_eq!((variants.len(), variants[2047]["id"].as_u64()), (2048, Some(9_007_199_254_743_040)));
    assert!(kept.get("body_html").is_none() && variants[0].get("option1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_but_not_understood_is_a_dead_letter_with_its_reason() {
    let site = Site::new().await;
    let private = br#"{"note":"Jana Novakova"}"#.as_slice();
    let cases: [(&str, &[u8], &str, bool); 6] = [
        ("inventory_levels/update", b"{\"inventory_item_id\":", "invalid_json", true),
        ("inventory_levels/update", br#"{"inventory_item_id":1,"location_id":2,"available":"many"}"#, "wrong_type", true),
        ("inventory_levels/update", b"", "empty_record", true),
        ("themes/publish", private, "unknown_topic", false),
        ("orders/create", br#"[{"note":"Jana Novakova"}]"#, "wrong_type", false),
        ("rules/applied", b"{}", "unknown_topic", true),
    ];
    for (topic, body, reason, keeps_bytes) in cases {
        let response = site.delivery(SHOP, topic, SECRET, body).send().await.expect("answer");
        assert_eq!(response.status(), 200, "{topic}");
        let answer: Value = response.json().await.expect("JSON");
        let position = answer["dead_letter"].as_str().unwrap_or_else(|| panic!("{topic}: {answer}"));
        let letters = site.records(Topic::DeadLetters);
        let letter = letters.iter().find(|r| r.position == position).expect("the position answered");
        let value = letter.json();
        assert_eq!((letter.key.as_str(), value["reason"].as_str()), (SHOP, Some(reason)), "{topic}");
        assert_eq!((value["bytes"].is_string(), value["digest"].is_string()), (keeps_bytes, !keeps_bytes), "{topic}");
        assert_eq!(value["size"], body.len());
        assert_eq!(value["origin"]["topic"], "webhooks/shopify");
        assert!(!value.to_string().contains("Jana"));
    }
    assert!(site.records(Topic::Facts).is_empty());
}

/// A refusal would cost the subscription: what a signed delivery leaves out is no reason for one (DESIGN §10).
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_delivery_without_its_topic_is_a_dead_letter_and_one_without_its_id_a_fact() {
    let site = Site::new().await;
    let send = async |without: &str| -> Value {
        let mut request = site.delivery(SHOP, "inventory_levels/update", SECRET, LEVEL).build().expect("request");
        request.headers_mut().remove(without).expect("it was there");
        let response = site.client.execute(request).await.expect("answer");
        assert_eq!(response.status(), 200, "without {without}");
        response.json().await.expect("JSON")
    };
    let letter_at = send("x-shopify-topic").await["dead_letter"].as_str().expect("a dead letter").to_owned();
    let letters = site.records(Topic::DeadLetters);
    assert_eq!((letters.len(), letters[0].position.as_str(), letters[0].key.as_str()), (1, &*letter_at, SHOP));
    let value = letters[0].json();
    assert_eq!((value["reason"].as_str(), value["bytes"].is_null()), (Some("unknown_topic"), true), "{value}");
    assert!(value["message"].as_str().expect("text").contains("X-Shopify-Topic"), "{value}");

    let facts_at: Vec<_> = [send("x-shopify-webhook-id").await, send("x-shopify-webhook-id").await]
        .iter()
        .map(|answer| answer["position"].as_str().expect("a position").to_owned())
        .collect();
    let facts = site.records(Topic::Facts);
    assert_eq!(facts.iter().map(|f| f.position.as_str()).collect::<Vec<_>>(), facts_at);
    let ids: Vec<_> = facts.iter().map(|f| f.header("dedupe_id").expect("an id")).collect();
    assert_eq!((ids[0], ids[0].len()), (ids[1], 64), "the same bytes are the same delivery");
    facts.iter().for_each(read_as_fact);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_refuses_for_its_size_is_a_dead_letter_by_its_digest() {
    let site = Site::new().await;
    site.log.takes.store(600, std::sync::atomic::Ordering::SeqCst);
    let body = json!({"id": 7, "admin_graphql_api_id": "g", "title": "t".repeat(1000), "variants": []}).to_string().into_bytes();
    let response = site.delivery(SHOP, "products/update", SECRET, &body).send().await.expect("answer");
    assert_eq!(response.status(), 200);
    assert!(response.json::<Value>().await.expect("JSON")["dead_letter"].is_string());
    let value = site.records(Topic::DeadLetters)[0].json();
    assert_eq!(
        (value["reason"].as_str(), value["bytes"].is_null(), value["size"].as_u64()),
        (Some("out_of_range"), true, Some(body.len() as u64))
    );
}
