//! One assigned partition: its queue in librdkafka, what the sink has of it and what is under way.
//!
//! Each partition has a queue of its own, so that a partition whose sink is full is simply not polled: librdkafka fills the
//! queue to its bound and stops fetching by itself. Pausing it instead would cost up to a second each time, because
//! `rd_kafka_resume_partitions` does not wake the broker's thread, which sleeps that long when nothing was to be fetched.

use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::message::Message;

use super::super::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, copy};
use super::context::MemberContext;
use crate::events::record::{Offset, Partition, RecordBatch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The sink has not started it.
    Held,
    /// To be sought to `expected`. librdkafka refuses that while it is still starting or stopping a partition.
    Seeking,
    Running,
    /// The sink gave the batch back.
    Full,
}

pub(super) struct Lane {
    queue: PartitionQueue<MemberContext>,
    pub(super) phase: Phase,
    /// Offset of the next record to take. What lies below was buffered before a seek and is dropped.
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
    /// librdkafka begins it at `at`.
    pub(super) fn held(queue: PartitionQueue<MemberContext>, partition: Partition, at: Offset) -> Self {
        Lane {
            queue,
            phase: Phase::Held,
            expected: at,
            told: at,
            stale: None,
            batch: RecordBatch::new(partition, at),
            usual: (64, 16 * 1024),
        }
    }

    /// Begins at `from`, whatever was under way. Sought unless librdkafka stands there untouched: what it believes was consumed
    /// may be ahead of what the sink took.
    pub(super) fn start(&mut self, from: Offset) {
        let is_there = self.phase == Phase::Held && from == self.expected;
        self.phase = if is_there { Phase::Running } else { Phase::Seeking };
        self.expected = from;
        self.told = from;
        self.batch = RecordBatch::new(self.batch.partition, from);
    }

    /// Was sought to `expected`; `stale` is librdkafka's position from before.
    pub(super) fn run(&mut self, stale: Option<Offset>) {
        self.phase = Phase::Running;
        self.stale = stale;
    }

    /// Takes what is in the queue, up to one batch; whether there was anything.
    pub(super) fn fill(&mut self) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        let mut any = false;
        while let Some(polled) = self.queue.poll(Duration::ZERO) {
            any = true;
            // An error was told to the context as well, with a better reason.
            let Ok(m) = polled else { continue };
            if m.offset() < self.expected {
                continue;
            }
            if self.batch.is_empty() {
                self.batch = RecordBatch::with_capacity(self.batch.partition, self.expected, self.usual.0, self.usual.1);
            }
            copy::push(&mut self.batch, &m);
            self.expected = m.offset() + 1;
            self.stale = None;
            if self.batch.len() >= MAX_BATCH_RECORDS || self.batch.bytes() >= MAX_BATCH_BYTES {
                break;
            }
        }
        any
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
