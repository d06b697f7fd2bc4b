//! Group members for tests: one that reports what it is told, and a whole small node that answers each fact with a decision.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use stockwarden::adapters::kafka::KafkaLog;
use stockwarden::events::record::{NewRecord, Offset, Partition, RecordBatch, Topic};
use stockwarden::ports::event_log::{
    Assigned, CommitError, EventLog, Group, GroupHandle, GroupSink, LogError, TransactionalWriter,
};

use super::{PATIENCE, record};

#[derive(Debug)]
pub enum Told {
    Assigned(Vec<Assigned>),
    Revoked(Vec<Partition>, bool),
    Batch(RecordBatch),
    Fault(LogError),
}

struct Teller {
    to: Sender<Told>,
    /// Gives every batch back whose number is not a multiple of this.
    takes_every: usize,
    offered: usize,
    refused: Arc<AtomicUsize>,
}

impl GroupSink for Teller {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        let _ = self.to.send(Told::Assigned(partitions));
    }

    fn revoked(&mut self, partitions: Vec<Partition>, lost: bool) {
        let _ = self.to.send(Told::Revoked(partitions, lost));
    }

    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        self.offered += 1;
        if !self.offered.is_multiple_of(self.takes_every) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(batch);
        }
        let _ = self.to.send(Told::Batch(batch));
        Ok(())
    }

    fn fault(&mut self, error: LogError) {
        let _ = self.to.send(Told::Fault(error));
    }
}

/// A member that reports to the test.
pub struct Member {
    pub handle: Arc<dyn GroupHandle>,
    pub told: Receiver<Told>,
    pub refused: Arc<AtomicUsize>,
}

impl Member {
    pub fn join(log: &KafkaLog, group: Group, topic: Topic) -> Member {
        Self::choosy(log, group, topic, 1)
    }

    pub fn choosy(log: &KafkaLog, group: Group, topic: Topic, takes_every: usize) -> Member {
        let ((to, told), refused) = (channel(), Arc::new(AtomicUsize::new(0)));
        let sink = Teller { to, takes_every, offered: 0, refused: refused.clone() };
        let handle = log.join(group, topic, Box::new(sink)).expect("joins");
        Member { handle, told, refused }
    }

    pub fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).expect("the member is told something in time")
    }

    /// Waits until all of `count` partitions are assigned.
    pub fn assigned(&self, count: usize) -> Vec<Assigned> {
        let mut all = Vec::new();
        while all.len() < count {
            if let Told::Assigned(mut some) = self.next() {
                all.append(&mut some);
            }
        }
        all.sort_by_key(|a| a.partition);
        all
    }

    /// Offsets of `count` records of one partition, in the order of delivery, and the last batch's `next_offset`.
    pub fn offsets(&self, count: usize) -> (Vec<Offset>, Offset) {
        let (mut offsets, mut next) = (Vec::new(), -1);
        while offsets.len() < count {
            if let Told::Batch(batch) = self.next() {
                offsets.extend(batch.iter().map(|r| r.offset));
                next = batch.next_offset;
            }
        }
        (offsets, next)
    }
}

/// A node that writes one decision, naming the fact's position, for each fact, in a transaction with the offsets.
pub struct Node {
    pub handle: Arc<dyn GroupHandle>,
    pub owned: Arc<Mutex<Vec<Partition>>>,
    pub decided: Arc<AtomicUsize>,
}

struct Decider {
    handle: Arc<OnceLock<Arc<dyn GroupHandle>>>,
    writer: Arc<Mutex<Option<Box<dyn TransactionalWriter>>>>,
    /// Partitions whose transactions were fenced: nothing more is written for them until they are assigned again.
    expected: HashMap<Partition, Offset>,
    owned: Arc<Mutex<Vec<Partition>>>,
    decided: Arc<AtomicUsize>,
    ready: Arc<AtomicBool>,
}

impl GroupSink for Decider {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        let end = Instant::now() + PATIENCE;
        while !self.ready.load(Ordering::SeqCst) {
            assert!(Instant::now() < end, "the node is set up in time");
            std::thread::yield_now();
        }
        let handle = self.handle.get().expect("set before ready");
        for a in partitions {
            self.expected.insert(a.partition, a.committed.unwrap_or(0));
            self.owned.lock().expect("owned").push(a.partition);
            handle.start(a.partition, a.committed.unwrap_or(0));
        }
    }

    fn revoked(&mut self, partitions: Vec<Partition>, _: bool) {
        self.owned.lock().expect("owned").retain(|p| !partitions.contains(p));
        self.expected.retain(|p, _| !partitions.contains(p));
    }

    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let Some(expected) = self.expected.get_mut(&batch.partition) else { return Ok(()) };
        for r in batch.iter() {
            assert!(r.offset >= *expected, "{} delivered twice", r.position());
        }
        *expected = batch.next_offset;
        let decisions: Vec<NewRecord> =
            batch.iter().map(|r| record(Topic::Decisions, batch.partition, r.position().to_string())).collect();
        let mut writer = self.writer.lock().expect("writer");
        let writer = writer.as_mut().expect("set before ready");
        loop {
            match writer.commit(&decisions, &[(batch.partition, batch.next_offset)]) {
                Ok(positions) => {
                    assert_eq!(positions.len(), decisions.len());
                    self.decided.fetch_add(decisions.len(), Ordering::SeqCst);
                    return Ok(());
                }
                Err(CommitError::Aborted(_)) => {}
                Err(CommitError::Fenced(_)) => {
                    self.expected.remove(&batch.partition);
                    return Ok(());
                }
                Err(CommitError::Unknown(why)) => panic!("a healthy broker answers: {why}"),
            }
        }
    }

    fn fault(&mut self, error: LogError) {
        eprintln!("fault: {error}");
    }
}

impl Node {
    pub fn start(log: &KafkaLog) -> Node {
        let (handle, writer) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(None)));
        let (owned, decided) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let ready = Arc::new(AtomicBool::new(false));
        let sink = Decider {
            handle: handle.clone(),
            writer: writer.clone(),
            expected: HashMap::new(),
            owned: owned.clone(),
            decided: decided.clone(),
            ready: ready.clone(),
        };
        let member = log.join(Group::Shards, Topic::Facts, Box::new(sink)).expect("joins");
        *writer.lock().expect("writer") = Some(log.writer(member.clone()).expect("writer opens"));
        assert!(handle.set(member.clone()).is_ok());
        ready.store(true, Ordering::SeqCst);
        Node { handle: member, owned, decided }
    }

    pub fn owns(&self) -> usize {
        self.owned.lock().expect("owned").len()
    }
}
