//! Writes snapshots to the store, one save a partition at a time; retries while the store is away.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::shard::Saved;
use super::stats::EngineStats;
use super::supervisor::{PartitionFenced, Supervisor};
use super::table::ShardTable;
use crate::events::record::Partition;
use crate::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};
use crate::ports::{SnapshotStore, StoreError};

#[derive(Message)]
#[rtype(result = "()")]
pub struct Save {
    pub partition: Partition,
    pub epoch: Epoch,
    pub checkpoint: Checkpoint,
    pub snapshots: Vec<Snapshot>,
}

pub struct Snapshotter {
    pub store: Arc<dyn SnapshotStore>,
    pub table: Arc<ShardTable>,
    pub supervisor: Addr<Supervisor>,
    pub stats: Arc<EngineStats>,
    /// Where the store's calls run, away from the shards' threads.
    pub runtime: tokio::runtime::Handle,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

impl Actor for Snapshotter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // One save a partition.
        ctx.set_mailbox_capacity(256);
    }
}

impl Handler<Save> for Snapshotter {
    type Result = ();

    fn handle(&mut self, save: Save, _: &mut Self::Context) {
        let (store, table, supervisor, stats) =
            (self.store.clone(), self.table.clone(), self.supervisor.clone(), self.stats.clone());
        let saving = async move {
            let mut backoff = FIRST_BACKOFF;
            loop {
                match store.save(save.partition, save.epoch, save.checkpoint, &save.snapshots).await {
                    Ok(()) => {
                        stats.snapshots.add(save.snapshots.len() as u64);
                        stats.snapshots_failing.set(false);
                        if let Some(shard) = table.get(save.partition) {
                            shard.addr.do_send(Saved { epoch: save.epoch });
                        }
                        return;
                    }
                    Err(StoreError::Fenced { partition, ours, current }) => {
                        supervisor.do_send(PartitionFenced { partition, ours, current });
                        return;
                    }
                    Err(e) => {
                        stats.snapshots_failing.set(true);
                        tracing::warn!(partition = save.partition, error = %e, "a snapshot is not saved; trying again");
                        // The shard goes on meanwhile; it only collects no further snapshot.
                        if table.get(save.partition).is_none() {
                            return;
                        }
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(LAST_BACKOFF);
                    }
                }
            }
        };
        self.runtime.spawn(saving);
    }
}
