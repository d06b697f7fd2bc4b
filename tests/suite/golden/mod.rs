//! Stored formats, pinned: what version 1 wrote is read for ever. A golden file is never edited; a new version adds its own, and
//! an upcast. `STOCKWARDEN_WRITE_GOLDEN=1` writes files that are missing, and no others.

use std::path::PathBuf;
use std::sync::Arc;

use stockwarden::domain::proposal::{Carrier, Snooze, State};
use stockwarden::domain::rules::{self, EffectiveRules, RuleSet};
use stockwarden::domain::shard::{ShardFold, ShardState};
use stockwarden::domain::shop::{ProductInfo, Shop, ShopState};
use stockwarden::domain::snapshot::{self, Seal, SnapshotError};
use stockwarden::domain::variant::{Context, Matched, VariantFact, VariantState, decide};
use stockwarden::events::codec;
use stockwarden::events::decision::{CausedBy, Decision, Identity, Kind, ProposalChange, Recorded};
use stockwarden::events::fact::{
    At, EffectSettled, Fact, FactType, Move, MoveDetails, ProposalMoved, RulesApplied, Stamp, TransferObserved, TransferStage,
};
use stockwarden::events::ids::{ItemId, LocationId, ProductId, TransferId, VariantId};
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

    let file = golden("facts/v1/moved.json", || {
        let value = r#"{"proposal_id":"9ad9b2fa-908a-509d-974e-62894de897e4","variant_id":"71","move":"ordered","by":"ann","via":"api","quantity":60,"eta":"2026-11-27T14:13:20.000Z","reference":"PO-7","until":"2026-11-21T14:13:20.000Z","level":-2,"to":"bob","note":"n"}"#;
        fact_file("a.myshopify.com", &[("fact", "proposal/moved"), ("version", "1")], value)
    });
    let (_, fact, _) = read_fact(&file);
    let Fact::ProposalMoved(moved) = fact else { panic!("{fact:?}") };
    let details = MoveDetails {
        quantity: Some(60),
        eta: Some(1_795_788_800_000),
        reference: Some("PO-7".into()),
        until: Some(1_795_270_400_000),
        level: Some(-2),
        to: Some("bob".into()),
        note: Some("n".into()),
        receipt: None,
    };
    assert_eq!((moved.moved, moved.via.as_str(), moved.details), (Move::Ordered, "api", details));

    let file = golden("facts/v1/transfer.json", || {
        let value = r#"{"id":"gid://shopify/InventoryTransfer/2921201","happened_at":"2026-11-24T08:19:56-05:00","origin":{"id":"gid://shopify/Location/82211110001"},"destination":{"id":"gid://shopify/Location/82211110002"},"status":"TRANSFERRED","line_items":[{"inventory_item_id":"gid://shopify/InventoryItem/710","quantity":48}]}"#;
        fact_file("a.myshopify.com", &headers("inventory_transfers/updated"), value)
    });
    let (_, fact, _) = read_fact(&file);
    let Fact::Transfer(seen) = fact else { panic!("{fact:?}") };
    assert_eq!(
        (seen.transfer, seen.stage, seen.lines),
        (TransferId(2_921_201), TransferStage::Complete, vec![(ItemId(710), 48)])
    );

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
        let at = at(offset);
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
    assert_eq!(decision.decision_id.to_string(), "4b09c4bb-9f68-5769-8455-024fed4d4a11");
}

fn at(offset: i64) -> At {
    At { offset, event_time: 1_795_184_000_000 + offset * 60_000, now: 1_795_184_000_000 + offset * 60_000 }
}

/// The same, and people have dealt with what was proposed.
fn dealt_with() -> VariantState {
    let (mut state, decision) = sold_down();
    let (rules, product) = (EffectiveRules::default(), ProductInfo::default());
    let ctx = Context {
        organisation: "default",
        shop: "a.myshopify.com",
        partition: 2,
        variant: VariantId(71),
        product: &product,
        rules: &rules,
        matched: &Matched::default(),
    };
    let said = [
        (Move::Assign, MoveDetails { to: Some("bob".into()), ..MoveDetails::default() }),
        (Move::Snooze, MoveDetails { until: Some(1_795_270_400_000), level: Some(-2), ..MoveDetails::default() }),
        (
            Move::Ordered,
            MoveDetails {
                quantity: Some(60),
                eta: Some(1_795_788_800_000),
                reference: Some("PO-7".into()),
                ..MoveDetails::default()
            },
        ),
        (
            Move::Received,
            MoveDetails {
                quantity: Some(12),
                note: Some("one box".into()),
                receipt: Some("api/box-1".into()),
                ..MoveDetails::default()
            },
        ),
    ];
    let made = settled(decision.proposal_id, Some("gid://shopify/InventoryTransfer/2921201"));
    state.observe(&ctx, &VariantFact::EffectSettled(Box::new(made)), at(12));
    for ((moved, details), offset) in said.into_iter().zip(13..) {
        let (by, via) = ("ann".into(), "api".into());
        let fact = ProposalMoved { proposal_id: decision.proposal_id, variant_id: VariantId(71), moved, by, via, details };
        let observed = state.observe(&ctx, &VariantFact::ProposalMoved(Box::new(fact)), at(offset));
        assert_eq!(observed.proposals.len(), 1, "{moved:?}");
    }
    state
}

fn settled(proposal_id: uuid::Uuid, reference: Option<&str>) -> EffectSettled {
    EffectSettled {
        decision_id: proposal_id,
        proposal_id,
        variant_id: VariantId(71),
        route_id: "0".into(),
        handler: "transfers".into(),
        state: "done".into(),
        reference: reference.map(str::to_owned),
        reason: None,
        possible_duplicate: false,
    }
}

/// The same, with a transfer for its variant and one that nobody has claimed.
fn shop_with_transfers() -> Shop {
    let mut shop = shop();
    let made = settled(uuid::Uuid::from_u128(1), Some("gid://shopify/InventoryTransfer/2921201"));
    let other = TransferObserved { transfer: TransferId(2_921_202), stage: TransferStage::ReadyToShip, lines: Vec::new() };
    for fact in [Fact::EffectSettled(Box::new(made)), Fact::Transfer(Box::new(other))] {
        assert!(shop.observe(fact, at(20), &mut Vec::new()).expect("understood").changed);
    }
    shop
}

/// A shop with a product, and a level of an item that none names.
fn shop() -> Shop {
    let mut shop = Shop::default();
    for file in ["facts/v1/product.json", "facts/v1/level.json"] {
        let (_, fact, at) = read_fact(&golden(file, Vec::new));
        shop.observe(fact, at, &mut Vec::new()).expect("understood");
    }
    shop
}

fn shard() -> ShardFold {
    let mut fold = ShardFold::default();
    let (_, fact, mut at) = read_fact(&golden("facts/v1/rules.json", Vec::new));
    fold.advance(&mut at);
    let Fact::Rules(set) = fact else { panic!("rules") };
    fold.apply_rules(&set, at).expect("valid");
    fold
}

fn read<T: snapshot::State>(version: i16, bytes: &[u8]) -> Result<T, SnapshotError> {
    let seal = Seal { partition: 2, shop: "a.myshopify.com", entity: "71", offset: 12, epoch: 1, version };
    snapshot::decode(&seal, seal.checksum(bytes), bytes)
}

/// The files of a version, as a store would have them: variant, shop, shard.
pub fn states_of_version(version: &str) -> [Vec<u8>; 3] {
    ["variant", "shop", "shard"]
        .map(|name| hex_golden(&format!("snapshots/{version}/{name}.hex"), || unreachable!("they are there")))
}

/// What version 1 wrote means what the same facts mean now.
#[test]
fn snapshots_of_version_1_are_read() {
    let [variant, in_shop, of_shard] = states_of_version("v1");
    let state: VariantState = read(1, &variant).expect("readable");
    assert_eq!((state.stock.available(), state.open_proposals().count(), state.last), (Some(9), 1, 12));
    assert_eq!(state, sold_down().0);
    assert_ne!(read::<VariantState>(2, &variant), Ok(state), "the form is another");

    let state: ShopState = read(1, &in_shop).expect("readable");
    assert_eq!(&state, shop().state());
    let found = Shop::from_state(state);
    assert_eq!((found.variant_count(), found.waiting_items()), (1, 1));

    let state: ShardState = read(1, &of_shard).expect("readable");
    assert_eq!(state, shard().state());
    let found = ShardFold::from_state(state);
    assert_eq!(found.rules("default").map(|r: &RuleSet| (r.version, Arc::strong_count(&r.rules[0]))), Some((3, 1)));
}

/// What version 2 wrote means what the same facts mean now, but that receipts were not remembered.
#[test]
fn snapshots_of_version_2_are_read() {
    let [variant, in_shop, of_shard] = states_of_version("v2");
    let mut now = dealt_with();
    now.proposals.iter_mut().for_each(|p| p.receipts.clear());
    assert_eq!(read::<VariantState>(2, &variant), Ok(now.clone()));
    assert_ne!(read::<VariantState>(3, &variant), Ok(now), "the form is another");
    assert_eq!(read::<ShopState>(2, &in_shop).as_ref(), Ok(shop_with_transfers().state()));
    assert_eq!(read::<ShardState>(2, &of_shard), Ok(shard().state()));
}

#[test]
fn snapshots_of_version_3_are_read_and_written_to_the_byte() {
    assert_eq!(snapshot::VERSION, 3, "a new version keeps the reading of this one");
    let bytes = hex_golden("snapshots/v3/variant.hex", || snapshot::encode(&dealt_with()));
    let state: VariantState = read(3, &bytes).expect("readable");
    let p = state.open_proposals().next().expect("one").clone();
    assert_eq!((p.state, p.quantity, p.received), (State::Ordered, Some(60), 12));
    assert_eq!(
        (p.assigned_to.as_deref(), p.reference.as_deref(), p.note.as_deref()),
        (Some("bob"), Some("PO-7"), Some("one box"))
    );
    assert_eq!(p.receipts, ["api/box-1".into()]);
    assert_eq!(p.eta, Some(1_795_788_800_000));
    assert_eq!(p.carriers, [Carrier { transfer: TransferId(2_921_201), handler: "transfers".into(), is_over: false }]);
    assert_eq!(p.snooze, Some(Snooze { until: Some(1_795_270_400_000), level: Some(-2) }));
    assert_eq!(snapshot::encode(&state), bytes);
    assert_eq!(snapshot::encode(&dealt_with()), bytes, "the same facts give the same bytes");

    let bytes = hex_golden("snapshots/v3/shop.hex", || snapshot::encode(shop_with_transfers().state()));
    let state: ShopState = read(3, &bytes).expect("readable");
    let found = Shop::from_state(state);
    assert_eq!((found.variant_count(), found.waiting_items()), (1, 1));
    assert_eq!(snapshot::encode(found.state()), bytes);
    assert_eq!(snapshot::encode(shop_with_transfers().state()), bytes);

    let bytes = hex_golden("snapshots/v3/shard.hex", || snapshot::encode(&shard().state()));
    let state: ShardState = read(3, &bytes).expect("readable");
    let found = ShardFold::from_state(state);
    assert_eq!(found.rules("default").map(|r: &RuleSet| r.version), Some(3));
    assert_eq!(snapshot::encode(&found.state()), bytes);
    assert_eq!(snapshot::encode(&shard().state()), bytes);
}

#[test]
fn a_change_of_a_proposal_of_version_1_is_read_and_written_to_the_byte() {
    let file = golden("decisions/v1/change.json", || {
        let change = ProposalChange {
            proposal_id: sold_down().1.proposal_id,
            organisation: "default".into(),
            shop: "a.myshopify.com".into(),
            variant_id: VariantId(71),
            state: "ordered".into(),
            quantity: Some(60),
            received: 12,
            assigned_to: Some("bob".into()),
            snoozed_until: Some(1_795_270_400_000),
            snoozed_level: Some(-2),
            moved: Some(Move::InTransit),
            by: Some("ann".into()),
            via: Some("api".into()),
            note: Some("one box".into()),
            eta: Some(1_795_788_800_000),
            reference: Some("PO-7".into()),
            caused_by: CausedBy { topic: "stock-facts".into(), partition: 2, offset: 16 },
            changed_at: 1_795_184_960_000,
        };
        serde_json::to_vec(&change).expect("plain")
    });
    let mut batch = RecordBatch::new(2, 0);
    let headers = [("version", &b"1"[..]), ("record", &b"proposal"[..])];
    batch.push(0, 0, Some(b"a.myshopify.com"), Some(&file), headers.into_iter());
    let Ok(Recorded::Proposal(change)) = Recorded::read(&batch.get(0).expect("one")) else { panic!("not readable") };
    assert_eq!((change.moved, change.caused_by.offset, change.snoozed_level), (Some(Move::InTransit), 16, Some(-2)));
    assert_eq!(String::from_utf8(serde_json::to_vec(&*change).expect("plain")), String::from_utf8(file));
}
