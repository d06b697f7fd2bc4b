//! What DESIGN §2 and §3 promise of replay: decisions are read and not recomputed, time is the log's, damage is healed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};

use futures::StreamExt as _;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sqlx::Connection as _;
use stockwarden::domain::shard::ShardState;
use stockwarden::domain::shop::ShopState;
use stockwarden::domain::snapshot::{self, Seal};
use stockwarden::domain::variant::VariantState;
use stockwarden::events::decision::{RECORD_DECISION, RECORD_HEADER};
use stockwarden::events::record::{NewRecord, Offset, Partition, RecordBatch, Topic};
use stockwarden::ports::EventLog;
use stockwarden::ports::event_log::{Assigned, Group, GroupSink, LogError};
use stockwarden::ports::snapshot_store::{Entity, Snapshot};

use super::harness::*;
use super::{SHOP, Site, clear, sell_down, snapshots};

const DAY: i64 = 86_400_000;

/// Tells when all partitions are assigned; takes no facts.
#[derive(Clone, Default)]
struct Idle(Arc<(Mutex<usize>, Condvar)>);

impl GroupSink for Idle {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        *self.0.0.lock().expect("lock") += partitions.len();
        self.0.1.notify_all();
    }
    fn revoked(&mut self, _: Vec<Partition>, _: bool) {}
    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        Err(batch)
    }
    fn fault(&mut self, _: LogError) {}
}

/// Writes decisions with the offsets up to which they are decided, as an engine of another version would have.
pub fn decided_by_another_version(log: &dyn EventLog, decisions: &[NewRecord]) {
    let idle = Idle::default();
    let member = log.join(Group::Shards, Topic::Facts, Box::new(idle.clone())).expect("joins");
    let all = log.partitions() as usize;
    let (assigned, waited) = idle.0.1.wait_timeout_while(idle.0.0.lock().expect("lock"), PATIENCE, |n| *n < all).expect("lock");
    assert!(!waited.timed_out());
    drop(assigned);
    let ends: Vec<(Partition, Offset)> =
        (0..log.partitions()).map(|p| (p, log.watermarks(Topic::Facts, p).expect("watermarks").1)).collect();
    log.writer(member.clone()).expect("writer").commit(decisions, &ends).expect("commits");
    member.leave();
}

/// All of a topic, as it would be written again.
pub fn copies(log: &dyn EventLog, topic: Topic) -> Vec<NewRecord> {
    const NAMES: [&str; 4] = ["fact", "version", "source", RECORD_HEADER];
    let copy = |partition: Partition, r: &stockwarden::events::record::RecordRef<'_>| NewRecord {
        topic,
        partition: Some(partition),
        key: r.key.map(<[u8]>::to_vec),
        headers: NAMES.iter().filter_map(|n| r.headers.get(n).map(|v| (*n, v.to_vec()))).collect(),
        value: r.value.map(<[u8]>::to_vec),
    };
    let batches = read_all(log, topic);
    batches.iter().flat_map(|b| b.iter().map(|r| copy(b.partition, &r)).collect::<Vec<_>>()).collect()
}

/// The decision logic is another one between the runs: it would propose 54 for each of the variants. What is recorded says 99
/// for the first and nothing for the second, so that is what was decided (DESIGN §2).
#[test]
fn recorded_decisions_are_read_and_never_recomputed() {
    let first = Site::new();
    let log = first.log();
    let engine = Running::start(log.clone(), first.store(), settings("a"));
    sell_down(&*log, 3);
    engine.catch_up(&*log);
    eventually("three decisions are committed", || decisions(&*log).len() == 3);
    engine.stop();

    let mut recorded = copies(&*log, Topic::Decisions);
    recorded.retain_mut(|r| {
        assert!(r.headers.contains(&(RECORD_HEADER, RECORD_DECISION.as_bytes().to_vec())));
        let mut value: Value = serde_json::from_slice(r.value.as_ref().expect("a value")).expect("JSON");
        assert_eq!(value["quantity"], 54);
        if value["variant_id"] == "1" {
            value["quantity"] = 99.into();
            r.value = Some(serde_json::to_vec(&value).expect("plain"));
        }
        value["variant_id"] != "2"
    });
    assert_eq!(recorded.len(), 2);

    let facts = copies(&*log, Topic::Facts);
    let second = Site::new();
    let log = second.log();
    append(&*log, facts);
    decided_by_another_version(&*log, &recorded);
    let engine = Running::start(log.clone(), second.store(), settings("a"));
    engine.wait_live();
    assert!(engine.stats.replayed.get() > 0);
    let quantities = |id| -> Vec<Option<i64>> {
        engine.variant(SHOP, id, None).expect("known").open_proposals.iter().map(|p| p.quantity).collect()
    };
    assert_eq!([quantities(1), quantities(2), quantities(3)], [vec![Some(99)], vec![], vec![Some(54)]]);
    // The next crossing is decided by the logic of now.
    append(&*log, (1..=3).map(|id| foreign(SHOP, level(id, 70, 60))).collect());
    append(&*log, (1..=3).map(|id| foreign(SHOP, level(id, 6, 61))).collect());
    engine.catch_up(&*log);
    eventually("three more", || decisions(&*log).len() == 5);
    assert_eq!([quantities(1), quantities(2), quantities(3)], [[Some(54)], [Some(54)], [Some(54)]]);
    engine.stop();
}

/// Ticks go through the log, so that state is the same whatever clock the replaying node has (DESIGN §10).
#[test]
fn replays_with_different_wall_clocks_give_the_same_bytes() {
    let site = Site::new();
    let log = site.log();
    let mut ticking = settings("a");
    ticking.tick_interval = std::time::Duration::from_millis(20);
    ticking.clock = site.clock.reader();
    let engine = Running::start(log.clone(), site.store(), ticking);
    sell_down(&*log, 5);
    engine.catch_up(&*log);
    let open = |id| engine.variant(SHOP, id, None).expect("known").open_proposals.len();
    assert_eq!(open(4), 1);
    // Nobody acts on the proposals for a month: a tick lets them expire.
    site.clock.0.fetch_add(31 * DAY, Ordering::Relaxed);
    eventually("the proposals have expired", || (1..=5).all(|id| open(id) == 0));
    engine.stop();
    // The last tick may have come too late for it.
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    engine.wait_live();
    engine.catch_up(&*log);
    engine.stop();
    let store = site.store();
    let before = snapshots(&*store, log.partitions());
    for years in [-30, 0, 30] {
        for partition in 0..log.partitions() {
            clear(&*store, partition);
        }
        let mut elsewhere = settings("a");
        elsewhere.clock = TestClock::at(site.clock.0.load(Ordering::Relaxed) + years * 365 * DAY).reader();
        let engine = Running::start(log.clone(), store.clone(), elsewhere);
        engine.wait_live();
        engine.stop();
        assert_eq!(snapshots(&*store, log.partitions()), before, "{years} years");
    }
}

/// A rule that selects by SKU takes a variant from the very fact that gives it the SKU.
#[test]
fn rules_that_select_by_sku_see_the_sku_of_the_fact() {
    const BY_SKU: &str = r#"
[[rule]]
id = "ours"
select = { sku = "I-*" }
scope = "shop"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "fixed", units = 5 }
cool_down = "0s"
initial = "propose"
"#;
    let product = |id: u64, sku: &str, quantity: i64, second: u32| {
        let item = id + 1000;
        foreign(
            SHOP,
            format!(
                r#"{{"id":{id},"title":"P","updated_at":"2026-11-01T01:00:{second:02}Z","variants":[{{"id":{id},"inventory_item_id":{item},"sku":"{sku}","title":"T","inventory_quantity":{quantity}}}]}}"#
            ),
        )
    };
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    append(&*log, rules(1, BY_SKU, log.partitions()));
    append(&*log, vec![product(1, "I-1", 3, 1), product(2, "I-2", 50, 1), product(3, "X-3", 50, 1)]);
    append(&*log, vec![product(2, "X-2", 3, 2), product(3, "I-3", 3, 2)]);
    engine.catch_up(&*log);
    let open = |id| engine.variant(SHOP, id, None).expect("known").open_proposals.len();
    assert_eq!([open(1), open(2), open(3)], [1, 0, 1]);
    engine.stop();
}

/// Five variants were sold down, and the engine has stopped cleanly.
pub fn sold_down() -> (Site, Arc<dyn EventLog>) {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 5);
    engine.catch_up(&*log);
    engine.stop();
    (site, log)
}

fn decodes(partition: Partition, row: &Snapshot) -> bool {
    let entity = match row.entity {
        Entity::Shard => "shard".to_owned(),
        Entity::Shop => "shop".to_owned(),
        Entity::Variant(id) => id.to_string(),
    };
    let seal = Seal { partition, shop: &row.shop, entity: &entity, offset: row.offset, epoch: row.epoch, version: row.version };
    match row.entity {
        Entity::Shard => snapshot::decode::<ShardState>(&seal, row.checksum, &row.state).is_ok(),
        Entity::Shop => snapshot::decode::<ShopState>(&seal, row.checksum, &row.state).is_ok(),
        Entity::Variant(_) => snapshot::decode::<VariantState>(&seal, row.checksum, &row.state).is_ok(),
    }
}

#[test]
fn every_flipped_byte_of_a_snapshot_is_noticed() {
    let (site, log) = sold_down();
    let store = site.store();
    let mut rows: Vec<(Partition, Snapshot)> = Vec::new();
    for partition in 0..log.partitions() {
        let loaded: Vec<_> = block(store.load(partition).collect());
        rows.extend(loaded.into_iter().map(|r| (partition, r.expect("readable"))));
    }
    assert!(rows.len() >= 7 && rows.iter().all(|(p, row)| decodes(*p, row)));
    // Every byte of one of each kind, in every bit.
    for (partition, row) in &rows {
        for at in 0..row.state.len() {
            for bit in 0..8 {
                let mut bent = row.clone();
                bent.state[at] ^= 1 << bit;
                assert!(!decodes(*partition, &bent), "{:?}, byte {at}, bit {bit}", row.entity);
            }
        }
        let mut others = vec![row.clone(); 4];
        others[0].offset += 1;
        others[1].epoch += 1;
        others[2].version += 1;
        others[3].shop.push('x');
        assert!(others.iter().all(|bent| !decodes(*partition, bent)), "{:?}", row.entity);
        assert!(!decodes(partition + 1, row));
    }
    let mut random = SmallRng::seed_from_u64(11);
    for _ in 0..10_000 {
        let (partition, row) = &rows[random.random_range(0..rows.len())];
        let mut bent = row.clone();
        for _ in 0..random.random_range(1..5) {
            let at = random.random_range(0..bent.state.len());
            bent.state[at] ^= random.random_range(1..=255u8);
        }
        assert!(bent.state == row.state || !decodes(*partition, &bent));
    }
}

/// Whichever row is damaged, the partition is rebuilt from the log to the same bytes.
#[test]
fn a_damaged_snapshot_is_discarded_and_rebuilt() {
    let (site, log) = sold_down();
    let before = snapshots(&*site.store(), log.partitions());
    let url = format!("sqlite://{}", site.dir.path().join("store.db").display());
    for damaged in ["entity = 0", "entity = 1", "entity = 2 and variant_id = 3"] {
        let changed = block(async {
            let mut raw = sqlx::SqliteConnection::connect(&url).await.expect("opens");
            let query = format!(
                "update snapshot set state = cast(substr(state, 1, 3) || x'ff' || substr(state, 5) as blob) where {damaged}"
            );
            let done = sqlx::query(sqlx::AssertSqlSafe(query)).execute(&mut raw).await.expect("updates");
            raw.close().await.expect("closes");
            done.rows_affected()
        });
        assert!(changed > 0, "{damaged}");
        let engine = Running::start(log.clone(), site.store(), settings("a"));
        engine.wait_live();
        assert!(engine.stats.snapshots_discarded.get() > 0, "{damaged}");
        engine.stop();
        assert_eq!(snapshots(&*site.store(), log.partitions()), before, "{damaged}");
    }
    assert_eq!(decisions(&*log).len(), 5);
}
