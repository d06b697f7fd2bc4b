//! The commit's book: what waits, what is under way, and what follows from an outcome. Pure: [`super::Commit`] and its thread
//! drive it, and so does the seeded simulation (tests/suite/simulation).

use std::collections::BTreeMap;

use crate::events::record::{NewRecord, Offset, Partition, Position, Topic};
use crate::ports::event_log::CommitError;

/// For each partition the offset after its last decision, where that is known.
pub type DecisionEnds = BTreeMap<Partition, Offset>;

/// Records and offsets of one transaction.
#[derive(Debug, Default, Clone)]
pub struct Work {
    pub records: Vec<(Partition, NewRecord)>,
    pub offsets: BTreeMap<Partition, Offset>,
}

/// What a call to commit has told.
#[derive(Debug)]
pub enum Told {
    Known(Result<DecisionEnds, CommitError>),
    /// The committed offsets have to tell it (PITFALLS 21), see [`Work::is_in`]. Sent again before that is known, its decisions
    /// could stand in the log twice (DESIGN §7.4).
    Unknown(String),
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

    pub fn told(&self, result: Result<Vec<Position>, CommitError>) -> Told {
        match result {
            Ok(positions) => Told::Known(Ok(self.decision_ends(&positions))),
            Err(CommitError::Unknown(reason)) => Told::Unknown(reason),
            Err(e) => Told::Known(Err(e)),
        }
    }

    /// Whether it is in a log with these stable committed offsets: a transaction is there whole or not at all.
    pub fn is_in(&self, committed: &[Option<Offset>]) -> bool {
        self.offsets.iter().all(|(p, o)| committed.get(*p as usize).copied().flatten().is_some_and(|c| c >= *o))
    }

    fn decision_ends(&self, positions: &[Position]) -> DecisionEnds {
        let decisions = self.records.iter().zip(positions).filter(|((_, record), _)| record.topic == Topic::Decisions);
        decisions.map(|(_, position)| (position.partition, position.offset + 1)).collect()
    }
}

/// A partition's part of a transaction that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    pub partition: Partition,
    pub next_offset: Offset,
    pub decisions: Option<Offset>,
}

/// Whether a transaction under way may still hold something of a partition that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    Already,
    WhenItEnds,
}

#[derive(Debug, Default)]
pub struct Book {
    pending: Work,
    /// Partitions given up while their transaction was under way.
    forgotten: Vec<Partition>,
    is_busy: bool,
    failures: u32,
}

impl Book {
    /// What a shard has done: everything before `next_offset` is decided, with these records.
    pub fn add(&mut self, partition: Partition, next_offset: Offset, records: Vec<NewRecord>) {
        self.pending.records.extend(records.into_iter().map(|r| (partition, r)));
        self.pending.offsets.insert(partition, next_offset);
    }

    /// The next transaction; none while one is under way, or if there is nothing to write.
    pub fn next_work(&mut self) -> Option<Work> {
        if !self.has_work() {
            return None;
        }
        self.is_busy = true;
        Some(std::mem::take(&mut self.pending))
    }

    /// Drops what is pending for a partition.
    pub fn forget(&mut self, partition: Partition) -> Forgotten {
        self.pending.forget(partition);
        if !self.is_busy {
            return Forgotten::Already;
        }
        self.forgotten.push(partition);
        Forgotten::WhenItEnds
    }

    /// The transaction under way has ended. `Ok`: it is in the log; whom to tell. `Err`: its bytes are sent again, before what came later.
    pub fn ended(&mut self, mut work: Work, result: Result<DecisionEnds, CommitError>) -> Result<Vec<Landed>, CommitError> {
        self.is_busy = false;
        for partition in std::mem::take(&mut self.forgotten) {
            work.forget(partition);
        }
        match result {
            Ok(ends) => {
                self.failures = 0;
                let landed =
                    |(p, o): (&Partition, &Offset)| Landed { partition: *p, next_offset: *o, decisions: ends.get(p).copied() };
                Ok(work.offsets.iter().map(landed).collect())
            }
            Err(e) => {
                self.failures += 1;
                work.append(std::mem::take(&mut self.pending));
                self.pending = work;
                Err(e)
            }
        }
    }

    /// Whether there is a transaction to begin.
    pub fn has_work(&self) -> bool {
        !self.is_busy && !self.pending.is_empty()
    }

    pub fn is_busy(&self) -> bool {
        self.is_busy
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

    fn values(work: &Work) -> Vec<String> {
        work.records.iter().map(|(_, r)| String::from_utf8(r.value.clone().expect("a value")).expect("text")).collect()
    }

    fn aborted() -> Result<DecisionEnds, CommitError> {
        Err(CommitError::Aborted(String::new()))
    }

    #[test]
    fn what_was_aborted_is_sent_again_before_what_came_later() {
        let mut book = Book::default();
        book.add(0, 5, vec![record("a")]);
        let work = book.next_work().expect("work");
        book.add(0, 7, vec![record("b")]);
        assert!(book.next_work().is_none(), "one at a time");
        assert!(book.ended(work, aborted()).is_err());
        let work = book.next_work().expect("work");
        assert_eq!((values(&work), work.offsets), (vec!["a".to_owned(), "b".to_owned()], BTreeMap::from([(0, 7)])));
    }

    #[test]
    fn what_may_be_in_the_log_is_not_called_aborted_before_the_committed_offsets_say_so() {
        let mut book = Book::default();
        book.add(0, 5, vec![record("a")]);
        book.add(2, 9, Vec::new());
        let work = book.next_work().expect("work");
        assert!(matches!(work.told(Err(CommitError::Unknown("late".into()))), Told::Unknown(why) if why == "late"));
        assert!(work.is_in(&[Some(5), None, Some(11)]));
        for elsewhere in [&[Some(4), None, Some(9)][..], &[Some(5), None, None], &[Some(5)], &[]] {
            assert!(!work.is_in(elsewhere), "{elsewhere:?}");
        }
    }

    #[test]
    fn each_partition_is_told_where_its_decisions_end() {
        let mut book = Book::default();
        book.add(0, 5, vec![record("a"), NewRecord { topic: Topic::DeadLetters, ..record("b") }, record("c")]);
        book.add(1, 8, Vec::new());
        let work = book.next_work().expect("work");
        let positions = [10, 70, 12].map(|offset| Position { partition: 0, offset });
        let Told::Known(result) = work.told(Ok(positions.to_vec())) else { panic!("it is known") };
        let landed = book.ended(work, result).expect("in the log");
        let of = |partition, next_offset, decisions| Landed { partition, next_offset, decisions };
        assert_eq!(landed, [of(0, 5, Some(13)), of(1, 8, None)]);
    }

    #[test]
    fn a_partition_given_up_is_in_no_later_transaction_and_is_told_of_nothing() {
        let mut book = Book::default();
        book.add(0, 5, vec![record("a")]);
        book.add(1, 9, vec![record("c")]);
        let work = book.next_work().expect("work");
        assert_eq!(book.forget(0), Forgotten::WhenItEnds);
        assert!(book.ended(work, aborted()).is_err());
        let work = book.next_work().expect("work");
        assert_eq!(values(&work), ["c"]);
        book.forget(1);
        assert_eq!(book.ended(work, Ok(DecisionEnds::new())).expect("in the log"), []);
        book.add(1, 11, Vec::new());
        assert_eq!(book.forget(1), Forgotten::Already);
        assert!(book.next_work().is_none());
    }
}
