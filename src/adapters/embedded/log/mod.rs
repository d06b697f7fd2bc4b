//! The durable log in a folder: the port [`EventLog`] without a server.
//!
//! One write-ahead log of numbered segment files ([`segment`]) holds all topics, all partitions and the groups' offsets. Its
//! unit is the frame ([`frame`]): an append, or a transaction's records and offsets together, so that atomicity needs no
//! markers and offsets have no gaps. One thread ([`writer`]) writes what has queued up in one go and syncs once; nothing is
//! readable or acknowledged before. Hence *committed* and *durable* are the same here, and every read is a committed one.
//!
//! Readers and group members ([`reader`], [`consumer`]) read the files from a position that a sparse index ([`index`])
//! gives. Readers of several partitions share what they read ([`stretches`]); a group reads all in one pass.
//!
//! The log belongs to one process at a time, through a lock on `<dir>/lock` that the system drops with the process.
//!
//! A new topic or group gets the next number in [`layout`]. A change to a file's format gets a new version, a reader for the
//! old one, and a golden file.

mod consumer;
mod disk;
mod frame;
mod group;
mod index;
mod layout;
mod queue;
mod reader;
mod recovery;
mod scan;
mod segment;
mod state;
mod stretches;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;

use self::disk::{Disk, RealDisk};
use self::frame::Draft;
use self::group::EmbeddedMember;
use self::layout::{Layout, group_number, topic_number};
use self::queue::{Failure, Outcome, Request, Work};
use self::reader::EmbeddedReader;
use self::segment::unavailable;
use self::state::{Shared, lock};
use self::stretches::Stretches;
use self::writer::{Tail, Writer};
use crate::events::record::{NewRecord, Offset, Partition, Position, RecordBatch, Topic, partition_of};
use crate::ports::event_log::{EventLog, Group, GroupHandle, GroupSink, LogError, PartitionReader, TransactionalWriter};

/// No commit waits longer for the disk.
const COMMIT_DEADLINE: Duration = Duration::from_secs(20);
/// A delivered batch holds no more records than this, nor more bytes than [`BATCH_BYTES`] but for its last record.
const BATCH_RECORDS: usize = 2048;
const BATCH_BYTES: usize = 1 << 20;
/// An append of more than this is written in several frames.
const SPLIT: usize = 8 << 20;
/// No more than this can be appended atomically.
const ATOMIC_LIMIT: usize = 64 << 20;

fn batch_is_full(batch: &RecordBatch) -> bool {
    batch.len() >= BATCH_RECORDS || batch.bytes() >= BATCH_BYTES
}

#[derive(Clone)]
pub struct Options {
    /// Of every topic. Fixed when the log is made.
    pub partitions: i32,
    /// A segment that has reached this many bytes is closed. Also what opening the log has to scan at most, about.
    pub segment_bytes: u64,
    /// Bound on a record's key, value and headers together.
    pub max_record_bytes: usize,
    /// Append time, Unix ms. It may jump; what is written never goes back.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// The open log. Readers and group members keep it open; it is closed when the last of them is gone.
pub struct EmbeddedLog {
    core: Arc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    max_record_bytes: usize,
    /// Where the next record goes that has neither key nor partition.
    turn: AtomicU32,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// What its readers share, as long as there are any.
    stretches: Mutex<Weak<Stretches>>,
    /// Released last.
    _lock: File,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or makes it. Reads the last segment; cuts off what a crash left unfinished.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<EmbeddedLog>, LogError> {
        let id =
            getrandom::u64().map_err(|e| LogError::Unavailable { during: "naming a new log".into(), reason: e.to_string() })?;
        EmbeddedLog::open_on(dir, options, id, Arc::new(RealDisk))
    }

    fn open_on(dir: &Path, options: Options, new_id: u64, disk: Arc<dyn Disk>) -> Result<Arc<EmbeddedLog>, LogError> {
        fs::create_dir_all(dir).map_err(|e| unavailable("creating", dir, &e))?;
        let owned = own(dir)?;
        let layout = Layout { partitions: options.partitions };
        let found = recovery::recover(dir, layout, new_id, &*disk)?;
        let shared = Arc::new(Shared::new(layout, dir.to_path_buf(), found.seed, found.state));
        let writer = Writer {
            shared: shared.clone(),
            disk,
            clock: options.clock,
            log_id: found.log_id,
            segment_bytes: options.segment_bytes,
            file: found.file,
            base: found.base,
            tail: Tail::Clean,
            wrote: false,
        };
        let thread = thread::Builder::new().name("log-writer".into()).spawn(move || writer.run());
        let thread =
            thread.map_err(|e| LogError::Unavailable { during: "starting the log's writer".into(), reason: e.to_string() })?;
        let core = Core {
            shared,
            max_record_bytes: options.max_record_bytes,
            turn: AtomicU32::new(0),
            writer: Mutex::new(Some(thread)),
            stretches: Mutex::default(),
            _lock: owned,
        };
        Ok(Arc::new(EmbeddedLog { core: Arc::new(core) }))
    }
}

fn own(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| unavailable("opening", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Misconfigured(format!(
            "another process owns the log in {}: a running stockwarden uses this data_dir. Use it through that process, or \
             stop that one first",
            dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(unavailable("locking", &path, &e)),
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = lock(&self.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("the log's writer had panicked");
        }
    }
}

impl Failure {
    fn into_log_error(self, during: &str) -> LogError {
        let unavailable = |reason| LogError::Unavailable { during: during.into(), reason };
        match self {
            Failure::Full => LogError::QueueFull,
            Failure::NotWritten(reason) | Failure::Unknown(reason) => unavailable(reason),
            Failure::Fenced => unavailable("this member has left its group".into()),
        }
    }
}

impl Core {
    /// Each record's partition: its own; else its key's; else in turn.
    fn partitions_of(&self, records: &[NewRecord]) -> Result<Vec<Partition>, LogError> {
        let all = self.shared.layout.partitions;
        records
            .iter()
            .map(|r| {
                self.check_record(r)?;
                let partition = match (r.partition, &r.key) {
                    (Some(p), _) => p,
                    (None, Some(key)) => partition_of(key, all),
                    (None, None) => (self.turn.fetch_add(1, Ordering::Relaxed) % all as u32) as Partition,
                };
                self.shared.layout.known(r.topic, partition)?;
                Ok(partition)
            })
            .collect()
    }

    fn check_record(&self, r: &NewRecord) -> Result<(), LogError> {
        let size = frame::record_size(r);
        let limit = self.max_record_bytes.min(ATOMIC_LIMIT / 2);
        if size > limit {
            return Err(LogError::Refused { size, reason: format!("a record may have {limit} bytes") });
        }
        let narrow = |n: usize| n <= usize::from(u16::MAX);
        if !narrow(r.headers.len()) || !r.headers.iter().all(|(name, _)| narrow(name.len())) {
            return Err(LogError::Refused { size, reason: "it has more headers, or a longer header name, than 65535".into() });
        }
        Ok(())
    }

    fn check_frame(&self, draft: &Draft) -> Result<(), LogError> {
        match draft.bytes.len() {
            size if size > ATOMIC_LIMIT => {
                Err(LogError::Refused { size, reason: format!("{ATOMIC_LIMIT} bytes can be written in one transaction") })
            }
            _ if draft.offsets.len() > usize::from(u16::MAX) => Err(LogError::Misconfigured("too many offsets at once".into())),
            _ => Ok(()),
        }
    }

    /// Hands records to the writer now; the future only waits for the answer. `parts` are written as a frame each.
    fn append(&self, parts: &[&[NewRecord]]) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for records in parts.iter().filter(|p| !p.is_empty()) {
            let draft = self.partitions_of(records).and_then(|partitions| {
                let (draft, places) = frame::draft(self.shared.layout, records, &partitions, Vec::new());
                self.check_frame(&draft).map(|()| (draft, places))
            });
            let (draft, places) = match draft {
                Ok(draft) => draft,
                Err(e) => return futures::future::ready(Err(e)).boxed(),
            };
            let (tx, rx) = oneshot::channel::<Outcome>();
            answers.push((rx, places, draft.runs.clone()));
            requests.push(Request::new(Work::Append(draft), move |outcome| {
                let _gone_is_fine = tx.send(outcome);
            }));
        }
        let queued = if requests.is_empty() { Ok(()) } else { self.shared.queue.append(requests) };
        async move {
            let failed = |f: Failure| f.into_log_error("appending");
            queued.map_err(failed)?;
            let mut positions = Vec::new();
            for (answer, places, runs) in answers {
                let lost = || Err(Failure::Unknown("the log's writer has ended".into()));
                let bases = answer.await.unwrap_or_else(|_| lost()).map_err(failed)?;
                positions.extend(places.positions(&runs, &bases));
            }
            Ok(positions)
        }
        .boxed()
    }

    fn stretches(&self) -> Arc<Stretches> {
        let mut kept = lock(&self.stretches);
        kept.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Stretches::new(self.shared.clone()));
            *kept = Arc::downgrade(&new);
            new
        })
    }

    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        // A commit may be on its way (its waiter gave up, say): only what comes after it is stable.
        let settled = self.shared.queue.settle(Work::Settle, COMMIT_DEADLINE);
        settled.map_err(|f| f.into_log_error("reading committed offsets"))?;
        let first =
            self.shared.layout.commit_slot(group_number(group), topic_number(topic), 0).expect("partition 0 always exists");
        Ok(self.shared.state().committed[first..][..self.shared.layout.partitions as usize].to_vec())
    }
}

/// Cuts `records` into parts of about [`SPLIT`] bytes.
fn split(records: &[NewRecord]) -> Vec<&[NewRecord]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, r) in records.iter().enumerate() {
        bytes += frame::encoded_size(r);
        if bytes >= SPLIT {
            parts.push(&records[start..=i]);
            (start, bytes) = (i + 1, 0);
        }
    }
    parts.push(&records[start..]);
    parts
}

impl EventLog for EmbeddedLog {
    fn prepare(&self, timeout: Duration) -> Result<(), LogError> {
        // Opening has made and checked everything.
        self.probe(timeout)
    }

    fn partitions(&self) -> i32 {
        self.core.shared.layout.partitions
    }

    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.core.append(&split(&records))
    }

    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.core.append(&[&records])
    }

    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        Ok(Arc::new(EmbeddedMember::join(&self.core, group, topic, sink)?))
    }

    fn writer(&self, member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        match member.as_any().downcast_ref::<EmbeddedMember>() {
            Some(member) => Ok(Box::new(member.writer())),
            None => Err(LogError::Misconfigured("this group member belongs to another kind of log".into())),
        }
    }

    fn reader(&self, topic: Topic, partition: Partition, from: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        Ok(Box::new(EmbeddedReader::open(self.core.clone(), topic, partition, from)?))
    }

    fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError> {
        let slot = self.core.shared.layout.known(topic, partition)?;
        Ok((0, self.core.shared.state().ends[slot]))
    }

    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        self.core.committed(group, topic)
    }

    fn probe(&self, timeout: Duration) -> Result<(), LogError> {
        let outcome = self.core.shared.queue.settle(Work::Probe, timeout);
        outcome.map(drop).map_err(|f| f.into_log_error("probing the log"))
    }
}
