//! Reads variants back from the store: those that left memory and are wanted again, many in one read.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::recovery::decode;
use crate::domain::variant::VariantState;
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition};
use crate::ports::snapshot_store::{Entity, Snapshot};
use crate::ports::{SnapshotStore, StoreError};

/// Variants by shop, with the offset that the store has them at, or a newer one.
pub type Wanted = Vec<(Arc<str>, Vec<(VariantId, Offset)>)>;
pub type States = Vec<(Arc<str>, Vec<(VariantId, VariantState)>)>;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the store is not what was put there.
    #[error("{0}")]
    Spoiled(String),
}

/// Variants asked for in one statement; a whole shop can be wanted at once.
const CHUNK: usize = 20_000;

#[derive(Clone)]
pub struct Reader {
    pub store: Arc<dyn SnapshotStore>,
    /// Where the store's calls and the decoding run, away from the shards' threads.
    pub runtime: tokio::runtime::Handle,
    pub partition: Partition,
}

impl Reader {
    /// All of them, or an error.
    pub async fn read(&self, wanted: Wanted) -> Result<States, ReadError> {
        let reader = self.clone();
        let work = async move {
            let mut found = Vec::with_capacity(wanted.len());
            for chunk in chunks(wanted) {
                reader.read_chunk(chunk, &mut found).await?;
            }
            Ok(found)
        };
        let ended = |e: tokio::task::JoinError| StoreError::Unavailable {
            during: "reading snapshots of variants".to_owned(),
            reason: e.to_string(),
        };
        self.runtime.spawn(work).await.map_err(ended)?
    }

    async fn read_chunk(&self, wanted: Wanted, found: &mut States) -> Result<(), ReadError> {
        let ids = |of: &[(VariantId, Offset)]| of.iter().map(|(v, _)| v.0).collect();
        let asked: Vec<(Arc<str>, Vec<u64>)> = wanted.iter().map(|(shop, of)| (shop.clone(), ids(of))).collect();
        let mut rows: FxHashMap<String, FxHashMap<u64, Snapshot>> = FxHashMap::default();
        for row in self.store.load_some(self.partition, &asked).await? {
            let Entity::Variant(id) = row.entity else { continue };
            match rows.get_mut(&row.shop) {
                Some(shop) => drop(shop.insert(id, row)),
                None => drop(rows.entry(row.shop.clone()).or_default().insert(id, row)),
            }
        }
        for (shop, variants) in wanted {
            let rows = rows.get(&*shop);
            let mut states = Vec::with_capacity(variants.len());
            for (id, offset) in variants {
                let spoiled = |why: String| ReadError::Spoiled(format!("the snapshot of {shop} {id}: {why}"));
                let row = rows.and_then(|r| r.get(&id.0)).ok_or_else(|| spoiled("it is missing".to_owned()))?;
                if row.offset < offset {
                    return Err(spoiled(format!("it is of offset {}, not of {offset}", row.offset)));
                }
                states.push((id, decode(self.partition, row).map_err(|e| spoiled(e.to_string()))?));
            }
            found.push((shop, states));
        }
        Ok(())
    }
}

fn chunks(wanted: Wanted) -> Vec<Wanted> {
    let mut chunks = Vec::new();
    let (mut chunk, mut room) = (Vec::new(), CHUNK);
    for (shop, mut variants) in wanted {
        while !variants.is_empty() {
            let rest = variants.split_off(variants.len().min(room));
            room -= variants.len();
            chunk.push((shop.clone(), std::mem::replace(&mut variants, rest)));
            if room == 0 {
                chunks.push(std::mem::take(&mut chunk));
                room = CHUNK;
            }
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_split_into_reads_of_a_bounded_size_and_none_is_lost() {
        let ids = |from: u64, to: u64| (from..to).map(|v| (VariantId(v), 7)).collect::<Vec<_>>();
        let wanted = vec![("a".into(), ids(0, 5)), ("b".into(), ids(0, 2 * CHUNK as u64)), ("c".into(), ids(9, 10))];
        let split = chunks(wanted.clone());
        let sizes: Vec<usize> = split.iter().map(|c| c.iter().map(|(_, v)| v.len()).sum()).collect();
        assert_eq!(sizes, [CHUNK, CHUNK, 6]);
        let count = |of: &Wanted, shop: &str| of.iter().filter(|(s, _)| **s == *shop).map(|(_, v)| v.len()).sum::<usize>();
        for (shop, variants) in &wanted {
            assert_eq!(split.iter().map(|c| count(c, shop)).sum::<usize>(), variants.len());
        }
        assert!(chunks(Vec::new()).is_empty());
    }
}
