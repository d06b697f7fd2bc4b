//! Contract of the port snapshot_store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::adapters::postgres::PostgresStore;
use stockwarden::ports::snapshot_store::{Checkpoint, Columns, Entity, Epoch, Snapshot, StoreError};

use crate::support::stores::{Site, Store, over_every_store};

over_every_store!(
    epochs_are_distinct_and_grow_under_twenty_concurrent_acquirers,
    a_snapshot_reads_back_as_saved_with_ids_beyond_two_to_the_fifty_third,
    what_people_query_stands_beside_the_state,
    an_old_owner_is_fenced_and_writes_nothing,
    an_owner_that_never_was_is_fenced,
    a_failed_save_leaves_neither_snapshots_nor_checkpoint,
    a_checkpoint_never_goes_backwards,
    the_newer_snapshot_wins_as_in_a_plain_model,
    clearing_removes_one_partition_and_keeps_its_epochs,
    an_old_owner_removes_nothing_of_the_new_one,
    a_shop_is_loaded_alone,
    variants_of_several_shops_are_loaded_in_one_read,
    ten_thousand_of_a_hundred_thousand_are_read_back_without_reading_all,
    a_store_keeps_its_id,
    a_store_of_a_newer_schema_is_refused_with_advice,
    a_store_of_another_build_is_refused,
    a_probe_answers,
    a_load_that_is_dropped_halfway_leaves_the_store_usable,
    more_loads_at_once_than_connections_all_end,
    saving_and_loading_a_hundred_thousand_rows,
);

const START: Checkpoint = Checkpoint { facts: 0, decisions: 0 };

fn snapshot(shop: &str, entity: Entity, offset: i64, epoch: Epoch) -> Snapshot {
    Snapshot {
        shop: shop.into(),
        entity,
        offset,
        epoch,
        version: 3,
        checksum: offset.wrapping_mul(-7_046_029_254_386_353_131),
        state: format!("{offset}/{epoch}").into_bytes(),
        columns: Columns::default(),
    }
}

async fn load(store: &dyn Store, partition: i32) -> Vec<Snapshot> {
    let mut all: Vec<Snapshot> = store.load(partition).try_collect().await.expect("load");
    all.sort_by(|a, b| (&a.shop, &a.entity).cmp(&(&b.shop, &b.entity)));
    all
}

async fn epochs_are_distinct_and_grow_under_twenty_concurrent_acquirers(site: &Site) {
    let nodes = [site.node().await, site.node().await];
    let calls = (0..20).map(|i| {
        let node = nodes[i % 2].clone();
        tokio::spawn(async move { node.acquire_epoch(3, &format!("node-{i}")).await.expect("epoch") })
    });
    let mut epochs: Vec<Epoch> = futures::future::join_all(calls).await.into_iter().map(|e| e.expect("task")).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 20);
    let next = nodes[0].acquire_epoch(3, "late").await.expect("epoch");
    assert!(next > epochs[19]);
    let other = nodes[0].acquire_epoch(4, "late").await.expect("epoch");
    assert!(other < next, "partitions count apart");
}

async fn a_snapshot_reads_back_as_saved_with_ids_beyond_two_to_the_fifty_third(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let mut all = vec![
        Snapshot { version: i16::MAX, checksum: i64::MIN, ..snapshot("", Entity::Shard, 5, epoch) },
        Snapshot { state: vec![0xA5; 300_000], ..snapshot("a.example", Entity::Shop, 6, epoch) },
        Snapshot { state: vec![], ..snapshot("a.example", Entity::Variant(0), 0, epoch) },
        snapshot("a.example", Entity::Variant((1 << 53) + 1), 8, epoch),
        snapshot("a.example", Entity::Variant((1 << 53) + 2), 9, epoch),
        snapshot("a.example", Entity::Variant(u64::MAX), i64::MAX, epoch),
        snapshot("Ä'\"\\ü", Entity::Shop, 10, epoch),
    ];
    store.save(0, epoch, START, &all).await.expect("save");
    all.sort_by(|a, b| (&a.shop, &a.entity).cmp(&(&b.shop, &b.entity)));
    assert_eq!(load(&*site.node().await, 0).await, all);
    assert!(load(&*store, 1).await.is_empty(), "another partition");
}

async fn what_people_query_stands_beside_the_state(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let columns = Columns {
        sku: Some("SKU\0-1".into()),
        vendor: Some("Ver'dor".into()),
        available: Some(-4),
        risk: Some("low"),
        open_proposal: Some(uuid::Uuid::from_u128(0x1234)),
    };
    let with = Snapshot { columns, ..snapshot("a.example", Entity::Variant(7), 1, epoch) };
    let bare = snapshot("a.example", Entity::Variant(8), 1, epoch);
    store.save(0, epoch, START, &[with, bare]).await.expect("a NUL in a SKU stops no save");
    let row = site
        .ask(
            "select sku || '|' || vendor || '|' || cast(available as text) || '|' || risk || '|' || \
             cast(open_proposal as text) from snapshot where variant_id = 7",
        )
        .await;
    assert_eq!(row.as_deref(), Some("SKU\u{fffd}-1|Ver'dor|-4|low|00000000-0000-0000-0000-000000001234"));
    assert_eq!(site.ask("select sku from snapshot where variant_id = 8").await, None);
}

async fn an_old_owner_is_fenced_and_writes_nothing(site: &Site) {
    // DESIGN §7.5
    let (old, new) = (site.node().await, site.node().await);
    let before = old.acquire_epoch(2, "old").await.expect("epoch");
    let after = new.acquire_epoch(2, "new").await.expect("epoch");
    let refused = old
        .save(2, before, Checkpoint { facts: 9, decisions: 9 }, &[snapshot("a", Entity::Shop, 1, before)])
        .await
        .expect_err("fenced");
    let StoreError::Fenced { partition: 2, ours, current } = refused else { panic!("{refused}") };
    assert_eq!((ours, current), (before, after));
    assert_eq!(new.checkpoint(2).await.expect("read"), None);
    assert!(load(&*new, 2).await.is_empty());
    new.save(2, after, START, &[snapshot("a", Entity::Shop, 1, after)]).await.expect("the new owner writes");
}

async fn an_owner_that_never_was_is_fenced(site: &Site) {
    let store = site.node().await;
    for epoch in [0, 1] {
        let refused = store.save(2, epoch, START, &[]).await.expect_err("fenced");
        assert!(matches!(refused, StoreError::Fenced { current: 0, .. }), "{refused}");
    }
    let epoch = store.acquire_epoch(2, "a").await.expect("epoch");
    let refused = store.save(2, epoch + 1, START, &[]).await.expect_err("an epoch from the future");
    assert!(matches!(refused, StoreError::Fenced { .. }), "{refused}");
}

async fn a_failed_save_leaves_neither_snapshots_nor_checkpoint(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    // The last statement of a save fails: what came before it in the transaction must go too.
    site.sql("alter table partition_owner rename column decisions_offset to moved").await;
    let rows: Vec<_> = (0..300).map(|i| snapshot("a", Entity::Variant(i), 1, epoch)).collect();
    let failed = store.save(0, epoch, Checkpoint { facts: 5, decisions: 5 }, &rows).await.expect_err("no such column");
    assert!(matches!(failed, StoreError::Failed { .. }), "{failed}");
    site.sql("alter table partition_owner rename column moved to decisions_offset").await;
    assert!(load(&*store, 0).await.is_empty());
    assert_eq!(store.checkpoint(0).await.expect("read"), None);
    store.save(0, epoch, Checkpoint { facts: 5, decisions: 5 }, &rows).await.expect("the store works on");
    assert_eq!(load(&*store, 0).await.len(), 300);
}

async fn a_checkpoint_never_goes_backwards(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    assert_eq!(store.checkpoint(0).await.expect("read"), None);
    for (saved, kept) in [((10, 4), (10, 4)), ((7, 3), (10, 4)), ((12, 4), (12, 4)), ((12, 6), (12, 6)), ((20, 5), (20, 6))] {
        let rows = [snapshot("a", Entity::Shop, saved.0, epoch)];
        store.save(0, epoch, Checkpoint { facts: saved.0, decisions: saved.1 }, &rows).await.expect("save");
        let got = store.checkpoint(0).await.expect("read").expect("a checkpoint");
        assert_eq!((got.facts, got.decisions), kept, "after {saved:?}");
    }
    // The snapshots of a save with an older checkpoint are still written.
    let late = [snapshot("b", Entity::Shop, 1, epoch)];
    store.save(0, epoch, START, &late).await.expect("save");
    assert_eq!(load(&*store, 0).await.len(), 2);
}

/// PITFALLS 12, word for word.
fn model(saves: &[Vec<Snapshot>]) -> HashMap<(String, Entity), Snapshot> {
    let mut kept: HashMap<(String, Entity), Snapshot> = HashMap::new();
    for new in saves.iter().flatten() {
        let old = kept.get(&(new.shop.clone(), new.entity.clone()));
        if old.is_none_or(|old| new.offset > old.offset && new.epoch >= old.epoch) {
            kept.insert((new.shop.clone(), new.entity.clone()), new.clone());
        }
    }
    kept
}

async fn the_newer_snapshot_wins_as_in_a_plain_model(site: &Site) {
    let store = site.node().await;
    let entity = prop_oneof![
        Just(Entity::Shard),
        Just(Entity::Shop),
        (0..3u64).prop_map(Entity::Variant),
        (0..3u64).prop_map(|n| Entity::Variant(u64::MAX - n)),
    ];
    let one = (prop_oneof![Just("a"), Just("b")], entity, 0..6i64, 0..4i64).prop_map(|(s, e, o, ep)| snapshot(s, e, o, ep));
    let saves = prop::collection::vec(prop::collection::vec(one, 0..12), 1..6);
    let mut runner = TestRunner::default();
    for partition in 0..150 {
        let saves = saves.new_tree(&mut runner).expect("case").current();
        let epoch = store.acquire_epoch(partition, "a").await.expect("epoch");
        for rows in &saves {
            store.save(partition, epoch, START, rows).await.expect("save");
        }
        let got: HashMap<_, _> =
            load(&*store, partition).await.into_iter().map(|s| ((s.shop.clone(), s.entity.clone()), s)).collect();
        assert_eq!(got, model(&saves), "after {saves:#?}");
    }
}

async fn clearing_removes_one_partition_and_keeps_its_epochs(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let other = store.acquire_epoch(1, "a").await.expect("epoch");
    for (partition, epoch) in [(0, epoch), (1, other)] {
        let rows = [snapshot("a", Entity::Shop, 50, epoch)];
        store.save(partition, epoch, Checkpoint { facts: 51, decisions: 2 }, &rows).await.expect("save");
    }
    store.clear(0, epoch).await.expect("clear");
    assert_eq!(store.checkpoint(0).await.expect("read"), None);
    assert!(load(&*store, 0).await.is_empty());
    assert_eq!(load(&*store, 1).await.len(), 1);
    assert!(store.checkpoint(1).await.expect("read").is_some());
    // The rebuilt state starts lower than what was there.
    let rows = [snapshot("a", Entity::Shop, 4, epoch)];
    store.save(0, epoch, Checkpoint { facts: 5, decisions: 0 }, &rows).await.expect("save");
    assert_eq!(store.checkpoint(0).await.expect("read"), Some(Checkpoint { facts: 5, decisions: 0 }));
    assert!(store.acquire_epoch(0, "b").await.expect("epoch") > epoch);
}

async fn an_old_owner_removes_nothing_of_the_new_one(site: &Site) {
    // DESIGN §7.5
    let (old, new) = (site.node().await, site.node().await);
    let before = old.acquire_epoch(2, "old").await.expect("epoch");
    let after = new.acquire_epoch(2, "new").await.expect("epoch");
    let checkpoint = Checkpoint { facts: 5, decisions: 3 };
    let rows = [snapshot("", Entity::Shard, 3, after), snapshot("a", Entity::Variant(1), 4, after)];
    new.save(2, after, checkpoint, &rows).await.expect("save");
    for epoch in [before, 0, after + 1] {
        let refused = old.clear(2, epoch).await.expect_err("fenced");
        let StoreError::Fenced { partition: 2, ours, current } = refused else { panic!("{refused}") };
        assert_eq!((ours, current), (epoch, after));
    }
    assert_eq!(load(&*new, 2).await, rows);
    assert_eq!(new.checkpoint(2).await.expect("read"), Some(checkpoint));
    let refused = old.clear(3, 0).await.expect_err("nobody has owned it yet");
    assert!(matches!(refused, StoreError::Fenced { partition: 3, current: 0, .. }), "{refused}");
}

async fn a_shop_is_loaded_alone(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let mine = [snapshot("a", Entity::Shop, 1, epoch), snapshot("a", Entity::Variant(1), 1, epoch)];
    store.save(0, epoch, START, &mine).await.expect("save");
    store.save(0, epoch, START, &[snapshot("b", Entity::Shop, 1, epoch)]).await.expect("save");
    let mut got: Vec<Snapshot> = store.load_shop(0, "a").try_collect().await.expect("load");
    got.sort_by(|a, b| a.entity.cmp(&b.entity));
    assert_eq!(got, mine);
    let none: Vec<Snapshot> = store.load_shop(1, "a").try_collect().await.expect("load");
    assert!(none.is_empty(), "another partition");
}

async fn variants_of_several_shops_are_loaded_in_one_read(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let other = store.acquire_epoch(1, "a").await.expect("epoch");
    let odd = "Ä'\"\\ü,[]";
    let mut mine = vec![
        snapshot("a", Entity::Variant(0), 1, epoch),
        snapshot("a", Entity::Variant((1 << 53) + 1), 2, epoch),
        snapshot("b", Entity::Variant((1 << 53) + 1), 3, epoch),
        snapshot("b", Entity::Variant(u64::MAX), 4, epoch),
        snapshot(odd, Entity::Variant(7), 5, epoch),
    ];
    let others = [
        snapshot("", Entity::Shard, 1, epoch),
        snapshot("a", Entity::Shop, 1, epoch),
        snapshot("a", Entity::Variant((1 << 53) + 2), 1, epoch),
        snapshot("b", Entity::Variant(7), 1, epoch),
    ];
    store.save(0, epoch, START, &mine).await.expect("save");
    store.save(0, epoch, START, &others).await.expect("save");
    store.save(1, other, START, &[snapshot("a", Entity::Variant(5), 1, other)]).await.expect("save");
    let wanted: Vec<(Arc<str>, Vec<u64>)> = vec![
        ("a".into(), vec![(1 << 53) + 1, 0, 5]),
        ("b".into(), vec![u64::MAX, (1 << 53) + 1, 404]),
        (odd.into(), vec![7]),
        ("nobody".into(), vec![7]),
        ("a".into(), vec![]),
    ];
    let mut got = store.load_some(0, &wanted).await.expect("load");
    for list in [&mut got, &mut mine] {
        list.sort_by(|a, b| (&a.shop, &a.entity).cmp(&(&b.shop, &b.entity)));
    }
    assert_eq!(got, mine);
    assert!(store.load_some(0, &[]).await.expect("load").is_empty());
}

async fn ten_thousand_of_a_hundred_thousand_are_read_back_without_reading_all(site: &Site) {
    const KNOWN: u64 = 100_000;
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let shop = |i: u64| format!("shop-{}.example", i % 100);
    let rows: Vec<_> = (0..KNOWN).map(|i| snapshot(&shop(i), Entity::Variant(i), 1, epoch)).collect();
    store.save(0, epoch, START, &rows).await.expect("save");
    let wanted: Vec<(Arc<str>, Vec<u64>)> =
        (0..100).map(|s| (shop(s).into(), (0..100).map(|n| s + 100 * 7 * n).filter(|i| *i < KNOWN).collect())).collect();
    let since = Instant::now();
    let got = store.load_some(0, &wanted).await.expect("load");
    let took = since.elapsed();
    assert_eq!(got.len(), 10_000);
    println!("{} of {KNOWN} in {} ms", got.len(), took.as_millis());
    // One alone costs next to nothing: it is looked up, not searched for.
    let since = Instant::now();
    for i in 0..100 {
        let one: [(Arc<str>, Vec<u64>); 1] = [(shop(i).into(), vec![i])];
        assert_eq!(store.load_some(0, &one).await.expect("load").len(), 1);
    }
    assert!(since.elapsed() < Duration::from_secs(2), "a hundred single reads took {:?}", since.elapsed());
}

async fn a_store_keeps_its_id(site: &Site) {
    let id = site.node().await.store_id().await.expect("id");
    assert!(!id.is_nil());
    assert_eq!(site.node().await.store_id().await.expect("id"), id);
}

async fn a_store_of_a_newer_schema_is_refused_with_advice(site: &Site) {
    drop(site.node().await);
    site.sql(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         select 9000, 'from the future', success, checksum, 0 from _sqlx_migrations where version = 1",
    )
    .await;
    let refused = site.try_node().await.err().expect("refused");
    let StoreError::Misconfigured(message) = &refused else { panic!("{refused}") };
    for part in ["schema version 9000", "start the newer Stockwarden"] {
        assert!(message.contains(part), "{message}");
    }
}

async fn a_store_of_another_build_is_refused(site: &Site) {
    drop(site.node().await);
    site.sql("update _sqlx_migrations set checksum = substr(checksum, 2)").await;
    let refused = site.try_node().await.err().expect("refused");
    assert!(matches!(&refused, StoreError::Misconfigured(m) if m.contains("another build")), "{refused}");
}

async fn a_probe_answers(site: &Site) {
    site.node().await.probe().await.expect("probe");
}

async fn a_load_that_is_dropped_halfway_leaves_the_store_usable(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let rows: Vec<_> = (0..20_000).map(|i| snapshot("a", Entity::Variant(i), 1, epoch)).collect();
    store.save(0, epoch, START, &rows).await.expect("save");
    for _ in 0..20 {
        let mut stream = store.load(0);
        assert!(stream.try_next().await.expect("load").is_some());
    }
    assert_eq!(load(&*store, 0).await.len(), 20_000);
    store.save(0, epoch, START, &rows[..1]).await.expect("save");
}

async fn more_loads_at_once_than_connections_all_end(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let rows: Vec<_> = (0..5_000).map(|i| snapshot("a", Entity::Variant(i), 1, epoch)).collect();
    store.save(0, epoch, START, &rows).await.expect("save");
    // All are begun before any is read to its end, as when a node is assigned many partitions at once; meanwhile the
    // ledger must be served.
    let loads = (0..40).map(|_| {
        let store = store.clone();
        async move { load(&*store, 0).await.len() }
    });
    let (lens, counts) = tokio::join!(futures::future::join_all(loads), store.counts());
    assert_eq!(lens, vec![5_000; 40]);
    counts.expect("counts");
}

async fn saving_and_loading_a_hundred_thousand_rows(site: &Site) {
    const ROWS: u64 = 100_000;
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    let rows = |offset: i64| -> Vec<Snapshot> {
        let state = |i: u64| (0..200u64).map(|b| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (b % 57)) as u8).collect();
        (0..ROWS)
            .map(|i| Snapshot {
                state: state(i),
                columns: Columns { sku: Some(format!("SKU-{i}")), available: Some(i as i64), ..Columns::default() },
                ..snapshot(&format!("shop-{}.example", i % 100), Entity::Variant(i), offset, epoch)
            })
            .collect()
    };
    let speed = |since: Instant| ROWS as f64 / since.elapsed().as_secs_f64();
    for (round, what) in ["insert", "update", "update again"].into_iter().enumerate() {
        let rows = rows(round as i64);
        let since = Instant::now();
        store.save(0, epoch, START, &rows).await.expect("save");
        println!("save, {what}: {:.0} rows/s", speed(since));
    }
    let since = Instant::now();
    let mut stream = store.load(0);
    let mut n = 0;
    while let Some(s) = stream.try_next().await.expect("load") {
        assert_eq!((s.state.len(), s.offset), (200, 2));
        n += 1;
    }
    println!("load: {:.0} rows/s", speed(since));
    assert_eq!(n, ROWS);
}

#[tokio::test]
async fn an_absent_server_is_named_within_the_bound_and_the_password_is_not() {
    // A port that was free a moment ago, and one that takes connections and never answers.
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    for address in [refusing, silent.local_addr().expect("address")] {
        let url = format!("postgres://staff:hunter2@{address}/stock?sslmode=disable");
        let since = Instant::now();
        let error = PostgresStore::connect(&url, Duration::from_secs(1)).await.err().expect("nobody there");
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let message = error.to_string();
        for part in ["127.0.0.1", &address.port().to_string(), "\"stock\"", "check that the server runs"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_a_matter_of_configuration() {
    let database = crate::support::postgres::Database::create().await;
    let url = database.url.clone();
    database.remove().await;
    let error = PostgresStore::connect(&url, Duration::from_secs(20)).await.err().expect("no such database");
    assert!(matches!(&error, StoreError::Misconfigured(m) if m.contains("create the database")), "{error}");
}

#[tokio::test]
async fn what_is_not_a_sqlite_file_of_ours_is_refused_with_its_path() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("store.db");
    std::fs::write(&file, "this was never a database, however long one looks at it".repeat(100)).expect("write");
    let file = file.display().to_string();
    for url in [file.clone(), format!("sqlite://{file}"), format!("{file}/below/a/file.db")] {
        let error = SqliteStore::connect(&url, Duration::from_secs(5)).await.err().expect("refused");
        assert!(matches!(&error, StoreError::Misconfigured(m) if m.contains(&file)), "{error}");
    }
    for url in ["sqlite::memory:", ":memory:", ""] {
        let error = SqliteStore::connect(url, Duration::from_secs(5)).await.err().expect(url);
        assert!(matches!(&error, StoreError::Misconfigured(_)), "{error}");
    }
}

#[tokio::test]
async fn a_sqlite_file_that_another_process_holds_is_waited_for_within_the_bound() {
    use sqlx::{ConnectOptions, Executor};
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("store.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut other = options.connect().await.expect("open");
    other.execute("begin exclusive; create table t (n integer)").await.expect("hold");
    let since = Instant::now();
    let held = SqliteStore::connect(&file.display().to_string(), Duration::from_secs(1)).await.err().expect("held");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(matches!(held, StoreError::Unavailable { .. }), "{held}");
}
