//! One assigned partition: what the sink has of it and what is under way.

use rdkafka::message::{BorrowedMessage, Message};

use super::super::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, copy};
use crate::events::record::{Offset, Partition, RecordBatch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Paused; the sink has not started it.
    Held,
    /// To be sought to `expected` and resumed. librdkafka refuses that while it is still starting or stopping a partition.
    Starting,
    Running,
    /// Paused; the sink gave the batch back.
    Full,
}

pub(super) struct Lane {
    pub(super) phase: Phase,
    /// Offset of the next record to take. What lies below was buffered before a seek or a pause and is dropped.
    pub(super) expected: Offset,
    /// Offset up to which the sink has been told.
    told: Offset,
    /// librdkafka's position from before the last seek, which it keeps until it delivers something: it may be that of records
    /// that were dropped here, and believing it would skip them. A lone marker that leads to the same place goes unnoticed until
    /// the next record.
    stale: Option<Offset>,
    batch: RecordBatch,
    /// Of the last batch, to size the next.
    usual: (usize, usize),
}

impl Lane {
    pub(super) fn held(partition: Partition, at: Offset) -> Self {
        Lane {
            phase: Phase::Held,
            expected: at,
            told: at,
            stale: None,
            batch: RecordBatch::new(partition, at),
            usual: (64, 16 * 1024),
        }
    }

    /// Begins at `from`, whatever was under way.
    pub(super) fn start(&mut self, from: Offset) {
        self.phase = Phase::Starting;
        self.expected = from;
        self.told = from;
        self.batch = RecordBatch::new(self.batch.partition, from);
    }

    /// Was sought to `expected` and resumed; `stale` is librdkafka's position from before.
    pub(super) fn run(&mut self, stale: Option<Offset>) {
        self.phase = Phase::Running;
        self.stale = stale;
    }

    /// Takes a record; true when the batch is to be delivered at once.
    pub(super) fn take(&mut self, m: &BorrowedMessage<'_>) -> bool {
        if self.phase != Phase::Running || m.offset() < self.expected {
            return false;
        }
        if self.batch.is_empty() {
            self.batch = RecordBatch::with_capacity(self.batch.partition, self.expected, self.usual.0, self.usual.1);
        }
        copy::push(&mut self.batch, m);
        self.expected = m.offset() + 1;
        self.stale = None;
        self.batch.len() >= MAX_BATCH_RECORDS || self.batch.bytes() >= MAX_BATCH_BYTES
    }

    /// librdkafka stands at `at`: markers and aborted records below it are behind us.
    pub(super) fn advance(&mut self, at: Offset) {
        if self.phase != Phase::Running || self.stale == Some(at) {
            return;
        }
        self.stale = None;
        if at > self.expected {
            self.expected = at;
            self.batch.next_offset = at;
        }
    }

    /// What the sink does not have yet. Without records when only markers were passed: the group's offset has to move
    /// past them too, or lag never reads zero.
    pub(super) fn due(&mut self) -> Option<RecordBatch> {
        if self.expected <= self.told {
            return None;
        }
        self.told = self.expected;
        let next = RecordBatch::new(self.batch.partition, self.expected);
        let batch = std::mem::replace(&mut self.batch, next);
        if !batch.is_empty() {
            self.usual = (batch.len(), batch.bytes());
        }
        Some(batch)
    }

    /// The sink is full.
    pub(super) fn give_back(&mut self, batch: RecordBatch) {
        self.told = batch.first_offset().unwrap_or(batch.next_offset).min(batch.next_offset - 1);
        self.expected = batch.next_offset;
        self.batch = batch;
        self.phase = Phase::Full;
    }
}
