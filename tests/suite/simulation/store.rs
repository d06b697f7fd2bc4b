//! The snapshot store as its contract says (src/ports/snapshot_store.rs), in memory.

use std::collections::BTreeMap;

use stockwarden::events::record::Partition;
use stockwarden::ports::StoreError;
use stockwarden::ports::snapshot_store::{Checkpoint, Entity, Epoch, Snapshot};

use super::Broken;
use super::rng::Rng;

type Key = (Partition, String, Entity);

#[derive(Default)]
pub struct Store {
    broken: Broken,
    epochs: BTreeMap<Partition, Epoch>,
    checkpoints: BTreeMap<Partition, Checkpoint>,
    rows: BTreeMap<Key, Snapshot>,
}

impl Store {
    pub fn new(broken: Broken) -> Store {
        Store { broken, ..Store::default() }
    }

    pub fn acquire_epoch(&mut self, partition: Partition) -> Epoch {
        let epoch = self.epochs.entry(partition).or_default();
        *epoch += 1;
        *epoch
    }

    pub fn epoch(&self, partition: Partition) -> Epoch {
        self.epochs.get(&partition).copied().unwrap_or_default()
    }

    pub fn checkpoint(&self, partition: Partition) -> Option<Checkpoint> {
        self.checkpoints.get(&partition).copied()
    }

    pub fn load(&self, partition: Partition) -> Vec<Snapshot> {
        self.rows.iter().filter(|(k, _)| k.0 == partition).map(|(_, s)| s.clone()).collect()
    }

    pub fn save(
        &mut self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &[Snapshot],
    ) -> Result<(), StoreError> {
        let current = self.epoch(partition);
        if epoch != current && self.broken != Broken::EpochCheck {
            return Err(StoreError::Fenced { partition, ours: epoch, current });
        }
        for s in snapshots {
            let key = (partition, s.shop.clone(), s.entity.clone());
            let newer = self.rows.get(&key).is_none_or(|old| s.offset > old.offset && s.epoch >= old.epoch);
            if newer || self.broken == Broken::OnlyNewer || self.broken == Broken::EpochCheck {
                self.rows.insert(key, s.clone());
            }
        }
        let kept = self.checkpoints.entry(partition).or_insert(checkpoint);
        kept.facts = kept.facts.max(checkpoint.facts);
        kept.decisions = kept.decisions.max(checkpoint.decisions);
        Ok(())
    }

    pub fn clear(&mut self, partition: Partition) {
        self.checkpoints.remove(&partition);
        self.rows.retain(|k, _| k.0 != partition);
    }

    /// Flips one bit of what a checksum covers.
    pub fn damage(&mut self, rng: &mut Rng) -> Option<Entity> {
        let keys: Vec<Key> = self.rows.keys().cloned().collect();
        let row = self.rows.get_mut(rng.pick(&keys)?)?;
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
