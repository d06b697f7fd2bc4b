//! Recovery of a partition (DESIGN §3): snapshots in one read, then the log from the checkpoint to the committed offset, merged with
//! the recorded decisions. Nothing is decided on the way, and no handler can be reached from here (DESIGN §7.7).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc;

use super::batch::{Death, cut_before_tick};
use super::collect::entity_name;
use super::residency::{Bound, Packed, Stored};
use super::shop::RecoveredShop;
use super::stats::EngineStats;
use crate::domain::shard::{ShardFold, ShardState};
use crate::domain::shop::{Shop, ShopState};
use crate::domain::snapshot::{self, Seal, SnapshotError};
use crate::domain::variant::VariantState;
use crate::events::decision::Recorded;
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition, RecordBatch, Topic};
use crate::events::time::Millis;
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
    pub deadlines: Vec<Deadline>,
}

/// When time alone may change a variant.
pub type Deadline = (Arc<str>, VariantId, Millis);

/// Snapshots that turned out not to be what was saved, found under this epoch.
#[derive(Debug, Clone)]
pub struct Distrust {
    pub epoch: Epoch,
    pub reason: String,
}

/// What a recovery works with.
#[derive(Clone)]
pub struct Means {
    pub log: Arc<dyn EventLog>,
    pub store: Arc<dyn SnapshotStore>,
    pub stats: Arc<EngineStats>,
    pub bound: Arc<Bound>,
    pub node: String,
}

/// The tail, batch by batch.
pub enum Input {
    Facts {
        batch: RecordBatch,
        recorded: BTreeMap<Offset, Vec<Recorded>>,
        /// Decisions caused by later facts stand at or past this offset.
        decisions: Offset,
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
    /// Whether another try may succeed by itself. A store that fails is asked again whatever it said: to give the partition up
    /// for good would need a restart to mend it.
    pub fn is_passing(&self) -> bool {
        match self {
            RecoveryError::Store(e) => !matches!(e, StoreError::Misconfigured(_)),
            RecoveryError::Log(e) => passes(e),
            RecoveryError::Unsafe(_) => false,
        }
    }
}

fn passes(e: &LogError) -> bool {
    matches!(e, LogError::Unavailable { .. } | LogError::QueueFull)
}

/// Batches read ahead of the fold.
const AHEAD: usize = 2;
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Between tries while the log is away.
const PAUSE: Duration = Duration::from_millis(200);

pub async fn recover(
    means: Means,
    partition: Partition,
    quarantines: Vec<Death>,
    distrust: &mut Option<Distrust>,
) -> Result<Recovered, RecoveryError> {
    let Means { log, store, stats, bound, node } = means;
    let epoch = store.acquire_epoch(partition, &node).await?;
    // If somebody else has owned the partition since, the snapshots are theirs, and may well be good.
    *distrust = distrust.take().filter(|d| epoch == d.epoch + 1).map(|d| Distrust { epoch, ..d });
    let checkpoint = store.checkpoint(partition).await?;
    let (committed, low) = blocking(&log, move |log| {
        let committed = log.committed(Group::Shards, Topic::Facts)?.get(partition as usize).copied().flatten();
        let (low, _) = log.watermarks(Topic::Facts, partition)?;
        Ok((committed, low))
    })
    .await?;
    check(partition, checkpoint, committed, low)?;
    let mut start = Start { loaded: Loaded::default(), from: low, decisions: 0 };
    if let Some(checkpoint) = checkpoint {
        let loaded = match distrust {
            Some(d) => Err(d.reason.clone()),
            None => load(&*store, partition, bound.room(&stats)).await?,
        };
        match loaded {
            Ok(loaded) => start = Start { loaded, from: checkpoint.facts, decisions: checkpoint.decisions },
            Err(why) => {
                // Discarded as a whole: the log gives all of it back (DESIGN §3).
                check(partition, None, committed, low)?;
                stats.snapshots_discarded.add(1);
                tracing::warn!(partition, why, "snapshots are discarded; the partition is rebuilt from the log");
                store.clear(partition, epoch).await?;
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
    let Loaded { fold, shops, deadlines } = start.loaded;
    Ok(Recovered { epoch, fold, shops, from, decisions, inputs, quarantines, deadlines })
}

struct Start {
    loaded: Loaded,
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

/// What the store has of a partition.
#[derive(Default)]
pub struct Loaded {
    pub fold: ShardFold,
    pub shops: Vec<(Arc<str>, RecoveredShop)>,
    pub deadlines: Vec<Deadline>,
}

struct LoadedShop {
    name: Arc<str>,
    is_complete: bool,
    shop: RecoveredShop,
}

/// Shops in the order in which they come.
#[derive(Default)]
struct LoadedShops {
    all: Vec<LoadedShop>,
    by_name: FxHashMap<Arc<str>, usize>,
    current: usize,
}

impl LoadedShops {
    /// Rows of a shop mostly stand together.
    fn of(&mut self, name: &str) -> &mut LoadedShop {
        if self.all.get(self.current).is_none_or(|s| *s.name != *name) {
            self.current = self.by_name.get(name).copied().unwrap_or_else(|| {
                let name: Arc<str> = name.into();
                self.by_name.insert(name.clone(), self.all.len());
                self.all.push(LoadedShop { name, is_complete: false, shop: RecoveredShop::default() });
                self.all.len() - 1
            });
        }
        &mut self.all[self.current]
    }
}

/// All snapshots of the partition, or why they cannot be used. Each is decoded as it comes, so that damage is found now; `room`
/// variants at most are kept in memory, of the others only what their shop has to know.
pub async fn load(store: &dyn SnapshotStore, partition: Partition, room: usize) -> Result<Result<Loaded, String>, StoreError> {
    let (mut fold, mut deadlines, mut kept) = (None, Vec::new(), 0);
    let mut shops = LoadedShops::default();
    let mut rows = store.load(partition);
    while let Some(row) = rows.next().await {
        let row = row?;
        let bad = |e: SnapshotError| format!("the snapshot of {} {}: {e}", row.shop, entity_name(&row.entity));
        if row.entity == Entity::Shard {
            match decode::<ShardState>(partition, &row) {
                Ok(state) => fold = Some(ShardFold::from_state(state)),
                Err(e) => return Ok(Err(bad(e))),
            }
            continue;
        }
        let LoadedShop { name, is_complete, shop } = shops.of(&row.shop);
        let Entity::Variant(id) = row.entity else {
            match decode::<ShopState>(partition, &row) {
                Ok(state) => {
                    (shop.fold, shop.offset, *is_complete) = (Shop::from_state(state), row.offset, true);
                    shop.variants.reserve(shop.fold.variant_count().min(room - kept));
                }
                Err(e) => return Ok(Err(bad(e))),
            }
            continue;
        };
        let state: VariantState = match decode(partition, &row) {
            Ok(state) => state,
            Err(e) => return Ok(Err(bad(e))),
        };
        let id = VariantId(id);
        deadlines.extend(state.next_deadline().map(|at| (name.clone(), id, at)));
        if kept < room {
            kept += 1;
            shop.variants.push((id, Stored::of(&state), Packed::new(row.version, row.state)));
        } else {
            shop.away.push((id, Stored::of(&state)));
        }
    }
    let Some(fold) = fold else { return Ok(Err("the shard's own snapshot is missing".to_owned())) };
    let mut found = Vec::with_capacity(shops.all.len());
    for LoadedShop { name, is_complete, shop } in shops.all {
        if !is_complete {
            return Ok(Err(format!("the snapshot of the shop {name} is missing")));
        }
        if let Some(missing) = missing_variant(&shop) {
            return Ok(Err(format!("the snapshot of {name} {missing} is missing")));
        }
        found.push((name, shop));
    }
    Ok(Ok(Loaded { fold, shops: found, deadlines }))
}

/// A variant that the catalogue names and that has no snapshot.
fn missing_variant(shop: &RecoveredShop) -> Option<VariantId> {
    let ids = || shop.variants.iter().map(|(id, ..)| *id).chain(shop.away.iter().map(|(id, _)| *id));
    if ids().filter(|id| shop.fold.product_of(*id).is_some()).count() == shop.fold.variant_count() {
        return None;
    }
    let known: FxHashSet<VariantId> = ids().collect();
    shop.fold.variants().find(|id| !known.contains(id))
}

pub(super) fn decode<T: snapshot::State>(partition: Partition, row: &Snapshot) -> Result<T, SnapshotError> {
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
        let (low, high) = self.patiently(|| self.log.watermarks(Topic::Decisions, self.partition))?;
        let reader = self.log.reader(Topic::Decisions, self.partition, decisions_from.max(low))?;
        let mut decisions = Decisions::new(reader, high);
        let mut facts = self.log.reader(Topic::Facts, self.partition, from)?;
        while let Some(batch) = self.patiently(|| facts.next(until, READ_TIMEOUT))? {
            if batch.is_empty() {
                if self.sender.is_closed() {
                    return Ok(high);
                }
                continue;
            }
            let mut rest = Some(batch);
            while let Some(mut batch) = rest {
                rest = cut_before_tick(&mut batch);
                let first = batch.first_offset().unwrap_or(0);
                // Decisions read before a fault wait in it, so the call can be made again.
                let recorded = loop {
                    match self.patiently(|| decisions.caused_before(batch.next_offset, first))? {
                        Some(recorded) => break recorded,
                        // A transaction that nobody ends must not hold the thread of a shard that is gone, nor the node's stop.
                        None if self.sender.is_closed() => return Ok(high),
                        None => {}
                    }
                };
                let input = Input::Facts { batch, recorded, decisions: decisions.begin() };
                if self.sender.blocking_send(input).is_err() {
                    return Ok(high);
                }
            }
        }
        Ok(high)
    }

    /// A log that is away comes back; until then the partition recovers, as long as somebody waits for it.
    fn patiently<T>(&self, mut call: impl FnMut() -> Result<T, LogError>) -> Result<T, LogError> {
        let mut told = false;
        loop {
            match call() {
                Err(e) if passes(&e) && !self.sender.is_closed() => {
                    if !told {
                        tracing::warn!(partition = self.partition, error = %e, "recovery waits for the log");
                        told = true;
                    }
                    std::thread::park_timeout(PAUSE);
                }
                other => return other,
            }
        }
    }
}

/// Recorded decisions in the order of the facts that caused them.
pub struct Decisions {
    reader: Box<dyn PartitionReader>,
    until: Offset,
    waiting: VecDeque<Waiting>,
    /// Offset after the last one read.
    read_to: Offset,
}

struct Waiting {
    caused_by: Offset,
    offset: Offset,
    recorded: Recorded,
}

impl Decisions {
    /// All up to `until`, the high watermark at the begin of recovery: so no decision under way is missed.
    pub fn new(reader: Box<dyn PartitionReader>, until: Offset) -> Decisions {
        let read_to = reader.position();
        Decisions { reader, until, waiting: VecDeque::new(), read_to }
    }

    /// All that are not given out yet stand at or past this offset.
    pub fn begin(&self) -> Offset {
        self.waiting.front().map_or(self.read_to, |w| w.offset)
    }

    /// Those of the facts in `first..end`; none if they are not at hand yet. Can be called again then, and after an error.
    pub fn caused_before(&mut self, end: Offset, first: Offset) -> Result<Option<BTreeMap<Offset, Vec<Recorded>>>, LogError> {
        while self.waiting.back().is_none_or(|w| w.caused_by < end) {
            let Some(batch) = self.reader.next(self.until, READ_TIMEOUT)? else { break };
            for record in batch.iter() {
                let recorded = Recorded::read(&record).map_err(|e| LogError::Damaged(e.to_string()))?;
                if let Some(caused_by) = recorded.caused_by() {
                    self.waiting.push_back(Waiting { caused_by, offset: record.offset, recorded });
                }
            }
            self.read_to = self.read_to.max(batch.next_offset);
            if batch.is_empty() {
                return Ok(None);
            }
        }
        let mut due: BTreeMap<Offset, Vec<Recorded>> = BTreeMap::new();
        while self.waiting.front().is_some_and(|w| w.caused_by < end) {
            let Some(waiting) = self.waiting.pop_front() else { break };
            if waiting.caused_by >= first {
                due.entry(waiting.caused_by).or_default().push(waiting.recorded);
            }
        }
        Ok(Some(due))
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
