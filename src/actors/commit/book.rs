//! The commit's book: what waits, what is under way, and what follows from an outcome. Pure: the actor drives it, and so does the
//! seeded simulation (tests/suite/simulation).

use std::collections::BTreeMap;

use crate::events::record::{NewRecord, Offset, Partition, Position, Topic};
use crate::ports::event_log::CommitError;
use crate::ports::snapshot_store::Epoch;

/// Records and offsets of one transaction.
#[derive(Debug, Default, Clone)]
pub struct Work {
    pub records: Vec<(Partition, NewRecord)>,
    pub offsets: BTreeMap<Partition, Offset>,
}

impl Work {
    pub fn is_empty(&self) -> bool {
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

    /// Whether it is in the log, where these are the group's committed offsets by partition: it is whole or not there at all.
    pub fn landed(&self, committed: &[Option<Offset>]) -> bool {
        self.offsets.iter().all(|(p, o)| committed.get(*p as usize).copied().flatten().is_some_and(|c| c >= *o))
    }

    /// For each partition the offset after its last decision, where the records stand at `positions`.
    pub fn decision_ends(&self, positions: &[Position]) -> BTreeMap<Partition, Offset> {
        let mut ends = BTreeMap::new();
        for ((_, record), position) in self.records.iter().zip(positions) {
            if record.topic == Topic::Decisions {
                ends.insert(position.partition, position.offset + 1);
            }
        }
        ends
    }
}

/// What the transaction's thread is to do.
#[derive(Debug)]
pub enum Job {
    Commit(Work),
    /// It may be in the log already: find out, write nothing.
    FindOut(Work),
}

/// A partition's part of a transaction that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    pub partition: Partition,
    pub next_offset: Offset,
    /// After its last decision, where that is known.
    pub decisions: Option<Offset>,
}

#[derive(Debug, Default)]
pub struct Book {
    /// Who may write for a partition: the epoch of its shard.
    admitted: BTreeMap<Partition, Epoch>,
    pending: Work,
    /// Nobody knows yet whether it is in the log; nothing else is written before that is known.
    in_doubt: Option<Work>,
    /// Partitions given up while their transaction was under way.
    forgotten: Vec<Partition>,
    busy: bool,
    failures: u32,
}

impl Book {
    /// From now on, and until the partition is forgotten, its shard of this epoch may write.
    pub fn admit(&mut self, partition: Partition, epoch: Epoch) {
        self.admitted.insert(partition, epoch);
    }

    /// False: the shard is not the partition's, or not any more, and what it made is dropped. A batch may have been under way when
    /// its partition was given up, and the group's generation does not stop it: the node is a good member (DESIGN §7.5).
    pub fn add(&mut self, partition: Partition, epoch: Epoch, next_offset: Offset, records: Vec<NewRecord>) -> bool {
        if self.admitted.get(&partition) != Some(&epoch) {
            return false;
        }
        self.pending.records.extend(records.into_iter().map(|r| (partition, r)));
        self.pending.offsets.insert(partition, next_offset);
        true
    }

    /// The next job; none while one is under way, or if there is nothing to do.
    pub fn next_job(&mut self) -> Option<Job> {
        if self.busy {
            return None;
        }
        let job = match self.in_doubt.take() {
            Some(work) => Job::FindOut(work),
            None if self.pending.is_empty() => return None,
            None => Job::Commit(std::mem::take(&mut self.pending)),
        };
        self.busy = true;
        Some(job)
    }

    /// Drops what is pending for a partition that is given up. False: a transaction under way may hold something of it.
    pub fn forget(&mut self, partition: Partition) -> bool {
        self.admitted.remove(&partition);
        self.pending.forget(partition);
        if let Some(work) = &mut self.in_doubt {
            work.forget(partition);
            self.in_doubt.take_if(|w| w.is_empty());
        }
        if self.busy {
            self.forgotten.push(partition);
        }
        !self.busy
    }

    /// The job under way has ended. `Ok`: it is in the log; whom to tell. `Err`: its bytes are sent again, or, where the outcome
    /// is unknown, asked for again: sent again they could stand in the log twice (DESIGN §7.4).
    pub fn ended(
        &mut self,
        mut work: Work,
        result: Result<BTreeMap<Partition, Offset>, CommitError>,
    ) -> Result<Vec<Landed>, CommitError> {
        self.busy = false;
        for partition in std::mem::take(&mut self.forgotten) {
            work.forget(partition);
        }
        let error = match result {
            Ok(ends) => {
                self.failures = 0;
                let landed =
                    |(p, o): (&Partition, &Offset)| Landed { partition: *p, next_offset: *o, decisions: ends.get(p).copied() };
                return Ok(work.offsets.iter().map(landed).collect());
            }
            Err(error) => error,
        };
        self.failures += 1;
        if matches!(error, CommitError::Unknown(_)) {
            self.in_doubt = (!work.is_empty()).then_some(work);
        } else {
            work.append(std::mem::take(&mut self.pending));
            self.pending = work;
        }
        Err(error)
    }

    /// Whether there is a job to begin.
    pub fn has_work(&self) -> bool {
        !self.busy && (self.in_doubt.is_some() || !self.pending.is_empty())
    }

    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether more than offsets wait to be written.
    pub fn is_urgent(&self) -> bool {
        !self.pending.records.is_empty()
    }

    /// Outcomes in a row that were no commit.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str) -> NewRecord {
        NewRecord { topic: Topic::Decisions, partition: Some(0), key: None, headers: Vec::new(), value: Some(value.into()) }
    }

    fn book() -> Book {
        let mut book = Book::default();
        book.admit(0, 1);
        book.admit(1, 1);
        book
    }

    fn values(job: Option<Job>) -> (bool, Vec<String>, Work) {
        let (asks, work) = match job.expect("a job") {
            Job::Commit(work) => (false, work),
            Job::FindOut(work) => (true, work),
        };
        let text = |r: &NewRecord| String::from_utf8(r.value.clone().expect("a value")).expect("text");
        (asks, work.records.iter().map(|(_, r)| text(r)).collect(), work)
    }

    #[test]
    fn what_was_aborted_is_sent_again_before_what_came_later() {
        let mut book = book();
        book.add(0, 1, 5, vec![record("a")]);
        let (_, _, work) = values(book.next_job());
        book.add(0, 1, 7, vec![record("b")]);
        assert!(book.next_job().is_none(), "one at a time");
        assert!(book.ended(work, Err(CommitError::Aborted(String::new()))).is_err());
        let (asks, sent, work) = values(book.next_job());
        assert_eq!((asks, sent, work.offsets), (false, vec!["a".to_owned(), "b".to_owned()], BTreeMap::from([(0, 7)])));
    }

    #[test]
    fn what_may_be_in_the_log_is_asked_for_and_not_sent_again() {
        let mut book = book();
        book.add(0, 1, 5, vec![record("a")]);
        let (_, _, work) = values(book.next_job());
        book.add(0, 1, 7, vec![record("b")]);
        assert!(book.ended(work, Err(CommitError::Unknown(String::new()))).is_err());
        let (asks, sent, work) = values(book.next_job());
        assert_eq!((asks, sent), (true, vec!["a".to_owned()]));
        assert!(work.landed(&[Some(5)]) && !work.landed(&[Some(4)]) && !work.landed(&[None]));
        let landed = book.ended(work, Ok(BTreeMap::new())).expect("landed");
        assert_eq!(landed, [Landed { partition: 0, next_offset: 5, decisions: None }]);
        assert_eq!(values(book.next_job()).1, ["b"]);
    }

    #[test]
    fn a_partition_given_up_is_in_no_later_job_and_is_told_of_nothing() {
        let mut book = book();
        book.add(0, 1, 5, vec![record("a")]);
        book.add(1, 1, 9, vec![record("c")]);
        let (_, _, work) = values(book.next_job());
        assert!(!book.forget(0), "its transaction is under way");
        assert!(book.ended(work, Err(CommitError::Unknown(String::new()))).is_err());
        let (_, sent, work) = values(book.next_job());
        assert_eq!(sent, ["c"]);
        assert!(book.ended(work, Err(CommitError::Unknown(String::new()))).is_err());
        assert!(book.forget(1));
        assert!(book.next_job().is_none());
    }

    #[test]
    fn a_batch_that_ends_after_its_partition_was_given_up_is_dropped() {
        let mut book = book();
        book.forget(0);
        assert!(!book.add(0, 1, 5, vec![record("a")]));
        book.admit(0, 3);
        assert!(!book.add(0, 1, 5, vec![record("a")]), "of an earlier life");
        assert!(book.next_job().is_none());
        assert!(book.add(0, 3, 5, vec![record("b")]));
        assert_eq!(values(book.next_job()).1, ["b"]);
    }
}
