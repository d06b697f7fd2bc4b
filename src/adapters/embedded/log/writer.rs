//! The one thread that writes. It takes what has queued up, writes it in one go, syncs once, publishes, answers.
//!
//! When a write or a sync fails, the file is cut back to its last durable byte, and that cut synced, before anything else
//! is written; only then can it be said that nothing was written. After a failed *sync* the page cache may claim pages to
//! be clean that never reached the disk, so the log goes on in a new segment: no later byte shares a page with them. As long as
//! cut or new segment fail, everything is refused, and tried again with the next request.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::frame::{Draft, Stamp};
use super::index::Index;
use super::layout::Lsn;
use super::queue::{Failure, Request, Work};
use super::segment::{self, Head, Segment};
use super::state::{Shared, save_index};
use crate::events::record::Offset;

pub struct Writer {
    pub shared: Arc<Shared>,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub log_id: u64,
    pub segment_bytes: u64,
    /// The last segment.
    pub file: File,
    pub base: Lsn,
    pub tail: Tail,
    pub wrote: bool,
}

/// What lies behind the last durable byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Nothing; the next frame goes there.
    Clean,
    /// Nothing, but this segment's pages are not to be trusted: the next frame goes to a new one.
    Retired,
    WriteFailed,
    SyncFailed,
}

impl Tail {
    fn is_settled(self) -> bool {
        matches!(self, Tail::Clean | Tail::Retired)
    }
}

/// A frame of the batch that is being written.
struct Placed {
    lsn: Lsn,
    bases: Vec<Offset>,
}

/// Should the thread panic, nobody may wait for it for ever.
struct Abandon(Arc<Shared>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}

impl Writer {
    pub fn run(mut self) {
        let _abandoned = Abandon(self.shared.clone());
        while let Some(requests) = self.shared.queue.take() {
            self.process(requests);
        }
        // Says that all before it was durable: what is found damaged later is then no torn tail.
        if self.wrote
            && self.tail == Tail::Clean
            && let Err(failure) = self.write(&[Some(&Draft::empty())])
        {
            tracing::warn!(?failure, "the log was closed without its closing mark");
        }
    }

    fn process(&mut self, requests: Vec<Request>) {
        let (live, fenced): (Vec<_>, Vec<_>) = requests.into_iter().partition(|r| match &r.work {
            Work::Commit(_, member) => member.is_alive(),
            _ => true,
        });
        fenced.into_iter().for_each(|r| r.answer(Err(Failure::Fenced)));
        // After a failure an empty frame tries whether the disk takes writes again.
        let trial = Draft::empty();
        let failing = self.shared.state().failing.is_some();
        let drafts: Vec<Option<&Draft>> = live
            .iter()
            .map(|r| match &r.work {
                Work::Append(d) | Work::Commit(d, _) => Some(d),
                Work::Settle => None,
                Work::Probe => failing.then_some(&trial),
            })
            .collect();
        match self.write(&drafts) {
            Ok(bases) => live.into_iter().zip(bases).for_each(|(r, b)| r.answer(Ok(b))),
            Err(failure) => live.into_iter().for_each(|r| match r.work {
                Work::Settle if self.tail.is_settled() => r.answer(Ok(Vec::new())),
                _ => r.answer(Err(failure.clone())),
            }),
        }
    }

    /// Makes the frames durable and readable, all of them or none; answers each one's first offsets.
    fn write(&mut self, drafts: &[Option<&Draft>]) -> Result<Vec<Vec<Offset>>, Failure> {
        self.mend().map_err(|e| Failure::NotWritten(self.failed(&e)))?;
        if drafts.iter().all(Option::is_none) {
            return Ok(vec![Vec::new(); drafts.len()]);
        }
        self.roll_if_due().map_err(|e| Failure::NotWritten(self.failed(&e)))?;
        let (group, last_time, mut ends) = {
            let state = self.shared.state();
            (state.durable, state.time, state.ends.clone())
        };
        let time = last_time.max((self.clock)());
        let mut bytes = Vec::with_capacity(drafts.iter().flatten().map(|d| d.bytes.len()).sum());
        let mut placed = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let lsn = group + bytes.len() as u64;
            let mut bases = Vec::new();
            if let Some(draft) = draft {
                for run in &draft.runs {
                    bases.push(ends[run.slot]);
                    ends[run.slot] += Offset::from(run.count);
                }
                draft.finish(&mut bytes, Stamp { lsn, group, time }, &bases, &self.shared.seed);
            }
            placed.push(Placed { lsn, bases });
        }
        let at = group - self.base;
        let written = self.disk.write(&self.file, &bytes, at).map_err(|e| (e, Tail::WriteFailed));
        if let Err((error, tail)) = written.and_then(|()| self.disk.sync(&self.file).map_err(|e| (e, Tail::SyncFailed))) {
            self.tail = tail;
            let reason = self.failed(&error);
            return Err(match self.mend() {
                Ok(()) => Failure::NotWritten(reason),
                Err(again) => Failure::Unknown(format!("{reason}; cutting it back failed: {again}")),
            });
        }
        self.wrote = true;
        self.publish(drafts, &placed, Stamp { lsn: group + bytes.len() as u64, group, time }, ends);
        Ok(placed.into_iter().map(|p| p.bases).collect())
    }

    fn publish(&self, drafts: &[Option<&Draft>], placed: &[Placed], after: Stamp, ends: Vec<Offset>) {
        let layout = self.shared.layout;
        let mut state = self.shared.state();
        for (draft, place) in drafts.iter().zip(placed) {
            let Some(draft) = draft else { continue };
            for (run, base) in draft.runs.iter().zip(&place.bases) {
                state.index.note(run.slot, *base, place.lsn);
            }
            for o in &draft.offsets {
                let slot = layout.commit_slot(o.group, o.topic, o.partition).expect("checked before it was queued");
                state.committed[slot] = Some(o.offset);
            }
        }
        state.ends = ends;
        state.time = after.time;
        state.durable = after.lsn;
        if state.failing.take().is_some() {
            tracing::info!("the log can be written again");
        }
        drop(state);
        self.shared.notify();
    }

    fn failed(&self, error: &io::Error) -> String {
        let reason = format!("writing to {}: {error}", segment::path(&self.shared.dir, self.base).display());
        let mut state = self.shared.state();
        if state.failing.is_none() {
            tracing::error!(reason, "the log cannot be written; appends are refused until it can");
        }
        state.failing = Some(reason.clone());
        reason
    }

    /// Removes what a failed write may have left.
    fn mend(&mut self) -> io::Result<()> {
        if self.tail.is_settled() {
            return Ok(());
        }
        let durable = self.shared.state().durable;
        self.disk.cut(&self.file, durable - self.base)?;
        self.tail = if self.tail == Tail::SyncFailed { Tail::Retired } else { Tail::Clean };
        Ok(())
    }

    fn roll_if_due(&mut self) -> io::Result<()> {
        let durable = self.shared.state().durable;
        if durable - self.base >= self.segment_bytes || self.tail == Tail::Retired {
            self.roll()?;
            self.tail = Tail::Clean;
        }
        Ok(())
    }

    /// Begins a new segment.
    fn roll(&mut self) -> io::Result<()> {
        let head = {
            let s = self.shared.state();
            let partitions = self.shared.layout.partitions;
            let (ends, committed) = (s.ends.clone(), s.committed.clone());
            Head { log_id: self.log_id, base: s.durable, time: s.time, partitions, ends, committed }
        };
        self.file = head.create(&self.shared.dir, &*self.disk)?;
        self.base = head.base;
        let next = Arc::new(Segment::new(&self.shared.dir, &head));
        let mut state = self.shared.state();
        let index = std::mem::replace(&mut state.index, Index::new(self.shared.layout));
        let closed = state.segments.last().cloned().expect("there is always a segment");
        state.durable = next.first;
        state.segments.push(next);
        drop(state);
        save_index(&index, &closed, head.base);
        Ok(())
    }
}
