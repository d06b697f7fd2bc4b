//! Answers without an owner (DESIGN §3): the last snapshot and the log after it, or the snapshot alone where the log cannot be
//! read in time. Each answer says which, and how old it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::replica::Replica;
use super::tail::{Readers, Tail, TailError};
use crate::actors::queries::RETRY_AFTER;
use crate::actors::recovery::decode;
use crate::actors::settings::WallClock;
use crate::domain::shard::ShardState;
use crate::domain::views::{Provenance, ShopView, Source};
use crate::events::record::{Partition, Position};
use crate::events::time::Millis;
use crate::ports::owners::Owner;
use crate::ports::queries::{Answer, QueryError, Question};
use crate::ports::snapshot_store::{Checkpoint, Entity, Snapshot};
use crate::ports::{EventLog, Owners, SnapshotStore, StoreError};

/// Shops put together at once; each is in memory whole (DESIGN §7.9).
const AT_ONCE: usize = 4;
/// How long reading the tail may hold up an answer.
const TAIL_WITHIN: Duration = Duration::from_millis(350);
/// Of that, the reading itself.
const READ_FOR: Millis = 250;
/// A tail so young is not read on: queries in a row share it.
const FRESH: Millis = 50;
/// How long a tail is kept for the next query.
const KEPT: Duration = Duration::from_secs(10);
/// The checkpoint can move on while shop and tail are read.
const TRIES: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Slot {
    tail: Option<Arc<Tail>>,
    readers: Option<Readers>,
    /// Somebody will look whether it is still needed.
    watched: bool,
}

type Slots = BTreeMap<Partition, Arc<tokio::sync::Mutex<Slot>>>;

pub struct Standby {
    pub log: Arc<dyn EventLog>,
    pub store: Arc<dyn SnapshotStore>,
    pub owners: Arc<dyn Owners>,
    pub node: String,
    pub clock: WallClock,
    pub runtime: Handle,
    slots: Mutex<Slots>,
    at_once: Semaphore,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("{0}")]
    Other(String),
}

/// What a partition's answers are made from.
struct Base {
    checkpoint: Option<Checkpoint>,
    shard: ShardState,
    /// None: snapshots alone.
    tail: Option<Arc<Tail>>,
}

impl Standby {
    pub fn new(
        log: Arc<dyn EventLog>,
        store: Arc<dyn SnapshotStore>,
        owners: Arc<dyn Owners>,
        node: String,
        clock: WallClock,
        runtime: Handle,
    ) -> Standby {
        Standby { log, store, owners, node, clock, runtime, slots: Mutex::default(), at_once: Semaphore::new(AT_ONCE) }
    }

    /// Answers for one partition; none if the shop is not there. With `after`, waits until the log's tail holds it; the caller
    /// bounds the time.
    pub async fn answer(
        self: Arc<Self>,
        partition: Partition,
        owner: Option<Owner>,
        shop: String,
        question: Question,
        after: Option<Position>,
    ) -> Result<Option<Answer>, QueryError> {
        loop {
            let (this, owner, shop, question) = (self.clone(), owner.clone(), shop.clone(), question.clone());
            // A task of its own, which ends in its own time: a query of a pool is not dropped halfway (PITFALLS 18).
            let trying = self.runtime.spawn(async move {
                let _permit = this.at_once.acquire().await;
                this.try_answer(partition, owner.as_ref(), &shop, &question, after).await
            });
            match trying.await.map_err(|e| not_ready(partition, &e))?.map_err(|e| not_ready(partition, &e))? {
                Some(answer) => return answer,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// None if `after` is not covered yet.
    async fn try_answer(
        &self,
        partition: Partition,
        owner: Option<&Owner>,
        shop: &str,
        question: &Question,
        after: Option<Position>,
    ) -> Result<Option<Result<Option<Answer>, QueryError>>, Failure> {
        let only = match question {
            Question::Variant(id) => Some(*id),
            _ => None,
        };
        for _ in 0..TRIES {
            let base = self.base(partition).await?;
            let rows: Vec<Snapshot> = self.store.load_shop(partition, shop).try_collect().await?;
            if self.store.checkpoint(partition).await? != base.checkpoint {
                continue;
            }
            let next = base.next();
            if after.is_some_and(|a| a.offset >= next) {
                return Ok(None);
            }
            let whole = base.tail.as_ref().is_some_and(|t| t.whole);
            let provenance = self.provenance(partition, owner, &base)?;
            let mut replica = Replica::new(partition, shop, base.shard, &rows, only)
                .map_err(|e| Failure::Other(format!("the snapshot of {shop} cannot be used: {e}")))?;
            if let Some(tail) = &base.tail {
                replica.follow(tail);
            }
            let answer = replica.answer(question, provenance);
            // What is not found may stand in the part of the log that was not read.
            return match answer {
                Ok(None) | Err(QueryError::NoVariant { .. }) if !whole => {
                    Err(Failure::Other("the log after the last snapshot cannot be read to its end now".to_owned()))
                }
                answer => Ok(Some(answer)),
            };
        }
        Err(moving())
    }

    /// Every shop of a partition.
    pub async fn shops(self: Arc<Self>, partition: Partition, owner: Option<Owner>) -> Result<Vec<ShopView>, QueryError> {
        let failed = |e: Failure| not_ready(partition, &e);
        let mut names: BTreeSet<String> =
            self.owners.shops_of(partition).await.map_err(|e| failed(e.into()))?.into_iter().collect();
        let base = self.base(partition).await.map_err(failed)?;
        match &base.tail {
            Some(tail) if tail.whole => names.extend(tail.shops().map(|s| s.to_string())),
            _ => return Err(failed(Failure::Other("the log after the last snapshot cannot be read to its end now".to_owned()))),
        }
        let mut views = Vec::with_capacity(names.len());
        for name in names {
            if let Some(answer) = self.clone().answer(partition, owner.clone(), name, Question::Shop, None).await? {
                views.push(answer.shop());
            }
        }
        Ok(views)
    }

    async fn base(&self, partition: Partition) -> Result<Base, Failure> {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(partition).or_default().clone();
        let (log, store, clock) = (self.log.clone(), self.store.clone(), self.clock.clone());
        // A task of its own: whoever asked may give up, the reading ends well, and the next one goes on from there.
        let reading = self.runtime.spawn(async move { read_tail(slot, log, store, clock, partition).await });
        let tail = match tokio::time::timeout(TAIL_WITHIN, reading).await {
            Ok(Ok(Ok(tail))) => Some(tail),
            Ok(Ok(Err(Failure::Store(e)))) => return Err(e.into()),
            Ok(Ok(Err(error))) => {
                tracing::debug!(partition, %error, "answering from snapshots alone");
                None
            }
            Ok(Err(_)) | Err(_) => None,
        };
        Ok(match tail {
            Some(tail) => Base { checkpoint: tail.checkpoint, shard: tail.shard.clone(), tail: Some(tail) },
            None => {
                let (checkpoint, shard) = shard_at_checkpoint(&*self.store, partition).await?;
                Base { checkpoint, shard, tail: None }
            }
        })
    }

    fn provenance(&self, partition: Partition, owner: Option<&Owner>, base: &Base) -> Result<Provenance, Failure> {
        let now = (self.clock)();
        let saved = owner.and_then(|o| o.saved_ago).map(|ago| now - Millis::try_from(ago.as_millis()).unwrap_or(Millis::MAX));
        let as_of = base.tail.as_ref().and_then(|t| t.as_of).or(saved);
        let as_of = as_of.ok_or_else(|| Failure::Other("nothing tells how old its snapshots are".to_owned()))?;
        Ok(Provenance {
            partition,
            offset: base.next() - 1,
            epoch: owner.map_or(0, |o| o.epoch),
            node: self.node.clone(),
            source: if base.tail.is_some() { Source::SnapshotTail } else { Source::Snapshot },
            staleness_ms: (now - as_of).max(0),
        })
    }
}

impl Base {
    /// Offset after the last fact in it.
    fn next(&self) -> i64 {
        self.tail.as_ref().map(|t| t.next).or(self.checkpoint.map(|c| c.facts)).unwrap_or(0)
    }
}

fn not_ready(partition: Partition, why: &dyn std::fmt::Display) -> QueryError {
    QueryError::NotReady {
        reason: format!("partition {partition} has no owner that answers, and cannot be read from what is stored: {why}"),
        retry_after: RETRY_AFTER,
    }
}

/// The tail as it is now, begun anew where the checkpoint has moved on.
async fn read_tail(
    slot: Arc<tokio::sync::Mutex<Slot>>,
    log: Arc<dyn EventLog>,
    store: Arc<dyn SnapshotStore>,
    clock: WallClock,
    partition: Partition,
) -> Result<Arc<Tail>, Failure> {
    let watching = slot.clone();
    let mut slot = slot.lock_owned().await;
    if !std::mem::replace(&mut slot.watched, true) {
        tokio::spawn(let_go(watching, clock.clone()));
    }
    let checkpoint = store.checkpoint(partition).await?;
    if let Some(tail) = slot.tail.as_ref().filter(|t| t.checkpoint == checkpoint)
        && (0..FRESH).contains(&(clock() - tail.read_at))
    {
        return Ok(tail.clone());
    }
    let kept = slot.tail.take().filter(|t| t.checkpoint == checkpoint).zip(slot.readers.take());
    let begun = match kept {
        Some(kept) => Ok(kept),
        None => Err(shard_at_checkpoint(&*store, partition).await?),
    };
    let read = tokio::task::spawn_blocking(move || {
        let deadline = clock() + READ_FOR;
        let (mut tail, mut readers) = match begun {
            Ok(kept) => kept,
            Err((checkpoint, shard)) => {
                let (tail, readers) = Tail::at(&*log, partition, checkpoint, shard)?;
                (Arc::new(tail), readers)
            }
        };
        Arc::make_mut(&mut tail).read_on(&*log, &mut readers, &*clock, deadline).map_err(TailError::from)?;
        Ok::<_, TailError>((tail, readers))
    });
    let (tail, readers) = read.await.map_err(|e| Failure::Other(e.to_string()))??;
    slot.tail = Some(tail.clone());
    slot.readers = Some(readers);
    Ok(tail)
}

/// Lets go of a tail that nobody has asked for in a while: its readers fetch from the log as long as they live.
async fn let_go(slot: Arc<tokio::sync::Mutex<Slot>>, clock: WallClock) {
    loop {
        tokio::time::sleep(KEPT).await;
        let mut held = slot.lock().await;
        let idle = held.tail.as_ref().is_none_or(|t| u128::from(clock().abs_diff(t.read_at)) >= KEPT.as_millis());
        if idle {
            let old = std::mem::take(&mut *held);
            // Closing a reader may block.
            tokio::task::spawn_blocking(move || drop(old));
            return;
        }
    }
}

/// The checkpoint and the shard's own state at it.
async fn shard_at_checkpoint(
    store: &dyn SnapshotStore,
    partition: Partition,
) -> Result<(Option<Checkpoint>, ShardState), Failure> {
    for _ in 0..TRIES {
        let checkpoint = store.checkpoint(partition).await?;
        let rows: Vec<Snapshot> = store.load_shop(partition, "").try_collect().await?;
        if store.checkpoint(partition).await? != checkpoint {
            continue;
        }
        let shard = match rows.iter().find(|r| r.entity == Entity::Shard) {
            Some(row) => {
                decode(partition, row).map_err(|e| Failure::Other(format!("the shard's snapshot cannot be used: {e}")))?
            }
            None => ShardState::default(),
        };
        return Ok((checkpoint, shard));
    }
    Err(moving())
}

fn moving() -> Failure {
    Failure::Other("its checkpoint moves faster than it can be read".to_owned())
}
