//! Ids, numbers and kinds of decisions; what a rule is without its optional keys.

use std::collections::BTreeSet;

use serde_json::json;
use stockwarden::domain::rules::{self, Initial, Scope};
use stockwarden::events::decision::Kind;
use stockwarden::events::fact::{FactType, header};
use uuid::Uuid;

use super::*;

const TWO: &str = r#"
[[rule]]
id = "order"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "fixed", units = 5 }
cool_down = "0s"

[[rule]]
id = "tell"
trigger = { kind = "constant", threshold = 10 }
cool_down = "0s"
"#;

/// Two variants share an item (contracts: an item can belong to several), and each is under two rules.
#[test]
fn several_decisions_of_one_fact_are_numbered_and_each_opens_its_own_proposal() {
    let bench = Bench::new(TWO);
    let shared = json!({"id": 1, "title": "P", "updated_at": "2026-11-01T00:00:00Z", "variants": [
        {"id": 1, "inventory_item_id": 1001, "title": "A"}, {"id": 2, "inventory_item_id": 1001, "title": "B"},
    ]});
    bench.take(vec![foreign(SHOP, shared.to_string()), level_at(1, 1, 20, "2026-11-01T01:00:00Z")]);
    let crossed = bench.take(vec![level_at(1, 1, 9, "2026-11-01T01:00:01Z")]);
    // A later one changes nothing in what caused them.
    bench.take(vec![level_at(1, 1, 8, "2026-11-01T01:00:02Z")]);
    let decided = bench.decided(4);
    let told: Vec<_> = decided.iter().map(|d| (d.seq, d.variant_id.map(|v| v.0), d.rule_id.as_str())).collect();
    assert_eq!(told, [(0, Some(1), "order"), (1, Some(1), "tell"), (2, Some(2), "order"), (3, Some(2), "tell")]);
    let kinds: Vec<_> = decided[..2].iter().map(|d| (d.kind, d.quantity)).collect();
    assert_eq!(kinds, [(Kind::Reorder, Some(5)), (Kind::Warning, None)]);
    let mut ids = BTreeSet::new();
    for d in &decided {
        assert_eq!(d.proposal_id, d.decision_id);
        let caused = &d.caused_by;
        assert_eq!((&*caused.topic, caused.partition, caused.offset), ("stock-facts", crossed.partition, crossed.offset));
        // As anybody can compute it from the log.
        let name = json!([
            "default",
            SHOP,
            d.variant_id.expect("a variant").0.to_string(),
            null,
            null,
            d.rule_id,
            d.kind.as_str(),
            null,
            "stock-facts",
            crossed.partition,
            crossed.offset,
        ]);
        let namespace = Uuid::from_u128(0x5d0c_4a52_7c5e_5b1f_9a3e_2f6b_8a41_c0de);
        assert_eq!(d.decision_id, Uuid::new_v5(&namespace, name.to_string().as_bytes()));
        ids.insert(d.decision_id);
    }
    assert_eq!(ids.len(), 4);
    let open: BTreeSet<_> = (1..=2).flat_map(|v| bench.view(v).open_proposals).map(|p| p.proposal_id).collect();
    assert_eq!(open, ids);
    bench.engine.stop();
}

#[test]
fn a_rule_that_says_no_more_than_it_must_has_the_documented_defaults() {
    let minimal = rules::from_toml("[[rule]]\nid = \"a\"\ntrigger = { kind = \"constant\", threshold = 10 }\n").expect("valid");
    let rule = &minimal[0];
    assert_eq!((rule.kind(), rule.scope, rule.initial), (Kind::Warning, Scope::Shop, Initial::Hold));
    assert_eq!((rule.expire_after.as_hours(), rule.cool_down.as_hours(), rule.lead_time_days), (30.0 * 24.0, 24.0, 7.0));
    assert!(rule.routes.is_empty() && rule.rearm.is_none());
    let with_quantity =
        "[[rule]]\nid = \"a\"\ntrigger = { kind = \"constant\", threshold = 10 }\nquantity = { kind = \"up-to\", level = 60 }\n";
    assert_eq!(rules::from_toml(with_quantity).expect("valid")[0].kind(), Kind::Reorder);
}

#[test]
fn every_documented_key_of_a_rule_is_taken_and_no_rule_may_call_itself_a_transfer() {
    let full = |kind: &str, quantity: &str| {
        format!(
            "[[rule]]\nid = \"a\"\nkind = \"{kind}\"\nselect = {{ vendor = \"Acme\" }}\nscope = \"location\"\n\
             trigger = {{ kind = \"constant\", threshold = 10 }}\nquantity = {{ {quantity}, pack = 6, minimum = 6, maximum = 60 }}\n\
             lead_time_days = 3\ncool_down = \"0s\"\nrearm = 15\nexpire_after = \"10d\"\ninitial = \"propose\"\n\
             routes = [{{ to = \"erp\" }}]\n"
        )
    };
    for quantity in ["kind = \"fixed\", units = 12", "kind = \"up-to\", level = 60", "kind = \"days-of-cover\", days = 30"] {
        let read = rules::from_toml(&full("reorder", quantity)).expect(quantity);
        assert_eq!((read[0].rearm_level(10), read[0].cool_down.0, read[0].initial), (15, 0, Initial::Propose));
        let told = rules::from_toml(&full("transfer", quantity)).expect_err("refused")[0].to_string();
        assert!(told.contains("\"transfer\" is not for rules"), "{told}");
    }
}

/// A refusal to know a header is no refusal of the fact: whoever adds one breaks no reader.
#[test]
fn a_fact_carries_the_documented_headers_and_others_do_no_harm() {
    let bench = Bench::new(TWO);
    let mut fact = level_at(1, 1, 7, "2026-11-01T01:00:00Z");
    fact.headers = vec![
        (header::FACT, FactType::LevelsUpdate.as_str().into()),
        (header::VERSION, b"1".to_vec()),
        ("something_new", vec![0, 255]),
    ];
    bench.take(vec![product_with(1, "2026-11-01T00:00:00Z", &[(1, None)]), fact]);
    assert_eq!(bench.view(1).available, Some(7));
    bench.engine.stop();
}
