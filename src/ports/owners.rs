//! Who owns which partition, and where that node is reached: what nodes know of each other through the store.

use std::time::Duration;

use futures::future::BoxFuture;

use super::snapshot_store::{Epoch, StoreError};
use crate::events::record::Partition;

/// The last one to take a partition; it may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub partition: Partition,
    pub epoch: Epoch,
    pub node: String,
    /// Base URL of the node; none if it told none.
    pub address: Option<String>,
    /// How long ago, by the store's clock, a checkpoint of the partition was written; none before the first.
    pub saved_ago: Option<Duration>,
}

pub trait Owners: Send + Sync + 'static {
    /// Says where a node is reached, in place of what it said before.
    fn announce<'a>(&'a self, node: &'a str, address: Option<&'a str>) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The owners of all partitions that ever had one, sorted by partition.
    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>, StoreError>>;

    /// Names of the shops that have a snapshot in a partition, sorted.
    fn shops_of(&self, partition: Partition) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;
}
