//! The reference on cases small enough to be worked out by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Outcome, Record, Reference, first_difference};

const SHOP: &str = "a.myshopify.com";
const T0: i64 = 1_763_600_000_000;

/// Writes a log, a record a minute.
struct Log {
    reference: Reference,
    offset: i64,
}

fn rule(change: impl FnOnce(&mut Value)) -> Value {
    let mut rule = json!({
        "id": "low", "scope": "location", "cool_down": "0s",
        "trigger": {"kind": "constant", "threshold": 10},
        "quantity": {"kind": "up-to", "level": 60, "pack": 6, "minimum": 12},
    });
    change(&mut rule);
    rule
}

impl Log {
    /// A shop with variant 1 (item 11) of product 5, under the given rules.
    fn with(rules: &[Value]) -> Log {
        let mut log = Log { reference: Reference::new(rules), offset: 0 };
        log.add(
            "products/create",
            json!({"id": 5, "vendor": "Acme", "tags": "core, x", "variants": [{"id": 1, "inventory_item_id": 11, "sku": "S"}]}),
        );
        log
    }

    fn now(&self) -> i64 {
        T0 + self.offset * 60_000
    }

    fn add(&mut self, fact: &str, body: Value) {
        let headers = BTreeMap::from([("fact".to_owned(), fact.to_owned())]);
        self.write(headers, body);
    }

    fn write(&mut self, headers: BTreeMap<String, String>, body: Value) {
        let value = serde_json::to_vec(&body).expect("JSON");
        let append_time_ms = self.now();
        self.reference.take(&Record {
            partition: 0,
            offset: self.offset,
            append_time_ms,
            key: Some(SHOP.into()),
            headers,
            value,
        });
        self.offset += 1;
    }

    fn level_at(&mut self, location: u64, available: Option<i64>, updated_ms: i64) {
        let updated = chrono::DateTime::from_timestamp_millis(updated_ms).expect("a time").to_rfc3339();
        self.write(
            BTreeMap::new(),
            json!({"inventory_item_id": 11, "location_id": location, "available": available, "updated_at": updated}),
        );
    }

    fn levels(mut self, numbers: &[i64]) -> Log {
        for n in numbers {
            self.level_at(1, Some(*n), self.now());
        }
        self
    }

    fn outcome(self) -> Outcome {
        self.reference.outcome()
    }

    /// (offset, quantity) of all decisions.
    fn decisions(self) -> Vec<(i64, Option<i64>)> {
        self.outcome().decisions.iter().map(|((_, offset, _), d)| (*offset, d.quantity)).collect()
    }
}

#[test]
fn a_crossing_fires_once_and_again_only_past_the_rearm_level() {
    // Offsets 1 and on; 11 is the re-arm level of 10.
    let log = Log::with(&[rule(|_| {})]).levels(&[20, 11, 10, 9, 10, 11, 10]);
    assert_eq!(log.decisions(), [(3, Some(54)), (7, Some(54))], "60 − 10 = 50, nine packs of six");
    // With a threshold of 20 the re-arm level is 22.
    let high = rule(|r| r["trigger"]["threshold"] = json!(20));
    assert_eq!(Log::with(&[high]).levels(&[30, 20, 21, 20, 22, 20]).decisions().len(), 2);
}

#[test]
fn the_first_observation_is_held_unless_the_rule_proposes_it() {
    assert_eq!(Log::with(&[rule(|_| {})]).levels(&[3, 2, 11, 4]).decisions(), [(4, Some(60))]);
    let propose = rule(|r| r["initial"] = json!("propose"));
    assert_eq!(Log::with(&[propose]).levels(&[3, 2]).decisions(), [(1, Some(60))]);
}

#[test]
fn quantities_obey_minimum_pack_and_maximum() {
    let order = |quantity: Value| Log::with(&[rule(|r| r["quantity"] = quantity)]).levels(&[20, 10]).decisions()[0].1;
    assert_eq!(order(json!({"kind": "fixed", "units": 7})), Some(7));
    assert_eq!(order(json!({"kind": "fixed", "units": 7, "pack": 5})), Some(10));
    assert_eq!(order(json!({"kind": "up-to", "level": 15, "minimum": 12, "pack": 6})), Some(12));
    assert_eq!(order(json!({"kind": "up-to", "level": 100, "pack": 12, "maximum": 50})), Some(48));
    let warning = rule(|r| _ = r.as_object_mut().expect("object").remove("quantity"));
    let outcome = Log::with(&[warning]).levels(&[20, 10]).outcome();
    let d = outcome.decisions.values().next().expect("a warning");
    assert_eq!((d.kind.as_str(), d.quantity, d.previous, d.available), ("warning", None, Some(20), 10));
}

#[test]
fn duplicates_and_late_facts_change_nothing() {
    let mut log = Log::with(&[rule(|_| {})]).levels(&[20, 15]);
    let newest = log.now() - 60_000;
    log.level_at(1, Some(15), newest);
    log.level_at(1, Some(2), newest - 3_600_000);
    let counts = log.reference.counts();
    let outcome = log.outcome();
    assert_eq!((counts.stale_levels, outcome.decisions.len()), (2, 0));
    assert_eq!(outcome.variants[&(SHOP.to_owned(), 1)].available, Some(15));
}

#[test]
fn ties_of_updated_at_go_by_triggered_at_and_then_by_offset() {
    let mut log = Log::with(&[]);
    let mut level = |available: i64, triggered: &str| {
        let headers = [("x-shopify-topic", "inventory_levels/update"), ("x-shopify-triggered-at", triggered)];
        let headers = headers.iter().filter(|h| !h.1.is_empty()).map(|(n, v)| (n.to_string(), v.to_string())).collect();
        log.write(headers, json!({"inventory_item_id": 11, "location_id": available % 10, "available": available, "updated_at": "2025-11-20T09:00:00-05:00"}));
    };
    level(21, "2025-11-20T14:00:00.000000002Z");
    level(31, "2025-11-20T14:00:00.000000001Z");
    level(22, "");
    level(32, "");
    assert_eq!(log.outcome().variants[&(SHOP.to_owned(), 1)].levels, BTreeMap::from([(1, Some(21)), (2, Some(32))]));
}

#[test]
fn levels_wait_for_the_catalogue_and_disconnected_ones_stay_away() {
    let mut log = Log::with(&[]);
    log.write(
        BTreeMap::new(),
        json!({"inventory_item_id": 99, "location_id": 1, "available": 4, "updated_at": "2025-11-20T00:00:00Z"}),
    );
    log.write(
        BTreeMap::new(),
        json!({"inventory_item_id": 98, "location_id": 1, "available": 4, "updated_at": "2025-11-20T00:00:00Z"}),
    );
    log.add("products/update", json!({"id": 6, "variants": [{"id": 2, "inventory_item_id": 99, "inventory_quantity": 70}]}));
    log.add("products/update", json!({"id": 7, "variants": [{"id": 3, "inventory_item_id": 97, "inventory_quantity": 70}]}));
    log.level_at(1, Some(5), log.now());
    log.level_at(2, None, log.now());
    log.level_at(3, Some(8), log.now());
    log.add("inventory_levels/disconnect", json!({"inventory_item_id": 11, "location_id": 3}));
    let late = log.now() - 600_000;
    log.level_at(3, Some(9), late);
    log.write(BTreeMap::new(), json!({"id": 5}));
    let out = log.outcome();
    let available = |v: u64| out.variants[&(SHOP.to_owned(), v)].available;
    assert_eq!((available(1), available(2), available(3)), (Some(5), Some(4), Some(70)));
    assert_eq!((out.waiting[SHOP], out.counts.unreadable), (1, 1));
}

#[test]
fn one_open_proposal_covers_and_resolves_when_stock_is_back() {
    let second = rule(|r| {
        r["id"] = json!("lower");
        r["trigger"]["threshold"] = json!(8);
    });
    let both = [rule(|_| {}), second];
    assert_eq!(Log::with(&both).levels(&[20, 10, 8]).decisions().len(), 1);
    let open = |numbers: &[i64]| Log::with(&both).levels(numbers).outcome().variants[&(SHOP.to_owned(), 1)].open.len();
    assert_eq!((open(&[20, 10]), open(&[20, 10, 11]), open(&[20, 10, 11, 10])), (1, 0, 1));
}

#[test]
fn what_was_ordered_stays_open_and_counts_as_supply() {
    let mut log = Log::with(&[rule(|_| {})]).levels(&[20, 10]);
    let id = Log::with(&[rule(|_| {})]).levels(&[20, 10]).outcome().decisions.values().next().expect("one").decision_id.clone();
    log.add("proposal/moved", json!({"proposal_id": id, "variant_id": "1", "move": "ordered", "by": "t", "quantity": 50}));
    let mut log = log.levels(&[30, 9]);
    log.add("proposal/moved", json!({"proposal_id": id, "variant_id": "1", "move": "received", "by": "t"}));
    assert_eq!(log.levels(&[40, 10]).decisions(), [(2, Some(54)), (8, Some(54))]);
}

#[test]
fn a_shop_rule_sees_the_sum_and_what_is_under_way_at_its_locations() {
    let shop = rule(|r| {
        r["id"] = json!("shop");
        r["scope"] = json!("shop");
        r["trigger"]["threshold"] = json!(25);
    });
    let mut log = Log::with(&[rule(|_| {}), shop]);
    for (location, available) in [(1, 20), (2, 20), (1, 5)] {
        log.level_at(location, Some(available), log.now());
    }
    let made: Vec<_> = log.outcome().decisions.into_values().map(|d| (d.rule, d.location, d.available, d.quantity)).collect();
    // 5 at location 1: 55 are missing, ten packs of six. Then 25 in the shop and 60 under way: nothing is missing.
    assert_eq!(made, [("low".to_owned(), Some(1), 5, Some(60))]);
}

#[test]
fn a_crossing_in_the_cool_down_fires_after_it() {
    let cool = rule(|r| r["cool_down"] = json!("10m"));
    // Fires at offset 2, crosses again at 4, cool until minute 12.
    let log = Log::with(std::slice::from_ref(&cool)).levels(&[20, 9, 30, 9, 8]);
    assert_eq!(log.decisions().len(), 1);
    let log = Log::with(std::slice::from_ref(&cool)).levels(&[20, 9, 30, 9, 8, 8, 8, 8, 8, 8, 8, 8]);
    assert_eq!(log.decisions().iter().map(|d| d.0).collect::<Vec<_>>(), [2, 12]);
    let mut log = Log::with(&[cool]).levels(&[20, 9, 30, 9]);
    log.offset = 20;
    log.add("clock/tick", json!({}));
    log.add("clock/tick", json!({}));
    assert_eq!(log.decisions().iter().map(|d| d.0).collect::<Vec<_>>(), [2, 20]);
}

#[test]
fn rules_that_come_as_facts_hold_from_there_on() {
    let mut log = Log::with(&[]).levels(&[5]);
    log.add("rules/applied", json!({"organisation": "default", "rule_version": 1, "rules": [rule(|_| {})]}));
    let mut log = log.levels(&[4, 11, 10]);
    log.add(
        "rules/applied",
        json!({"organisation": "default", "rule_version": 2, "rules": [rule(|_| {}), rule(|r| r["id"] = json!("b"))]}),
    );
    assert_eq!(log.levels(&[9]).decisions().len(), 1, "low when the rule came is held, the unchanged rule stays fired");
}

#[test]
fn selectors_take_globs_and_all_must_match() {
    let fires = |select: Value| !Log::with(&[rule(|r| r["select"] = select)]).levels(&[20, 10]).decisions().is_empty();
    assert!(fires(
        json!({"vendor": "Ac*", "tag": "core", "sku": "?", "shop": "*.myshopify.com", "location": "1", "variant": "1"})
    ));
    for other in [
        json!({"vendor": "Acme "}),
        json!({"tag": "cor"}),
        json!({"location": "2"}),
        json!({"vendor": "Ac*", "product_type": "Shirts"}),
    ] {
        assert!(!fires(other.clone()), "{other}");
    }
}

#[test]
fn a_gradient_rule_fires_on_fast_sales_and_not_on_few() {
    let gradient = json!({"id": "g", "scope": "shop", "cool_down": "0s", "trigger": {"kind": "gradient", "probability": 0.8, "horizon": "6h"}});
    // A unit a minute from 500: after half an hour some 30 units are sold, 6 h would sell about 360.
    let falling: Vec<i64> = (0..200).map(|i| 500 - i).collect();
    let decisions = Log::with(std::slice::from_ref(&gradient)).levels(&falling).decisions();
    assert_eq!(decisions.len(), 1);
    assert!((30..190).contains(&decisions[0].0), "{decisions:?}");
    let slow: Vec<i64> = (0..3).map(|i| 500 - i).collect();
    assert!(Log::with(&[gradient]).levels(&slow).decisions().is_empty());
}

#[test]
fn the_first_difference_names_the_key_and_both_sides() {
    let a = BTreeMap::from([(1, "x"), (2, "y"), (3, "z")]);
    let b = BTreeMap::from([(1, "x"), (2, "Y")]);
    let told = first_difference("letters", &a, &b).expect("they differ");
    assert!(
        told.contains("letters: 2 of 3 differ; the first is 2") && told.contains("\"y\"") && told.contains("\"Y\""),
        "{told}"
    );
    assert_eq!(first_difference("letters", &a, &a.clone()), None);
}
