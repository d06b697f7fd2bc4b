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

/// Off: under load the position was seen ahead of what was delivered, and facts were skipped (DESIGN §7.2). Until that is
/// understood a trailing transaction marker stays ahead of the group's offset until the next record.
const TRUST_POSITION: bool = false;

pub(super) struct Lane {
    pub(super) phase: Phase,
    /// Offset of the next record to take. What lies below was buffered before a seek or a pause and is dropped.
    pub(super) expected: Offset,
    /// Offset up to which the sink has been told.
    told: Offset,
    /// A record was taken since the last seek. Before, librdkafka's position is still that of what it had buffered and dropped:
    /// believing it skips facts.
    moved: bool,
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
            moved: false,
            batch: RecordBatch::new(partition, at),
            usual: (64, 16 * 1024),
        }
    }

    /// Begins at `from`, whatever was under way.
    pub(super) fn start(&mut self, from: Offset) {
        self.phase = Phase::Starting;
        self.expected = from;
        self.told = from;
        self.moved = false;
        self.batch = RecordBatch::new(self.batch.partition, from);
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
        self.moved = true;
        self.batch.len() >= MAX_BATCH_RECORDS || self.batch.bytes() >= MAX_BATCH_BYTES
    }

    /// librdkafka stands at `at`: markers and aborted records below it are behind us.
    pub(super) fn advance(&mut self, at: Offset) {
        if TRUST_POSITION && self.phase == Phase::Running && self.moved && at > self.expected {
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
        self.moved = false;
        self.phase = Phase::Full;
    }
}
