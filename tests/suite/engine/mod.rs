//! The engine over the embedded log and SQLite: facts in, decisions out, restart, rebuild, quarantine.

mod fairness;
pub mod harness;
mod lifecycle;
mod ownership;
mod passivation;
mod protocol;
mod recovery;
mod residents;
mod semantics;
mod standby;
mod tapped;
mod upgrade;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::*;
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::domain::views::Source;
use stockwarden::events::record::{Partition, Topic};
use stockwarden::ports::{EventLog, SnapshotStore};

struct Site {
    dir: tempfile::TempDir,
    clock: TestClock,
}

const SHOP: &str = "a.myshopify.com";

impl Site {
    fn new() -> Site {
        Site { dir: tempfile::tempdir().expect("a folder"), clock: TestClock::at(1_793_500_000_000) }
    }

    fn log(&self) -> Arc<dyn EventLog> {
        embedded_log(self.dir.path(), 3, &self.clock)
    }

    fn store(&self) -> Arc<dyn SnapshotStore> {
        let path = self.dir.path().join("store.db");
        let url = format!("sqlite://{}", path.display());
        Arc::new(block(SqliteStore::connect(&url, Duration::from_secs(20))).expect("the store opens"))
    }
}

fn sell_down(log: &dyn EventLog, variants: u64) {
    append(log, rules(1, LOW, log.partitions()));
    for id in 1..=variants {
        append(log, vec![foreign(SHOP, product(id))]);
    }
    for (second, available) in [20, 15, 11, 10, 9].into_iter().enumerate() {
        append(log, (1..=variants).map(|id| foreign(SHOP, level(id, available, second as u32))).collect());
    }
}

#[test]
fn a_crossing_becomes_one_decision_with_its_causing_fact() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 3);
    engine.catch_up(&*log);
    let view = engine.variant(SHOP, 2, None).expect("known");
    assert_eq!((view.available, view.sku.as_deref(), view.open_proposals.len()), (Some(9), Some("SKU-2"), 1));
    // Eleven units in five seconds: it sells out at once.
    assert_eq!(view.risk.level.as_str(), "critical");
    assert_eq!(view.provenance.source, Source::Owner);
    eventually("three decisions are committed", || decisions(&*log).len() == 3);
    for d in decisions(&*log) {
        assert_eq!((d.available, d.quantity, d.rule_id.as_str()), (10, Some(54), "low"));
    }
    engine.stop();
}

#[test]
fn a_restart_goes_on_from_its_snapshots_and_decides_nothing_twice() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 20);
    engine.catch_up(&*log);
    eventually("decisions", || decisions(&*log).len() == 20);
    let before = engine.variant(SHOP, 7, None).expect("known");
    engine.stop();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    engine.wait_live();
    assert_eq!(engine.stats.replayed.get(), 0, "a clean stop leaves nothing to fold");
    let after = engine.variant(SHOP, 7, None).expect("known");
    assert_eq!((after.levels, after.open_proposals), (before.levels, before.open_proposals));
    append(&*log, (1..=20).map(|id| foreign(SHOP, level(id, 8, 30))).collect());
    engine.catch_up(&*log);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 20);
}

/// Invariant 3 of DESIGN §7.
#[test]
fn without_its_snapshots_the_log_gives_the_same_bytes() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 20);
    engine.catch_up(&*log);
    engine.stop();
    let store = site.store();
    let before = snapshots(&*store, log.partitions());
    assert!(before.len() > 20);
    for partition in 0..log.partitions() {
        clear(&*store, partition);
    }
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    engine.wait_live();
    assert!(engine.stats.replayed.get() >= 120);
    engine.stop();
    assert_eq!(snapshots(&*store, log.partitions()), before);
    assert_eq!(decisions(&*log).len(), 20);
}

/// (partition, shop, entity, offset, state)
type StoredState = (i32, String, String, i64, Vec<u8>);

/// Removes what a node that has stopped has saved.
fn clear(store: &dyn SnapshotStore, partition: Partition) {
    let epoch = block(store.acquire_epoch(partition, "nobody")).expect("an epoch");
    block(store.clear(partition, epoch)).expect("cleared");
}

fn snapshots(store: &dyn SnapshotStore, partitions: i32) -> Vec<StoredState> {
    use futures::StreamExt as _;
    let mut all = Vec::new();
    for partition in 0..partitions {
        let rows: Vec<_> = block(store.load(partition).collect());
        all.extend(rows.into_iter().map(|r| {
            let r = r.expect("readable");
            (partition, r.shop, format!("{:?}", r.entity), r.offset, r.state)
        }));
    }
    all.sort();
    all
}

#[test]
fn a_variant_that_dies_is_rebuilt_and_a_fact_that_kills_again_quarantines_it() {
    let site = Site::new();
    let log = site.log();
    let strikes = Arc::new(AtomicU32::new(0));
    let count = strikes.clone();
    let poison = append(&*log, {
        append(&*log, rules(1, LOW, 3));
        append(&*log, vec![foreign(SHOP, product(1)), foreign(SHOP, product(2))]);
        append(&*log, vec![foreign(SHOP, level(1, 20, 0)), foreign(SHOP, level(2, 20, 0))]);
        vec![foreign(SHOP, level(1, 9, 1))]
    })[0];
    append(&*log, vec![foreign(SHOP, level(2, 9, 2)), foreign(SHOP, level(1, 5, 3))]);
    let probe = move |variant: stockwarden::events::ids::VariantId, offset: i64| {
        if variant.0 == 1 && offset == poison.offset {
            count.fetch_add(1, Ordering::Relaxed);
            panic!("struck");
        }
    };
    let engine = Running::start(log.clone(), site.store(), with_probe(settings("a"), probe));
    engine.catch_up(&*log);
    assert_eq!(strikes.load(Ordering::Relaxed), 3);
    let view = engine.variant(SHOP, 1, None).expect("known");
    assert_eq!((view.quarantined.as_deref(), view.available), (Some("struck"), Some(20)));
    assert_eq!(engine.variant(SHOP, 2, None).expect("known").available, Some(9));
    engine.stop();
    let letters: Vec<serde_json::Value> = read_all(&*log, Topic::DeadLetters)
        .iter()
        .flat_map(|b| b.iter().map(|r| serde_json::from_slice(r.value.expect("a value")).expect("JSON")).collect::<Vec<_>>())
        .collect();
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0]["reason"], &letters[0]["origin"]["offset"]), (&"poison".into(), &poison.offset.into()));
    assert_eq!(decisions(&*log).len(), 1, "the other variant decided once through all rebuilds");

    // Replay merges the quarantine; the fact kills nobody any more.
    let store = site.store();
    for partition in 0..3 {
        clear(&*store, partition);
    }
    let engine = Running::start(log.clone(), store, settings("a"));
    engine.wait_live();
    let view = engine.variant(SHOP, 1, None).expect("known");
    assert_eq!((view.quarantined.as_deref(), view.available), (Some("struck"), Some(20)));
    engine.stop();
}

/// Invariant 8 of DESIGN §7.
#[test]
fn poison_goes_to_dead_letters_with_its_reason_and_the_shard_goes_on() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    let bad = ["", "{", "[]", "{\"id\":1}", r#"{"inventory_item_id":1,"location_id":2,"available":"x"}"#];
    for value in bad {
        append(&*log, vec![foreign(SHOP, value)]);
    }
    append(&*log, vec![foreign(SHOP, product(1)), foreign(SHOP, level(1, 7, 1))]);
    engine.catch_up(&*log);
    assert_eq!(engine.variant(SHOP, 1, None).expect("known").available, Some(7));
    engine.stop();
    let mut reasons: Vec<String> = Vec::new();
    for batch in read_all(&*log, Topic::DeadLetters) {
        for record in batch.iter() {
            let letter: serde_json::Value = serde_json::from_slice(record.value.expect("a value")).expect("JSON");
            reasons.push(letter["reason"].as_str().expect("a code").to_owned());
        }
    }
    assert_eq!(reasons, ["empty_record", "invalid_json", "wrong_type", "unknown_shape", "wrong_type"]);
}
