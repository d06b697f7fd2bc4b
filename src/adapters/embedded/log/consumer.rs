//! A group member's thread. It reads the log forward once for all partitions; one that fell behind (it refused a batch, or
//! was started further back) is caught up by reading from there, in turn with the foremost, until they meet.
//!
//! A lane takes a record only if it is exactly its next one. Where reading happens, and how often, can thereby make it
//! slow, but never lose, double or reorder anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::frame::{Bad, Frame, Run};
use super::group::{Command, Inbox, Membership};
use super::layout::{Lsn, topic_number};
use super::scan::Scanner;
use super::state::IndexCache;
use super::{Core, batch_is_full};
use crate::events::record::{Offset, Partition, RecordBatch};
use crate::ports::event_log::{Assigned, GroupSink, LogError};

/// After a fault it is tried again this much later.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Flow {
    /// Not started.
    Paused,
    Flowing,
    /// Refused; waits for a resume.
    Held(RecordBatch),
}

#[derive(Debug)]
struct Lane {
    flow: Flow,
    /// What is being collected; its `next_offset` is the next record to take.
    batch: RecordBatch,
    /// Its next record does not stand before this.
    at: Lsn,
    slot: usize,
}

pub struct Consumer {
    core: Arc<Core>,
    member: Arc<Membership>,
    sink: Box<dyn GroupSink>,
    lanes: Vec<Lane>,
    scanner: Scanner,
    cache: IndexCache,
}

impl Consumer {
    pub fn new(core: Arc<Core>, member: Arc<Membership>, sink: Box<dyn GroupSink>) -> Consumer {
        let layout = core.shared.layout;
        let lane = |p| Lane {
            flow: Flow::Paused,
            batch: RecordBatch::new(p, 0),
            at: 0,
            slot: layout.slot(topic_number(member.topic), p).expect("a partition of the layout"),
        };
        let lanes = (0..layout.partitions).map(lane).collect();
        let scanner = Scanner::new(core.shared.clone());
        Consumer { core, member, sink, lanes, scanner, cache: IndexCache::default() }
    }

    pub fn run(mut self, committed: Vec<Option<Offset>>) {
        let assigned = committed.iter().zip(0..).map(|(c, partition)| Assigned { partition, committed: *c }).collect();
        self.sink.assigned(assigned);
        loop {
            let Inbox { commands, leave } = self.member.take();
            if leave {
                break;
            }
            let mut done = Ok(());
            for command in commands {
                done = self.obey(command).and(done);
            }
            done = self.advance().and(done);
            let retry = done.err().map(|error| {
                self.sink.fault(error);
                RETRY
            });
            self.wait(retry);
        }
        self.sink.revoked((0..self.core.shared.layout.partitions).collect(), false);
        self.member.end();
    }

    /// Until there is something to do; after a fault until a retry is due.
    fn wait(&self, retry: Option<Duration>) {
        let hindmost = self.flowing().min();
        let nothing_new = |durable: Lsn| retry.is_some() || hindmost.is_none_or(|at| at >= durable);
        self.core.shared.wait_while(retry, |s| nothing_new(s.durable) && !self.member.has_mail());
    }

    fn flowing(&self) -> impl Iterator<Item = Lsn> {
        self.lanes.iter().filter(|l| matches!(l.flow, Flow::Flowing)).map(|l| l.at)
    }

    fn lane(&mut self, partition: Partition) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::try_from(partition).ok()?)
    }

    fn obey(&mut self, command: Command) -> Result<(), LogError> {
        match command {
            Command::Start(partition, from) => {
                let Some(slot) = self.lane(partition).map(|l| l.slot) else { return Ok(()) };
                // Even if the index cannot be read now: from the beginning of the log the record is met as well.
                let located = self.core.shared.locate(slot, from, &mut self.cache);
                let lane = self.lane(partition).expect("just seen");
                lane.flow = Flow::Flowing;
                lane.batch = RecordBatch::new(partition, from.max(0));
                lane.at = *located.as_ref().unwrap_or(&0);
                located.map(drop)
            }
            Command::Resume(partition) => {
                let Consumer { lanes, sink, .. } = self;
                let lane = usize::try_from(partition).ok().and_then(|p| lanes.get_mut(p));
                if let Some(lane) = lane.filter(|l| matches!(l.flow, Flow::Held(_)))
                    && let Flow::Held(batch) = std::mem::replace(&mut lane.flow, Flow::Flowing)
                {
                    lane.offer(batch, &mut **sink);
                }
                Ok(())
            }
        }
    }

    /// Reads on where the hindmost lane is, and where the foremost is, a chunk each.
    fn advance(&mut self) -> Result<(), LogError> {
        let (Some(first), Some(last)) = (self.flowing().min(), self.flowing().max()) else { return Ok(()) };
        let done = self.step(first);
        // Also if that failed: damage far behind does not stop those who are past it.
        if last > first { self.step(last).and(done) } else { done }
    }

    fn step(&mut self, from: Lsn) -> Result<(), LogError> {
        let mut touched = BTreeSet::new();
        let read = self.collect(from, &mut touched);
        if let Ok(to) = read {
            for lane in self.lanes.iter_mut().filter(|l| matches!(l.flow, Flow::Flowing) && l.at >= from) {
                lane.at = lane.at.max(to);
            }
        }
        for lane in touched {
            self.lanes[lane].deliver(&mut *self.sink);
        }
        read.map(drop)
    }

    /// Reads a chunk into the lanes; answers where it ends. Full batches are delivered on the way.
    fn collect(&mut self, from: Lsn, touched: &mut BTreeSet<usize>) -> Result<Lsn, LogError> {
        let Consumer { scanner, lanes, sink, member, .. } = self;
        let topic = topic_number(member.topic);
        let mut chunk = scanner.read(from)?;
        while let Some(frame) = chunk.frame()? {
            for run in frame.runs() {
                let run = run.map_err(|bad| chunk.damaged(bad))?;
                let index = run.partition as usize;
                let Some(lane) = lanes.get_mut(index).filter(|l| run.topic == topic && l.wants(&run)) else { continue };
                touched.insert(index);
                lane.take(&run, &frame, &mut **sink).map_err(|bad| chunk.damaged(bad))?;
            }
        }
        Ok(chunk.at)
    }
}

impl Lane {
    fn wants(&self, run: &Run<'_>) -> bool {
        matches!(self.flow, Flow::Flowing) && (run.base..run.end()).contains(&self.batch.next_offset)
    }

    fn take(&mut self, run: &Run<'_>, frame: &Frame<'_>, sink: &mut dyn GroupSink) -> Result<(), Bad> {
        for record in run.records() {
            let (offset, record) = record?;
            if offset == self.batch.next_offset {
                self.batch.push(offset, frame.time, record.key, record.value, record.headers());
                if batch_is_full(&self.batch) {
                    self.at = self.at.max(frame.lsn);
                    self.deliver(sink);
                    if !matches!(self.flow, Flow::Flowing) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, sink: &mut dyn GroupSink) {
        if !self.batch.is_empty() {
            let next = RecordBatch::new(self.batch.partition, self.batch.next_offset);
            let batch = std::mem::replace(&mut self.batch, next);
            self.offer(batch, sink);
        }
    }

    fn offer(&mut self, batch: RecordBatch, sink: &mut dyn GroupSink) {
        if let Err(batch) = sink.deliver(batch) {
            self.flow = Flow::Held(batch);
        }
    }
}
