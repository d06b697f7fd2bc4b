//! One transaction a few tens of milliseconds for all shards of the node: decisions, dead letters and offsets together, so that a
//! `read_committed` reader sees each decision once (DESIGN §3, §7.4).
//!
//! The transaction's calls block, so they run on a thread of their own. What an aborted transaction held is sent again, byte for
//! byte. Where the outcome is unknown the committed offsets tell it (PITFALLS 21). What follows from what is in [`book`].

pub mod book;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use self::book::{Book, DecisionEnds, Forgotten, Told, Work};
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
    result: Result<DecisionEnds, CommitError>,
}

pub struct Commit {
    interval: Duration,
    table: Arc<ShardTable>,
    supervisor: Addr<Supervisor>,
    stats: Arc<EngineStats>,
    to_thread: mpsc::Sender<(Work, Addr<Commit>)>,
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
        let Some(work) = self.book.next_work() else { return };
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if self.to_thread.send((work, ctx.address())).is_err() {
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
        let result = match work.told(writer.commit(&records, &offsets)) {
            Told::Known(result) => result,
            Told::Unknown(reason) => match found_out(log, &work, &reason, || reply.connected()) {
                Some(true) => Ok(DecisionEnds::new()),
                Some(false) => Err(CommitError::Aborted(reason)),
                None => return,
            },
        };
        reply.do_send(Done { work, result });
    }
}

/// Asks until there is an answer whether the transaction is in the log; none when nobody waits for it any more.
fn found_out(log: &dyn EventLog, work: &Work, reason: &str, wanted: impl Fn() -> bool) -> Option<bool> {
    let mut told = false;
    while wanted() {
        match log.committed(Group::Shards, Topic::Facts) {
            Ok(committed) => return Some(work.is_in(&committed)),
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
        self.book.add(p.partition, p.next_offset, p.records);
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
        match self.book.forget(partition) {
            Forgotten::WhenItEnds => self.waiting.extend(done),
            Forgotten::Already => drop(done.map(|done| done.send(()))),
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
        match ended {
            Ok(landed) => {
                self.stats.commits.add(1);
                self.stats.commit_failing.set(false);
                for of in landed {
                    if let Some(shard) = self.table.get(of.partition) {
                        shard.addr.do_send(shard::Committed { next_offset: of.next_offset, decisions: of.decisions });
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
                let failures = self.book.failures();
                if matches!(e, CommitError::Fenced(_)) && failures >= FENCED_FOR_GOOD {
                    // Were it a partition that moved on, its revocation would have come by now.
                    self.supervisor.do_send(Fatal(format!("{e}; does another process run under this node's name?")));
                    return;
                }
                self.stats.commit_failing.set(failures > 2);
                tracing::warn!(error = %e, attempt = failures, "the transaction did not commit; its bytes are sent again");
                self.schedule(Duration::from_millis(50 << failures.min(5)), ctx);
            }
        }
    }
}
