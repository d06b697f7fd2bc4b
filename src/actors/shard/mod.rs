//! The shard: one partition's facts, in order, one batch at a time.
//!
//! ```text
//! recovering ──► live ──► draining ──► stopped
//!      └──► read-only (says how to mend it)
//! ```
//! A batch is read, handed to the shops, and settled when the last actor lets go of its scope. Its decisions go to
//! [`super::commit`] together with the offset after it. Snapshots are collected between batches, so they hold whole batches, and
//! are written when the offset they stand at is committed: none holds a fact at or past the committed offset (DESIGN §3).

mod batches;
pub mod letters;
mod locate;
pub mod progress;
mod room;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
pub use locate::{ListShops, Locate};
use progress::Progress;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot, watch};

use super::batch::{Death, Mode, Outcome};
use super::collect::Found;
use super::commit::Commit;
use super::reader::Reader;
use super::recovery::{Input, Recovered};
use super::residency::{Bound, Residency, Stored};
use super::settings::EngineSettings;
use super::shop::{Item, RecoveredShop, Shop, ShopShared};
use super::snapshotter::Snapshotter;
use super::stats::EngineStats;
use super::supervisor::Supervisor;
use super::table::{Phase, Queue};
use crate::domain::shard::ShardFold;
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition, RecordBatch};
use crate::events::time::Millis;
use crate::ports::event_log::GroupHandle;
use crate::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};

/// A batch from the consumer's thread.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Deliver(pub RecordBatch);

/// Begin to work: the shard stands in the table, so what is meant for it finds it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Begin;

/// The batch under way is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Settled(pub Outcome);

/// The states asked for are here.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Collected(pub Found);

/// How many variants may leave, by the batch that used them last.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Surveyed(pub BTreeMap<u64, usize>);

/// Those that were to leave have left.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Released;

/// A transaction with this partition's offset is in the log.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Committed {
    pub next_offset: Offset,
    pub decisions: Option<Offset>,
}

/// A snapshot is in the store.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Saved {
    pub epoch: Epoch,
}

/// Stop intake, commit, snapshot, stop (DESIGN §3). Answers when it is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain(pub oneshot::Sender<()>);

/// The partition is somebody else's: stop as you are and write nothing. An actor with an interval does not end by itself when
/// nobody holds its address any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Discard;

/// What a shard is given.
#[derive(Clone)]
pub struct ShardDeps {
    pub settings: EngineSettings,
    pub commit: Addr<Commit>,
    pub snapshotter: Addr<Snapshotter>,
    pub supervisor: Addr<Supervisor>,
    pub consumer: Arc<dyn GroupHandle>,
    pub stats: Arc<EngineStats>,
    pub reader: Reader,
    pub bound: Arc<Bound>,
}

struct ShopEntry {
    addr: Addr<Shop>,
    organisation: Box<str>,
    pending: Vec<Item>,
    dirty: bool,
}

/// A collection on its way to the store.
struct Collecting {
    checkpoint: Checkpoint,
    /// Asked for their states.
    shops: Vec<Arc<str>>,
    stored: Vec<(Arc<str>, VariantId, Stored)>,
    snapshots: Option<Vec<Snapshot>>,
    /// Wall clock; paces snapshots, no state depends on it.
    since: Millis,
}

pub struct Shard {
    partition: Partition,
    epoch: Epoch,
    deps: ShardDeps,
    mode: Mode,
    fold: ShardFold,
    shops: FxHashMap<Arc<str>, ShopEntry>,
    /// Shops with items in the batch under way.
    touched: Vec<Arc<str>>,
    deadlines: BTreeSet<(Millis, Arc<str>, VariantId)>,
    deadline_of: FxHashMap<(Arc<str>, VariantId), Millis>,
    /// Facts that killed too often, by offset.
    quarantines: BTreeMap<Offset, Vec<Death>>,
    inputs: Option<mpsc::Receiver<Input>>,
    residency: Arc<Residency>,
    /// Room is being made.
    is_sweeping: bool,
    /// Nobody else can leave before the next snapshot is in the store.
    swept: bool,
    queue: VecDeque<RecordBatch>,
    queue_gate: Arc<Queue>,
    current: Option<RecordBatch>,
    /// Counts batches.
    number: u64,
    progress: Progress,
    /// Offset of the last fact that changed the shard's own state.
    last: Offset,
    dirty: bool,
    want_snapshot: bool,
    collecting: Option<Collecting>,
    /// No collection before; keeps snapshots to a share of the time (PITFALLS 27).
    next_snapshot: Millis,
    draining: Option<oneshot::Sender<()>>,
    phase: watch::Sender<Phase>,
    applied_to: watch::Sender<Offset>,
}

impl Shard {
    pub fn new(
        partition: Partition,
        deps: ShardDeps,
        recovered: Recovered,
        queue_gate: Arc<Queue>,
        phase: watch::Sender<Phase>,
        applied_to: watch::Sender<Offset>,
    ) -> Shard {
        let Recovered { epoch, fold, shops, from, decisions, inputs, quarantines, deadlines } = recovered;
        let residency = Arc::new(Residency::new(deps.bound.clone(), deps.stats.clone()));
        let mut shard = Shard {
            partition,
            epoch,
            deps,
            mode: Mode::Replay,
            fold,
            shops: FxHashMap::default(),
            touched: Vec::new(),
            deadlines: BTreeSet::new(),
            deadline_of: FxHashMap::default(),
            quarantines: BTreeMap::new(),
            inputs: Some(inputs),
            residency,
            is_sweeping: false,
            swept: false,
            queue: VecDeque::new(),
            queue_gate,
            current: None,
            number: 0,
            progress: Progress::new(from, decisions),
            last: -1,
            dirty: false,
            want_snapshot: false,
            collecting: None,
            next_snapshot: Millis::MIN,
            draining: None,
            phase,
            applied_to,
        };
        for death in quarantines {
            shard.quarantines.entry(death.offset).or_default().push(death);
        }
        for (name, variant, at) in deadlines {
            shard.set_deadline(&name, variant, Some(at));
        }
        for (name, shop) in shops {
            shard.add_shop(name, shop);
        }
        shard
    }

    fn add_shop(&mut self, name: Arc<str>, recovered: RecoveredShop) {
        let organisation = recovered.fold.state().organisation.clone();
        let theirs = self.fold.rules(&organisation).cloned().map(Arc::new);
        let shared = ShopShared {
            partition: self.partition,
            stats: self.deps.stats.clone(),
            residency: self.residency.clone(),
            reader: self.deps.reader.clone(),
            probe: self.deps.settings.probe.clone(),
        };
        let addr = Shop::new(name.clone(), shared, theirs, recovered).start();
        self.deps.stats.shops.add(1);
        self.shops.insert(name, ShopEntry { addr, organisation, pending: Vec::new(), dirty: false });
    }

    fn entry(&mut self, name: &str) -> &mut ShopEntry {
        if !self.shops.contains_key(name) {
            self.add_shop(name.into(), RecoveredShop { offset: -1, ..RecoveredShop::default() });
        }
        self.shops.get_mut(name).expect("added just now")
    }

    /// One look-up a fact.
    fn push(&mut self, name: &str, item: Item) {
        let Some(entry) = self.shops.get_mut(name) else {
            self.entry(name);
            return self.push(name, item);
        };
        entry.pending.push(item);
        if entry.pending.len() == 1 {
            entry.dirty = true;
            let (name, _) = self.shops.get_key_value(name).expect("it has an entry");
            let name = name.clone();
            self.touched.push(name);
        }
    }

    /// Takes up the next batch, if the shard is free to.
    fn step(&mut self, ctx: &mut Context<Self>) {
        if self.current.is_some() || self.is_collecting_states() || self.is_sweeping {
            return;
        }
        match self.mode {
            Mode::Replay => {
                if self.inputs.is_some() && !self.make_room(ctx) {
                    self.next_input(ctx);
                }
            }
            Mode::Live => {
                if self.want_snapshot && self.begin_collection(self.pace(), ctx) {
                    return;
                }
                if self.draining.is_some() {
                    self.drain(ctx);
                } else if !self.make_room(ctx)
                    && self.progress.has_room()
                    && let Some(batch) = self.queue.pop_front()
                {
                    self.process(batch, BTreeMap::new(), ctx);
                }
            }
        }
    }

    fn wall_clock(&self) -> Millis {
        (self.deps.settings.clock)()
    }

    fn is_collecting_states(&self) -> bool {
        self.collecting.as_ref().is_some_and(|c| c.snapshots.is_none())
    }

    fn next_input(&mut self, ctx: &mut Context<Self>) {
        let Some(mut inputs) = self.inputs.take() else { return };
        let next = async move {
            let input = inputs.recv().await;
            (inputs, input)
        };
        ctx.spawn(next.into_actor(self).map(|(inputs, input), shard, ctx| match input {
            Some(Input::Facts { batch, recorded, decisions }) => {
                shard.inputs = Some(inputs);
                shard.progress.replays(decisions);
                shard.deps.stats.replayed.add(batch.len() as u64);
                shard.process(batch, recorded, ctx);
            }
            Some(Input::Done { committed, decisions }) => shard.go_live(committed, decisions, ctx),
            Some(Input::Failed(reason)) => shard.read_only(reason),
            None => shard.read_only("recovery ended early; see the log".to_owned()),
        }));
    }

    fn go_live(&mut self, committed: Offset, decisions: Offset, ctx: &mut Context<Self>) {
        self.mode = Mode::Live;
        self.progress.goes_live(committed, decisions);
        self.applied_to.send_replace(committed);
        self.phase.send_replace(Phase::Live);
        tracing::info!(
            partition = self.partition,
            epoch = self.epoch,
            offset = committed,
            shops = self.shops.len(),
            "shard is live"
        );
        // What recovery folded is in no snapshot yet.
        self.want_snapshot = self.is_dirty();
        self.deps.consumer.start(self.partition, committed);
        let interval = self.deps.settings.snapshot_interval;
        ctx.run_interval(interval, |shard, ctx| {
            shard.want_snapshot = true;
            shard.swept = false;
            shard.step(ctx);
        });
        self.step(ctx);
    }

    fn read_only(&mut self, reason: String) {
        tracing::error!(partition = self.partition, reason, "the shard stays read-only");
        self.phase.send_replace(Phase::ReadOnly(reason));
    }
}

impl Actor for Shard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Batches are counted by `table::Queue`; the rest are queries and answers, a few a batch.
        ctx.set_mailbox_capacity(256);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.deps.stats.shops.add(-(self.shops.len() as i64));
    }
}

impl Handler<Begin> for Shard {
    type Result = ();

    fn handle(&mut self, _: Begin, ctx: &mut Self::Context) {
        self.step(ctx);
    }
}

impl Handler<Deliver> for Shard {
    type Result = ();

    fn handle(&mut self, Deliver(batch): Deliver, ctx: &mut Self::Context) {
        if self.draining.is_some() || batch.next_offset <= self.progress.applied() {
            self.queue_gate.leave(self.partition, &*self.deps.consumer);
            return;
        }
        self.queue.push_back(batch);
        self.step(ctx);
    }
}

impl Handler<Discard> for Shard {
    type Result = ();

    fn handle(&mut self, Discard: Discard, ctx: &mut Self::Context) {
        self.phase.send_replace(Phase::Stopped);
        ctx.stop();
    }
}
