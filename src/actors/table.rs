//! Which shards live here, for whoever has something for them: the consumer's thread, queries, the clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use actix::Addr;
use tokio::sync::watch;

use super::batch::cut_live;
use super::shard::{Deliver, Shard};
use crate::events::record::{Offset, Partition, RecordBatch};
use crate::ports::event_log::GroupHandle;

/// Batches that a shard holds before its partition waits in the log's client (DESIGN §7.9).
const QUEUED_BATCHES: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Recovering,
    Live,
    /// Not safe to decide: says how to mend it. The shard answers queries if it has state.
    ReadOnly(String),
    Stopped,
}

/// A shard as others see it.
pub struct ShardRef {
    pub partition: Partition,
    pub addr: Addr<Shard>,
    pub phase: watch::Receiver<Phase>,
    /// Offset after the last fact applied.
    pub applied: watch::Receiver<Offset>,
    queue: Arc<Queue>,
}

/// Flow control between the consumer's thread and the shard.
#[derive(Debug, Default)]
pub struct Queue {
    batches: AtomicUsize,
    /// A batch was given back; the consumer waits to be called.
    refused: AtomicBool,
}

impl Queue {
    fn try_enter(&self) -> bool {
        let free = |q: &Self| {
            q.batches.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < QUEUED_BATCHES).then_some(n + 1)).is_ok()
        };
        if free(self) {
            return true;
        }
        self.refused.store(true, Ordering::Release);
        // The shard may have made room in between and seen no refusal.
        free(self)
    }

    /// A batch is done with.
    pub fn leave(&self, partition: Partition, consumer: &dyn GroupHandle) {
        self.batches.fetch_sub(1, Ordering::AcqRel);
        if self.refused.swap(false, Ordering::AcqRel) {
            consumer.resume(partition);
        }
    }
}

impl ShardRef {
    pub fn new(
        partition: Partition,
        addr: Addr<Shard>,
        phase: watch::Receiver<Phase>,
        applied: watch::Receiver<Offset>,
        queue: Arc<Queue>,
    ) -> ShardRef {
        ShardRef { partition, addr, phase, applied, queue }
    }

    /// Gives the batch, or what is left of it, back when the shard is full or not live.
    pub fn deliver(&self, mut batch: RecordBatch) -> Result<(), RecordBatch> {
        loop {
            if *self.phase.borrow() != Phase::Live || !self.queue.try_enter() {
                return Err(batch);
            }
            let rest = cut_live(&mut batch);
            // The queue's count is the bound.
            self.addr.do_send(Deliver(batch));
            match rest {
                Some(rest) => batch = rest,
                None => return Ok(()),
            }
        }
    }
}

#[derive(Default)]
pub struct ShardTable {
    shards: RwLock<BTreeMap<Partition, Arc<ShardRef>>>,
    /// Why an owned partition has no shard.
    problems: RwLock<BTreeMap<Partition, String>>,
}

impl ShardTable {
    pub fn get(&self, partition: Partition) -> Option<Arc<ShardRef>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    pub fn all(&self) -> Vec<Arc<ShardRef>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn problem(&self, partition: Partition) -> Option<String> {
        self.problems.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    pub fn problems(&self) -> BTreeMap<Partition, String> {
        self.problems.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_problem(&self, partition: Partition, problem: String) {
        self.problems.write().unwrap_or_else(PoisonError::into_inner).insert(partition, problem);
    }

    pub fn put(&self, shard: ShardRef) {
        self.problems.write().unwrap_or_else(PoisonError::into_inner).remove(&shard.partition);
        self.shards.write().unwrap_or_else(PoisonError::into_inner).insert(shard.partition, Arc::new(shard));
    }

    pub fn remove(&self, partition: Partition) {
        self.problems.write().unwrap_or_else(PoisonError::into_inner).remove(&partition);
        self.shards.write().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }
}
