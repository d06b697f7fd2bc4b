//! The snapshot store as its contract says (src/ports/snapshot_store.rs), in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{self, BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, StreamExt as _};
use stockwarden::actors::protocol::sealed;
use stockwarden::events::record::Partition;
use stockwarden::ports::snapshot_store::{Checkpoint, Entity, Epoch, Snapshot};
use stockwarden::ports::{SnapshotStore, StoreError};
use uuid::Uuid;

use super::Broken;
use super::rng::Rng;

type Key = (Partition, String, Entity);

#[derive(Default)]
pub struct Store {
    broken: Broken,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    epochs: BTreeMap<Partition, Epoch>,
    checkpoints: BTreeMap<Partition, Checkpoint>,
    rows: BTreeMap<Key, Snapshot>,
}

/// What a call in memory gives: at once.
pub fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("nothing to wait for")
}

impl Store {
    pub fn new(broken: Broken) -> Store {
        Store { broken, ..Store::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn epoch(&self, partition: Partition) -> Epoch {
        self.inner().epochs.get(&partition).copied().unwrap_or_default()
    }

    fn fence(&self, partition: Partition, ours: Epoch, broken: Broken) -> Result<(), StoreError> {
        let current = self.epoch(partition);
        if ours == current || self.broken == broken { Ok(()) } else { Err(StoreError::Fenced { partition, ours, current }) }
    }

    fn rows(&self, is_wanted: impl Fn(&Key) -> bool) -> Vec<Snapshot> {
        let inner = self.inner();
        let rows = inner.rows.iter().filter(|(k, _)| is_wanted(k)).map(|(k, s)| match self.broken {
            Broken::TrustSnapshots => {
                let s = s.clone();
                sealed(k.0, s.epoch, &s.shop, s.entity, s.offset, s.state, s.columns)
            }
            _ => s.clone(),
        });
        rows.collect()
    }

    fn save(&self, partition: Partition, epoch: Epoch, checkpoint: Checkpoint, snapshots: &[Snapshot]) -> Result<(), StoreError> {
        self.fence(partition, epoch, Broken::EpochCheck)?;
        let mut inner = self.inner();
        for s in snapshots {
            let key = (partition, s.shop.clone(), s.entity.clone());
            let newer = inner.rows.get(&key).is_none_or(|old| s.offset > old.offset && s.epoch >= old.epoch);
            if newer || self.broken == Broken::OnlyNewer || self.broken == Broken::EpochCheck {
                inner.rows.insert(key, s.clone());
            }
        }
        let kept = inner.checkpoints.entry(partition).or_insert(checkpoint);
        kept.facts = kept.facts.max(checkpoint.facts);
        kept.decisions = kept.decisions.max(checkpoint.decisions);
        Ok(())
    }

    fn clear(&self, partition: Partition, epoch: Epoch) -> Result<(), StoreError> {
        self.fence(partition, epoch, Broken::UnfencedClear)?;
        let mut inner = self.inner();
        inner.checkpoints.remove(&partition);
        inner.rows.retain(|k, _| k.0 != partition);
        Ok(())
    }

    /// Flips one bit of what a checksum covers.
    pub fn damage(&self, rng: &mut Rng) -> Option<Entity> {
        let mut inner = self.inner();
        let keys: Vec<Key> = inner.rows.keys().cloned().collect();
        let row = inner.rows.get_mut(rng.pick(&keys)?)?;
        match rng.below(6) {
            0 => row.offset ^= 1 << rng.below(40),
            1 => row.epoch ^= 1 << rng.below(40),
            2 => row.checksum ^= 1 << rng.below(64),
            3 => row.version ^= 1 << rng.below(15),
            _ => {
                let byte = rng.below(row.state.len());
                if let Some(b) = row.state.get_mut(byte) {
                    *b ^= 1 << rng.below(8);
                }
            }
        }
        Some(row.entity.clone())
    }
}

impl SnapshotStore for Store {
    fn acquire_epoch<'a>(&'a self, partition: Partition, _: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        let mut inner = self.inner();
        let epoch = inner.epochs.entry(partition).or_default();
        *epoch += 1;
        future::ready(Ok(*epoch)).boxed()
    }

    fn checkpoint(&self, partition: Partition) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        future::ready(Ok(self.inner().checkpoints.get(&partition).copied())).boxed()
    }

    fn load(&self, partition: Partition) -> BoxStream<'_, Result<Snapshot, StoreError>> {
        stream::iter(self.rows(|k| k.0 == partition).into_iter().map(Ok)).boxed()
    }

    fn load_shop<'a>(&'a self, partition: Partition, shop: &'a str) -> BoxStream<'a, Result<Snapshot, StoreError>> {
        stream::iter(self.rows(|k| k.0 == partition && k.1 == shop).into_iter().map(Ok)).boxed()
    }

    fn load_some<'a>(
        &'a self,
        partition: Partition,
        wanted: &'a [(Arc<str>, Vec<u64>)],
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, StoreError>> {
        let is_wanted = |(of, shop, entity): &Key| {
            let Entity::Variant(id) = entity else { return false };
            *of == partition && wanted.iter().any(|(s, ids)| **s == **shop && ids.contains(id))
        };
        future::ready(Ok(self.rows(is_wanted))).boxed()
    }

    fn save<'a>(
        &'a self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &'a [Snapshot],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        future::ready(self.save(partition, epoch, checkpoint, snapshots)).boxed()
    }

    fn clear(&self, partition: Partition, epoch: Epoch) -> BoxFuture<'_, Result<(), StoreError>> {
        future::ready(self.clear(partition, epoch)).boxed()
    }

    fn store_id(&self) -> BoxFuture<'_, Result<Uuid, StoreError>> {
        future::ready(Ok(Uuid::nil())).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        future::ready(Ok(())).boxed()
    }
}
