//! Supervision of shards: starts them on assignment, drains them on revocation, rebuilds them when something in them dies.
//!
//! actix restarts an actor with the value that panicked and catches no panics (PITFALLS 7), so this is ours: the shard with all its
//! shops and variants is discarded and recovered from snapshots and log, by the code that recovers it at a start. A fact that kills
//! again and again becomes a dead letter and its variant is quarantined (DESIGN §2).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{oneshot, watch};

use super::batch::Death;
use super::commit::{Commit, Forget};
use super::reader::Reader;
use super::recovery::{self, Distrust, Means, Recovered, RecoveryError};
use super::residency::Bound;
use super::settings::EngineSettings;
use super::shard::{Begin, Discard, Drain, Shard, ShardDeps};
use super::snapshotter::Snapshotter;
use super::stats::EngineStats;
use super::table::{Phase, Queue, ShardRef, ShardTable};
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition, RecordBatch};
use crate::ports::event_log::{Assigned, GroupHandle, GroupSink};
use crate::ports::snapshot_store::Epoch;
use crate::ports::{EventLog, LogError, SnapshotStore};

/// The engine's other parts, once they exist.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ready {
    pub consumer: Arc<dyn GroupHandle>,
    pub commit: Addr<Commit>,
    pub snapshotter: Addr<Snapshotter>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Given(Vec<Assigned>);

#[derive(Message)]
#[rtype(result = "()")]
struct Taken {
    partitions: Vec<Partition>,
    lost: bool,
    done: std_mpsc::Sender<()>,
}

/// Something in a shard died of a fact.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Died {
    pub partition: Partition,
    pub deaths: Vec<Death>,
}

/// The store says that somebody newer owns the partition (DESIGN §7.5).
#[derive(Message)]
#[rtype(result = "()")]
pub struct PartitionFenced {
    pub partition: Partition,
    /// The epoch that was offered, and the one that holds.
    pub ours: Epoch,
    pub current: Epoch,
}

/// What is in the store is not what was put there.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Spoiled {
    pub partition: Partition,
    pub epoch: Epoch,
    pub reason: String,
}

/// This process cannot go on: somebody else writes under its name.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Fatal(pub String);

#[derive(Message)]
#[rtype(result = "()")]
struct Found {
    partition: Partition,
    /// Which start of the partition it belongs to; an older one is ignored.
    attempt: u64,
    result: Result<Recovered, RecoveryError>,
    /// Still to be acted on if there is another try.
    distrust: Option<Distrust>,
}

struct Owned {
    attempt: u64,
    arbiter: usize,
    /// None while it is recovered.
    epoch: Option<Epoch>,
}

pub struct Supervisor {
    pub log: Arc<dyn EventLog>,
    pub store: Arc<dyn SnapshotStore>,
    pub settings: EngineSettings,
    pub table: Arc<ShardTable>,
    pub stats: Arc<EngineStats>,
    pub runtime: tokio::runtime::Handle,
    pub arbiters: Vec<ArbiterHandle>,
    pub on_fatal: Box<dyn Fn(String) + Send>,
    bound: Arc<Bound>,
    parts: Option<Ready>,
    /// Assignments that came before the other parts.
    early: Vec<Assigned>,
    owned: BTreeMap<Partition, Owned>,
    attempts: u64,
    deaths: HashMap<(Partition, Offset, Arc<str>, Option<VariantId>), u32>,
}

const RETRY: Duration = Duration::from_secs(1);

impl Supervisor {
    #[expect(clippy::too_many_arguments, reason = "the parts of the engine, each once")]
    pub fn new(
        log: Arc<dyn EventLog>,
        store: Arc<dyn SnapshotStore>,
        settings: EngineSettings,
        table: Arc<ShardTable>,
        stats: Arc<EngineStats>,
        runtime: tokio::runtime::Handle,
        arbiters: Vec<ArbiterHandle>,
        on_fatal: Box<dyn Fn(String) + Send>,
    ) -> Supervisor {
        Supervisor {
            bound: Arc::new(Bound::new(settings.max_resident_variants)),
            log,
            store,
            settings,
            table,
            stats,
            runtime,
            arbiters,
            on_fatal,
            parts: None,
            early: Vec::new(),
            owned: BTreeMap::new(),
            attempts: 0,
            deaths: HashMap::new(),
        }
    }

    fn begin(&mut self, partition: Partition, quarantines: Vec<Death>, after: Duration, ctx: &mut Context<Self>) {
        self.begin_anew(partition, quarantines, None, after, ctx);
    }

    fn begin_anew(
        &mut self,
        partition: Partition,
        quarantines: Vec<Death>,
        distrust: Option<Distrust>,
        after: Duration,
        ctx: &mut Context<Self>,
    ) {
        self.attempts += 1;
        let attempt = self.attempts;
        let arbiter = partition as usize % self.arbiters.len();
        self.owned.insert(partition, Owned { attempt, arbiter, epoch: None });
        self.bound.set_shards(self.owned.len());
        self.table.set_problem(partition, "it is recovering".to_owned());
        let Some(parts) = &self.parts else { return };
        let means = Means {
            log: self.log.clone(),
            store: self.store.clone(),
            stats: self.stats.clone(),
            bound: self.bound.clone(),
            node: self.settings.node.clone(),
        };
        let (commit, me) = (parts.commit.clone(), ctx.address());
        self.runtime.spawn(async move {
            tokio::time::sleep(after).await;
            // What an earlier life had in a transaction is in the log or forgotten before the committed offset is read.
            let (done, gone) = oneshot::channel();
            commit.do_send(Forget { partition, done: Some(done) });
            let _ = gone.await;
            let mut distrust = distrust;
            let result = recovery::recover(means, partition, quarantines, &mut distrust).await;
            me.do_send(Found { partition, attempt, result, distrust });
        });
    }

    /// Takes it from those who look for it, and ends it.
    fn discard(&self, partition: Partition) {
        if let Some(shard) = self.table.get(partition) {
            shard.addr.do_send(Discard);
        }
        self.table.remove(partition);
    }

    fn drop_shard(&mut self, partition: Partition) {
        self.owned.remove(&partition);
        self.bound.set_shards(self.owned.len());
        self.discard(partition);
        if let Some(parts) = &self.parts {
            parts.commit.do_send(Forget { partition, done: None });
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
    }
}

impl Handler<Ready> for Supervisor {
    type Result = ();

    fn handle(&mut self, ready: Ready, ctx: &mut Self::Context) {
        self.parts = Some(ready);
        let early = std::mem::take(&mut self.early);
        for a in early {
            self.begin(a.partition, Vec::new(), Duration::ZERO, ctx);
        }
    }
}

impl Handler<Given> for Supervisor {
    type Result = ();

    fn handle(&mut self, Given(assigned): Given, ctx: &mut Self::Context) {
        if self.parts.is_none() {
            self.early.extend(assigned);
            return;
        }
        for a in assigned {
            self.begin(a.partition, Vec::new(), Duration::ZERO, ctx);
        }
    }
}

impl Handler<Taken> for Supervisor {
    type Result = ();

    fn handle(&mut self, Taken { partitions, lost, done }: Taken, ctx: &mut Self::Context) {
        self.early.retain(|a| !partitions.contains(&a.partition));
        let mut drains = Vec::new();
        for partition in &partitions {
            let shard = self.table.get(*partition);
            if let Some(shard) = shard.filter(|s| !lost && *s.phase.borrow() == Phase::Live) {
                let (sender, drained) = oneshot::channel();
                shard.addr.do_send(Drain(sender));
                drains.push(drained);
            }
        }
        let deadline = self.settings.drain_deadline;
        let drained = async move {
            let all = futures::future::join_all(drains);
            if tokio::time::timeout(deadline, all).await.is_err() {
                tracing::warn!("a revoked partition was not drained in time; its next owner folds what is missing from the log");
            }
        };
        ctx.spawn(drained.into_actor(self).map(move |(), actor, _| {
            for partition in partitions {
                tracing::info!(partition, lost, "partition given up");
                actor.drop_shard(partition);
            }
            // The consumer's thread may have given up waiting.
            let _ = done.send(());
        }));
    }
}

impl Handler<Found> for Supervisor {
    type Result = ();

    fn handle(&mut self, found: Found, ctx: &mut Self::Context) {
        let partition = found.partition;
        let Some(owned) = self.owned.get_mut(&partition).filter(|o| o.attempt == found.attempt) else { return };
        let Some(parts) = &self.parts else { return };
        match found.result {
            Ok(recovered) => {
                owned.epoch = Some(recovered.epoch);
                let deps = ShardDeps {
                    settings: self.settings.clone(),
                    commit: parts.commit.clone(),
                    snapshotter: parts.snapshotter.clone(),
                    supervisor: ctx.address(),
                    consumer: parts.consumer.clone(),
                    stats: self.stats.clone(),
                    reader: Reader { store: self.store.clone(), runtime: self.runtime.clone(), partition },
                    bound: self.bound.clone(),
                };
                let (phase, phase_seen) = watch::channel(Phase::Recovering);
                let (applied, applied_seen) = watch::channel(recovered.from);
                let queue = Arc::<Queue>::default();
                let gate = queue.clone();
                let addr = Shard::start_in_arbiter(&self.arbiters[owned.arbiter], move |_| {
                    Shard::new(partition, deps, recovered, gate, phase, applied)
                });
                self.table.put(ShardRef::new(partition, addr.clone(), phase_seen, applied_seen, queue));
                // Only now: a batch that finds no shard is given back, and nobody would call for it again.
                addr.do_send(Begin);
            }
            Err(e) if e.is_passing() => {
                tracing::warn!(partition, error = %e, "recovery has to wait");
                self.table.set_problem(partition, e.to_string());
                self.begin_anew(partition, Vec::new(), found.distrust, RETRY, ctx);
            }
            Err(e) => {
                tracing::error!(partition, error = %e, "the partition stays read-only");
                self.table.set_problem(partition, e.to_string());
            }
        }
    }
}

impl Handler<Died> for Supervisor {
    type Result = ();

    fn handle(&mut self, Died { partition, deaths }: Died, ctx: &mut Self::Context) {
        self.stats.rebuilds.add(1);
        let limit = self.settings.deaths_until_quarantine;
        let mut quarantines = Vec::new();
        for death in deaths {
            let key = (partition, death.offset, death.shop.clone(), death.variant);
            let count = self.deaths.entry(key.clone()).or_default();
            *count += 1;
            tracing::error!(
                partition,
                offset = death.offset,
                shop = &*death.shop,
                variant = death.variant.map(|v| v.0),
                deaths = *count,
                reason = death.message,
                "a fact killed an actor; the shard is rebuilt from snapshots and log"
            );
            if *count >= limit {
                self.deaths.remove(&key);
                quarantines.push(death);
            }
        }
        if self.owned.contains_key(&partition) {
            self.table.remove(partition);
            self.begin(partition, quarantines, Duration::ZERO, ctx);
        }
    }
}

impl Handler<PartitionFenced> for Supervisor {
    type Result = ();

    fn handle(&mut self, PartitionFenced { partition, ours, current }: PartitionFenced, ctx: &mut Self::Context) {
        let now = self.owned.get(&partition).map(|o| o.epoch);
        if now != Some(Some(ours)) {
            // A save of an earlier life of the partition came late. Who owns it now, maybe this node, is not concerned.
            tracing::info!(partition, ours, current, "a late snapshot of a former ownership is refused");
            return;
        }
        tracing::error!(
            partition,
            ours,
            current,
            "fenced: the store knows a newer owner; this node discards the partition's state"
        );
        self.discard(partition);
        // If the partition is still ours by the group, a new epoch is taken; else the revocation comes first.
        self.begin(partition, Vec::new(), RETRY, ctx);
    }
}

impl Handler<Spoiled> for Supervisor {
    type Result = ();

    fn handle(&mut self, Spoiled { partition, epoch, reason }: Spoiled, ctx: &mut Self::Context) {
        tracing::error!(partition, reason, "a variant does not come back as it was saved; the shard is rebuilt");
        self.stats.rebuilds.add(1);
        if self.owned.contains_key(&partition) {
            self.table.remove(partition);
            self.begin_anew(partition, Vec::new(), Some(Distrust { epoch, reason }), Duration::ZERO, ctx);
        }
    }
}

impl Handler<Fatal> for Supervisor {
    type Result = ();

    fn handle(&mut self, Fatal(reason): Fatal, _: &mut Self::Context) {
        tracing::error!(reason, "the engine cannot go on");
        (self.on_fatal)(reason);
    }
}

/// The consumer's side of the supervisor; lives on the consumer's thread.
pub struct ShardSink {
    pub supervisor: Addr<Supervisor>,
    pub table: Arc<ShardTable>,
    pub drain_deadline: Duration,
}

impl GroupSink for ShardSink {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        self.supervisor.do_send(Given(partitions));
    }

    fn revoked(&mut self, partitions: Vec<Partition>, lost: bool) {
        let (done, waiting) = std_mpsc::channel();
        self.supervisor.do_send(Taken { partitions, lost, done });
        if waiting.recv_timeout(self.drain_deadline + RETRY).is_err() {
            tracing::warn!("the shards did not answer to a revocation in time");
        }
    }

    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        match self.table.get(batch.partition) {
            Some(shard) => shard.deliver(batch),
            None => Err(batch),
        }
    }

    fn fault(&mut self, error: LogError) {
        // Readiness asks the log itself.
        tracing::warn!(%error, "the shards' consumer has a fault and tries again");
    }
}
