//! A node's transactions: the actor drives the real [`Book`], its thread goes through a transaction call by call, and any call may
//! be the last one that comes back (src/actors/commit, src/adapters/kafka/transaction).

use stockwarden::actors::protocol::{DecisionEnds, Forgotten, Told, Work};
use stockwarden::events::record::{Offset, Partition, Position, Topic};
use stockwarden::ports::event_log::CommitError;

use super::Broken;
use super::life::ToShard;
use super::log::TxnId;
use super::world::{Outcome, World};

pub enum ToCommit {
    Processed {
        partition: Partition,
        /// Which life of the partition says so.
        attempt: u64,
        next_offset: Offset,
        records: Vec<stockwarden::events::record::NewRecord>,
    },
    Flush,
    /// The attempt that waits for it.
    Forget(Partition, Option<u64>),
    Done(Work, Outcome),
}

#[derive(Default)]
pub enum Thread {
    #[default]
    Idle,
    Begin(Work),
    Writing {
        work: Work,
        txn: TxnId,
        left: Vec<usize>,
        positions: Vec<Option<Position>>,
    },
    Ending {
        work: Work,
        txn: TxnId,
        positions: Vec<Position>,
    },
    /// The outcome is unknown: a new producer is opened, which ends and fences the old transaction. If that fails, the old one
    /// may still end either way.
    Reopen {
        work: Work,
        waits: bool,
    },
    Ask(Work, String),
}

/// A call that was given up by its caller, and still is on its way.
pub struct LateEnd(pub TxnId);

impl World {
    pub fn commit_mail(&mut self, n: usize) {
        let Some(mail) = self.nodes[n].commit_mail.pop_front() else { return };
        let broken = self.broken;
        let node = &mut self.nodes[n];
        let mut flush = false;
        match mail {
            ToCommit::Processed { partition, attempt, next_offset, records } => {
                if node.table.get(&partition) == Some(&attempt) || broken == Broken::LateBatch {
                    flush = !records.is_empty();
                    node.book.add(partition, next_offset, records);
                } else {
                    self.counts.late_batches += 1;
                }
            }
            ToCommit::Flush => flush = true,
            ToCommit::Forget(partition, attempt) => match node.book.forget(partition) {
                Forgotten::Already => attempt.into_iter().for_each(|a| self.forgotten(n, a)),
                Forgotten::WhenItEnds => node.waiting.extend(attempt),
            },
            ToCommit::Done(work, result) => self.done(n, work, result),
        }
        if flush {
            self.flush(n);
        }
    }

    pub fn flush(&mut self, n: usize) {
        if let Some(work) = self.nodes[n].book.next_work() {
            self.nodes[n].thread = Thread::Begin(work);
        }
    }

    fn done(&mut self, n: usize, work: Work, mut result: Outcome) {
        if self.broken == Broken::DropAborted && matches!(result, Err(CommitError::Aborted(_))) {
            result = Ok(DecisionEnds::new());
        }
        if matches!(result, Err(CommitError::Aborted(_) | CommitError::Fenced(_))) {
            self.count_abort(n, &work);
        }
        let ended = self.nodes[n].book.ended(work, result);
        for attempt in std::mem::take(&mut self.nodes[n].waiting) {
            self.forgotten(n, attempt);
        }
        match ended {
            Ok(landed) => {
                for part in landed {
                    let mail = ToShard::Committed { next_offset: part.next_offset, decisions: part.decisions };
                    self.mail_to(n, part.partition, mail);
                }
            }
            Err(e) => self.say(|| format!("n{n} {e}")),
        }
    }

    /// The cases of the issue that an abort makes.
    fn count_abort(&mut self, n: usize, work: &Work) {
        for partition in work.offsets.keys() {
            let Some(life) = self.nodes[n].table.get(partition).and_then(|a| self.nodes[n].lives.get(a)) else { continue };
            self.counts.actor_ahead += u32::from(!life.progress.is_committed());
            self.counts.snapshot_ahead +=
                u32::from(life.collecting.as_ref().is_some_and(|c| !life.progress.covers(&c.checkpoint)));
        }
    }

    /// One call of the transaction's thread.
    pub fn thread_step(&mut self, n: usize) {
        let shared = self.log.clone();
        let mut log = shared.lock().expect("one thread");
        let epoch = self.nodes[n].producer_epoch;
        let next = match std::mem::take(&mut self.nodes[n].thread) {
            Thread::Idle => Thread::Idle,
            Thread::Begin(work) if self.nodes[n].needs_producer => {
                // Opening one waits for what the one before has left.
                if log.has_open(n) {
                    self.nodes[n].producer_epoch = log.init(n);
                } else if log.is_settled(n) {
                    self.nodes[n].producer_epoch = log.init(n);
                    self.nodes[n].needs_producer = false;
                }
                Thread::Begin(work)
            }
            // The coordinator refuses a transaction while it still ends the one before (CONCURRENT_TRANSACTIONS).
            Thread::Begin(work) if !log.is_settled(n) => Thread::Begin(work),
            Thread::Begin(work) => {
                let txn = log.begin(n, epoch);
                let node = &self.nodes[n];
                // The group checks the generation, the adapter that the partitions are ours as far as this member knows.
                let owns = self.broken == Broken::LateBatch || work.offsets.keys().all(|p| node.owned.contains_key(p));
                let is_member = owns && self.group.knows(n, node.generation) || self.broken == Broken::GenerationCheck;
                if !is_member {
                    let _ = log.end_txn(txn, false);
                    self.counts.fenced += 1;
                    self.told(n, work, Err(CommitError::Fenced("an old generation".into())))
                } else if log.add_offsets(txn, &work.offsets).is_err() {
                    Thread::Reopen { work, waits: false }
                } else {
                    let mut left: Vec<usize> = (0..work.records.len()).collect();
                    // Each partition's records in their order.
                    left.sort_by_key(|i| std::cmp::Reverse((work.records[*i].0, *i)));
                    let positions = vec![None; work.records.len()];
                    Thread::Writing { work, txn, left, positions }
                }
            }
            Thread::Writing { work, txn, mut left, mut positions } => match left.pop() {
                None => Thread::Ending { work, txn, positions: positions.into_iter().flatten().collect() },
                Some(i) => {
                    let (partition, record) = work.records[i].clone();
                    match log.write(txn, partition, record) {
                        Ok(position) => {
                            positions[i] = Some(position);
                            Thread::Writing { work, txn, left, positions }
                        }
                        Err(_) => Thread::Reopen { work, waits: false },
                    }
                }
            },
            Thread::Ending { work, txn, positions } => {
                let fault = if self.calm { 99 } else { self.rng.below(16) };
                match fault {
                    0 | 1 => {
                        self.say(|| format!("n{n} t{txn} is aborted"));
                        match log.end_txn(txn, false) {
                            Ok(()) => self.told(n, work, Err(CommitError::Aborted("a fault".into()))),
                            Err(_) => Thread::Reopen { work, waits: false },
                        }
                    }
                    2 => {
                        self.say(|| format!("n{n} t{txn} is committed, and nobody hears of it"));
                        self.counts.unknown_committed += u32::from(log.end_txn(txn, true).is_ok());
                        Thread::Reopen { work, waits: false }
                    }
                    3 => {
                        self.say(|| format!("n{n} t{txn}: the call to commit is late"));
                        self.late_ends.push(LateEnd(txn));
                        Thread::Reopen { work, waits: false }
                    }
                    _ => match log.end_txn(txn, true) {
                        Ok(()) => {
                            self.say(|| format!("n{n} t{txn} commits {:?}, {} records", work.offsets, work.records.len()));
                            self.told(n, work, Ok(positions))
                        }
                        Err(_) => Thread::Reopen { work, waits: false },
                    },
                }
            }
            Thread::Reopen { work, waits: false } => {
                if !self.calm && self.rng.one_in(4) {
                    self.counts.not_reopened += 1;
                    self.nodes[n].needs_producer = true;
                    self.told(n, work, Err(CommitError::Unknown("and no new producer".into())))
                } else {
                    self.nodes[n].producer_epoch = log.init(n);
                    Thread::Reopen { work, waits: true }
                }
            }
            Thread::Reopen { work, waits: true } if !log.is_settled(n) => Thread::Reopen { work, waits: true },
            Thread::Reopen { work, waits: true } => self.told(n, work, Err(CommitError::Unknown("a call did not return".into()))),
            Thread::Ask(work, why) if self.broken == Broken::ResendUnknown => {
                self.finish(n, work, Err(CommitError::Aborted(why)))
            }
            Thread::Ask(work, why) => {
                let away = !self.calm && self.rng.one_in(3);
                let committed: Vec<_> = (0..super::log::PARTITIONS).map(|p| log.stable_committed(p)).collect();
                if away || committed.contains(&None) {
                    Thread::Ask(work, why)
                } else {
                    let committed: Vec<Option<Offset>> = committed.into_iter().flatten().collect();
                    if work.is_in(&committed) {
                        self.finish(n, work, Ok(DecisionEnds::new()))
                    } else {
                        self.counts.unknown_aborted += 1;
                        self.finish(n, work, Err(CommitError::Aborted(why)))
                    }
                }
            }
        };
        self.nodes[n].thread = next;
    }

    /// The assignment is lost before the transaction has begun.
    pub fn lose_handed_over(&mut self, n: usize) {
        self.nodes[n].thread = match std::mem::take(&mut self.nodes[n].thread) {
            Thread::Begin(work) => self.finish(n, work, Err(CommitError::Fenced("the partitions are lost".into()))),
            other => other,
        };
    }

    /// The call to commit has returned.
    fn told(&mut self, n: usize, work: Work, result: Result<Vec<Position>, CommitError>) -> Thread {
        match work.told(result) {
            Told::Known(result) => self.finish(n, work, result),
            Told::Unknown(why) => Thread::Ask(work, why),
        }
    }

    fn finish(&mut self, n: usize, work: Work, result: Outcome) -> Thread {
        self.nodes[n].commit_mail.push_back(ToCommit::Done(work, result));
        Thread::Idle
    }

    /// A call to commit that its caller has given up arrives after all.
    pub fn late_end(&mut self, LateEnd(txn): LateEnd) {
        let shared = self.log.clone();
        let committed = shared.lock().expect("one thread").end_txn(txn, true).is_ok();
        self.say(|| format!("the late call to commit t{txn} arrives: {committed}"));
        self.counts.unknown_committed += u32::from(committed);
    }

    /// Facts that go to every partition at once, under the administration's own producer.
    pub fn append_everywhere(&mut self, record: &stockwarden::events::record::NewRecord) {
        const ADMIN: usize = 1000;
        let shared = self.log.clone();
        let mut log = shared.lock().expect("one thread");
        let epoch = log.init(ADMIN);
        let fails = !self.calm && self.rng.one_in(4);
        for again in 0..=usize::from(fails) {
            let txn = log.begin(ADMIN, epoch);
            for partition in 0..super::log::PARTITIONS {
                debug_assert_eq!(record.topic, Topic::Facts);
                log.write(txn, partition, record.clone()).expect("the only one");
            }
            log.end_txn(txn, again == usize::from(fails)).expect("the only one");
        }
    }
}
