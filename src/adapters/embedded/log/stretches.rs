//! What several readers read at about the same time is read and checked once.
//!
//! The records of all partitions lie mixed in the same segments. When a node starts, each of its partitions is read from an
//! offset of its own on, and every reader would have to read and check what is the others' to find its own. So a stretch of log
//! is kept for a while with a table of whose records are where in it; a reader touches only its own, and its batches share the
//! stretch's bytes.
//!
//! Readers of facts that are near each other are kept together: one that gets a window ahead waits for those whom it would leave
//! behind, unless they stand still. Those who are much further behind or ahead are no concern of it; each of them reads its
//! stretches itself. All of it is gone with the last reader.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::frame::{self, Bad, Record};
use super::layout::Lsn;
use super::scan::{CHUNK, Scanner};
use super::segment::Segment;
use super::state::{Shared, lock};
use crate::events::record::{Offset, RecordBatch};
use crate::ports::event_log::LogError;

/// How far readers may be apart, and from where on they have lost each other.
const WINDOW: u64 = 16 << 20;
const LOST: u64 = 8 * WINDOW;
/// A stretch counts as a chunk at least; so this also bounds their number.
const KEPT: u64 = 2 * WINDOW;
/// Bytes that batches may share: what is kept, and as much again in batches under way. Past it batches copy.
const BUFFERS: u64 = 2 * KEPT;
/// Nobody is waited for longer without moving. Long, for on a busy machine a batch may take its time, and who is lost stays so.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whole frames in a row, checked.
pub struct Stretch {
    from: Lsn,
    /// Position after the last frame.
    pub to: Lsn,
    bytes: Arc<Vec<u8>>,
    is_shared: bool,
    /// By topic-partition, each one's in order.
    places: Vec<Place>,
    segment: Arc<Segment>,
}

/// A run, where its records are among the bytes, and the frame that it stands in.
struct Place {
    slot: usize,
    base: Offset,
    count: u32,
    records: Range<usize>,
    lsn: Lsn,
    time: i64,
}

impl Place {
    fn end(&self) -> Offset {
        self.base + Offset::from(self.count)
    }
}

/// A run to be read.
pub struct Piece<'a> {
    place: &'a Place,
    stretch: &'a Stretch,
}

impl Piece<'_> {
    pub fn end(&self) -> Offset {
        self.place.end()
    }

    pub fn records(&self) -> impl Iterator<Item = Result<(Offset, Record<'_>), Bad>> {
        frame::records(&self.stretch.bytes[self.place.records.clone()], self.place.base, self.place.count)
    }

    /// Adds one of its records.
    pub fn push(&self, batch: &mut RecordBatch, offset: Offset, record: &Record<'_>) {
        if self.stretch.is_shared {
            let place = record.place(self.place.records.start);
            batch.push_shared(offset, self.place.time, &self.stretch.bytes, place);
        } else {
            batch.push(offset, self.place.time, record.key, record.value, record.headers());
        }
    }

    pub fn damaged(&self, why: Bad) -> LogError {
        self.stretch.segment.damaged(self.place.lsn, why.0)
    }
}

impl Stretch {
    /// The runs of a topic-partition that reach past `next`.
    pub fn pieces(&self, slot: usize, next: Offset) -> impl Iterator<Item = Piece<'_>> {
        let begin = self.places.partition_point(|p| (p.slot, p.end()) <= (slot, next));
        self.places[begin..].iter().take_while(move |p| p.slot == slot).map(|place| Piece { place, stretch: self })
    }
}

/// The stretches that a log's readers share.
pub struct Stretches {
    shared: Arc<Shared>,
    kept: Mutex<Kept>,
    /// A reader has moved or is gone.
    moved: Condvar,
}

struct Kept {
    scanner: Scanner,
    stretches: BTreeMap<Lsn, Arc<Stretch>>,
    /// In the order in which they were read; the oldest goes first.
    order: VecDeque<Lsn>,
    bytes: u64,
    buffers: Vec<Arc<Vec<u8>>>,
    /// Where the readers are that keep together and do not stand still.
    places: FxHashMap<u64, Lsn>,
    readers: u64,
    #[cfg(test)]
    read: u64,
}

/// A reader among the others.
pub struct Seat {
    stretches: Arc<Stretches>,
    number: u64,
    keeps_together: bool,
}

impl Stretches {
    pub fn new(shared: Arc<Shared>) -> Stretches {
        let kept = Kept {
            scanner: Scanner::new(shared.clone()),
            stretches: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            buffers: Vec::new(),
            places: FxHashMap::default(),
            readers: 0,
            #[cfg(test)]
            read: 0,
        };
        Stretches { shared, kept: Mutex::new(kept), moved: Condvar::new() }
    }

    #[cfg(test)]
    pub fn bytes_read(&self) -> u64 {
        lock(&self.kept).read
    }

    #[cfg(test)]
    pub fn bytes_shared(&self) -> u64 {
        lock(&self.kept).buffers.iter().map(weight).sum()
    }

    /// `keeps_together`: with the others that do.
    pub fn seat(self: Arc<Stretches>, keeps_together: bool) -> Seat {
        let number = {
            let mut kept = lock(&self.kept);
            kept.readers += 1;
            kept.readers
        };
        Seat { stretches: self, number, keeps_together }
    }
}

impl Seat {
    /// The stretch in which the frame at `at` is; an empty one if all that is durable lies before. Waits no longer than
    /// `patience` for another reader.
    pub fn at(&self, at: Lsn, patience: Duration) -> Result<Arc<Stretch>, LogError> {
        let Stretches { shared, kept, moved } = &*self.stretches;
        let is_waited_for = |other: &Lsn| (other + WINDOW..=other + LOST).contains(&at);
        let mut kept = lock(kept);
        if self.keeps_together && kept.places.insert(self.number, at) != Some(at) {
            moved.notify_all();
        }
        loop {
            // Read under the lock: who comes for the same one meanwhile finds it.
            if let Some(stretch) = kept.find(at) {
                return Ok(stretch);
            }
            if !self.keeps_together || !kept.places.values().any(is_waited_for) {
                return kept.read(shared, at);
            }
            let waited = moved.wait_timeout(kept, patience.min(PATIENCE)).unwrap_or_else(PoisonError::into_inner);
            kept = waited.0;
            if waited.1.timed_out() {
                kept.places.retain(|_, other| !is_waited_for(other));
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.stretches.kept).places.remove(&self.number);
        self.stretches.moved.notify_all();
    }
}

fn weight(bytes: &Arc<Vec<u8>>) -> u64 {
    (bytes.len() as u64).max(CHUNK)
}

impl Kept {
    fn find(&self, at: Lsn) -> Option<Arc<Stretch>> {
        let (_, stretch) = self.stretches.range(..=at).next_back()?;
        (at < stretch.to).then(|| stretch.clone())
    }

    fn read(&mut self, shared: &Shared, from: Lsn) -> Result<Arc<Stretch>, LogError> {
        // A buffer that nobody uses any more, instead of fresh memory.
        let free = self.buffers.iter().position(|b| Arc::strong_count(b) == 1);
        let buffer = free.and_then(|i| Arc::into_inner(self.buffers.swap_remove(i)));
        self.scanner.lend(buffer.unwrap_or_default());
        let mut chunk = self.scanner.read(from)?;
        let first = chunk.at;
        let mut places = Vec::new();
        while let Some(frame) = chunk.frame()? {
            let start = (frame.lsn - first) as usize;
            for run in frame.runs() {
                let run = run.map_err(|bad| chunk.damaged(bad))?;
                let Some(slot) = shared.layout.slot(run.topic, run.partition) else { continue };
                let place = run.place();
                let records = start + place.start..start + place.end;
                places.push(Place { slot, base: run.base, count: run.count, records, lsn: frame.lsn, time: frame.time });
            }
        }
        let to = chunk.at;
        #[cfg(test)]
        {
            self.read += to - from;
        }
        places.sort_by_key(|p| p.slot);
        let (mut bytes, segment) = self.scanner.take();
        if bytes.len() as u64 > CHUNK && to - first <= CHUNK {
            // It was the buffer of a longer frame.
            bytes.truncate(CHUNK as usize);
            bytes.shrink_to_fit();
        }
        let bytes = Arc::new(bytes);
        let in_use: u64 = self.buffers.iter().map(weight).sum();
        let is_shared = in_use + weight(&bytes) <= BUFFERS;
        if is_shared {
            self.buffers.push(bytes.clone());
        }
        let stretch = Arc::new(Stretch { from, to, bytes, is_shared, places, segment });
        if to > from {
            self.keep(stretch.clone());
        }
        Ok(stretch)
    }

    fn keep(&mut self, stretch: Arc<Stretch>) {
        self.bytes += weight(&stretch.bytes);
        self.order.push_back(stretch.from);
        self.stretches.insert(stretch.from, stretch);
        while self.bytes > KEPT
            && let Some(oldest) = self.order.pop_front()
            && let Some(gone) = self.stretches.remove(&oldest)
        {
            self.bytes -= weight(&gone.bytes);
        }
    }
}
