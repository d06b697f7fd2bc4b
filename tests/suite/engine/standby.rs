//! Answers without an owner (DESIGN §3): each says from what it is made and how old that is.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use sqlx::Connection as _;
use stockwarden::actors::cluster::{ClusterQueries, Parts};
use stockwarden::actors::queries::EngineQueries;
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::domain::views::{ShopView, Source, VariantView};
use stockwarden::events::ids::VariantId;
use stockwarden::events::record::{Position, Topic, partition_of};
use stockwarden::ports::peers::{Call, PeerError};
use stockwarden::ports::queries::{Answer, Queries as _, QueryError, Question};
use stockwarden::ports::snapshot_store::Checkpoint;
use stockwarden::ports::{EventLog, Peers};

use super::harness::*;
use super::protocol::sold_down;
use super::tapped::TappedLog;
use super::{SHOP, Site};

struct Nobody;

impl Peers for Nobody {
    fn shops(&self, call: Call) -> BoxFuture<'_, Result<Vec<ShopView>, PeerError>> {
        panic!("no node has said where it is: {call:?}")
    }
    fn find<'a>(
        &'a self,
        call: Call,
        _: &'a str,
        _: &'a Question,
        _: Option<Position>,
    ) -> BoxFuture<'a, Result<Answer, PeerError>> {
        panic!("no node has said where it is: {call:?}")
    }
}

fn url(site: &Site) -> String {
    format!("sqlite://{}", site.dir.path().join("store.db").display())
}

/// The queries of a node `b`.
fn queries(site: &Site, log: Arc<dyn EventLog>, engine: Option<Arc<EngineQueries>>) -> ClusterQueries {
    let store = Arc::new(block(SqliteStore::connect(&url(site), PATIENCE)).expect("the store opens"));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    ClusterQueries::new(Parts {
        engine,
        log,
        snapshots: store.clone(),
        owners: store,
        peers: Arc::new(Nobody),
        node: "b".to_owned(),
        clock: Arc::new(now),
        runtime: block(async { tokio::runtime::Handle::current() }),
    })
}

fn variant(queries: &ClusterQueries, after: Option<Position>, wait: Duration) -> Result<VariantView, QueryError> {
    block(queries.variant(SHOP, VariantId(1), after, wait))
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn without_an_owner_snapshot_and_tail_answer_or_the_snapshot_alone_each_with_its_age() {
    let (site, log) = sold_down();
    let home = partition_of(SHOP.as_bytes(), 3);
    let (_, saved) = log.watermarks(Topic::Facts, home).expect("watermarks");
    // The last checkpoint was written an hour ago.
    block(async {
        let mut raw = sqlx::SqliteConnection::connect(&url(&site)).await.expect("opens");
        let older = sqlx::query("update partition_owner set saved_at = saved_at - 3600000000").execute(&mut raw).await;
        assert_eq!(older.expect("updates").rows_affected(), 3);
        raw.close().await.expect("closes");
    });
    let tail = append(&*log, vec![foreign(SHOP, level(1, 4, 30))])[0];
    let log = TappedLog::new(log);
    let whole = queries(&site, log.clone(), None);
    let view = variant(&whole, Some(tail), PATIENCE).expect("answered");
    let says = &view.provenance;
    assert_eq!((view.available, says.source, says.offset), (Some(4), Source::SnapshotTail, tail.offset));
    assert_eq!((says.partition, says.epoch, says.node.as_str()), (home, 1, "b"));
    assert!((0..HOUR_MS).contains(&says.staleness_ms), "the log was read just now: {says:?}");

    log.be_away();
    let alone = queries(&site, log, None);
    let view = variant(&alone, None, PATIENCE).expect("answered");
    let says = &view.provenance;
    assert_eq!((view.available, says.source, says.offset), (Some(9), Source::Snapshot, saved - 1));
    assert!((HOUR_MS..2 * HOUR_MS).contains(&says.staleness_ms), "{says:?}");
    assert_eq!((says.partition, says.epoch, says.node.as_str()), (home, 1, "b"));
    // What is not in the snapshot is waited for, and then said not to be there yet.
    let refused = variant(&alone, Some(tail), Duration::from_millis(200)).expect_err("too early");
    assert!(matches!(refused, QueryError::Behind { after, .. } if after == tail), "{refused}");
}

#[test]
fn the_owner_says_how_far_it_has_come_under_which_epoch() {
    let (site, log) = sold_down();
    let engine = Running::start(log.clone(), site.store(), settings("b"));
    engine.wait_live();
    let queries = queries(&site, log.clone(), Some(engine.queries.clone()));
    let at = append(&*log, vec![foreign(SHOP, level(1, 30, 30))])[0];
    let says = variant(&queries, Some(at), PATIENCE).expect("answered").provenance;
    assert_eq!((says.source, says.partition, says.offset), (Source::Owner, at.partition, at.offset));
    assert_eq!((says.epoch, says.node.as_str(), says.staleness_ms), (2, "b", 0));
    engine.stop();
}

#[test]
fn after_a_position_the_owner_waits_until_it_is_applied_or_says_that_it_is_not() {
    let (site, log) = sold_down();
    let (gate, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let holding = move |_, _| {
        let _ = held.lock().expect("lock").recv_timeout(PATIENCE);
    };
    let engine = Running::start(log.clone(), site.store(), with_probe(settings("b"), holding));
    engine.wait_live();
    let at = append(&*log, vec![foreign(SHOP, level(1, 30, 30))])[0];
    let soon = engine.block(engine.queries.variant(SHOP, VariantId(1), Some(at), Duration::from_millis(200)));
    assert!(matches!(soon, Err(QueryError::Behind { after, .. }) if after == at), "{soon:?}");
    drop(gate);
    assert_eq!(engine.variant(SHOP, 1, Some(at)).expect("answered").available, Some(30));
    engine.stop();
}

#[test]
fn a_partition_that_stays_read_only_is_answered_from_what_is_stored() {
    let (site, log) = sold_down();
    let home = partition_of(SHOP.as_bytes(), 3);
    let past = log.watermarks(Topic::Facts, home).expect("watermarks").1 + 1;
    let store = site.store();
    let epoch = block(store.acquire_epoch(home, "other")).expect("an epoch");
    block(store.save(home, epoch, Checkpoint { facts: past, decisions: 0 }, &[])).expect("saved");
    let engine = Running::start(log.clone(), store, settings("b"));
    let read_only = || engine.queries.readiness().iter().any(|(_, p)| p.as_ref().is_some_and(|p| p.contains("set it to")));
    eventually("it is read-only", read_only);
    let view = variant(&queries(&site, log, Some(engine.queries.clone())), None, PATIENCE).expect("answered");
    assert_eq!((view.available, view.open_proposals.len(), view.provenance.source), (Some(9), 1, Source::Snapshot));
    engine.stop();
}
