//! The durable, partitioned log and its consumer groups.
//!
//! Calls that return a future are for async code; all others block and belong on a thread of their own.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::events::record::{NewRecord, Offset, Partition, Position, RecordBatch, Topic};

#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The log cannot be reached or does not answer in time; worth a retry.
    #[error("the log is unavailable while {during}: {reason}")]
    Unavailable { during: String, reason: String },
    /// The local queue to the log is full; worth a retry later.
    #[error("the queue to the log is full; slow down")]
    QueueFull,
    /// This record can never be written (too large, for example).
    #[error("the log refused a record of {size} bytes: {reason}")]
    Refused { size: usize, reason: String },
    /// Settings and what the log holds do not agree; an operator has to act.
    #[error("{0}")]
    Misconfigured(String),
    /// Stored bytes do not make sense.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// How a transaction ended when it did not commit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written; the same bytes may be sent again.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// The outcome is unknown (a call timed out, PITFALLS 21, 29). The writer has been opened anew, which fences the old
    /// transaction; read the committed offsets to learn what happened.
    #[error("the outcome of the transaction is unknown: {0}")]
    Unknown(String),
    /// This process no longer owns what it wrote for (DESIGN §7.5): discard, write nothing.
    #[error("fenced: {0}")]
    Fenced(String),
}

/// Consumer groups of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Reads facts, makes decisions. Its committed offsets say what is decided (DESIGN §3).
    Shards,
    /// Reads decisions, fills the ledger.
    Dispatcher,
}

/// A partition that was given to this member. It stays paused until [`GroupHandle::start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    pub partition: Partition,
    /// The group's (stable) committed offset, none if it never committed.
    pub committed: Option<Offset>,
}

/// What a group member is told; called on the consumer's own thread.
pub trait GroupSink: Send {
    fn assigned(&mut self, partitions: Vec<Assigned>);
    /// Returns when the partitions are drained and committed, or its deadline has passed. With `lost` nothing may be
    /// written any more (DESIGN §3).
    fn revoked(&mut self, partitions: Vec<Partition>, lost: bool);
    /// Gives the batch back when the receiver is full: the partition is paused and the batch offered again after
    /// [`GroupHandle::resume`]. A batch without records tells that transaction markers were passed.
    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch>;
    /// A fault while consuming; the consumer retries by itself.
    fn fault(&mut self, error: LogError);
}

/// A running group member. Calls return at once and take effect on the consumer's thread, except where said.
pub trait GroupHandle: Send + Sync {
    /// Begins delivery of an assigned partition at `from`.
    fn start(&self, partition: Partition, from: Offset);
    /// Takes up a partition again whose batch was given back.
    fn resume(&self, partition: Partition);
    /// Commits offsets outside of a transaction. Blocks.
    fn commit(&self, offsets: &[(Partition, Offset)]) -> Result<(), LogError>;
    /// Leaves the group: partitions are revoked through the sink first. Blocks until the thread has ended.
    fn leave(&self);
    /// For adapters to find their own handle behind the trait.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// Appends records and commits the group's offsets in one transaction.
pub trait TransactionalWriter: Send {
    /// Returns the positions of `records`, in their order. Blocks, but never past an own deadline (PITFALLS 29).
    fn commit(&mut self, records: &[NewRecord], offsets: &[(Partition, Offset)]) -> Result<Vec<Position>, CommitError>;
}

/// Reads one partition's committed records in order, outside of any group.
pub trait PartitionReader: Send {
    /// The next records, as many as are at hand, none at or past `until`. `Ok(None)` once the position has reached
    /// `until` (transaction markers count). An empty batch says: nothing within `timeout`, try again. Blocks.
    fn next(&mut self, until: Offset, timeout: Duration) -> Result<Option<RecordBatch>, LogError>;
    /// Offset of the next record to be read.
    fn position(&self) -> Offset;
}

pub trait EventLog: Send + Sync + 'static {
    /// Creates what is missing and checks what is there: a topic with another number of partitions is
    /// [`LogError::Misconfigured`]. Blocks, at most `timeout`.
    fn prepare(&self, timeout: Duration) -> Result<(), LogError>;

    /// Checks what [`EventLog::prepare`] would, and changes nothing; gives the topics that it would create. Blocks, at most `timeout`.
    fn inspect(&self, timeout: Duration) -> Result<Vec<Topic>, LogError> {
        self.probe(timeout).map(|()| Vec::new())
    }

    /// Number of partitions of every topic.
    fn partitions(&self) -> i32;

    /// Appends each record; resolves when all are durable (acks=all, fsync) (DESIGN §7.1). Some may be written when it fails.
    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>>;

    /// Appends all records or none (as seen by committed reads).
    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>>;

    /// Joins a group that reads `topic`.
    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError>;

    /// The writer for a member of a group; `member` is the handle that [`EventLog::join`] gave. Blocks.
    fn writer(&self, member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError>;

    fn reader(&self, topic: Topic, partition: Partition, from: Offset) -> Result<Box<dyn PartitionReader>, LogError>;

    /// (first offset, offset after the last record, open transactions included). Blocks.
    fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError>;

    /// The group's stable committed offsets of all partitions of `topic`. Blocks.
    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError>;

    /// Whether the log answers now; for readiness. Blocks, at most `timeout`.
    fn probe(&self, timeout: Duration) -> Result<(), LogError>;
}
