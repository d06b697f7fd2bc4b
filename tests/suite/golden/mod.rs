//! Stored formats, pinned: what version 1 wrote is read for ever. A golden file is never edited; a new version adds its own, and
//! an upcast. `STOCKWARDEN_WRITE_GOLDEN=1` writes files that are missing, and no others.

use std::path::PathBuf;
use std::sync::Arc;

use stockwarden::domain::rules::{self, EffectiveRules, RuleSet};
use stockwarden::domain::shard::{ShardFold, ShardState};
use stockwarden::domain::shop::{ProductInfo, Shop, ShopState};
use stockwarden::domain::snapshot;
use stockwarden::domain::variant::{Context, Matched, VariantFact, VariantState, decide};
use stockwarden::events::codec;
use stockwarden::events::decision::{Decision, Identity, Kind, Recorded};
use stockwarden::events::fact::{At, Fact, FactType, RulesApplied, Stamp};
use stockwarden::events::ids::{ItemId, LocationId, ProductId, VariantId};
use stockwarden::events::record::{NewRecord, RecordBatch, Topic};

use crate::engine::harness::LOW;

fn golden(name: &str, now: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var("STOCKWARDEN_WRITE_GOLDEN").is_ok() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        std::fs::write(&path, now()).expect("written");
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn hex_golden(name: &str, now: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let text = golden(name, || {
        let hex = hex::encode(now());
        hex.as_bytes().chunks(100).flat_map(|c| [c, b"\n"].concat()).collect()
    });
    let digits: Vec<u8> = text.into_iter().filter(u8::is_ascii_hexdigit).collect();
    hex::decode(digits).expect("hexadecimal")
}

/// A fact as a consumer sees it, in one JSON file.
fn fact_file(key: &str, headers: &[(&str, &str)], value: &str) -> Vec<u8> {
    let headers: serde_json::Map<_, _> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).into())).collect();
    let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
    serde_json::to_vec_pretty(&serde_json::json!({ "key": key, "headers": headers, "value": value })).expect("JSON")
}

fn read_fact(file: &[u8]) -> (FactType, Fact, At) {
    let file: serde_json::Value = serde_json::from_slice(file).expect("JSON");
    let headers: Vec<(String, String)> = file["headers"]
        .as_object()
        .expect("headers")
        .iter()
        .map(|(n, v)| (n.clone(), v.as_str().expect("text").to_owned()))
        .collect();
    let mut batch = RecordBatch::new(0, 0);
    let value = serde_json::to_vec(&file["value"]).expect("JSON");
    let key = file["key"].as_str().expect("text").as_bytes();
    batch.push(9, 1_800_000_000_000, Some(key), Some(&value), headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())));
    let read = codec::read(&batch.get(0).expect("one")).expect("readable");
    (read.fact_type, read.fact, read.at)
}

#[test]
fn facts_of_version_1_are_read() {
    const OURS: [(&str, &str); 4] = [
        ("version", "1"),
        ("source", "webhooks/shopify"),
        ("event_time", "2026-11-20T14:15:02.110Z"),
        ("triggered_at", "2026-11-20T14:15:02.110521905Z"),
    ];
    let headers = |fact| [&[("fact", fact)][..], &OURS].concat();
    let file = golden("facts/v1/level.json", || {
        fact_file(
            "a.myshopify.com",
            &headers("inventory_levels/update"),
            r#"{"inventory_item_id":9007199254740993,"location_id":82211110001,"available":-4,"updated_at":"2026-11-20T09:15:02-05:00"}"#,
        )
    });
    let (_, fact, at) = read_fact(&file);
    let Fact::Level(level) = fact else { panic!("{fact:?}") };
    assert_eq!(
        (level.item, level.location, level.available),
        (ItemId(9_007_199_254_740_993), LocationId(82_211_110_001), Some(-4))
    );
    let stamp = Stamp { updated_at: 1_795_184_102_000, triggered_at: 1_795_184_102_110_521_905, offset: 9 };
    assert_eq!((level.stamp, at.event_time), (stamp, 1_795_184_102_110));

    let file = golden("facts/v1/product.json", || {
        fact_file(
            "a.myshopify.com",
            &headers("products/update"),
            r#"{"id":7,"admin_graphql_api_id":"gid://shopify/Product/7","title":"Bottle","vendor":"Nordhang","product_type":"Bottles","tags":"a, b","updated_at":"2026-11-20T09:15:02-05:00","variants":[{"id":71,"inventory_item_id":710,"sku":"B-1","title":"Green","inventory_policy":"deny","inventory_quantity":4}],"variant_gids":[{"admin_graphql_api_id":"gid://shopify/ProductVariant/71"}]}"#,
        )
    });
    let (_, fact, _) = read_fact(&file);
    let Fact::Product(product) = fact else { panic!("{fact:?}") };
    assert_eq!((product.id, product.vendor.as_deref(), product.stub), (ProductId(7), Some("Nordhang"), false));
    let variant = &product.variants.as_ref().expect("variants")[0];
    assert_eq!((variant.item, variant.sku.as_deref(), variant.quantity), (Some(ItemId(710)), Some("B-1"), Some(4)));

    let file = golden("facts/v1/rules.json", || {
        let rules = rules::from_toml(LOW).expect("valid");
        let rules = rules.iter().map(|r| serde_json::to_value(r).expect("plain")).collect();
        let set = RulesApplied { organisation: "default".into(), rule_version: 3, rules };
        fact_file("~rules", &[("fact", "rules/applied"), ("version", "1")], &serde_json::to_string(&set).expect("plain"))
    });
    let (_, fact, _) = read_fact(&file);
    let Fact::Rules(set) = fact else { panic!("{fact:?}") };
    assert_eq!(rules::from_facts(&set.rules).expect("valid"), rules::from_toml(LOW).expect("valid"));

    let file = golden("facts/v1/settled.json", || {
        let value = r#"{"decision_id":"9ad9b2fa-908a-509d-974e-62894de897e4","proposal_id":"9ad9b2fa-908a-509d-974e-62894de897e4","variant_id":"71","route_id":"0","handler":"mail","state":"done","possible_duplicate":true}"#;
        fact_file("a.myshopify.com", &[("fact", "effect/settled"), ("version", "1")], value)
    });
    let (_, fact, _) = read_fact(&file);
    assert!(matches!(fact, Fact::EffectSettled(s) if s.state == "done" && s.variant_id == VariantId(71)));
}

/// A variant that has sold down under the rules of [`LOW`], and its decision.
fn sold_down() -> (VariantState, Decision) {
    let set = RuleSet::default().replaced_by(3, rules::from_toml(LOW).expect("valid"), 5);
    let effective = EffectiveRules::of("a.myshopify.com", Some(&set), &RuleSet::default());
    let product = ProductInfo { title: "Bottle".into(), vendor: "Nordhang".into(), ..ProductInfo::default() };
    let matched = Matched::of(&effective, VariantId(71), None, &product);
    let ctx = Context {
        organisation: "default",
        shop: "a.myshopify.com",
        partition: 2,
        variant: VariantId(71),
        product: &product,
        rules: &effective,
        matched: &matched,
    };
    let mut state = VariantState::new(ProductId(7));
    let mut made = None;
    for (offset, available) in [(10, 20), (11, 14), (12, 9)] {
        let at = At { offset, event_time: 1_795_184_000_000 + offset * 60_000, now: 1_795_184_000_000 + offset * 60_000 };
        let stamp = Stamp { updated_at: at.event_time, triggered_at: 0, offset };
        let fact = VariantFact::Level { location: LocationId(1), available: Some(available), stamp };
        for fired in state.observe(&ctx, &fact, at).fired {
            let decision = decide(&state, &ctx, &fired, at).expect("something to order");
            state.record(&ctx, &decision, at);
            made = Some(decision);
        }
    }
    (state, made.expect("it crossed"))
}

#[test]
fn a_decision_of_version_1_is_read_and_written_to_the_byte_and_its_id_is_what_it_was() {
    let file = golden("decisions/v1/reorder.json", || serde_json::to_vec(&sold_down().1).expect("plain"));
    let record =
        NewRecord { topic: Topic::Decisions, partition: Some(2), key: None, headers: Vec::new(), value: Some(file.clone()) };
    let mut batch = RecordBatch::new(2, 0);
    let headers = [("version", &b"1"[..]), ("record", &b"decision"[..])];
    batch.push(0, 0, Some(b"a.myshopify.com"), record.value.as_deref(), headers.into_iter());
    let Ok(Recorded::Decision(decision)) = Recorded::read(&batch.get(0).expect("one")) else { panic!("not readable") };
    assert_eq!(String::from_utf8(serde_json::to_vec(&*decision).expect("plain")), String::from_utf8(file));
    let identity = Identity {
        organisation: "default",
        shop: Some("a.myshopify.com"),
        variant: Some(VariantId(71)),
        sku: None,
        location: Some(LocationId(1)),
        rule: "low",
        kind: Kind::Reorder,
        donor: None,
        partition: 2,
        offset: 12,
    };
    assert_eq!(decision.decision_id, identity.decision_id());
    assert_eq!(decision.decision_id.to_string(), "GOLDEN_ID");
}

#[test]
fn snapshots_of_version_1_are_read_and_written_to_the_byte() {
    assert_eq!(snapshot::VERSION, 1, "a new version keeps the reading of this one");
    let bytes = hex_golden("snapshots/v1/variant.hex", || snapshot::encode(&sold_down().0));
    let state: VariantState = postcard::from_bytes(&bytes).expect("decodes");
    assert_eq!((state.stock.available(), state.open_proposals().count(), state.last), (Some(9), 1, 12));
    assert_eq!(snapshot::encode(&state), bytes);
    assert_eq!(snapshot::encode(&sold_down().0), bytes, "the same facts give the same bytes");

    let shop = || {
        let mut shop = Shop::default();
        let (_, fact, at) = read_fact(&golden("facts/v1/product.json", Vec::new));
        shop.observe(fact, at, &mut Vec::new()).expect("understood");
        let (_, fact, at) = read_fact(&golden("facts/v1/level.json", Vec::new));
        shop.observe(fact, at, &mut Vec::new()).expect("understood");
        snapshot::encode(shop.state())
    };
    let bytes = hex_golden("snapshots/v1/shop.hex", shop);
    let state: ShopState = postcard::from_bytes(&bytes).expect("decodes");
    let read = Shop::from_state(state);
    assert_eq!((read.variant_count(), read.waiting_items()), (1, 1));
    assert_eq!(snapshot::encode(read.state()), bytes);
    assert_eq!(shop(), bytes);

    let shard = || {
        let mut fold = ShardFold::default();
        let (_, fact, mut at) = read_fact(&golden("facts/v1/rules.json", Vec::new));
        fold.advance(&mut at);
        let Fact::Rules(set) = fact else { panic!("rules") };
        fold.apply_rules(&set, at).expect("valid");
        snapshot::encode(&fold.state())
    };
    let bytes = hex_golden("snapshots/v1/shard.hex", shard);
    let state: ShardState = postcard::from_bytes(&bytes).expect("decodes");
    let read = ShardFold::from_state(state);
    assert_eq!(read.rules("default").map(|r: &RuleSet| (r.version, Arc::strong_count(&r.rules[0]))), Some((3, 1)));
    assert_eq!(snapshot::encode(&read.state()), bytes);
    assert_eq!(shard(), bytes);
}
