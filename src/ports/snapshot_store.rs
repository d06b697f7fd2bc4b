//! Snapshots of actors and the checkpoints that go with them (DESIGN §3).

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use uuid::Uuid;

use crate::events::record::{Offset, Partition};

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or does not answer in time; worth a retry.
    #[error("the store is unavailable while {during}: {reason}")]
    Unavailable { during: String, reason: String },
    /// Another owner has taken the partition (DESIGN §7.5): write nothing more.
    #[error("partition {partition} belongs to a newer owner (its epoch is {current}, ours {ours})")]
    Fenced { partition: Partition, ours: Epoch, current: Epoch },
    /// Settings and what the store holds do not agree; an operator has to act.
    #[error("{0}")]
    Misconfigured(String),
    #[error("{during}: {reason}")]
    Failed { during: String, reason: String },
}

/// Ownership number of a partition; each owner takes a newer one.
pub type Epoch = i64;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// The shard itself: rules, domain time.
    Shard,
    /// A shop's catalogue.
    Shop,
    Variant(u64),
}

/// One stored state. `checksum` covers every other field but `columns`; the writer computes it, the reader of the state checks it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The log key the entity lives under; empty for the shard.
    pub shop: String,
    pub entity: Entity,
    /// Offset of the last fact in the state.
    pub offset: Offset,
    pub epoch: Epoch,
    /// Version of the encoding of `state`.
    pub version: i16,
    pub checksum: i64,
    pub state: Vec<u8>,
    pub columns: Columns,
}

/// What people query in SQL; never read back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    pub sku: Option<String>,
    pub vendor: Option<String>,
    pub available: Option<i64>,
    pub risk: Option<&'static str>,
    pub open_proposal: Option<Uuid>,
}

/// Where folding starts. Never past the group's committed offset (DESIGN §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset of the first fact that is in no snapshot.
    pub facts: Offset,
    /// Decisions caused by facts at or past `facts` stand at or past this offset.
    pub decisions: Offset,
}

pub trait SnapshotStore: Send + Sync + 'static {
    /// Takes ownership: an epoch newer than any other of the partition.
    fn acquire_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>>;

    fn checkpoint(&self, partition: Partition) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>>;

    /// All snapshots of a partition in one query (PITFALLS 16), in no particular order.
    fn load(&self, partition: Partition) -> BoxStream<'_, Result<Snapshot, StoreError>>;

    /// As [`SnapshotStore::load`], of one shop.
    fn load_shop<'a>(&'a self, partition: Partition, shop: &'a str) -> BoxStream<'a, Result<Snapshot, StoreError>>;

    /// The snapshots of these variants, by shop, in one read; what is not there is missing from the answer. In no particular
    /// order. The caller bounds how many it asks for.
    fn load_some<'a>(
        &'a self,
        partition: Partition,
        wanted: &'a [(Arc<str>, Vec<u64>)],
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, StoreError>>;

    /// Writes snapshots and the checkpoint in one database transaction. A snapshot replaces the stored one only if its
    /// offset is newer and its epoch not older; a caller whose epoch is not the partition's current one gets
    /// [`StoreError::Fenced`] and nothing is written (DESIGN §7.5).
    fn save<'a>(
        &'a self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &'a [Snapshot],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Removes all snapshots and the checkpoint of a partition (they are rebuilt from the log). A caller whose epoch is not the
    /// partition's current one gets [`StoreError::Fenced`] and nothing is removed (DESIGN §7.5).
    fn clear(&self, partition: Partition, epoch: Epoch) -> BoxFuture<'_, Result<(), StoreError>>;

    /// An id of this store, made with it; binds a consumer group to one store.
    fn store_id(&self) -> BoxFuture<'_, Result<Uuid, StoreError>>;

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}
