//! What the tests are written with.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stockwarden::events::record::{NewRecord, Offset, Partition, Position, RecordBatch, Topic};
use stockwarden::ports::event_log::{Assigned, EventLog, Group, GroupHandle, GroupSink, LogError};

/// A deadline for what should happen at once; a broker's group may take its time.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is watched that something does not happen.
pub const A_WHILE: Duration = Duration::from_millis(300);
/// Adapters under test are to refuse records beyond this.
pub const MAX_RECORD: usize = 2 << 20;

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

pub fn record(topic: Topic, partition: Partition, value: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord { topic, partition: Some(partition), key: Some(b"shop".to_vec()), headers: Vec::new(), value: Some(value.into()) }
}

pub fn fact(partition: Partition, value: impl Into<Vec<u8>>) -> NewRecord {
    record(Topic::Facts, partition, value)
}

pub fn append(log: &dyn EventLog, records: Vec<NewRecord>) -> Vec<Position> {
    block_on(log.append(records)).expect("appends")
}

pub fn facts(partition: Partition, values: std::ops::Range<u32>) -> Vec<NewRecord> {
    values.map(|v| fact(partition, v.to_string())).collect()
}

pub fn texts(values: std::ops::Range<u32>) -> Vec<String> {
    values.map(|v| v.to_string()).collect()
}

pub fn text(value: Option<&[u8]>) -> String {
    String::from_utf8(value.expect("a value").to_vec()).expect("text")
}

/// Offsets and values of all that a partition holds, as a committed reader sees it.
pub fn read_all(log: &dyn EventLog, topic: Topic, partition: Partition) -> Vec<(Offset, String)> {
    let (first, end) = log.watermarks(topic, partition).expect("watermarks");
    let mut reader = log.reader(topic, partition, first).expect("reader");
    let (mut all, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while let Some(batch) = reader.next(end, A_WHILE).expect("reads") {
        assert!(Instant::now() < deadline, "the end {end} was never reached, only {}", reader.position());
        assert_eq!((batch.partition, batch.next_offset), (partition, reader.position()));
        all.extend(batch.iter().map(|r| (r.offset, text(r.value))));
    }
    assert!(all.is_sorted_by(|a, b| a.0 < b.0), "offsets rise");
    all
}

pub fn values(log: &dyn EventLog, topic: Topic, partition: Partition) -> Vec<String> {
    read_all(log, topic, partition).into_iter().map(|(_, v)| v).collect()
}

/// What happened at a sink so far.
#[derive(Default)]
pub struct Seen {
    pub assigned: Vec<Assigned>,
    pub revoked: Option<(Vec<Partition>, bool)>,
    pub taken: BTreeMap<Partition, Vec<(Offset, String)>>,
    /// Sizes of the batches that were given back, with their partition and first offset.
    pub refused: Vec<(Partition, Offset, usize)>,
    /// First offsets of batches that were offered while their partition waited for a resume, or before its start.
    pub uncalled: Vec<(Partition, Offset)>,
    pub open: BTreeMap<Partition, bool>,
    pub faults: Vec<LogError>,
}

pub type Refuse = Box<dyn FnMut(&RecordBatch) -> bool + Send>;

/// A member of a group whose sink keeps what it is given, but for batches that `refuse` names.
#[derive(Clone, Default)]
pub struct Watch(Arc<(Mutex<Seen>, Condvar)>);

struct Sink(Watch, Refuse);

impl Watch {
    pub fn join(log: &dyn EventLog, group: Group, topic: Topic, refuse: Refuse) -> (Watch, Arc<dyn GroupHandle>) {
        let watch = Watch::default();
        let handle = log.join(group, topic, Box::new(Sink(watch.clone(), refuse))).expect("joins");
        let all = log.partitions() as usize;
        watch.until("all partitions are assigned", |s| s.assigned.len() == all);
        (watch, handle)
    }

    /// A member that takes everything.
    pub fn greedy(log: &dyn EventLog) -> (Watch, Arc<dyn GroupHandle>) {
        Watch::join(log, Group::Shards, Topic::Facts, Box::new(|_| false))
    }

    pub fn start(&self, handle: &dyn GroupHandle, partition: Partition, from: Offset) {
        self.with(|s| s.open.insert(partition, true));
        handle.start(partition, from);
    }

    pub fn resume(&self, handle: &dyn GroupHandle, partition: Partition) {
        self.with(|s| s.open.insert(partition, true));
        handle.resume(partition);
    }

    fn with<T>(&self, f: impl FnOnce(&mut Seen) -> T) -> T {
        let result = f(&mut self.0.0.lock().expect("seen"));
        self.0.1.notify_all();
        result
    }

    pub fn see<T>(&self, f: impl FnOnce(&Seen) -> T) -> T {
        f(&self.0.0.lock().expect("seen"))
    }

    pub fn until(&self, what: &str, mut done: impl FnMut(&Seen) -> bool) {
        let seen = self.0.0.lock().expect("seen");
        let (seen, waited) = self.0.1.wait_timeout_while(seen, PATIENCE, |s| !done(s)).expect("seen");
        assert!(!waited.timed_out(), "waited in vain until {what}; taken {:?}, faults {:?}", seen.taken.len(), seen.faults);
    }

    /// Whether `happens` within [`A_WHILE`].
    pub fn soon(&self, mut happens: impl FnMut(&Seen) -> bool) -> bool {
        let seen = self.0.0.lock().expect("seen");
        !self.0.1.wait_timeout_while(seen, A_WHILE, |s| !happens(s)).expect("seen").1.timed_out()
    }

    pub fn until_taken(&self, partition: Partition, records: usize) {
        let len = |s: &Seen| s.taken.get(&partition).map_or(0, Vec::len);
        self.until(&format!("{records} records of partition {partition} are taken"), |s| len(s) >= records);
    }

    pub fn taken(&self, partition: Partition) -> Vec<String> {
        self.see(|s| s.taken.get(&partition).into_iter().flatten().map(|(_, v)| v.clone()).collect())
    }
}

impl GroupSink for Sink {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        self.0.with(|s| s.assigned.extend(partitions));
    }

    fn revoked(&mut self, partitions: Vec<Partition>, lost: bool) {
        self.0.with(|s| s.revoked = Some((partitions, lost)));
    }

    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let partition = batch.partition;
        let Some(first) = batch.first_offset() else { return Ok(()) };
        let refused = (self.1)(&batch);
        self.0.with(|s| {
            if !s.open.get(&partition).copied().unwrap_or(false) {
                s.uncalled.push((partition, first));
            }
            if refused {
                s.open.insert(partition, false);
                s.refused.push((partition, first, batch.len()));
                return Err(batch);
            }
            s.taken.entry(partition).or_default().extend(batch.iter().map(|r| (r.offset, text(r.value))));
            Ok(())
        })
    }

    fn fault(&mut self, error: LogError) {
        self.0.with(|s| s.faults.push(error));
    }
}
