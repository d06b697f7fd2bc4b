//! What only this adapter promises: recovery from any crash, damage found, a full disk survived. The port's contract is in
//! `tests/suite/contracts`.

mod crash;
mod faults;
mod golden;
mod segments;
mod stretches;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::disk::{Disk, RealDisk};
use super::{EmbeddedLog, Options};
use crate::events::record::{NewRecord, Offset, Partition, Position, RecordBatch, Topic};
use crate::ports::event_log::{EventLog, Group, GroupHandle, GroupSink, LogError, TransactionalWriter};

const PATIENCE: Duration = Duration::from_secs(20);

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
}

fn options(partitions: i32, segment_bytes: u64) -> Options {
    Options { partitions, segment_bytes, max_record_bytes: 4 << 20, clock: Arc::new(|| 1_700_000_000_000) }
}

fn open(dir: &Path) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(dir, options(2, 1 << 20)).expect("opens")
}

fn open_on(dir: &Path, disk: Arc<dyn Disk>) -> Arc<EmbeddedLog> {
    EmbeddedLog::open_on(dir, options(2, 1 << 20), 7, disk).expect("opens")
}

fn record(topic: Topic, partition: Partition, value: &str) -> NewRecord {
    let headers = vec![("source", b"test".to_vec())];
    NewRecord { topic, partition: Some(partition), key: Some(b"shop".to_vec()), headers, value: Some(value.into()) }
}

fn fact(partition: Partition, value: &str) -> NewRecord {
    record(Topic::Facts, partition, value)
}

fn append(log: &EmbeddedLog, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
    block_on(log.append(records))
}

/// All values of a partition, checked to have offsets without gaps, from `from` on.
fn values_from(log: &EmbeddedLog, topic: Topic, partition: Partition, from: Offset) -> Vec<String> {
    let (_, end) = log.watermarks(topic, partition).expect("watermarks");
    let mut reader = log.reader(topic, partition, from).expect("reader");
    let mut values = Vec::new();
    while let Some(batch) = reader.next(end, PATIENCE).expect("reads") {
        assert!(!batch.is_empty(), "what lies before the end is readable at once");
        for r in batch.iter() {
            assert_eq!(r.offset, from + values.len() as Offset);
            values.push(String::from_utf8(r.value.expect("a value").to_vec()).expect("text"));
        }
    }
    values
}

fn values(log: &EmbeddedLog, topic: Topic, partition: Partition) -> Vec<String> {
    values_from(log, topic, partition, 0)
}

/// A sink that takes nothing; for who only wants to commit.
struct Idle;

impl GroupSink for Idle {
    fn assigned(&mut self, _: Vec<crate::ports::event_log::Assigned>) {}
    fn revoked(&mut self, _: Vec<Partition>, _: bool) {}
    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        Err(batch)
    }
    fn fault(&mut self, _: LogError) {}
}

fn member(log: &EmbeddedLog) -> (Arc<dyn GroupHandle>, Box<dyn TransactionalWriter>) {
    let member = log.join(Group::Shards, Topic::Facts, Box::new(Idle)).expect("joins");
    let writer = log.writer(member.clone()).expect("writer");
    (member, writer)
}

fn committed(log: &EmbeddedLog) -> Vec<Option<Offset>> {
    log.committed(Group::Shards, Topic::Facts).expect("committed offsets")
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let bases = super::segment::list(dir).expect("segments");
    bases.into_iter().map(|b| super::segment::path(dir, b)).collect()
}

/// The files of a log as a crash would leave them: without closing it.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("folder");
    for file in segment_files(from) {
        fs::copy(&file, to.path().join(file.file_name().expect("name"))).expect("copies");
    }
    to
}
