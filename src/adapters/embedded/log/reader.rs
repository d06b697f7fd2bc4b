//! Reading one partition, outside of any group.

use std::sync::Arc;
use std::time::Duration;

use super::frame::Bad;
use super::layout::Lsn;
use super::state::IndexCache;
use super::stretches::{Piece, Seat};
use super::{Core, batch_is_full};
use crate::events::record::{Offset, Partition, RecordBatch, Topic};
use crate::ports::event_log::{LogError, PartitionReader};

/// A batch ends after this much log, if it holds anything. Readers that are to keep up with each other take steps of the same
/// length, however many records each finds in one.
const PACE: u64 = 4 << 20;

pub struct EmbeddedReader {
    core: Arc<Core>,
    partition: Partition,
    slot: usize,
    next: Offset,
    /// Nothing that is to be read stands before it.
    at: Lsn,
    seat: Seat,
    cache: IndexCache,
}

/// Takes the records of a run with offsets from `batch.next_offset` on, as long as the batch has room and they lie
/// before `until`.
fn take(piece: &Piece<'_>, batch: &mut RecordBatch, until: Offset) -> Result<(), Bad> {
    for record in piece.records() {
        let (offset, record) = record?;
        if offset >= until || batch_is_full(batch) {
            return Ok(());
        }
        // Exactly the next one and no other: whatever order frames are met in, nothing is lost, doubled or reordered.
        if offset == batch.next_offset {
            piece.push(batch, offset, &record);
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
        // Decisions are read as far as facts have come, by the same thread.
        let seat = core.stretches().seat(topic == Topic::Facts);
        Ok(EmbeddedReader { core, partition, slot, next: from, at: 0, seat, cache: IndexCache::default() })
    }

    /// What the next stretches of log give before `end`, which is durable; perhaps nothing.
    fn read(&mut self, end: Offset, patience: Duration) -> Result<RecordBatch, LogError> {
        let mut batch = RecordBatch::new(self.partition, self.next);
        self.at = self.at.max(self.core.shared.locate(self.slot, self.next, &mut self.cache)?);
        let far = self.at + PACE;
        while batch.next_offset < end && (batch.is_empty() || self.at < far) {
            let stretch = match self.seat.at(self.at, patience) {
                Ok(stretch) => stretch,
                // What is good is given; the next call meets the fault again.
                Err(_) if !batch.is_empty() => break,
                Err(e) => return Err(e),
            };
            for piece in stretch.pieces(self.slot, batch.next_offset) {
                take(&piece, &mut batch, end).map_err(|bad| piece.damaged(bad))?;
                if batch.next_offset < piece.end() {
                    // Not done with this stretch.
                    self.next = batch.next_offset;
                    return Ok(batch);
                }
            }
            if stretch.to == self.at {
                break;
            }
            self.at = stretch.to;
        }
        self.next = batch.next_offset;
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
            let batch = self.read(until.min(end), timeout)?;
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
