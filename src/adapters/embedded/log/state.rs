//! What is known of the log in memory, shared by its writer and its readers. Nothing here grows with the records: per
//! segment the offsets at its start, and a sparse index of the last one.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crc32fast::Hasher;
use rustc_hash::FxHashSet;

use super::index::{self, Entry, Index};
use super::layout::{Layout, Lsn};
use super::queue::Queue;
use super::scan;
use super::segment::{Segment, unavailable};
use crate::events::record::Offset;
use crate::ports::event_log::{Group, LogError};

/// All of it is durable: the writer publishes after its fsync.
#[derive(Debug)]
pub struct State {
    /// Position after the last frame.
    pub durable: Lsn,
    pub ends: Vec<Offset>,
    pub committed: Vec<Option<Offset>>,
    /// Append time of the last frame.
    pub time: i64,
    /// In order; the last one is written to. Never empty.
    pub segments: Vec<Arc<Segment>>,
    /// Of the last segment.
    pub index: Index,
    /// Why the last write failed; none once one has succeeded again.
    pub failing: Option<String>,
}

pub struct Shared {
    pub layout: Layout,
    pub dir: PathBuf,
    /// Seed of the frames' checksums: the log's id.
    pub seed: Hasher,
    pub queue: Queue,
    /// Groups that have a living member.
    pub members: Mutex<FxHashSet<Group>>,
    state: Mutex<State>,
    /// Signalled when there is more to read, or something else to do for a member.
    changed: Condvar,
    /// Held while a sidecar is made anew, so that one thread does it.
    rebuilding: Mutex<()>,
}

/// A panic elsewhere leaves nothing half done under our locks: each critical section only reads, or assigns at its end.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(layout: Layout, dir: PathBuf, seed: Hasher, state: State) -> Shared {
        Shared {
            layout,
            dir,
            seed,
            queue: Queue::default(),
            members: Mutex::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            rebuilding: Mutex::default(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Wakes whoever waits in [`Shared::wait_while`]; the lock makes sure that nobody is just about to wait.
    pub fn notify(&self) {
        let _state = self.state();
        self.changed.notify_all();
    }

    /// Waits as long as `idle` holds, at most `timeout` if there is one.
    pub fn wait_while(&self, timeout: Option<Duration>, mut idle: impl FnMut(&State) -> bool) {
        let state = self.state();
        match timeout {
            None => drop(self.changed.wait_while(state, |s| idle(s))),
            Some(t) => drop(self.changed.wait_timeout_while(state, t, |s| idle(s))),
        }
    }

    /// The segment in which a frame at `lsn` is or will be, and the position after its last durable frame.
    pub fn segment_at(&self, lsn: Lsn) -> (Arc<Segment>, Lsn) {
        let state = self.state();
        let after = state.segments.partition_point(|s| s.base <= lsn).max(1);
        let end = state.segments.get(after).map_or(state.durable, |next| next.base);
        (state.segments[after - 1].clone(), end)
    }

    /// A position from which reading forward meets the record `offset` of a topic-partition, with little before it.
    /// `cache` keeps the index of the closed segment that was looked at last.
    pub fn locate(&self, slot: usize, offset: Offset, cache: &mut IndexCache) -> Result<Lsn, LogError> {
        let (segment, end) = {
            let state = self.state();
            let after = state.segments.partition_point(|s| s.starts[slot] <= offset).max(1);
            match state.segments.get(after) {
                None => {
                    let found = index::find(state.index.slot(slot), offset).filter(|_| offset < state.ends[slot]);
                    return Ok(found.unwrap_or(state.durable));
                }
                Some(next) => (state.segments[after - 1].clone(), next.base),
            }
        };
        let kept = cache.0.take().filter(|(base, of, _)| (*base, *of) == (segment.base, slot));
        let (base, of, entries) = match kept {
            Some(kept) => kept,
            None => (segment.base, slot, self.index_of(&segment, end)?.into_slot(slot)),
        };
        let found = index::find(&entries, offset).unwrap_or(end);
        cache.0 = Some((base, of, entries));
        Ok(found)
    }

    /// The index of a closed segment, from its sidecar; made anew if that is missing or damaged.
    fn index_of(&self, segment: &Segment, end: Lsn) -> Result<Index, LogError> {
        let _one = lock(&self.rebuilding);
        let path = segment.index_path();
        if let Some(index) = Index::load(&path, self.layout, segment.base, end) {
            return Ok(index);
        }
        tracing::warn!(path = %path.display(), "the index of a log segment is missing or damaged; it is made anew");
        let io = |e: std::io::Error| unavailable("reading", &segment.path, &e);
        let file = File::open(&segment.path).map_err(io)?;
        let mut index = Index::new(self.layout);
        let stop = scan::walk((&file, segment.base), (segment.first, end), &self.seed, |frame| {
            for run in frame.runs() {
                let run = run.map_err(|bad| segment.damaged(frame.lsn, bad.0))?;
                let slot = self.layout.slot(run.topic, run.partition);
                index.note(slot.ok_or_else(|| segment.damaged(frame.lsn, "unknown topic"))?, run.base, frame.lsn);
            }
            Ok(())
        })?;
        let stop = stop.map_err(io)?;
        if let Some(why) = stop.why {
            return Err(segment.damaged(stop.at, why.0));
        }
        save_index(&index, segment, end);
        Ok(index)
    }
}

/// One slot's index of one closed segment: (base, slot, entries).
#[derive(Debug, Default)]
pub struct IndexCache(Option<(Lsn, usize, Vec<Entry>)>);

/// Without a sidecar all goes on, slower: that it could not be written is worth a word and no more.
pub fn save_index(index: &Index, segment: &Segment, end: Lsn) {
    let path = segment.index_path();
    if let Err(error) = index.save(&path, segment.base, end) {
        tracing::warn!(path = %path.display(), %error, "the index of a log segment could not be written; it will be made anew when needed");
    }
}
