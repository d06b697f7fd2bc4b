//! Transactions: records and the group's offsets together, or neither.
//!
//! `worker` owns the producer on a thread of its own, because a call into librdkafka may not return (PITFALLS 29).
//! [`Transactor`] hands it one transaction at a time and waits for its own deadline; past that it forgets worker and
//! producer and opens others under the same transactional id, which fences the old ones (PITFALLS 21).
//! `writer` is the port's writer for a group member, `atomic` appends without offsets.

mod atomic;
mod worker;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::topic_partition_list::TopicPartitionList;

pub(super) use self::atomic::AtomicAppender;
use self::worker::{Answer, Job, Worker};
pub(super) use self::writer::KafkaWriter;
use super::settings::{KafkaSettings, TRANSACTION_TIMEOUT_MS};
use crate::events::record::{NewRecord, Position};
use crate::ports::event_log::LogError;

/// Begin to commit. Below the broker's own timeout of a transaction.
const TRANSACTION: Duration = Duration::from_secs(8);
/// On top, to abort what failed.
const ABORT: Duration = Duration::from_secs(2);
/// To open a producer, which ends what its predecessor left open.
const OPEN: Duration = Duration::from_secs(8);

/// Offsets of a group's partitions and the membership that may commit them.
pub(super) struct GroupOffsets {
    pub(super) list: TopicPartitionList,
    pub(super) metadata: ConsumerGroupMetadata,
}

/// Why a transaction did not commit.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was written.
    Aborted(String),
    /// Nothing was written, and the group has moved on to another generation since the metadata was taken.
    OldGeneration(String),
    /// Nothing was written, and the group has expelled the member.
    Expelled(String),
    Unknown(String),
    /// Nothing was written; another process has opened the same transactional id.
    Superseded(String),
}

pub(super) struct Transactor {
    settings: Arc<KafkaSettings>,
    id: String,
    worker: Option<Worker>,
    superseded: Option<String>,
}

impl Transactor {
    /// Opens the producer; ends what a former process of this id has left open, and fences it.
    pub(super) fn open(settings: Arc<KafkaSettings>, id: String) -> Result<Self, LogError> {
        let worker = Worker::open(&settings, &id, OPEN)?;
        Ok(Transactor { settings, id, worker: Some(worker), superseded: None })
    }

    pub(super) fn commit(&mut self, records: &[NewRecord], offsets: Option<GroupOffsets>) -> Result<Vec<Position>, Failure> {
        if let Some(why) = &self.superseded {
            return Err(Failure::Superseded(why.clone()));
        }
        if self.worker.is_none() {
            self.reopen().map_err(Failure::Aborted)?;
        }
        let Some(worker) = &self.worker else { return Err(Failure::Aborted("no producer".into())) };
        let began = Instant::now();
        let job = Job::new(records.to_vec(), offsets, began + TRANSACTION, began + TRANSACTION + ABORT);
        match worker.run(job) {
            Answer::Committed(positions) => Ok(positions),
            Answer::Failed(failure) => Err(failure),
            Answer::Broken(failure) => Err(self.replace(failure)),
            Answer::Fenced(why) => Err(self.fenced(why, began)),
        }
    }

    /// The producer is of no use any more: another one takes its place before the caller looks at committed offsets.
    fn replace(&mut self, failure: Failure) -> Failure {
        self.worker = None;
        let Err(why) = self.reopen() else { return failure };
        let add = |text: String| format!("{text}; {why}");
        match failure {
            Failure::Unknown(text) => Failure::Unknown(add(text)),
            Failure::Aborted(text) => Failure::Aborted(add(text)),
            other => other,
        }
    }

    fn fenced(&mut self, why: String, began: Instant) -> Failure {
        if began.elapsed() >= Duration::from_millis(u64::from(TRANSACTION_TIMEOUT_MS)) {
            // This process stood still for so long that the broker itself ended the transaction (PITFALLS 30). Whether the
            // partitions are still ours is for the group's generation to say, which every transaction carries.
            return self.replace(Failure::Unknown(format!("stood still past transaction.timeout.ms: {why}")));
        }
        let why = format!("another process has opened the transactional id {}: {why}", self.id);
        self.worker = None;
        self.superseded = Some(why.clone());
        Failure::Superseded(why)
    }

    fn reopen(&mut self) -> Result<(), String> {
        match Worker::open(&self.settings, &self.id, OPEN) {
            Ok(worker) => {
                self.worker = Some(worker);
                Ok(())
            }
            Err(error) => Err(format!("the transactional producer is not opened anew yet: {error}")),
        }
    }
}
