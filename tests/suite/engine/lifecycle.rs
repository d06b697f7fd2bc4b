//! What becomes of proposals: moves through the log, and the changes that come out (DESIGN §4, §10).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use stockwarden::events::fact::FactType;
use stockwarden::events::minimise::minimise;
use stockwarden::events::record::{NewRecord, Topic};
use stockwarden::ports::EventLog;
use stockwarden::ports::event_log::Group;

use super::harness::*;
use super::{SHOP, Site, sell_down, snapshots};
use crate::reference::story::{Story, VARIANTS};
use crate::reference::{ChangeOutcome, Record, VariantOutcome, first_difference};
use crate::system::million::{changes_of, decided, outcome_of, records_of};

const HOUR: i64 = 3_600_000;

fn fact(name: &'static str, body: &Value) -> NewRecord {
    NewRecord { headers: vec![("fact", name.into()), ("version", b"1".to_vec())], ..foreign(SHOP, body.to_string()) }
}

fn moved(id: &str, variant: u64, name: &str, details: Value) -> NewRecord {
    let mut body = json!({"proposal_id": id, "variant_id": variant.to_string(), "move": name, "by": "ann", "via": "api"});
    body.as_object_mut().expect("an object").extend(details.as_object().expect("an object").clone());
    fact("proposal/moved", &body)
}

/// Waits until everything in the log is applied, and what came of it is committed.
fn settle(engine: &Running, log: &dyn EventLog) {
    engine.catch_up(log);
    let ends = || (0..log.partitions()).map(|p| log.watermarks(Topic::Facts, p).expect("watermarks").1);
    eventually("all is committed", || {
        let committed = log.committed(Group::Shards, Topic::Facts).expect("committed");
        committed.iter().zip(ends()).all(|(c, end)| c.unwrap_or(0) == end)
    });
}

/// What the changes of a proposal say, in the order of the topic.
fn told(log: &dyn EventLog, id: &str) -> Vec<Value> {
    let changes: Vec<Value> = read_all(log, Topic::Decisions)
        .iter()
        .flat_map(records_of)
        .filter(|r| r.headers["record"] == "proposal" && r.headers["version"] == "1")
        .map(|r| serde_json::from_slice(&r.value).expect("JSON"))
        .collect();
    changes.into_iter().filter(|c| c["proposal_id"] == id).collect()
}

fn field<'a>(changes: &'a [Value], name: &str) -> Vec<&'a str> {
    changes.iter().map(|c| c[name].as_str().unwrap_or("-")).collect()
}

fn opened(log: &dyn EventLog) -> BTreeMap<u64, String> {
    decisions(log).iter().map(|d| (d.variant_id.expect("a variant").0, d.proposal_id.to_string())).collect()
}

/// Who reads the topic learns each change once, in order, with what it left; repeats and refused moves leave no trace.
#[test]
fn each_move_that_does_something_is_told_once_and_repeats_are_not() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 2);
    settle(&engine, &*log);
    let id = opened(&*log)[&1].clone();
    let say = |name, details| append(&*log, vec![moved(&id, 1, name, details)])[0];
    say("assign", json!({"to": "bob", "note": "please"}));
    say("assign", json!({"to": "bob"}));
    say("assign", json!({"to": "eve"}));
    say("acknowledge", json!({}));
    say("acknowledge", json!({"note": "again"}));
    let ordered = say("ordered", json!({"quantity": 50, "eta": "2026-11-20T00:00:00.000Z", "reference": "PO-7"}));
    say("acknowledge", json!({}));
    say("received", json!({"quantity": 20}));
    say("in_transit", json!({}));
    say("ordered", json!({"quantity": 70}));
    let last = say("received", json!({}));
    say("received", json!({}));
    say("cancel", json!({}));
    settle(&engine, &*log);
    let changes = told(&*log, &id);
    assert_eq!(
        field(&changes, "move"),
        ["assign", "assign", "acknowledge", "ordered", "received", "in_transit", "received"],
        "{changes:#?}"
    );
    assert_eq!(
        field(&changes, "state"),
        ["proposed", "proposed", "acknowledged", "ordered", "ordered", "in_transit", "received"]
    );
    assert_eq!(field(&changes, "assigned_to"), ["bob", "eve", "eve", "eve", "eve", "eve", "eve"]);
    assert_eq!(field(&changes, "note"), ["please", "-", "-", "-", "-", "-", "-"]);
    let units: Vec<_> = changes.iter().map(|c| (c["quantity"].as_i64(), c["received"].as_i64())).collect();
    assert_eq!(units[3..], [(Some(50), Some(0)), (Some(50), Some(20)), (Some(50), Some(20)), (Some(50), Some(50))]);
    let change = &changes[3];
    assert_eq!((&change["by"], &change["via"], &change["shop"]), (&"ann".into(), &"api".into(), &SHOP.into()));
    assert_eq!((&change["eta"], &change["reference"]), (&"2026-11-20T00:00:00.000Z".into(), &"PO-7".into()));
    let place = |c: &Value| (c["caused_by"]["partition"].as_i64(), c["caused_by"]["offset"].as_i64());
    assert_eq!(place(change), (Some(ordered.partition.into()), Some(ordered.offset)));
    assert_eq!(place(&changes[6]), (Some(last.partition.into()), Some(last.offset)));
    // They stand where the shop's decisions stand, under its key.
    let records: Vec<Record> = read_all(&*log, Topic::Decisions).iter().flat_map(records_of).collect();
    assert!(records.iter().all(|r| r.partition == ordered.partition && r.key.as_deref() == Some(SHOP)));
    assert_eq!(engine.variant(SHOP, 1, None).expect("known").open_proposals, []);
    assert_eq!(told(&*log, &opened(&*log)[&2]), [Value::Null; 0]);
    engine.stop();
}

#[test]
fn what_stock_time_and_deletion_do_is_told_as_well_and_that_it_was_sent_is_not() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 5);
    settle(&engine, &*log);
    let ids = opened(&*log);
    let now = site.clock.0.load(std::sync::atomic::Ordering::Relaxed);
    let time = |ms| stockwarden::events::time::format(ms);
    append(
        &*log,
        vec![
            fact(
                "effect/settled",
                &json!({"decision_id": ids[&1], "proposal_id": ids[&1], "variant_id": "1", "route_id": "0", "handler": "erp", "state": "done"}),
            ),
            foreign(SHOP, level(1, 11, 60)),
            fact("products/delete", &json!({"id": 2})),
            fact("inventory_levels/disconnect", &json!({"inventory_item_id": 1003, "location_id": 1})),
            moved(&ids[&4], 4, "snooze", json!({"until": time(now + HOUR)})),
            moved(&ids[&5], 5, "snooze", json!({"level": 4})),
            foreign(SHOP, level(5, 5, 61)),
            foreign(SHOP, level(5, 4, 62)),
        ],
    );
    settle(&engine, &*log);
    let view = engine.variant(SHOP, 4, None).expect("known").open_proposals.remove(0);
    assert_eq!((view.snoozed_until, view.received), (Some(now + HOUR), 0));
    let tick = |ms: i64| {
        site.clock.0.store(now + ms, std::sync::atomic::Ordering::Relaxed);
        let ticks = (0..log.partitions()).map(|p| NewRecord {
            partition: Some(p),
            key: Some(b"~clock".to_vec()),
            ..fact("clock/tick", &json!({}))
        });
        append(&*log, ticks.collect());
        settle(&engine, &*log);
    };
    tick(HOUR - 1);
    assert_eq!(told(&*log, &ids[&4]).len(), 1);
    tick(HOUR);
    // Nobody acts on it for a month.
    tick(31 * 24 * HOUR);
    let states = |n: u64| field(&told(&*log, &ids[&n]), "state").join(" ");
    assert_eq!(states(1), "resolved");
    assert_eq!(told(&*log, &ids[&1])[0]["move"], Value::Null);
    assert_eq!((states(2), states(3)), ("cancelled".into(), "cancelled".into()));
    assert_eq!(states(4), "proposed proposed expired");
    assert_eq!(field(&told(&*log, &ids[&4]), "snoozed_until"), [&*time(now + HOUR), "-", "-"]);
    let levels: Vec<_> = told(&*log, &ids[&5]).iter().map(|c| c["snoozed_level"].as_i64()).collect();
    assert_eq!(levels, [Some(4), None, None], "{}", states(5));
    engine.stop();
}

/// Shopify's word comes back over the webhooks of the transfer that a handler made, late, early or twice.
#[test]
fn a_transfer_that_ships_arrives_or_is_called_off_moves_its_proposal() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 4);
    settle(&engine, &*log);
    let ids = opened(&*log);
    let gid = |n: u64| format!("gid://shopify/InventoryTransfer/292120{n}");
    let made = |n: u64| {
        let id = &ids[&n];
        fact(
            "effect/settled",
            &json!({"decision_id": id, "proposal_id": id, "variant_id": n.to_string(), "route_id": "0", "handler": "transfers", "state": "done", "reference": gid(n)}),
        )
    };
    let webhook = |topic: &'static str, n: u64, lines: Value| {
        let fixture = include_bytes!("../../fixtures/webhooks/inventory_transfers_complete.json");
        let mut body: Value = serde_json::from_slice(fixture).expect("JSON");
        assert_eq!(body["id"], gid(1));
        body["id"] = json!(gid(n));
        if topic.ends_with("updated") {
            body["status"] = json!("IN_PROGRESS");
        }
        body["line_items"] = lines;
        let fact_type = FactType::parse(topic).expect("known");
        let value = minimise(fact_type, body.to_string().as_bytes()).expect("understood");
        NewRecord { value: Some(value), ..fact(topic, &json!({})) }
    };
    append(
        &*log,
        vec![
            // Before its handler has said that it made it.
            webhook("inventory_transfers/ready_to_ship", 1, Value::Null),
            made(1),
            made(2),
            made(3),
            webhook("inventory_transfers/updated", 1, Value::Null),
            webhook("inventory_transfers/complete", 1, Value::Null),
            webhook("inventory_transfers/complete", 1, Value::Null),
            webhook("inventory_transfers/ready_to_ship", 2, Value::Null),
            webhook("inventory_transfers/complete", 2, json!([{"inventory_item_id": 1002, "quantity": 30}])),
            webhook("inventory_transfers/complete", 2, json!([{"inventory_item_id": 1002, "quantity": 30}])),
            // The dispatcher was not sure that it had told.
            made(2),
            webhook("inventory_transfers/cancel", 3, Value::Null),
            // Somebody else's.
            webhook("inventory_transfers/cancel", 4, Value::Null),
        ],
    );
    settle(&engine, &*log);
    let states = |n: u64| field(&told(&*log, &ids[&n]), "state").join(" ");
    assert_eq!(states(1), "ordered in_transit received");
    assert_eq!((states(2), states(3), states(4)), ("ordered ordered".into(), "cancelled".into(), String::new()));
    let received: Vec<_> = told(&*log, &ids[&2]).iter().map(|c| c["received"].as_i64()).collect();
    assert_eq!(received, [Some(0), Some(30)], "what comes twice arrives once, and the rest is still awaited");
    let changes = told(&*log, &ids[&1]);
    assert_eq!(field(&changes, "move"), ["ordered", "in_transit", "received"]);
    assert!(changes.iter().all(|c| (&c["by"], &c["via"]) == (&"shopify".into(), &"transfers".into())), "{changes:#?}");
    engine.stop();
}

fn as_written(record: &Record) -> NewRecord {
    const NAMES: [&str; 2] = ["fact", "version"];
    NewRecord {
        topic: Topic::Facts,
        partition: Some(0),
        key: record.key.as_ref().map(|k| k.as_bytes().to_vec()),
        headers: NAMES.iter().filter_map(|n| Some((*n, record.headers.get(*n)?.as_bytes().to_vec()))).collect(),
        value: Some(record.value.clone()),
    }
}

/// Invariants 3 and 4 of DESIGN §7, for all moves at all times: the engine restarts and its actors die again and again, and still says of
/// each proposal what the plain fold says, once; and the log alone, changes and all, gives the same bytes.
#[test]
fn the_engine_and_the_plain_fold_agree_on_what_becomes_of_proposals() {
    let (mut changes, mut moves) = (0, BTreeMap::new());
    for seed in 1..=4u64 {
        let story = Story::new(seed).goes_on(1_200);
        story.moves.iter().for_each(|(name, n)| *moves.entry(*name).or_insert(0) += n);
        let (facts, expected) = story.told();
        let mut random = SmallRng::seed_from_u64(seed);
        let site = Site::new();
        let log: Arc<dyn EventLog> = embedded_log(site.dir.path(), 1, &site.clock);
        let deadly: HashSet<i64> = (0..8).map(|_| random.random_range(20..facts.len() as i64)).collect();
        let deadly = Arc::new(Mutex::new(deadly));
        let start = || {
            let deadly = deadly.clone();
            let probe = move |_: stockwarden::events::ids::VariantId, offset: i64| {
                let strikes = deadly.lock().expect("not poisoned").remove(&offset);
                assert!(!strikes, "struck once");
            };
            Running::start(log.clone(), site.store(), with_probe(settings("a"), probe))
        };
        let mut engine = start();
        for record in &facts {
            site.clock.0.store(record.append_time_ms, std::sync::atomic::Ordering::Relaxed);
            append(&*log, vec![as_written(record)]);
            if random.random_bool(0.01) {
                engine.stop();
                engine = start();
            }
        }
        settle(&engine, &*log);
        let views: BTreeMap<u64, VariantOutcome> = (1..=VARIANTS)
            .filter_map(|id| engine.variant(SHOP, id, None).ok())
            .map(|v| outcome_of(&serde_json::to_value(v).expect("plain")))
            .collect();
        engine.stop();
        let variants = expected.variants.into_iter().map(|((_, id), v)| (id, v)).collect();
        let batches = read_all(&*log, Topic::Decisions);
        let told: BTreeMap<_, ChangeOutcome> = changes_of(&batches);
        changes += told.len();
        let differences = [
            first_difference("decisions", &expected.decisions, &decided(&batches)),
            first_difference("changes of proposals", &expected.changes, &told),
            first_difference("variants", &variants, &views),
        ];
        if let Some(difference) = differences.into_iter().flatten().next() {
            panic!("seed {seed}: {difference}");
        }
        let records: usize = batches.iter().map(|b| b.len()).sum();
        assert_eq!(records, expected.decisions.len() + expected.changes.len(), "each once");

        let store = site.store();
        let before = snapshots(&*store, 1);
        super::clear(&*store, 0);
        let engine = Running::start(log.clone(), store.clone(), settings("a"));
        engine.wait_live();
        engine.stop();
        assert_eq!(snapshots(&*store, 1), before, "seed {seed}");
        let after: usize = read_all(&*log, Topic::Decisions).iter().map(|b| b.len()).sum();
        assert_eq!(after, records, "replay writes nothing");
    }
    assert!(changes > 400, "{changes} changes");
    assert!(moves.len() == 7 && moves.values().all(|n| *n > 30), "{moves:?}");
}
