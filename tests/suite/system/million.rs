//! A million simulated facts against the plain fold (invariants 2 and 4 of DESIGN §7).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use stockwarden::events::decision::Recorded;
use stockwarden::events::record::{NewRecord, RecordBatch, Topic};
use stockwarden::sim::{RecordHeaders, Settings, Simulation};

use super::node::{Client, Site};
use crate::reference::{
    ChangeKey, ChangeOutcome, DecisionKey, DecisionOutcome, ProposalOutcome, Record, Reference, VariantKey, VariantOutcome,
    first_difference,
};

const RULES: &str = r#"
[[rule]]
id = "low"
scope = "location"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "up-to", level = 60, pack = 6, minimum = 12, maximum = 90 }
cool_down = "0s"

[[rule]]
id = "shop-low"
scope = "shop"
trigger = { kind = "constant", threshold = 15 }
cool_down = "1h"

[[rule]]
id = "fast"
scope = "shop"
trigger = { kind = "gradient", probability = 0.8, horizon = "6h" }
quantity = { kind = "fixed", units = 25, pack = 10 }
cool_down = "30m"
"#;

const FACTS: u64 = 1_000_000;
const SHOPS: usize = 1_000;
const VARIANTS: usize = 100_000;
const BATCH: usize = 2_000;
/// One record in so many is poison.
const POISON: u64 = 100;

/// What no reader can understand, each in another way.
fn poison(shop: &str, n: u64) -> NewRecord {
    let deep = "[".repeat(200);
    let values = [
        "",
        "not json",
        "{\"inventory_item_id\":",
        "[]",
        "null",
        "{\"id\":5}",
        "{\"inventory_item_id\":\"x\",\"location_id\":1,\"available\":3}",
        "{\"inventory_item_id\":1,\"location_id\":1,\"available\":1.5}",
        "{\"inventory_item_id\":-1,\"location_id\":1,\"available\":3}",
        "{\"inventory_item_id\":1,\"location_id\":1,\"available\":99999999999999999999}",
        "{\"id\":1,\"variants\":[{\"id\":null}]}",
        "\u{0}\u{1}\u{2}",
        &deep,
    ];
    NewRecord {
        topic: Topic::Facts,
        partition: None,
        key: Some(shop.as_bytes().to_vec()),
        headers: Vec::new(),
        value: Some(values[(n % values.len() as u64) as usize].as_bytes().to_vec()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_facts_end_with_the_state_and_the_decisions_of_the_plain_fold() {
    let site = Site::new(4, "").await;
    site.apply_rules(RULES);
    let token = site.token();
    let node = site.start();
    let settings = Settings {
        seed: 7,
        shops: SHOPS,
        variants: VARIANTS,
        locations_per_shop: 1,
        // A day and a half of sales.
        rate: FACTS as f64 / 130_000.0,
        facts: Some(FACTS),
        ..Settings::default()
    };
    let simulation = Simulation::new(settings).expect("settings in range");
    let shops: Vec<String> = simulation.shops().map(|s| s.to_string()).collect();
    let mut sent = 0u64;
    let mut batch = Vec::with_capacity(BATCH);
    for delivery in simulation {
        // Every third as someone else's producer writes it.
        let headers = if sent.is_multiple_of(3) { RecordHeaders::None } else { RecordHeaders::Ours };
        batch.push(delivery.to_record(headers));
        sent += 1;
        if sent.is_multiple_of(POISON) {
            batch.push(poison(&shops[(sent / POISON) as usize % shops.len()], sent / POISON));
        }
        if batch.len() >= BATCH {
            site.append(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).await;
        }
    }
    site.append(batch).await;
    assert!(sent > FACTS);

    let client = Client::new(&node, &token);
    client.catch_up(&site).await;
    let mut actual: BTreeMap<VariantKey, VariantOutcome> = BTreeMap::new();
    for shop in &shops {
        for view in client.variants(shop).await {
            let (id, outcome) = outcome_of(&view);
            actual.insert((shop.clone(), id), outcome);
        }
    }
    node.stop();

    // The rules come to it as they came to the node: as a fact.
    let mut reference = Reference::new(&[]);
    for batch in site.read_all(Topic::Facts) {
        for record in records_of(&batch) {
            reference.take(&record);
        }
    }
    let expected = reference.outcome();
    // The poison, and payloads cut to their id, without headers: nobody can say what they are (DESIGN §10). Invariant 8.
    let letters = letters_of(&site);
    assert_eq!(letters.len() as u64, expected.counts.unreadable);
    assert!(letters.len() as u64 >= FACTS / POISON, "{} dead letters", letters.len());
    let reasons: BTreeSet<&str> = letters.values().map(String::as_str).collect();
    assert!(reasons.len() >= 4 && !reasons.contains(""), "{reasons:?}");
    assert!(expected.counts.stale_levels > FACTS / 100, "the transport's faults are in the load: {:?}", expected.counts);
    assert_eq!(expected.variants.len(), VARIANTS);
    if let Some(difference) = first_difference("variants", &expected.variants, &actual) {
        panic!("{difference}");
    }
    let decided = decisions_of(&site);
    println!("{sent} facts, {} decisions, {:?}", decided.len(), expected.counts);
    assert!(decided.len() > 10_000, "{} decisions", decided.len());
    if let Some(difference) = first_difference("decisions", &expected.decisions, &decided) {
        panic!("{difference}");
    }
    let changed = changes_of(&site.read_all(Topic::Decisions));
    assert!(changed.len() > 1_000, "{} changes", changed.len());
    if let Some(difference) = first_difference("changes of proposals", &expected.changes, &changed) {
        panic!("{difference}");
    }
    site.remove().await;
}

/// Reasons by the position of the fact; none has two letters.
fn letters_of(site: &Site) -> BTreeMap<(i64, i64), String> {
    let mut letters = BTreeMap::new();
    for batch in site.read_all(Topic::DeadLetters) {
        for record in batch.iter() {
            let letter: Value = serde_json::from_slice(record.value.expect("a value")).expect("JSON");
            let origin = |name: &str| letter["origin"][name].as_i64().expect("a place");
            let before = letters.insert((origin("partition"), origin("offset")), text(&letter["reason"]));
            assert_eq!(before, None, "{letter}");
        }
    }
    letters
}

fn id(value: &Value) -> Option<u64> {
    value.as_str().map(|t| t.parse().expect("a numeric id"))
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

pub fn outcome_of(view: &Value) -> (u64, VariantOutcome) {
    let list = |name: &str| view[name].as_array().expect("a list").clone();
    let levels = list("levels").iter().map(|l| (id(&l["location_id"]).expect("an id"), l["available"].as_i64())).collect();
    let open = |p: &Value| {
        let scope = if p["location_id"].is_null() { "shop" } else { "location" };
        let key = (text(&p["kind"]), scope.to_owned(), id(&p["location_id"]));
        (key, ProposalOutcome::of(p))
    };
    let outcome = VariantOutcome {
        item: id(&view["inventory_item_id"]),
        sku: view["sku"].as_str().map(str::to_owned),
        available: view["available"].as_i64(),
        levels,
        open: list("open_proposals").iter().map(open).collect(),
    };
    (id(&view["variant_id"]).expect("an id"), outcome)
}

pub fn records_of(batch: &RecordBatch) -> impl Iterator<Item = Record> + '_ {
    batch.iter().map(|r| Record {
        partition: r.partition,
        offset: r.offset,
        append_time_ms: r.append_time_ms,
        key: r.key.map(|k| String::from_utf8(k.to_vec()).expect("UTF-8")),
        headers: r.headers.map(|(n, v)| (n.to_lowercase(), String::from_utf8_lossy(v).into_owned())).collect(),
        value: r.value.unwrap_or_default().to_vec(),
    })
}

/// What became of proposals, each change once and in the order of the facts.
pub fn changes_of(batches: &[RecordBatch]) -> BTreeMap<ChangeKey, ChangeOutcome> {
    let mut found = BTreeMap::new();
    let mut last = BTreeMap::new();
    for (key, change) in batches.iter().flat_map(records_of).filter_map(|r| ChangeOutcome::read(&r)) {
        let before = last.insert((key.0, key.2.clone()), key.1);
        assert!(before < Some(key.1), "a change at {key:?} after one at {before:?}");
        found.insert(key, change);
    }
    found
}

fn decisions_of(site: &Site) -> BTreeMap<DecisionKey, DecisionOutcome> {
    decided(&site.read_all(Topic::Decisions))
}

pub fn decided(batches: &[RecordBatch]) -> BTreeMap<DecisionKey, DecisionOutcome> {
    let mut found = BTreeMap::new();
    for batch in batches {
        for record in batch.iter() {
            let recorded = Recorded::read(&record).unwrap_or_else(|e| panic!("{}: {e}", record.position()));
            let Recorded::Decision(d) = recorded else { continue };
            let outcome = DecisionOutcome {
                decision_id: d.decision_id.to_string(),
                organisation: d.organisation,
                shop: d.shop.expect("a shop"),
                variant: d.variant_id.expect("a variant").0,
                location: d.location_id.map(|l| l.0),
                rule: d.rule_id,
                kind: d.kind.as_str().to_owned(),
                quantity: d.quantity,
                available: d.available,
                previous: d.inputs.previous,
                decided_at: d.decided_at,
            };
            let before = found.insert((d.caused_by.partition, d.caused_by.offset, d.seq), outcome);
            assert!(before.is_none(), "two decisions with one place: {before:?}");
        }
    }
    found
}
