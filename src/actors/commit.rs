//! One transaction a few tens of milliseconds for all shards of the node: decisions, dead letters and offsets together, so that a
//! `read_committed` reader sees each decision once (DESIGN §3, §7.4).
//!
//! The transaction's calls block, so they run on a thread of their own. What an aborted transaction held is sent again, byte for
//! byte. Where the outcome is unknown the committed offsets tell it (PITFALLS 21).

pub mod book;

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use self::book::{Book, Job, Work};
use super::shard;
use super::stats::EngineStats;
use super::supervisor::{Fatal, Supervisor};
use super::table::ShardTable;
use crate::events::record::{NewRecord, Offset, Partition, Topic};
use crate::ports::EventLog;
use crate::ports::event_log::{CommitError, Group, TransactionalWriter};
use crate::ports::snapshot_store::Epoch;

/// What a shard has done: everything before `next_offset` is decided, with these records.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Processed {
    pub partition: Partition,
    pub epoch: Epoch,
    pub next_offset: Offset,
    pub records: Vec<NewRecord>,
}

/// A partition has a shard: what it does is taken from here on, until the partition is given up.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Admit {
    pub partition: Partition,
    pub epoch: Epoch,
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
    result: Result<BTreeMap<Partition, Offset>, CommitError>,
}

pub struct Commit {
    interval: Duration,
    table: Arc<ShardTable>,
    supervisor: Addr<Supervisor>,
    stats: Arc<EngineStats>,
    to_thread: mpsc::Sender<(Job, Addr<Commit>)>,
    book: Book,
    /// Who waits for the transaction under way to end.
    waiting: Vec<oneshot::Sender<()>>,
    /// A flush is scheduled.
    timer: Option<SpawnHandle>,
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
        Ok(Commit { interval, table, supervisor, stats, to_thread, book: Book::default(), waiting: Vec::new(), timer: None })
    }

    fn schedule(&mut self, after: Duration, ctx: &mut Context<Self>) {
        if self.timer.is_none() && !self.book.is_busy() {
            self.timer = Some(ctx.run_later(after, |actor, ctx| {
                actor.timer = None;
                actor.flush(ctx);
            }));
        }
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        let Some(job) = self.book.next_job() else { return };
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if self.to_thread.send((job, ctx.address())).is_err() {
            tracing::error!("the commit thread has ended; the engine is restarted");
            self.supervisor.do_send(Fatal("the commit thread has ended".into()));
        }
    }
}

/// Fenced transactions in a row until the process gives up.
const FENCED_FOR_GOOD: u32 = 12;

/// The thread: one transaction after the other until the actor is gone.
fn run(log: &dyn EventLog, mut writer: Box<dyn TransactionalWriter>, jobs: &mpsc::Receiver<(Job, Addr<Commit>)>) {
    while let Ok((job, reply)) = jobs.recv() {
        let (work, result) = match job {
            Job::Commit(work) => {
                let result = commit(log, &mut *writer, &work);
                (work, result)
            }
            Job::FindOut(work) => {
                let result = find_out(log, &work, "it is asked for again".to_owned());
                (work, result)
            }
        };
        reply.do_send(Done { work, result });
    }
}

fn commit(
    log: &dyn EventLog,
    writer: &mut dyn TransactionalWriter,
    work: &Work,
) -> Result<BTreeMap<Partition, Offset>, CommitError> {
    let records: Vec<_> = work.records.iter().map(|(_, r)| r.clone()).collect();
    let offsets: Vec<_> = work.offsets.iter().map(|(p, o)| (*p, *o)).collect();
    match writer.commit(&records, &offsets) {
        Ok(positions) => Ok(work.decision_ends(&positions)),
        Err(CommitError::Unknown(reason)) => find_out(log, work, reason),
        Err(e) => Err(e),
    }
}

/// The committed offsets tell whether the transaction is in the log.
fn find_out(log: &dyn EventLog, work: &Work, reason: String) -> Result<BTreeMap<Partition, Offset>, CommitError> {
    match log.committed(Group::Shards, Topic::Facts) {
        Ok(committed) if work.landed(&committed) => Ok(BTreeMap::new()),
        Ok(_) => Err(CommitError::Aborted(reason)),
        Err(e) => Err(CommitError::Unknown(format!("{reason}; the committed offsets cannot be read: {e}"))),
    }
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
        let urgent = !p.records.is_empty();
        if !self.book.add(p.partition, p.epoch, p.next_offset, p.records) {
            tracing::debug!(partition = p.partition, epoch = p.epoch, "a batch of a shard that was given up is dropped");
            return;
        }
        // A decision triggers a commit at once; offsets alone can wait.
        if urgent {
            self.flush(ctx);
        } else {
            self.schedule(self.interval, ctx);
        }
    }
}

impl Handler<Admit> for Commit {
    type Result = ();

    fn handle(&mut self, Admit { partition, epoch }: Admit, _: &mut Self::Context) {
        self.book.admit(partition, epoch);
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
        if !self.book.forget(partition) {
            self.waiting.extend(done);
        } else if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

impl Handler<Done> for Commit {
    type Result = ();

    fn handle(&mut self, Done { work, result }: Done, ctx: &mut Self::Context) {
        let ended = self.book.ended(work, result);
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
        let failures = self.book.failures();
        self.stats.commit_failing.set(failures > 2);
        match ended {
            Ok(landed) => {
                self.stats.commits.add(1);
                for part in landed {
                    if let Some(shard) = self.table.get(part.partition) {
                        shard.addr.do_send(shard::Committed { next_offset: part.next_offset, decisions: part.decisions });
                    }
                }
                if self.book.is_urgent() {
                    self.flush(ctx);
                } else {
                    self.schedule(self.interval, ctx);
                }
            }
            Err(e) => {
                self.stats.aborts.add(1);
                if matches!(e, CommitError::Fenced(_)) && failures >= FENCED_FOR_GOOD {
                    // Were it a partition that moved on, its revocation would have come by now.
                    self.supervisor.do_send(Fatal(format!("{e}; does another process run under this node's name?")));
                    return;
                }
                let next = if matches!(e, CommitError::Unknown(_)) { "asked for" } else { "sent" };
                tracing::warn!(error = %e, attempt = failures, "the transaction did not commit; its bytes are {next} again");
                self.schedule(Duration::from_millis(50 << failures.min(5)), ctx);
            }
        }
    }
}
