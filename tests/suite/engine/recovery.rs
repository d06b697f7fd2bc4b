//! What DESIGN §3 promises of an assignment: from where a partition is folded, what is waited for, what is refused.

use std::sync::Arc;

use sqlx::Connection as _;
use stockwarden::actors::protocol::check;
use stockwarden::domain::snapshot::Seal;
use stockwarden::events::record::{Partition, Topic, partition_of};
use stockwarden::ports::EventLog;
use stockwarden::ports::event_log::Group;
use stockwarden::ports::queries::Queries as _;
use stockwarden::ports::snapshot_store::{Checkpoint, Entity};

use super::harness::*;
use super::protocol::{copies, decided_by_another_version, sold_down};
use super::tapped::{Reads, TappedLog, TappedStore, tapped};
use super::{SHOP, Site, clear, sell_down, snapshots};

fn home() -> Partition {
    partition_of(SHOP.as_bytes(), 3)
}

fn end(log: &dyn EventLog, partition: Partition) -> i64 {
    log.watermarks(Topic::Facts, partition).expect("watermarks").1
}

/// What readiness says of the shards.
fn problem(engine: &Running) -> String {
    let named = engine.queries.readiness().into_iter().find(|(name, _)| *name == "shards");
    named.and_then(|(_, problem)| problem).unwrap_or_default()
}

/// Issue 4, point 2: no query an actor.
#[test]
fn a_recovery_reads_the_snapshots_once_and_each_topic_once_and_asks_for_no_variant() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 60);
    engine.catch_up(&*log);
    engine.stop();
    append(&*log, (1..=60).map(|id| foreign(SHOP, level(id, 8, 20))).collect());
    decided_by_another_version(&*log, &[]);
    drop(log);
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    engine.wait_live();
    assert_eq!(engine.stats.replayed.get(), 60);
    assert_eq!(store.reads(), Reads { of_partitions: vec![0, 1, 2], of_shops: 0, of_variants: 0 });
    let both = |p| [(p, Topic::Facts.default_name()), (p, Topic::Decisions.default_name())];
    let mut expected: Vec<_> = (0..3).flat_map(both).collect();
    expected.sort_unstable();
    assert_eq!(log.opened(), expected);
    engine.stop();
}

/// Three decisions are recorded, nothing is saved, and readers do not come to the decisions.
fn held_back() -> (Site, Arc<TappedLog>, Arc<TappedStore>) {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 3);
    engine.catch_up(&*log);
    engine.stop();
    for partition in 0..3 {
        clear(&*site.store(), partition);
    }
    drop(log);
    let (log, store) = tapped(&site);
    log.hold_decisions(true);
    (site, log, store)
}

/// Of issue 4, the case that matters most: a new owner sees the committed offset before the decisions, which stand behind a
/// transaction that is still open for its reader.
#[test]
fn a_new_owner_waits_for_the_decisions_that_belong_to_the_committed_offset() {
    let (_site, log, store) = held_back();
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    eventually("it looks for the decisions again and again", || log.looked() > 50);
    eventually("it alone recovers still", || problem(&engine) == format!("partition {}: it is recovering", home()));
    assert_eq!((engine.stats.decisions.get(), log.attempts().len()), (0, 0), "nothing is decided meanwhile");
    assert!(store.saves().iter().all(|s| s.partition != home()));
    log.hold_decisions(false);
    engine.wait_live();
    for id in 1..=3 {
        let open = engine.variant(SHOP, id, None).expect("known").open_proposals;
        assert_eq!(open.iter().map(|p| p.quantity).collect::<Vec<_>>(), [Some(54)]);
    }
    engine.stop();
    assert_eq!(decisions(&*log).len(), 3);
}

/// Else a transaction that nobody ends would hold up the stop of the node.
#[test]
fn a_recovery_that_waits_for_decisions_ends_when_its_partition_is_given_up() {
    let (_site, log, store) = held_back();
    let engine = Running::start(log.clone(), store, settings("a"));
    eventually("it looks for the decisions", || log.looked() > 10);
    log.revoke(&[0, 1, 2], false);
    eventually("it looks no more", || {
        let looked = log.looked();
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        log.looked() == looked
    });
    engine.stop();
    log.hold_decisions(false);
    assert_eq!(decisions(&*log).len(), 3);
}

/// The committed offset says what is decided; the checkpoint only says where folding starts.
#[test]
fn facts_before_the_committed_offset_are_folded_silently_and_those_past_it_are_decided() {
    let site = Site::new();
    let log = site.log();
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    sell_down(&*log, 2);
    append(&*log, (1..=2).map(|id| foreign(SHOP, level(id, 70, 15))).collect());
    engine.catch_up(&*log);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 2);
    // Decided by somebody who proposed nothing, and did not save.
    append(&*log, vec![foreign(SHOP, level(1, 5, 20))]);
    decided_by_another_version(&*log, &[]);
    append(&*log, vec![foreign(SHOP, level(2, 5, 21))]);
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    engine.catch_up(&*log);
    assert_eq!(engine.stats.replayed.get(), 1, "folding starts at the checkpoint");
    assert_eq!(engine.variant(SHOP, 1, None).expect("known").available, Some(5));
    engine.stop();
    let of: Vec<_> = decisions(&*log).iter().map(|d| d.variant_id.expect("a variant").0).collect();
    assert_eq!((of.len(), of[2]), (3, 2), "{of:?}");
}

#[test]
fn a_missing_committed_offset_on_a_store_that_is_not_empty_is_told_and_nothing_is_decided() {
    let (old, log) = sold_down();
    let store = old.store();
    let before = snapshots(&*store, 3);
    let (facts, recorded) = (copies(&*log, Topic::Facts), copies(&*log, Topic::Decisions));
    let new = Site::new();
    let log = new.log();
    append(&*log, facts);
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    let told = || (0..3).all(|p| problem(&engine).contains(&format!("partition {p}: the store has a checkpoint at")));
    eventually("it is told of each partition", told);
    let why = problem(&engine);
    assert!(
        why.contains("committed offset is missing") && why.contains(&format!("set it to {} with", end(&*log, home()))),
        "{why}"
    );
    engine.stop();
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [None; 3]);
    assert!(decisions(&*log).is_empty());
    assert_eq!(snapshots(&*store, 3), before);
    // Mended as it was told.
    decided_by_another_version(&*log, &recorded);
    let engine = Running::start(log.clone(), store, settings("a"));
    engine.wait_live();
    assert_eq!((engine.stats.replayed.get(), engine.variant(SHOP, 5, None).expect("known").open_proposals.len()), (0, 1));
    engine.stop();
    assert_eq!(decisions(&*log).len(), 5);
}

#[test]
fn a_checkpoint_past_the_committed_offset_is_told_and_nothing_is_decided() {
    let (site, log) = sold_down();
    let store = site.store();
    let (before, past) = (snapshots(&*store, 3), end(&*log, home()) + 1);
    let epoch = block(store.acquire_epoch(home(), "other")).expect("an epoch");
    block(store.save(home(), epoch, Checkpoint { facts: past, decisions: 0 }, &[])).expect("saved");
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    eventually("it is told", || problem(&engine).contains("is past the consumer group's committed offset"));
    let why = problem(&engine);
    assert!(why.contains(&format!("partition {}", home())) && why.contains(&format!("set it to {past} again")), "{why}");
    append(&*log, vec![foreign(SHOP, level(1, 70, 20)), foreign(SHOP, level(1, 5, 21))]);
    engine.stop();
    assert_eq!((decisions(&*log).len(), snapshots(&*store, 3)), (5, before));
    // Mended as it was told: the first of the two is taken for decided, the second one is.
    decided_by_another_version(&*log, &[]);
    let engine = Running::start(log.clone(), store, settings("a"));
    engine.wait_live();
    engine.stop();
}

/// Where the log no longer begins at its first fact.
#[test]
fn a_log_that_begins_after_what_is_needed_is_refused_with_advice() {
    let at = |facts| Some(Checkpoint { facts, decisions: 0 });
    for (checkpoint, committed, low) in
        [(None, None, 0), (None, None, 7), (None, Some(5), 0), (None, Some(7), 7), (at(5), Some(5), 0), (at(5), Some(9), 5)]
    {
        assert!(check(2, checkpoint, committed, low).is_ok(), "{checkpoint:?} {committed:?} {low}");
    }
    for (checkpoint, committed, low, advice) in [
        (None, Some(9), 7, "Restore the store from a backup"),
        (at(5), Some(9), 7, "Restore the store from a newer backup"),
        (at(5), None, 0, "set it to 5 with"),
        (at(5), Some(4), 0, "set it to 5 again"),
    ] {
        let refused = check(2, checkpoint, committed, low).expect_err("refused");
        assert!(!refused.is_passing() && refused.to_string().contains(advice), "{refused}");
        assert!(refused.to_string().contains("partition 2"), "{refused}");
    }
}

async fn sql(site: &Site, act: impl AsyncFnOnce(&mut sqlx::SqliteConnection)) {
    let url = format!("sqlite://{}", site.dir.path().join("store.db").display());
    let mut raw = sqlx::SqliteConnection::connect(&url).await.expect("opens");
    act(&mut raw).await;
    raw.close().await.expect("closes");
}

/// A snapshot of a version that is not known here, whole and with its right checksum.
#[test]
fn a_snapshot_of_an_unknown_version_is_discarded_counted_and_rebuilt() {
    use futures::TryStreamExt as _;
    let (site, log) = sold_down();
    let before = snapshots(&*site.store(), 3);
    let rows: Vec<_> = block(site.store().load(home()).try_collect()).expect("loads");
    let row = rows.into_iter().find(|r| r.entity == Entity::Variant(3)).expect("saved");
    let seal = Seal { partition: home(), shop: SHOP, entity: "3", offset: row.offset, epoch: row.epoch, version: 99 };
    let checksum = seal.checksum(&row.state);
    block(sql(&site, async |raw| {
        let query = sqlx::query("update snapshot set version = 99, checksum = $1 where entity = 2 and variant_id = 3");
        assert_eq!(query.bind(checksum).execute(raw).await.expect("updates").rows_affected(), 1);
    }));
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    engine.wait_live();
    assert_eq!(engine.stats.snapshots_discarded.get(), 1);
    engine.stop();
    assert_eq!(snapshots(&*site.store(), 3), before);
    assert_eq!(decisions(&*log).len(), 5);
}

#[test]
fn what_people_query_in_sql_is_what_the_actors_say() {
    let (site, log) = sold_down();
    append(&*log, vec![foreign(SHOP, level(4, 70, 20))]);
    let engine = Running::start(log.clone(), site.store(), settings("a"));
    engine.catch_up(&*log);
    let views: Vec<_> = (1..=5).map(|id| engine.variant(SHOP, id, None).expect("known")).collect();
    engine.stop();
    block(sql(&site, async |raw| {
        for view in views {
            let row: (String, String, i64, String, Option<String>) = sqlx::query_as(
                "select sku, vendor, available, risk, open_proposal from snapshot where entity = 2 and variant_id = $1",
            )
            .bind(i64::try_from(view.variant_id.0).expect("small"))
            .fetch_one(&mut *raw)
            .await
            .expect("a row");
            let open = view.open_proposals.first().map(|p| p.proposal_id.to_string());
            let risk = view.risk.level.as_str().to_owned();
            assert_eq!(row, (view.sku.expect("one"), view.vendor.expect("one"), view.available.expect("known"), risk, open));
            assert_eq!(row.4.is_none(), view.variant_id.0 == 4);
        }
    }));
}
