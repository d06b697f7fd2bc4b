//! One transaction a few tens of milliseconds for all shards of the node: decisions, dead letters and offsets together, so that a
//! `read_committed` reader sees each decision once (DESIGN §3, §7.4).
//!
//! The transaction's calls block, so they run on a thread of their own. What an aborted transaction held is sent again, byte for
//! byte. Where the outcome is unknown the committed offsets tell it (PITFALLS 21).

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::shard;
use super::stats::EngineStats;
use super::supervisor::{Fatal, Supervisor};
use super::table::ShardTable;
use crate::events::record::{NewRecord, Offset, Partition, Topic};
use crate::ports::EventLog;
use crate::ports::event_log::{CommitError, Group, TransactionalWriter};

/// What a shard has done: everything before `next_offset` is decided, with these records.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Processed {
    pub partition: Partition,
    pub next_offset: Offset,
    pub records: Vec<NewRecord>,
    /// Who says so.
    pub shard: Addr<shard::Shard>,
}

/// Commit now instead of at the next interval.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

/// A partition is given up: drop what is pending for it, and say when no transaction holds anything of it any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Forget {
    pub partition: Partition,
    pub done: Option<oneshot::Sender<()>>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Done {
    work: Work,
    result: Result<Vec<(Partition, Offset)>, CommitError>,
}

#[derive(Debug, Default, Clone)]
struct Work {
    records: Vec<(Partition, NewRecord)>,
    offsets: BTreeMap<Partition, Offset>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    fn forget(&mut self, partition: Partition) {
        self.offsets.remove(&partition);
        self.records.retain(|(p, _)| *p != partition);
    }

    fn append(&mut self, mut later: Work) {
        self.records.append(&mut later.records);
        self.offsets.append(&mut later.offsets);
    }
}

pub struct Commit {
    interval: Duration,
    table: Arc<ShardTable>,
    supervisor: Addr<Supervisor>,
    stats: Arc<EngineStats>,
    to_thread: mpsc::Sender<(Work, Addr<Commit>)>,
    pending: Work,
    /// Partitions given up while their transaction was under way.
    forgotten: Vec<Partition>,
    /// Who waits for that transaction to end.
    waiting: Vec<oneshot::Sender<()>>,
    busy: bool,
    /// A flush is scheduled.
    timer: Option<SpawnHandle>,
    failures: u32,
}

impl Commit {
    pub fn new(
        interval: Duration,
        log: Arc<dyn EventLog>,
        writer: Box<dyn TransactionalWriter>,
        table: Arc<ShardTable>,
        supervisor: Addr<Supervisor>,
        stats: Arc<EngineStats>,
    ) -> std::io::Result<Commit> {
        let (to_thread, jobs) = mpsc::channel();
        std::thread::Builder::new().name("commit".into()).spawn(move || run(&*log, writer, &jobs))?;
        Ok(Commit {
            interval,
            table,
            supervisor,
            stats,
            to_thread,
            pending: Work::default(),
            forgotten: Vec::new(),
            waiting: Vec::new(),
            busy: false,
            timer: None,
            failures: 0,
        })
    }

    fn schedule(&mut self, after: Duration, ctx: &mut Context<Self>) {
        if self.timer.is_none() && !self.busy {
            self.timer = Some(ctx.run_later(after, |actor, ctx| {
                actor.timer = None;
                actor.flush(ctx);
            }));
        }
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.pending.is_empty() {
            return;
        }
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.busy = true;
        if self.to_thread.send((std::mem::take(&mut self.pending), ctx.address())).is_err() {
            tracing::error!("the commit thread has ended; the engine is restarted");
            self.supervisor.do_send(Fatal("the commit thread has ended".into()));
        }
    }
}

const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Fenced transactions in a row until the process gives up.
const FENCED_FOR_GOOD: u32 = 12;

/// The thread: one transaction after the other until the actor is gone.
fn run(log: &dyn EventLog, mut writer: Box<dyn TransactionalWriter>, jobs: &mpsc::Receiver<(Work, Addr<Commit>)>) {
    while let Ok((work, reply)) = jobs.recv() {
        let records: Vec<_> = work.records.iter().map(|(_, r)| r.clone()).collect();
        let offsets: Vec<_> = work.offsets.iter().map(|(p, o)| (*p, *o)).collect();
        let result = match writer.commit(&records, &offsets) {
            Ok(positions) => Ok(decision_ends(&work, &positions)),
            // Sent again before that is known, its decisions could stand in the log twice (DESIGN §7.4).
            Err(CommitError::Unknown(reason)) => match found_out(log, &offsets, &reason, || reply.connected()) {
                Some(true) => Ok(Vec::new()),
                Some(false) => Err(CommitError::Aborted(reason)),
                None => return,
            },
            Err(e) => Err(e),
        };
        reply.do_send(Done { work, result });
    }
}

/// Asks until there is an answer whether the transaction is in the log; none when nobody waits for it any more.
fn found_out(log: &dyn EventLog, offsets: &[(Partition, Offset)], reason: &str, wanted: impl Fn() -> bool) -> Option<bool> {
    let mut told = false;
    while wanted() {
        match landed(log, offsets) {
            Ok(landed) => return Some(landed),
            Err(e) if !told => {
                tracing::warn!(reason, error = %e, "whether a transaction is in the log is not known; asking until it is");
                told = true;
            }
            Err(_) => {}
        }
        std::thread::park_timeout(ASK_AGAIN);
    }
    None
}

/// Whether a transaction with these offsets is in the log: it is whole or not there at all.
fn landed(log: &dyn EventLog, offsets: &[(Partition, Offset)]) -> Result<bool, crate::ports::LogError> {
    let committed = log.committed(Group::Shards, Topic::Facts)?;
    Ok(offsets.iter().all(|(p, o)| committed.get(*p as usize).copied().flatten().is_some_and(|c| c >= *o)))
}

/// For each partition the offset after its last decision.
fn decision_ends(work: &Work, positions: &[crate::events::record::Position]) -> Vec<(Partition, Offset)> {
    let mut ends = BTreeMap::new();
    for ((_, record), position) in work.records.iter().zip(positions) {
        if record.topic == Topic::Decisions {
            ends.insert(position.partition, position.offset + 1);
        }
    }
    ends.into_iter().collect()
}

impl Actor for Commit {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Each shard has a bounded number of uncommitted batches, each with one message.
        ctx.set_mailbox_capacity(1024);
    }
}

impl Handler<Processed> for Commit {
    type Result = ();

    fn handle(&mut self, p: Processed, ctx: &mut Self::Context) {
        // The last words of a shard that was given up: its partition may be somebody else's, and one partition that is not ours
        // would hold up the transactions of all.
        if self.table.get(p.partition).is_none_or(|s| s.addr != p.shard) {
            return;
        }
        let urgent = !p.records.is_empty();
        self.pending.records.extend(p.records.into_iter().map(|r| (p.partition, r)));
        self.pending.offsets.insert(p.partition, p.next_offset);
        // A decision triggers a commit at once; offsets alone can wait.
        if urgent {
            self.flush(ctx);
        } else {
            self.schedule(self.interval, ctx);
        }
    }
}

impl Handler<Flush> for Commit {
    type Result = ();

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) {
        self.flush(ctx);
    }
}

impl Handler<Forget> for Commit {
    type Result = ();

    fn handle(&mut self, Forget { partition, done }: Forget, _: &mut Self::Context) {
        self.pending.forget(partition);
        if self.busy {
            self.forgotten.push(partition);
            self.waiting.extend(done);
        } else if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

impl Handler<Done> for Commit {
    type Result = ();

    fn handle(&mut self, Done { mut work, result }: Done, ctx: &mut Self::Context) {
        self.busy = false;
        let forgotten = std::mem::take(&mut self.forgotten);
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
        match result {
            Ok(ends) => {
                self.failures = 0;
                self.stats.commits.add(1);
                self.stats.commit_failing.set(false);
                for (partition, next_offset) in &work.offsets {
                    if forgotten.contains(partition) {
                        continue;
                    }
                    if let Some(shard) = self.table.get(*partition) {
                        let decisions = ends.iter().find(|(p, _)| p == partition).map(|(_, end)| *end);
                        shard.addr.do_send(shard::Committed { next_offset: *next_offset, decisions });
                    }
                }
                if self.pending.records.is_empty() {
                    self.schedule(self.interval, ctx);
                } else {
                    self.flush(ctx);
                }
            }
            Err(e) => {
                self.stats.aborts.add(1);
                self.failures += 1;
                if matches!(e, CommitError::Fenced(_)) && self.failures >= FENCED_FOR_GOOD {
                    // Were it a partition that moved on, its revocation would have come by now.
                    self.supervisor.do_send(Fatal(format!("{e}; does another process run under this node's name?")));
                    return;
                }
                self.stats.commit_failing.set(self.failures > 2);
                tracing::warn!(error = %e, attempt = self.failures, "the transaction did not commit; its bytes are sent again");
                for partition in forgotten {
                    work.forget(partition);
                }
                work.append(std::mem::take(&mut self.pending));
                self.pending = work;
                let backoff = Duration::from_millis(50 << self.failures.min(5));
                self.schedule(backoff, ctx);
            }
        }
    }
}
