//! Reading one partition, outside of any group.

use std::sync::Arc;
use std::time::Duration;

use super::frame::{Bad, Run};
use super::layout::{Lsn, topic_number};
use super::scan::Scanner;
use super::state::IndexCache;
use super::{Core, batch_is_full};
use crate::events::record::{Offset, Partition, RecordBatch, Topic};
use crate::ports::event_log::{LogError, PartitionReader};

pub struct EmbeddedReader {
    core: Arc<Core>,
    topic: u8,
    partition: Partition,
    slot: usize,
    next: Offset,
    /// Nothing that is to be read stands before it.
    at: Lsn,
    scanner: Scanner,
    cache: IndexCache,
}

/// Copies the records of a run with offsets from `batch.next_offset` on, as long as the batch has room and they lie
/// before `until`.
pub fn copy(run: &Run<'_>, time: i64, batch: &mut RecordBatch, until: Offset) -> Result<(), Bad> {
    for record in run.records() {
        let (offset, record) = record?;
        if offset >= until || batch_is_full(batch) {
            return Ok(());
        }
        // Exactly the next one and no other: whatever order frames are met in, nothing is lost, doubled or reordered.
        if offset == batch.next_offset {
            batch.push(offset, time, record.key, record.value, record.headers());
        }
    }
    Ok(())
}

impl EmbeddedReader {
    pub fn open(core: Arc<Core>, topic: Topic, partition: Partition, from: Offset) -> Result<EmbeddedReader, LogError> {
        let slot = core.shared.layout.known(topic, partition)?;
        if from < 0 {
            return Err(LogError::Misconfigured(format!("offset {from} does not exist; offsets begin at 0")));
        }
        let scanner = Scanner::new(core.shared.clone());
        let topic = topic_number(topic);
        Ok(EmbeddedReader { core, topic, partition, slot, next: from, at: 0, scanner, cache: IndexCache::default() })
    }

    /// What the next stretch of log gives, perhaps nothing.
    fn read(&mut self, until: Offset) -> Result<RecordBatch, LogError> {
        let mut batch = RecordBatch::new(self.partition, self.next);
        let located = self.core.shared.locate(self.slot, self.next, &mut self.cache)?;
        self.at = self.at.max(located);
        let mut chunk = self.scanner.read(self.at)?;
        while let Some(frame) = chunk.frame()? {
            for run in frame.runs() {
                let run = run.map_err(|bad| chunk.damaged(bad))?;
                if (run.topic, run.partition) == (self.topic, self.partition) {
                    copy(&run, frame.time, &mut batch, until).map_err(|bad| chunk.damaged(bad))?;
                    if batch.next_offset < run.end() {
                        // Not done with this frame.
                        self.next = batch.next_offset;
                        self.at = frame.lsn;
                        return Ok(batch);
                    }
                }
            }
        }
        self.next = batch.next_offset;
        self.at = chunk.at;
        Ok(batch)
    }
}

impl PartitionReader for EmbeddedReader {
    fn next(&mut self, until: Offset, timeout: Duration) -> Result<Option<RecordBatch>, LogError> {
        while self.next < until {
            let (slot, next) = (self.slot, self.next);
            let mut end = 0;
            self.core.shared.wait_while(Some(timeout), |s| {
                end = s.ends[slot];
                end <= next
            });
            if end <= next {
                return Ok(Some(RecordBatch::new(self.partition, self.next)));
            }
            let batch = self.read(until)?;
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn position(&self) -> Offset {
        self.next
    }
}
