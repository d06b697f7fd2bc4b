//! The binary on a real Kafka and a real Postgres.

mod cluster;
mod commands;
pub mod million;
pub mod node;
mod reorders;

use std::path::Path;
use std::time::Duration;

use node::{Client, Site};
use serde_json::Value;
use stockwarden::events::fact::{FactType, header};
use stockwarden::events::record::{NewRecord, Topic};
use stockwarden::ports::SnapshotStore;

use crate::engine::harness::{LOW, foreign, level, product};

const SHOP: &str = "demo-outdoor.myshopify.com";

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/webhooks")
}

/// Every recorded delivery, signed as it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_deliveries_of_the_contract_pass_and_leave_no_personal_data() {
    let deliveries: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("_deliveries.json")).expect("the deliveries")).expect("JSON");
    let secret = deliveries["client_secret"].as_str().expect("a secret");
    let site = Site::new(3, "").await.with("SHOP_SECRET", secret);
    let node = site.start();
    site.json(&["shop", "add", SHOP, "--webhook-secret-env", "SHOP_SECRET"]);
    let client = Client::new(&node, &site.token());
    let list = deliveries["deliveries"].as_array().expect("a list");
    assert!(list.len() >= 22);
    for delivery in list {
        let file = delivery["body_file"].as_str().expect("a file");
        let body = std::fs::read(fixtures().join(file)).expect(file);
        let headers: Vec<_> = delivery["headers"]
            .as_object()
            .expect("headers")
            .iter()
            .map(|(n, v)| (n.clone(), v.as_str().expect("text").to_owned()))
            .collect();
        let (status, answer) = client.post("/webhooks/shopify", headers.clone(), body.clone()).await;
        assert_eq!((status, answer["position"].is_string()), (200, true), "{file}: {answer}");
        let mut bent = body;
        bent[0] ^= 1;
        let (status, _) = client.post("/webhooks/shopify", headers, bent).await;
        assert_eq!(status, 401, "{file}, one bit off");
    }
    client.catch_up(&site).await;
    // The product with more than 100 variants; the other one was deleted by products/delete.
    let variants = client.variants(SHOP).await;
    assert!(variants.len() >= 100, "{}", variants.len());
    let big = variants.iter().find(|v| v["variant_id"] == "642667041472713922").expect("the id beyond 2^53");
    assert_eq!((&big["inventory_item_id"], &big["available"]), (&"271878346596884015".into(), &75.into()));
    node.stop();
    for topic in [Topic::Facts, Topic::DeadLetters] {
        for batch in site.read_all(topic) {
            for record in batch.iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                for personal in
                    ["jana@example.com", "owner@example.com", "+420555000111", "Testovac", "body_html", "Changed mind"]
                {
                    assert!(!value.contains(personal), "{personal} in {value}");
                }
            }
        }
    }
    site.remove().await;
}

/// (shop, entity, offset, state) of all snapshots.
async fn states(site: &Site) -> Vec<(i32, String, String, i64, Vec<u8>)> {
    use futures::StreamExt as _;
    let url = &site.database.as_ref().expect("a database").url;
    let store = stockwarden::adapters::postgres::PostgresStore::connect(url, Duration::from_secs(20)).await.expect("the store");
    let mut all = Vec::new();
    for partition in 0..site.settings.partitions {
        let rows: Vec<_> = store.load(partition).collect().await;
        all.extend(rows.into_iter().map(|r| {
            let r = r.expect("readable");
            (partition, r.shop, format!("{:?}", r.entity), r.offset, r.state)
        }));
    }
    all.sort();
    all
}

async fn clear(site: &Site) {
    let url = &site.database.as_ref().expect("a database").url;
    let store = stockwarden::adapters::postgres::PostgresStore::connect(url, Duration::from_secs(20)).await.expect("the store");
    for partition in 0..site.settings.partitions {
        let epoch = store.acquire_epoch(partition, "nobody").await.expect("an epoch");
        store.clear(partition, epoch).await.expect("cleared");
    }
}

fn shop(n: u64) -> String {
    format!("shop-{n}.myshopify.com")
}

/// 40 variants of 8 shops sell down past the threshold.
async fn sell(site: &Site, from_second: u32, levels: &[i64]) {
    for (i, available) in levels.iter().enumerate() {
        let second = from_second + i as u32;
        let records: Vec<NewRecord> = (1..=40).map(|id| foreign(&shop(id % 8), level(id, *available, second))).collect();
        site.append(records).await;
    }
}

fn outcomes(site: &Site) -> usize {
    let outcome = FactType::EffectSettled.as_str();
    let facts = site.read_all(Topic::Facts);
    facts.iter().flat_map(|b| b.iter()).filter(|r| r.headers.text(header::FACT) == Some(outcome)).count()
}

fn decided(site: &Site) -> usize {
    crate::engine::harness::decisions(&*site.log).len()
}

/// Invariant 3 of DESIGN §7, on real services: a kill, a restart from checkpoint and tail, and a replay from nothing give the
/// same bytes; each decision is there once (invariant 4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_resumes_and_a_replay_from_nothing_gives_the_same_bytes() {
    let site = Site::new(3, "[shards]\nsnapshot_interval = \"200ms\"\n").await;
    site.apply_rules(LOW);
    let token = site.token();
    let node = site.start();
    site.append((1..=40).map(|id| foreign(&shop(id % 8), product(id))).collect()).await;
    sell(&site, 0, &[20, 15, 9]).await;
    Client::new(&node, &token).catch_up(&site).await;
    sell(&site, 10, &[30, 12]).await;
    // In the middle of whatever it does with the last ones.
    node.kill();
    sell(&site, 20, &[8, 7]).await;

    let node = site.start();
    // The fates of the decisions are facts as well, and come when they come.
    site.until("each route has its outcome", || outcomes(&site) >= 80).await;
    Client::new(&node, &token).catch_up(&site).await;
    let told = node.stop();
    let kept = states(&site).await;
    assert!(kept.len() >= 48, "{} snapshots; the node told:\n{told}", kept.len());
    assert_eq!(decided(&site), 80, "40 variants crossed twice");

    clear(&site).await;
    let node = site.start();
    let client = Client::new(&node, &token);
    client.catch_up(&site).await;
    let (_, view) = client.get(&format!("/v1/shops/{}/variants/1", shop(1))).await;
    assert_eq!((&view["available"], view["open_proposals"].as_array().map(Vec::len)), (&7.into(), Some(1)));
    assert_eq!(view["provenance"]["source"], "owner");
    node.stop();
    let replayed = states(&site).await;
    assert_eq!(replayed.len(), kept.len());
    for (before, after) in kept.iter().zip(&replayed) {
        assert_eq!(before, after, "the node told:\n{told}");
    }
    assert_eq!(decided(&site), 80, "replay decides nothing");
    site.remove().await;
}

/// Without shards there is nothing that could have to stop the node; and a second start by mistake stops nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_some_roles_stays_and_a_second_one_on_its_port_leaves_it_alone() {
    let site = Site::new(2, "").await.with("SHOP_SECRET", "hush");
    site.json(&["shop", "add", SHOP, "--webhook-secret-env", "SHOP_SECRET"]);
    let ingest = site.start_with_roles("ingest");
    let client = Client::new(&ingest, "");
    client.ready_at("/readyz?role=ingest").await;
    ingest.stop();

    let node = site.start();
    let client = Client::new(&node, &site.token());
    client.ready().await;
    let second = site.with("STOCKWARDEN__HTTP__LISTEN", node.base.trim_start_matches("http://"));
    let refused = second.run(&["serve"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("in use"), "{told}");
    second.append(vec![foreign(SHOP, product(1)), foreign(SHOP, level(1, 7, 1))]).await;
    client.catch_up(&second).await;
    assert_eq!(client.get(&format!("/v1/shops/{SHOP}/variants/1")).await.1["available"], 7);
    node.stop();
    second.remove().await;
}

/// A retry reads it as what its sender said that it is: of a level without a number the body alone does not tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_could_not_be_read_is_tried_again_as_what_it_was() {
    const SECRET: &str = "hush";
    let site = Site::new(2, "").await.with("SHOP_SECRET", SECRET);
    site.json(&["shop", "add", SHOP, "--webhook-secret-env", "SHOP_SECRET"]);
    let node = site.start();
    let client = Client::new(&node, &site.token());
    client.ready().await;
    let body = br#"{"inventory_item_id":1001,"location_id":1}"#;
    let headers = [
        ("x-shopify-topic", "inventory_levels/update".to_owned()),
        ("x-shopify-shop-domain", SHOP.to_owned()),
        ("x-shopify-webhook-id", "w-1".to_owned()),
        ("x-shopify-hmac-sha256", stockwarden::sim::shopify_signature(SECRET, body)),
    ];
    let headers = headers.map(|(n, v)| (n.to_owned(), v)).to_vec();
    let (status, answer) = client.post("/webhooks/shopify", headers, body.to_vec()).await;
    let at = answer["dead_letter"].as_str().unwrap_or_else(|| panic!("{status}: {answer}")).to_owned();
    site.json(&["dead-letters", "retry", &at]);
    let letters = || -> Vec<Value> {
        let batches = site.read_all(Topic::DeadLetters);
        let read = |b: &stockwarden::events::record::RecordBatch| -> Vec<Value> {
            b.iter().map(|r| serde_json::from_slice(r.value.expect("a value")).expect("JSON")).collect()
        };
        batches.iter().flat_map(read).collect()
    };
    site.until("it is a dead letter once more", || letters().len() == 2).await;
    for letter in letters() {
        assert_eq!(
            (&letter["reason"], &letter["fact"]),
            (&"missing_field".into(), &"inventory_levels/update".into()),
            "{letter}"
        );
    }
    node.stop();
    site.remove().await;
}

/// Bad input on the topic: understood or a dead letter with its reason; the shard goes on (invariant 8).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_foreign_producers_are_understood_or_become_dead_letters() {
    let site = Site::new(2, "").await;
    let token = site.token();
    let node = site.start();
    let many: Vec<String> = (0..2048u64)
        .map(|i| {
            format!(
                r#"{{"id":{},"inventory_item_id":{},"sku":"{}","title":"{}"}}"#,
                9_007_199_254_740_993 + i,
                5000 + i,
                "S".repeat(300),
                "T".repeat(300)
            )
        })
        .collect();
    let big = format!(r#"{{"id":77,"title":"Big","variants":[{}]}}"#, many.join(","));
    assert!(big.len() > 1_000_000, "{}", big.len());
    let mut no_value = foreign(SHOP, "");
    no_value.value = None;
    let mut no_key = foreign(SHOP, level(1, 5, 1));
    no_key.key = None;
    site.append(vec![
        foreign(SHOP, product(1)),
        foreign(SHOP, big),
        no_value,
        no_key,
        foreign(SHOP, "{\"id\":5}"),
        foreign(SHOP, "not json"),
        // Too large for a dead letter with its bytes.
        foreign(SHOP, format!("{{\"variants\":{}", "y".repeat(3_500_000))),
        foreign(SHOP, r#"{"inventory_item_id":"1001","location_id":1,"available":3}"#),
        foreign(SHOP, r#"{"inventory_item_id":1001,"location_id":1,"available":null}"#),
        foreign(SHOP, r#"{"inventory_item_id":1001,"location_id":2,"available":-4,"updated_at":"2026-11-01T01:00:00Z"}"#),
        foreign(SHOP, r#"{"line_items":[{"id":"x"}],"email":"somebody@example.com","cancelled_at":null"#),
    ])
    .await;
    let client = Client::new(&node, &token);
    client.catch_up(&site).await;
    let (_, view) = client.get(&format!("/v1/shops/{SHOP}/variants/1")).await;
    assert_eq!(view["available"], -4, "{view}");
    assert_eq!(view["levels"].as_array().map(Vec::len), Some(2));
    assert_eq!(client.variants(SHOP).await.len(), 2049);
    let (_, shops) = client.get("/v1/shops").await;
    assert_eq!((&shops["shops"][0]["shop"], &shops["shops"][0]["organisation"]), (&SHOP.into(), &"default".into()));
    node.stop();
    let mut reasons = Vec::new();
    for batch in site.read_all(Topic::DeadLetters) {
        for record in batch.iter() {
            let letter: Value = serde_json::from_slice(record.value.expect("a value")).expect("JSON");
            assert!(!letter.to_string().contains("somebody"), "{letter}");
            assert_eq!(letter["origin"]["topic"], "stock-facts");
            if letter["size"].as_u64() > Some(3_000_000) {
                assert!(letter["digest"].is_string() && letter["bytes"].is_null(), "only its digest is kept");
            }
            reasons.push(letter["reason"].as_str().expect("a code").to_owned());
        }
    }
    reasons.sort();
    assert_eq!(
        reasons,
        ["empty_record", "invalid_json", "invalid_json", "invalid_json", "missing_key", "unknown_shape", "wrong_type"]
    );
    site.remove().await;
}

/// Kafka or Postgres away at the start: a clear error after a bounded wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_or_store_is_away_says_so_and_ends() {
    for (variable, value, words) in [
        ("STOCKWARDEN__LOG__BOOTSTRAP_SERVERS", "127.0.0.1:9", "127.0.0.1:9"),
        ("STOCKWARDEN__STORE__URL", "postgres://somebody:hidden@127.0.0.1:9/nothing", "127.0.0.1"),
    ] {
        let site = Site::new(1, "").await.with(variable, value);
        let output = tokio::task::block_in_place(|| site.run(&["serve"]));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(words) && !told.contains("hidden"), "{told}");
        site.remove().await;
    }
}
