//! The shard: one partition's facts, in order, one batch at a time.
//!
//! ```text
//! recovering ──► live ──► draining ──► stopped
//!      └──► read-only (says how to mend it)
//! ```
//! A batch is read, handed to the shops, and settled when the last actor lets go of its scope. Its decisions go to
//! [`super::commit`] together with the offset after it. Snapshots are collected between batches, so they hold whole batches, and
//! are written when the offset they stand at is committed: none holds a fact at or past the committed offset (DESIGN §3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot, watch};

use super::batch::{Death, Mode, Outcome, Scope};
use super::collect::Collection;
use super::commit::{Commit, Flush, Processed};
use super::recovery::{Input, Recovered};
use super::settings::EngineSettings;
use super::shop::{CollectShop, Item, Shop, ShopBatch, ShopShared};
use super::snapshotter::{Save, Snapshotter};
use super::stats::EngineStats;
use super::supervisor::{Died, Supervisor};
use super::table::{Phase, Queue};
use crate::domain::shard::ShardFold;
use crate::domain::shop::Shop as ShopFold;
use crate::domain::snapshot;
use crate::domain::views::Provenance;
use crate::events::codec::{self, Subject};
use crate::events::dead_letter::{DeadLetter, Origin, Reason, Unreadable};
use crate::events::decision::{self, CausedBy, Decision, Quarantine, Recorded};
use crate::events::fact::{At, Fact};
use crate::events::ids::VariantId;
use crate::events::record::{NewRecord, Offset, Partition, RecordBatch, RecordRef, Topic};
use crate::events::time::Millis;
use crate::ports::event_log::GroupHandle;
use crate::ports::snapshot_store::{Checkpoint, Columns, Entity, Epoch, Snapshot};

/// Batches processed but not yet committed; past it the shard waits (DESIGN §7.9).
const UNCOMMITTED_BATCHES: usize = 16;

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
pub struct Collected(pub Vec<Snapshot>);

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
pub struct Saved;

/// Stop intake, commit, snapshot, stop (DESIGN §3). Answers when it is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain(pub oneshot::Sender<()>);

/// Where a shop lives, and what an answer has to say about itself.
#[derive(Message)]
#[rtype(result = "Option<Located>")]
pub struct Locate(pub Arc<str>);

pub struct Located {
    pub shop: Addr<Shop>,
    pub now: Millis,
    pub provenance: Provenance,
}

#[derive(Message)]
#[rtype(result = "Vec<Arc<str>>")]
pub struct ListShops;

/// What a shard is given.
#[derive(Clone)]
pub struct ShardDeps {
    pub settings: EngineSettings,
    pub commit: Addr<Commit>,
    pub snapshotter: Addr<Snapshotter>,
    pub supervisor: Addr<Supervisor>,
    pub consumer: Arc<dyn GroupHandle>,
    pub stats: Arc<EngineStats>,
}

struct ShopEntry {
    addr: Addr<Shop>,
    organisation: Box<str>,
    pending: Vec<Item>,
    dirty: bool,
}

/// A collection on its way to the store.
struct Collecting {
    facts: Offset,
    decisions: Offset,
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
    quarantines: BTreeMap<Offset, Vec<(Death, bool)>>,
    inputs: Option<mpsc::Receiver<Input>>,
    queue: VecDeque<RecordBatch>,
    queue_gate: Arc<Queue>,
    current: Option<RecordBatch>,
    /// Offsets after what is applied, and after what is committed.
    applied: Offset,
    committed: Offset,
    /// Ends of processed batches that are not committed yet.
    uncommitted: VecDeque<Offset>,
    /// Decisions caused by facts at or past `committed` stand at or past this offset.
    decisions: Offset,
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
        let Recovered { epoch, fold, shops, from, decisions, inputs, quarantines } = recovered;
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
            queue: VecDeque::new(),
            queue_gate,
            current: None,
            applied: from,
            committed: from,
            uncommitted: VecDeque::new(),
            decisions,
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
            shard.quarantines.entry(death.offset).or_default().push((death, false));
        }
        for (name, shop) in shops {
            for (variant, state) in &shop.variants {
                if let Some(at) = state.next_deadline() {
                    shard.set_deadline(&name, *variant, Some(at));
                }
            }
            shard.add_shop(name, shop.fold, shop.offset, shop.variants);
        }
        shard
    }

    fn add_shop(
        &mut self,
        name: Arc<str>,
        fold: ShopFold,
        offset: Offset,
        variants: Vec<(VariantId, crate::domain::variant::VariantState)>,
    ) {
        let organisation = fold.state().organisation.clone();
        let theirs = self.fold.rules(&organisation).cloned().map(Arc::new);
        let shared =
            ShopShared { partition: self.partition, stats: self.deps.stats.clone(), probe: self.deps.settings.probe.clone() };
        let addr = Shop::new(name.clone(), shared, fold, offset, theirs, variants).start();
        self.deps.stats.shops.add(1);
        self.shops.insert(name, ShopEntry { addr, organisation, pending: Vec::new(), dirty: false });
    }

    fn entry(&mut self, name: &str) -> &mut ShopEntry {
        if !self.shops.contains_key(name) {
            self.add_shop(name.into(), ShopFold::default(), -1, Vec::new());
        }
        self.shops.get_mut(name).expect("added just now")
    }

    fn push(&mut self, name: &str, item: Item) {
        let entry = self.entry(name);
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
        if self.current.is_some() || self.is_collecting_states() {
            return;
        }
        match self.mode {
            Mode::Replay => self.next_input(ctx),
            Mode::Live => {
                if self.want_snapshot && self.begin_collection(ctx) {
                    return;
                }
                if self.draining.is_some() {
                    self.drain(ctx);
                } else if self.uncommitted.len() < UNCOMMITTED_BATCHES
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
            Some(Input::Facts { batch, recorded }) => {
                shard.inputs = Some(inputs);
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
        self.applied = committed;
        self.committed = committed;
        self.decisions = decisions;
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
        self.want_snapshot = self.dirty || self.shops.values().any(|s| s.dirty);
        self.deps.consumer.start(self.partition, committed);
        let interval = self.deps.settings.snapshot_interval;
        ctx.run_interval(interval, |shard, ctx| {
            shard.want_snapshot = true;
            shard.step(ctx);
        });
        self.step(ctx);
    }

    fn read_only(&mut self, reason: String) {
        tracing::error!(partition = self.partition, reason, "the shard stays read-only");
        self.phase.send_replace(Phase::ReadOnly(reason));
    }

    /// Reads a batch and hands it to the shops.
    fn process(&mut self, batch: RecordBatch, mut recorded: BTreeMap<Offset, Vec<Recorded>>, ctx: &mut Context<Self>) {
        let mut outcome = Outcome::default();
        for record in batch.iter() {
            let after = recorded.remove(&record.offset).unwrap_or_default();
            let skipped = self.quarantine(&record, &after);
            match codec::read(&record) {
                Ok(read) => {
                    let mut at = read.at;
                    self.fold.advance(&mut at);
                    self.last = at.offset;
                    self.dirty = true;
                    match read.subject {
                        Subject::Shop(shop) if skipped.iter().any(|s| **s == *shop) => {}
                        Subject::Shop(shop) => self.take(shop, at, read.fact),
                        Subject::Partition => self.take_for_all(at, read.fact, &mut outcome),
                    }
                    for r in after {
                        if let Recorded::Decision(d) = &r
                            && let Some(shop) = d.shop.clone()
                        {
                            self.push(&shop, Item::Recorded(at, Arc::new(r)));
                        }
                    }
                }
                // The record's own dead letter is in the log already if this is replay.
                Err(unreadable) => outcome.unreadable.push((record.offset, "".into(), unreadable)),
            }
        }
        if self.mode == Mode::Live {
            self.deps.stats.facts.add(batch.len() as u64);
        }
        let scope = Scope::new(self.mode, ctx.address(), outcome);
        for name in std::mem::take(&mut self.touched) {
            let Some(entry) = self.shops.get_mut(&name) else { continue };
            let items = std::mem::take(&mut entry.pending);
            // Bounded: one batch is under way. A shop that died has said so, and took the shard with it.
            entry.addr.do_send(ShopBatch { scope: scope.clone(), items });
        }
        self.current = Some(batch);
    }

    fn take(&mut self, shop: &str, at: At, fact: Fact) {
        let moved_to = match &fact {
            Fact::ShopRegistered(r) => Some(r.organisation.clone()),
            _ => None,
        };
        self.push(shop, Item::Fact(at, fact));
        if let Some(organisation) = moved_to {
            let rules = self.fold.rules(&organisation).cloned().map(Arc::new);
            self.entry(shop).organisation = organisation.into();
            self.push(shop, Item::Rules(at, rules));
        }
    }

    fn take_for_all(&mut self, at: At, fact: Fact, outcome: &mut Outcome) {
        match fact {
            Fact::Rules(set) => match self.fold.apply_rules(&set, at) {
                Ok(effect) if effect.changed => {
                    let rules = self.fold.rules(&set.organisation).cloned().map(Arc::new);
                    let theirs: Vec<_> =
                        self.shops.iter().filter(|(_, e)| *e.organisation == *set.organisation).map(|(n, _)| n.clone()).collect();
                    for shop in theirs {
                        self.push(&shop, Item::Rules(at, rules.clone()));
                        if effect.proposes_at_once {
                            self.push(&shop, Item::Touch(at, None));
                        }
                    }
                }
                Ok(_) => {}
                Err(unreadable) => outcome.unreadable.push((at.offset, "".into(), unreadable)),
            },
            _ => {
                // A tick wakes only those whose time has come (DESIGN §10).
                while let Some((due, shop, variant)) = self.deadlines.first().cloned().filter(|d| d.0 <= at.now) {
                    self.deadlines.remove(&(due, shop.clone(), variant));
                    self.deadline_of.remove(&(shop.clone(), variant));
                    self.push(&shop, Item::Touch(at, Some(variant)));
                }
            }
        }
    }

    /// Puts quarantines before the fact that they are about; gives the shops for which the fact is skipped as a whole.
    fn quarantine(&mut self, record: &RecordRef<'_>, recorded: &[Recorded]) -> Vec<Arc<str>> {
        let mut of: Vec<(Arc<str>, Option<VariantId>, String)> = Vec::new();
        if let Some(deaths) = self.quarantines.get(&record.offset) {
            of.extend(deaths.iter().map(|(d, _)| (d.shop.clone(), d.variant, d.message.clone())));
        }
        of.extend(recorded.iter().filter_map(|r| match r {
            Recorded::Quarantine(q) => Some((q.shop.as_str().into(), q.variant_id, q.message.clone())),
            _ => None,
        }));
        let mut skipped = Vec::new();
        for (shop, variant, message) in of {
            match variant {
                Some(variant) => self.push(&shop, Item::Quarantine(record.offset, variant, message.into())),
                None => skipped.push(shop),
            }
        }
        skipped
    }

    fn set_deadline(&mut self, shop: &Arc<str>, variant: VariantId, at: Option<Millis>) {
        let key = (shop.clone(), variant);
        let before = match at {
            Some(at) => {
                self.deadlines.insert((at, shop.clone(), variant));
                self.deadline_of.insert(key, at)
            }
            None => self.deadline_of.remove(&key),
        };
        if let Some(before) = before.filter(|b| Some(*b) != at) {
            self.deadlines.remove(&(before, shop.clone(), variant));
        }
    }

    fn settle(&mut self, outcome: Outcome, ctx: &mut Context<Self>) {
        let Some(batch) = self.current.take() else { return };
        if !outcome.deaths.is_empty() {
            self.deps.supervisor.do_send(Died { partition: self.partition, deaths: outcome.deaths });
            self.phase.send_replace(Phase::Recovering);
            ctx.stop();
            return;
        }
        for (shop, variant, at) in outcome.deadlines {
            self.set_deadline(&shop, variant, at);
        }
        if self.mode == Mode::Live {
            let mut decisions = outcome.decisions;
            number(&mut decisions);
            let mut records: Vec<_> = decisions.iter().map(|d| decision_record(self.partition, d)).collect();
            for (offset, _, unreadable) in &outcome.unreadable {
                records.push(self.dead_letter(&batch, *offset, unreadable));
            }
            records.extend(self.quarantine_records(&batch));
            self.deps.stats.decided(&decisions);
            self.deps.stats.dead_letters.add(outcome.unreadable.len() as u64);
            self.uncommitted.push_back(batch.next_offset);
            let done = Processed { partition: self.partition, epoch: self.epoch, next_offset: batch.next_offset, records };
            self.deps.commit.do_send(done);
            self.queue_gate.leave(self.partition, &*self.deps.consumer);
        }
        self.applied = batch.next_offset;
        self.applied_to.send_replace(self.applied);
        self.step(ctx);
    }

    fn dead_letter(&self, batch: &RecordBatch, offset: Offset, why: &Unreadable) -> NewRecord {
        let record = batch.iter().find(|r| r.offset == offset);
        let origin =
            Origin { topic: Topic::Facts.default_name().to_owned(), partition: Some(self.partition), offset: Some(offset) };
        let topic = record.and_then(|r| r.headers.text("fact").or_else(|| r.headers.text("x-shopify-topic")));
        let bytes = record.and_then(|r| r.value).unwrap_or_default();
        let at = record.map_or(0, |r| r.append_time_ms);
        let key = record.and_then(|r| r.key).map(<[u8]>::to_vec);
        DeadLetter::new(origin, topic, bytes, why, at).into_record(key, Some(self.partition))
    }

    /// What replay has to know of facts that are skipped, and their dead letters.
    fn quarantine_records(&mut self, batch: &RecordBatch) -> Vec<NewRecord> {
        let mut records = Vec::new();
        let due: Vec<_> = self.quarantines.range(..batch.next_offset).map(|(o, _)| *o).collect();
        for offset in due {
            for (death, _) in self.quarantines.remove(&offset).unwrap_or_default() {
                let why = Unreadable::new(Reason::Poison, format!("it kills the actor: {}", death.message));
                records.push(self.dead_letter(batch, offset, &why));
                let quarantine = Quarantine {
                    shop: death.shop.to_string(),
                    variant_id: death.variant,
                    caused_by: CausedBy { topic: Topic::Facts.default_name().into(), partition: self.partition, offset },
                    message: death.message,
                };
                records.push(NewRecord {
                    topic: Topic::Decisions,
                    partition: Some(self.partition),
                    key: Some(death.shop.as_bytes().to_vec()),
                    headers: headers(decision::RECORD_QUARANTINE),
                    value: Some(serde_json::to_vec(&quarantine).expect("plain data")),
                });
                self.deps.stats.quarantines.add(1);
                self.deps.stats.dead_letters.add(1);
            }
        }
        records
    }

    /// Begins to collect dirty states if it is time; true if it did.
    fn begin_collection(&mut self, ctx: &mut Context<Self>) -> bool {
        let dirty = self.dirty || self.shops.values().any(|s| s.dirty);
        if !dirty {
            self.want_snapshot = false;
            return false;
        }
        if self.collecting.is_some() || (self.draining.is_none() && self.wall_clock() < self.next_snapshot) {
            return false;
        }
        self.want_snapshot = false;
        let collection = Collection::new(self.partition, self.epoch, self.fold.now().unwrap_or(0), ctx.address());
        if self.dirty {
            self.dirty = false;
            collection.add("", Entity::Shard, self.last, snapshot::encode(&self.fold.state()), Columns::default());
        }
        for entry in self.shops.values_mut().filter(|e| e.dirty) {
            entry.dirty = false;
            // Bounded: one collection is under way.
            entry.addr.do_send(CollectShop(collection.clone()));
        }
        self.collecting =
            Some(Collecting { facts: self.applied, decisions: self.decisions, snapshots: None, since: self.wall_clock() });
        true
    }

    /// Hands a collection to the store once what it holds is committed.
    fn save_if_committed(&mut self) {
        if let Some(c) = &mut self.collecting
            && c.facts <= self.committed
            && let Some(snapshots) = c.snapshots.as_mut().map(std::mem::take)
            && !(snapshots.is_empty())
        {
            let checkpoint = Checkpoint { facts: c.facts, decisions: c.decisions };
            self.deps.snapshotter.do_send(Save { partition: self.partition, epoch: self.epoch, checkpoint, snapshots });
        }
    }

    /// One step of a drain; every event on the way calls it again.
    fn drain(&mut self, ctx: &mut Context<Self>) {
        self.queue.clear();
        if self.committed < self.applied && !self.uncommitted.is_empty() {
            self.deps.commit.do_send(Flush);
            return;
        }
        if self.collecting.is_some() {
            return;
        }
        if self.dirty || self.shops.values().any(|s| s.dirty) {
            self.begin_collection(ctx);
            return;
        }
        if let Some(done) = self.draining.take() {
            // Whoever asked may have given up at its deadline.
            let _ = done.send(());
        }
        self.phase.send_replace(Phase::Stopped);
        ctx.stop();
    }
}

fn headers(record: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![("version", decision::VERSION.to_string().into_bytes()), (decision::RECORD_HEADER, record.as_bytes().to_vec())]
}

fn decision_record(partition: Partition, d: &Decision) -> NewRecord {
    NewRecord {
        topic: Topic::Decisions,
        partition: Some(partition),
        key: d.shop.as_ref().map(|s| s.as_bytes().to_vec()),
        headers: headers(decision::RECORD_DECISION),
        value: Some(serde_json::to_vec(d).expect("a decision is plain data")),
    }
}

/// Puts decisions in the order of their facts and numbers those of one fact.
fn number(decisions: &mut [Decision]) {
    // Stable: those of one variant stay in the order of its rules.
    decisions.sort_by_key(|d| (d.caused_by.offset, d.variant_id));
    let mut last = (-1, 0);
    for d in decisions {
        last = if d.caused_by.offset == last.0 { (last.0, last.1 + 1) } else { (d.caused_by.offset, 0) };
        d.seq = last.1;
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
        if self.draining.is_some() || batch.next_offset <= self.applied {
            self.queue_gate.leave(self.partition, &*self.deps.consumer);
            return;
        }
        self.queue.push_back(batch);
        self.step(ctx);
    }
}

impl Handler<Settled> for Shard {
    type Result = ();

    fn handle(&mut self, Settled(outcome): Settled, ctx: &mut Self::Context) {
        self.settle(outcome, ctx);
    }
}

impl Handler<Collected> for Shard {
    type Result = ();

    fn handle(&mut self, Collected(snapshots): Collected, ctx: &mut Self::Context) {
        if let Some(c) = &mut self.collecting {
            if snapshots.is_empty() {
                self.collecting = None;
            } else {
                c.snapshots = Some(snapshots);
            }
        }
        self.save_if_committed();
        self.step(ctx);
    }
}

impl Handler<Committed> for Shard {
    type Result = ();

    fn handle(&mut self, c: Committed, ctx: &mut Self::Context) {
        self.committed = self.committed.max(c.next_offset);
        while self.uncommitted.front().is_some_and(|end| *end <= self.committed) {
            self.uncommitted.pop_front();
        }
        if let Some(end) = c.decisions {
            self.decisions = self.decisions.max(end);
        }
        self.save_if_committed();
        self.step(ctx);
    }
}

impl Handler<Saved> for Shard {
    type Result = ();

    fn handle(&mut self, _: Saved, ctx: &mut Self::Context) {
        if let Some(c) = self.collecting.take() {
            // At most a fifth of the time goes into snapshots.
            let now = self.wall_clock();
            self.next_snapshot = now + (now - c.since).max(0) * 4;
        }
        self.step(ctx);
    }
}

impl Handler<Drain> for Shard {
    type Result = ();

    fn handle(&mut self, Drain(done): Drain, ctx: &mut Self::Context) {
        if self.mode == Mode::Replay {
            // Nothing of it is ours to save yet.
            let _ = done.send(());
            self.phase.send_replace(Phase::Stopped);
            ctx.stop();
            return;
        }
        self.draining = Some(done);
        self.want_snapshot = false;
        self.step(ctx);
    }
}

impl Handler<Locate> for Shard {
    type Result = MessageResult<Locate>;

    fn handle(&mut self, Locate(shop): Locate, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shops.get(&shop).map(|entry| Located {
            shop: entry.addr.clone(),
            now: self.fold.now().unwrap_or(0),
            provenance: Provenance {
                partition: self.partition,
                offset: self.applied - 1,
                epoch: self.epoch,
                node: self.deps.settings.node.clone(),
                source: "owner",
                staleness_ms: 0,
            },
        }))
    }
}

impl Handler<ListShops> for Shard {
    type Result = MessageResult<ListShops>;

    fn handle(&mut self, _: ListShops, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shops.keys().cloned().collect())
    }
}

/// What recovery found of a shop.
pub struct RecoveredShop {
    pub fold: ShopFold,
    pub offset: Offset,
    pub variants: Vec<(VariantId, crate::domain::variant::VariantState)>,
}
