//! The real log and store, watched: what the engine asks of them, and the answers that a test wants it to get.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use stockwarden::events::record::{NewRecord, Offset, Partition, Position, RecordBatch, Topic};
use stockwarden::ports::event_log::{Assigned, CommitError, Group, GroupHandle, GroupSink, PartitionReader, TransactionalWriter};
use stockwarden::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};
use stockwarden::ports::{EventLog, LogError, SnapshotStore, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use super::Site;

/// What becomes of transactions from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    #[default]
    Commit,
    Abort,
    /// It is committed, and nobody hears of it.
    LoseTheAnswer,
    /// It is not, and nobody hears of that.
    LoseTheCall,
    /// It is under way until something else is said.
    Hold,
}

/// A transaction as the engine asked for it.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub records: Vec<NewRecord>,
    pub offsets: Vec<(Partition, Offset)>,
    pub landed: bool,
}

#[derive(Default)]
struct Shared {
    verdict: Mutex<Verdict>,
    attempts: Mutex<Vec<Attempt>>,
    sink: Mutex<Option<Box<dyn GroupSink>>>,
    opened: Mutex<Vec<(Topic, Partition)>>,
    held: AtomicBool,
    looked: AtomicUsize,
    away: AtomicBool,
    holding: AtomicBool,
}

pub struct TappedLog {
    inner: Arc<dyn EventLog>,
    shared: Arc<Shared>,
}

impl TappedLog {
    pub fn new(inner: Arc<dyn EventLog>) -> Arc<TappedLog> {
        Arc::new(TappedLog { inner, shared: Arc::default() })
    }

    pub fn say(&self, verdict: Verdict) {
        *self.shared.verdict.lock().expect("lock") = verdict;
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared.attempts.lock().expect("lock").clone()
    }

    /// Whether a transaction is held.
    pub fn is_holding(&self) -> bool {
        self.shared.holding.load(Ordering::SeqCst)
    }

    /// As the group does it, on the calling thread.
    pub fn revoke(&self, partitions: &[Partition], lost: bool) {
        self.shared.sink.lock().expect("lock").as_mut().expect("joined").revoked(partitions.to_vec(), lost);
    }

    pub fn assign(&self, partitions: &[Partition]) {
        let committed = self.inner.committed(Group::Shards, Topic::Facts).expect("committed");
        let assigned =
            partitions.iter().map(|p| Assigned { partition: *p, committed: committed[*p as usize] }).collect::<Vec<_>>();
        self.shared.sink.lock().expect("lock").as_mut().expect("joined").assigned(assigned);
    }

    /// Readers of decisions find nothing, as behind an open transaction.
    pub fn hold_decisions(&self, hold: bool) {
        self.shared.held.store(hold, Ordering::SeqCst);
    }

    /// How often a reader has found nothing because of that.
    pub fn looked(&self) -> usize {
        self.shared.looked.load(Ordering::SeqCst)
    }

    /// No reader can be opened.
    pub fn be_away(&self) {
        self.shared.away.store(true, Ordering::SeqCst);
    }

    /// Readers that were opened, sorted.
    pub fn opened(&self) -> Vec<(Partition, &'static str)> {
        let opened = self.shared.opened.lock().expect("lock");
        let mut opened: Vec<_> = opened.iter().map(|(topic, partition)| (*partition, topic.default_name())).collect();
        opened.sort_unstable();
        opened
    }
}

struct TappedSink(Arc<Shared>);

impl TappedSink {
    fn with<T>(&self, act: impl FnOnce(&mut Box<dyn GroupSink>) -> T) -> T {
        act(self.0.sink.lock().expect("lock").as_mut().expect("set before joining"))
    }
}

impl GroupSink for TappedSink {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        self.with(|sink| sink.assigned(partitions));
    }
    fn revoked(&mut self, partitions: Vec<Partition>, lost: bool) {
        self.with(|sink| sink.revoked(partitions, lost));
    }
    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        self.with(|sink| sink.deliver(batch))
    }
    fn fault(&mut self, error: LogError) {
        self.with(|sink| sink.fault(error));
    }
}

struct TappedWriter(Box<dyn TransactionalWriter>, Arc<Shared>);

impl TransactionalWriter for TappedWriter {
    fn commit(&mut self, records: &[NewRecord], offsets: &[(Partition, Offset)]) -> Result<Vec<Position>, CommitError> {
        let why = || "the test says so".to_owned();
        let said = || *self.1.verdict.lock().expect("lock");
        while said() == Verdict::Hold {
            self.1.holding.store(true, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(1));
        }
        self.1.holding.store(false, Ordering::SeqCst);
        let verdict = said();
        let result = match verdict {
            Verdict::Commit | Verdict::LoseTheAnswer => self.0.commit(records, offsets),
            Verdict::Abort => Err(CommitError::Aborted(why())),
            Verdict::LoseTheCall | Verdict::Hold => Err(CommitError::Unknown(why())),
        };
        let attempt = Attempt { records: records.to_vec(), offsets: offsets.to_vec(), landed: result.is_ok() };
        self.1.attempts.lock().expect("lock").push(attempt);
        if verdict == Verdict::LoseTheAnswer { result.and(Err(CommitError::Unknown(why()))) } else { result }
    }
}

struct TappedReader(Box<dyn PartitionReader>, Arc<Shared>, Partition);

impl PartitionReader for TappedReader {
    fn next(&mut self, until: Offset, timeout: Duration) -> Result<Option<RecordBatch>, LogError> {
        if self.1.held.load(Ordering::SeqCst) && self.0.position() < until {
            self.1.looked.fetch_add(1, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(1));
            return Ok(Some(RecordBatch::new(self.2, self.0.position())));
        }
        self.0.next(until, timeout)
    }
    fn position(&self) -> Offset {
        self.0.position()
    }
}

impl EventLog for TappedLog {
    fn prepare(&self, timeout: Duration) -> Result<(), LogError> {
        self.inner.prepare(timeout)
    }
    fn partitions(&self) -> i32 {
        self.inner.partitions()
    }
    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.inner.append(records)
    }
    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.inner.append_atomically(records)
    }
    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        *self.shared.sink.lock().expect("lock") = Some(sink);
        self.inner.join(group, topic, Box::new(TappedSink(self.shared.clone())))
    }
    fn writer(&self, member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        Ok(Box::new(TappedWriter(self.inner.writer(member)?, self.shared.clone())))
    }
    fn reader(&self, topic: Topic, partition: Partition, from: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        if self.shared.away.load(Ordering::SeqCst) {
            return Err(LogError::Unavailable { during: "opening a reader".into(), reason: "the test says so".into() });
        }
        self.shared.opened.lock().expect("lock").push((topic, partition));
        let reader = self.inner.reader(topic, partition, from)?;
        Ok(if topic == Topic::Decisions { Box::new(TappedReader(reader, self.shared.clone(), partition)) } else { reader })
    }
    fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError> {
        self.inner.watermarks(topic, partition)
    }
    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        self.inner.committed(group, topic)
    }
    fn probe(&self, timeout: Duration) -> Result<(), LogError> {
        self.inner.probe(timeout)
    }
}

/// A save that has reached the store.
#[derive(Debug, Clone)]
pub struct Saved {
    pub partition: Partition,
    pub epoch: Epoch,
    pub checkpoint: Checkpoint,
    pub rows: usize,
    /// The group's committed offset when it came.
    pub decided: Option<Offset>,
    pub result: Result<(), StoreError>,
}

/// How often the store was read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reads {
    pub of_partitions: Vec<Partition>,
    pub of_shops: usize,
    pub of_variants: usize,
}

pub struct TappedStore {
    inner: Arc<dyn SnapshotStore>,
    log: Arc<dyn EventLog>,
    saves: Mutex<Vec<Saved>>,
    reads: Mutex<Reads>,
    hold: watch::Sender<bool>,
    waiting: AtomicUsize,
}

impl TappedStore {
    pub fn new(inner: Arc<dyn SnapshotStore>, log: Arc<dyn EventLog>) -> Arc<TappedStore> {
        let (saves, reads, hold) = (Mutex::default(), Mutex::default(), watch::Sender::new(false));
        Arc::new(TappedStore { inner, log, saves, reads, hold, waiting: AtomicUsize::new(0) })
    }

    pub fn saves(&self) -> Vec<Saved> {
        self.saves.lock().expect("lock").clone()
    }

    pub fn reads(&self) -> Reads {
        let mut reads = self.reads.lock().expect("lock").clone();
        reads.of_partitions.sort_unstable();
        reads
    }

    /// Saves wait before they reach the store.
    pub fn hold_saves(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    pub fn held(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn note(&self, read: impl FnOnce(&mut Reads)) {
        read(&mut self.reads.lock().expect("lock"));
    }
}

impl SnapshotStore for TappedStore {
    fn acquire_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        self.inner.acquire_epoch(partition, node)
    }
    fn checkpoint(&self, partition: Partition) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.inner.checkpoint(partition)
    }
    fn load(&self, partition: Partition) -> BoxStream<'_, Result<Snapshot, StoreError>> {
        self.note(|r| r.of_partitions.push(partition));
        self.inner.load(partition)
    }
    fn load_shop<'a>(&'a self, partition: Partition, shop: &'a str) -> BoxStream<'a, Result<Snapshot, StoreError>> {
        self.note(|r| r.of_shops += 1);
        self.inner.load_shop(partition, shop)
    }
    fn load_some<'a>(
        &'a self,
        partition: Partition,
        wanted: &'a [(Arc<str>, Vec<u64>)],
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, StoreError>> {
        self.note(|r| r.of_variants += 1);
        self.inner.load_some(partition, wanted)
    }
    fn save<'a>(
        &'a self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &'a [Snapshot],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.hold.subscribe().wait_for(|held| !held).await.expect("held by self");
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            let decided = self.log.committed(Group::Shards, Topic::Facts).expect("committed")[partition as usize];
            let result = self.inner.save(partition, epoch, checkpoint, snapshots).await;
            let saved = Saved { partition, epoch, checkpoint, rows: snapshots.len(), decided, result: result.clone() };
            self.saves.lock().expect("lock").push(saved);
            result
        })
    }
    fn clear(&self, partition: Partition, epoch: Epoch) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.clear(partition, epoch)
    }
    fn store_id(&self) -> BoxFuture<'_, Result<Uuid, StoreError>> {
        self.inner.store_id()
    }
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.probe()
    }
}

/// Both over a site's own.
pub fn tapped(site: &Site) -> (Arc<TappedLog>, Arc<TappedStore>) {
    let log = TappedLog::new(site.log());
    (log.clone(), TappedStore::new(site.store(), log))
}
