//! Those who left memory come back in batches (issue 4: passivation), counted at the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use stockwarden::actors::settings::EngineSettings;
use stockwarden::events::record::Partition;
use stockwarden::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};
use stockwarden::ports::{SnapshotStore, StoreError};
use uuid::Uuid;

use super::harness::*;
use super::{SHOP, Site};

/// A store that counts the reads of variants.
struct Counting {
    store: Arc<dyn SnapshotStore>,
    reads: Arc<AtomicU64>,
}

impl SnapshotStore for Counting {
    fn acquire_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        self.store.acquire_epoch(partition, node)
    }
    fn checkpoint(&self, partition: Partition) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.store.checkpoint(partition)
    }
    fn load(&self, partition: Partition) -> BoxStream<'_, Result<Snapshot, StoreError>> {
        self.store.load(partition)
    }
    fn load_shop<'a>(&'a self, partition: Partition, shop: &'a str) -> BoxStream<'a, Result<Snapshot, StoreError>> {
        self.store.load_shop(partition, shop)
    }
    fn load_some<'a>(
        &'a self,
        partition: Partition,
        wanted: &'a [(Arc<str>, Vec<u64>)],
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, StoreError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.load_some(partition, wanted)
    }
    fn save<'a>(
        &'a self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &'a [Snapshot],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.save(partition, epoch, checkpoint, snapshots)
    }
    fn clear(&self, partition: Partition, epoch: Epoch) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.clear(partition, epoch)
    }
    fn store_id(&self) -> BoxFuture<'_, Result<Uuid, StoreError>> {
        self.store.store_id()
    }
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.probe()
    }
}

#[test]
fn what_a_batch_wakes_comes_back_in_a_read_and_not_in_one_each() {
    const KNOWN: u64 = 300;
    let site = Site::new();
    let log = site.log();
    let reads = Arc::new(AtomicU64::new(0));
    let store = Arc::new(Counting { store: site.store(), reads: reads.clone() });
    let engine = Running::start(log.clone(), store, EngineSettings { max_resident_variants: 30, ..settings("a") });
    append(&*log, rules(1, LOW, log.partitions()));
    append(&*log, (1..=KNOWN).map(|id| foreign(SHOP, product(id))).collect());
    append(&*log, (1..=KNOWN).map(|id| foreign(SHOP, level(id, 20, 1))).collect());
    engine.catch_up(&*log);
    eventually("idle ones have left", || engine.stats.variants.get() <= 30);
    let (before, reads_before) = (engine.stats.reactivations.get(), reads.load(Ordering::Relaxed));
    append(&*log, (1..=KNOWN).map(|id| foreign(SHOP, level(id, 9, 2))).collect());
    engine.catch_up(&*log);
    let back = engine.stats.reactivations.get() - before;
    let reads = reads.load(Ordering::Relaxed) - reads_before;
    assert!(back >= KNOWN - 30, "{back} came back");
    assert!(reads >= 1 && reads * 5 <= back, "{reads} reads for {back}");
    eventually("each has decided", || decisions(&*log).len() == KNOWN as usize);
    engine.stop();
}
