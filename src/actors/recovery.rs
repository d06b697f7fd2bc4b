//! Recovery of a partition (DESIGN §3): snapshots in one read, then the log from the checkpoint to the committed offset, merged with
//! the recorded decisions. Nothing is decided on the way, and no handler can be reached from here (DESIGN §7.7).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::batch::Death;
use super::collect::entity_name;
use super::shard::RecoveredShop;
use super::stats::EngineStats;
use crate::domain::shard::{ShardFold, ShardState};
use crate::domain::shop::{Shop, ShopState};
use crate::domain::snapshot::{self, Seal, SnapshotError};
use crate::domain::variant::VariantState;
use crate::events::decision::Recorded;
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition, RecordBatch, Topic};
use crate::ports::event_log::{Group, PartitionReader};
use crate::ports::snapshot_store::{Checkpoint, Entity, Epoch, Snapshot};
use crate::ports::{EventLog, LogError, SnapshotStore, StoreError};

/// What the shard starts from.
pub struct Recovered {
    pub epoch: Epoch,
    pub fold: ShardFold,
    pub shops: Vec<(Arc<str>, RecoveredShop)>,
    /// Offset of the first fact to be folded.
    pub from: Offset,
    pub decisions: Offset,
    pub inputs: mpsc::Receiver<Input>,
    pub quarantines: Vec<Death>,
}

/// The tail, batch by batch.
pub enum Input {
    Facts {
        batch: RecordBatch,
        recorded: BTreeMap<Offset, Vec<Recorded>>,
    },
    /// Everything up to the committed offset is folded; live facts come from there.
    Done {
        committed: Offset,
        decisions: Offset,
    },
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    /// Not safe to go on; says how to mend it.
    #[error("{0}")]
    Unsafe(String),
}

impl RecoveryError {
    /// Whether another try may succeed by itself.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            RecoveryError::Store(StoreError::Unavailable { .. })
                | RecoveryError::Log(LogError::Unavailable { .. } | LogError::QueueFull)
        )
    }
}

/// Batches read ahead of the fold.
const AHEAD: usize = 4;
const READ_TIMEOUT: Duration = Duration::from_millis(500);

pub async fn recover(
    log: Arc<dyn EventLog>,
    store: Arc<dyn SnapshotStore>,
    stats: Arc<EngineStats>,
    node: &str,
    partition: Partition,
    quarantines: Vec<Death>,
) -> Result<Recovered, RecoveryError> {
    let epoch = store.acquire_epoch(partition, node).await?;
    let checkpoint = store.checkpoint(partition).await?;
    let (committed, low) = blocking(&log, move |log| {
        let committed = log.committed(Group::Shards, Topic::Facts)?.get(partition as usize).copied().flatten();
        let (low, _) = log.watermarks(Topic::Facts, partition)?;
        Ok((committed, low))
    })
    .await?;
    check(partition, checkpoint, committed, low)?;
    let mut start = Start { fold: ShardFold::default(), shops: Vec::new(), from: low, decisions: 0 };
    if let Some(checkpoint) = checkpoint {
        match load(&*store, partition).await? {
            Ok((fold, shops)) => start = Start { fold, shops, from: checkpoint.facts, decisions: checkpoint.decisions },
            Err(why) => {
                // Discarded as a whole: the log gives all of it back (DESIGN §3).
                stats.snapshots_discarded.add(1);
                tracing::warn!(partition, why, "snapshots are discarded; the partition is rebuilt from the log");
                store.clear(partition).await?;
            }
        }
    }
    let until = committed.unwrap_or(low);
    let (sender, inputs) = mpsc::channel(AHEAD);
    let (from, decisions) = (start.from, start.decisions);
    tokio::task::spawn_blocking(move || {
        let tail = Tail { log: &*log, partition, sender: &sender };
        let end = match tail.fold(from, until, decisions) {
            Ok(decisions) => Input::Done { committed: until, decisions },
            Err(e) => Input::Failed(e.to_string()),
        };
        // A shard that is gone needs no answer.
        let _ = sender.blocking_send(end);
    });
    Ok(Recovered { epoch, fold: start.fold, shops: start.shops, from, decisions, inputs, quarantines })
}

struct Start {
    fold: ShardFold,
    shops: Vec<(Arc<str>, RecoveredShop)>,
    from: Offset,
    decisions: Offset,
}

/// What does not fit together is never guessed (DESIGN §3).
pub fn check(
    partition: Partition,
    checkpoint: Option<Checkpoint>,
    committed: Option<Offset>,
    low: Offset,
) -> Result<(), RecoveryError> {
    let group = "the consumer group's committed offset";
    match (checkpoint, committed) {
        (Some(c), None) => Err(RecoveryError::Unsafe(format!(
            "partition {partition}: the store has a checkpoint at {}, but {group} is missing. Is this the right log and group_id? If the \
             offset was deleted, set it to {} with Kafka's own tools; if the log is a new one, use a new store",
            c.facts, c.facts
        ))),
        (Some(c), Some(committed)) if c.facts > committed => Err(RecoveryError::Unsafe(format!(
            "partition {partition}: the store's checkpoint {} is past {group} {committed}. Do two clusters share a group or a store? If the \
             offset was set back by hand, set it to {} again",
            c.facts, c.facts
        ))),
        (_, Some(committed)) if checkpoint.is_none() && low > 0 && committed > low => Err(RecoveryError::Unsafe(format!(
            "partition {partition}: there is no snapshot, and the log begins only at {low}: what was before is gone. Restore the store from a \
             backup, or the log from its archive"
        ))),
        (Some(c), Some(_)) if c.facts < low => Err(RecoveryError::Unsafe(format!(
            "partition {partition}: the store's checkpoint {} is before the log's first offset {low}: facts between them are gone. Restore \
             the store from a newer backup, or the log from its archive",
            c.facts
        ))),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct LoadedShop {
    state: Option<(ShopState, Offset)>,
    variants: Vec<(VariantId, VariantState)>,
}

type Loaded = (ShardFold, Vec<(Arc<str>, RecoveredShop)>);

/// All snapshots of the partition, or why they cannot be used.
async fn load(store: &dyn SnapshotStore, partition: Partition) -> Result<Result<Loaded, String>, StoreError> {
    let mut fold = None;
    let mut shops: FxHashMap<String, LoadedShop> = FxHashMap::default();
    let mut rows = store.load(partition);
    while let Some(row) = rows.next().await {
        let row = row?;
        let bad = |e: SnapshotError| format!("the snapshot of {} {}: {e}", row.shop, entity_name(&row.entity));
        let kept = match row.entity {
            Entity::Shard => decode::<ShardState>(partition, &row).map(|s| fold = Some(ShardFold::from_state(s))),
            Entity::Shop => decode::<ShopState>(partition, &row)
                .map(|s| shops.entry(row.shop.clone()).or_default().state = Some((s, row.offset))),
            Entity::Variant(id) => decode::<VariantState>(partition, &row)
                .map(|s| shops.entry(row.shop.clone()).or_default().variants.push((VariantId(id), s))),
        };
        if let Err(e) = kept {
            return Ok(Err(bad(e)));
        }
    }
    let Some(fold) = fold else { return Ok(Err("the shard's own snapshot is missing".to_owned())) };
    let mut found = Vec::with_capacity(shops.len());
    for (name, LoadedShop { state, variants }) in shops {
        let Some((state, offset)) = state else { return Ok(Err(format!("the snapshot of the shop {name} is missing"))) };
        found.push((name.into(), RecoveredShop { fold: Shop::from_state(state), offset, variants }));
    }
    Ok(Ok((fold, found)))
}

fn decode<T: serde::de::DeserializeOwned>(partition: Partition, row: &Snapshot) -> Result<T, SnapshotError> {
    let name = entity_name(&row.entity);
    let seal = Seal { partition, shop: &row.shop, entity: &name, offset: row.offset, epoch: row.epoch, version: row.version };
    snapshot::decode(&seal, row.checksum, &row.state)
}

/// The blocking part: reads facts and decisions side by side.
struct Tail<'a> {
    log: &'a dyn EventLog,
    partition: Partition,
    sender: &'a mpsc::Sender<Input>,
}

impl Tail<'_> {
    /// Sends everything in `from..until`; gives the offset after the last recorded decision.
    fn fold(&self, from: Offset, until: Offset, decisions_from: Offset) -> Result<Offset, LogError> {
        let (low, high) = self.log.watermarks(Topic::Decisions, self.partition)?;
        let reader = self.log.reader(Topic::Decisions, self.partition, decisions_from.max(low))?;
        let mut decisions = Decisions::new(reader, high);
        let mut facts = self.log.reader(Topic::Facts, self.partition, from)?;
        while let Some(batch) = facts.next(until, READ_TIMEOUT)? {
            if batch.is_empty() {
                if self.sender.is_closed() {
                    return Ok(high);
                }
                continue;
            }
            let recorded = decisions.caused_before(batch.next_offset, batch.first_offset().unwrap_or(0))?;
            if self.sender.blocking_send(Input::Facts { batch, recorded }).is_err() {
                return Ok(high);
            }
        }
        Ok(high)
    }
}

/// Recorded decisions in the order of the facts that caused them.
pub struct Decisions {
    reader: Box<dyn PartitionReader>,
    /// The high watermark at the begin of recovery; the reader passes it, so no decision under way is missed.
    until: Offset,
    waiting: VecDeque<(Offset, Recorded)>,
}

impl Decisions {
    pub fn new(reader: Box<dyn PartitionReader>, until: Offset) -> Decisions {
        Decisions { reader, until, waiting: VecDeque::new() }
    }

    /// Those of the facts in `first..end`.
    pub fn caused_before(&mut self, end: Offset, first: Offset) -> Result<BTreeMap<Offset, Vec<Recorded>>, LogError> {
        while self.waiting.back().is_none_or(|(caused_by, _)| *caused_by < end) {
            let Some(batch) = self.reader.next(self.until, READ_TIMEOUT)? else { break };
            for record in batch.iter() {
                let recorded = Recorded::read(&record).map_err(|e| LogError::Damaged(e.to_string()))?;
                if let Some(caused_by) = recorded.caused_by() {
                    self.waiting.push_back((caused_by, recorded));
                }
            }
        }
        let mut due: BTreeMap<Offset, Vec<Recorded>> = BTreeMap::new();
        while let Some((caused_by, _)) = self.waiting.front()
            && *caused_by < end
        {
            let (caused_by, recorded) = self.waiting.pop_front().expect("looked at just now");
            if caused_by >= first {
                due.entry(caused_by).or_default().push(recorded);
            }
        }
        Ok(due)
    }
}

async fn blocking<T: Send + 'static>(
    log: &Arc<dyn EventLog>,
    call: impl FnOnce(&dyn EventLog) -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let log = log.clone();
    tokio::task::spawn_blocking(move || call(&*log))
        .await
        .map_err(|e| LogError::Unavailable { during: "reading the committed offsets".to_owned(), reason: e.to_string() })?
}
