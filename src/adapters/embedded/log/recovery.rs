//! Opening a log: which segments there are, what the last one holds, and what to make of bytes that are no frame.
//!
//! A crash can leave the last write unfinished, and after a power cut any part of it may be missing. All of one write
//! awaits the same fsync, and each frame says where its write began. So a bad frame is an unfinished write, and cut off,
//! unless a good frame stands behind it whose write began later: then these bytes had been durable, and are damaged.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crc32fast::Hasher;

use super::disk::Disk;
use super::frame::{self, Bad, Frame, MAGIC};
use super::index::Index;
use super::layout::{Layout, Lsn};
use super::scan::{self, Stop};
use super::segment::{self, Head, MAX_PARTITIONS, Segment, unavailable};
use super::state::State;
use crate::ports::event_log::LogError;

pub struct Recovered {
    pub state: State,
    pub file: File,
    pub base: Lsn,
    pub log_id: u64,
    pub seed: Hasher,
}

pub fn seed(log_id: u64) -> Hasher {
    let mut h = Hasher::new();
    h.update(&log_id.to_le_bytes());
    h
}

pub fn recover(dir: &Path, layout: Layout, new_id: u64, disk: &dyn Disk) -> Result<Recovered, LogError> {
    if !(1..=MAX_PARTITIONS).contains(&layout.partitions) {
        let n = layout.partitions;
        return Err(LogError::Misconfigured(format!("a log can have 1 to {MAX_PARTITIONS} partitions a topic, not {n}")));
    }
    let io = |e| unavailable("opening the log in", dir, &e);
    let mut bases = segment::list(dir).map_err(io)?;
    if bases.is_empty() {
        let (ends, committed) = (vec![0; layout.slots()], vec![None; layout.commit_slots()]);
        let head = Head { log_id: new_id, base: 0, time: 0, partitions: layout.partitions, ends, committed };
        head.create(dir, disk).map_err(io)?;
        bases.push(0);
    }
    let (segments, head) = headers(dir, layout, &bases)?;
    let last = segments.last().expect("there is at least one").clone();
    let seed = seed(head.log_id);
    let file = OpenOptions::new().read(true).write(true).open(&last.path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let mut state = State {
        durable: 0,
        ends: head.ends,
        committed: head.committed,
        time: head.time,
        segments,
        index: Index::new(layout),
        failing: None,
    };
    let whole = (last.first, last.base + len);
    let stop =
        scan::walk((&file, last.base), whole, &seed, |f| take(&mut state, layout, f).map_err(|bad| last.damaged(f.lsn, bad.0)));
    let Stop { at, why } = stop?.map_err(io)?;
    if let Some(why) = why {
        refuse_damage(&file, &last, (at, whole.1), &seed, why).map_err(io)??;
        let (path, bytes) = (last.path.display(), whole.1 - at);
        tracing::warn!(%path, at = at - last.base, bytes, "the log ended in an unfinished write, never acknowledged; it is cut off");
        disk.cut(&file, at - last.base).map_err(io)?;
    }
    // What a killed process wrote may still wait in the page cache; it is about to be shown as durable.
    disk.sync(&file).map_err(io)?;
    segment::sync_dir(dir).map_err(io)?;
    state.durable = at;
    Ok(Recovered { state, file, base: last.base, log_id: head.log_id, seed })
}

/// Reads all headers and checks that the segments follow each other; answers the last one's.
fn headers(dir: &Path, layout: Layout, bases: &[Lsn]) -> Result<(Vec<Arc<Segment>>, Head), LogError> {
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(bases.len());
    let mut last: Option<(Head, u64)> = None;
    for base in bases {
        let path = segment::path(dir, *base);
        let (head, header_len) = Head::read(&path)?;
        let len = fs::metadata(&path).map_err(|e| unavailable("reading", &path, &e))?.len();
        if head.partitions != layout.partitions {
            return Err(LogError::Misconfigured(format!(
                "the log in {} has {} partitions a topic, but {} are configured; keys would change their partition. \
                 Configure {1}, or use another, empty data_dir",
                dir.display(),
                head.partitions,
                layout.partitions
            )));
        }
        let foreign = last.as_ref().is_some_and(|(h, _)| h.log_id != head.log_id);
        if head.base != *base || foreign {
            return Err(segment::damaged_head(&path, 0, "this segment belongs elsewhere"));
        }
        let end = last.as_ref().map_or(0, |(h, len)| h.base + len);
        if end != *base {
            let before = segments.last().map_or(path.clone(), |s| s.path.clone());
            let why =
                format!("the log ends here, but goes on in {} at {base}: a part between is missing or too much", path.display());
            return Err(segment::damaged(&before, last.map_or(0, |(_, len)| len), &why));
        }
        let first = head.base + header_len;
        segments.push(Arc::new(Segment { base: *base, path, first, starts: head.ends.clone() }));
        last = Some((head, len));
    }
    Ok((segments, last.expect("there is at least one").0))
}

/// Enters a frame into the state. It must fit exactly: offsets have no gaps.
fn take(state: &mut State, layout: Layout, frame: &Frame<'_>) -> Result<(), Bad> {
    for offset in frame.offsets() {
        let o = offset?;
        let slot =
            layout.commit_slot(o.group, o.topic, o.partition).ok_or(Bad("it names an unknown group, topic or partition"))?;
        state.committed[slot] = Some(o.offset);
    }
    for run in frame.runs() {
        let run = run?;
        let slot = layout.slot(run.topic, run.partition).ok_or(Bad("it names an unknown topic or partition"))?;
        if state.ends[slot] != run.base {
            return Err(Bad("its offsets do not follow those before"));
        }
        run.records().try_for_each(|r| r.map(drop))?;
        state.index.note(slot, run.base, frame.lsn);
        state.ends[slot] = run.end();
    }
    state.time = frame.time;
    Ok(())
}

/// Looks behind a bad frame at `at` for a good one of a later write.
fn refuse_damage(
    file: &File,
    segment: &Segment,
    (at, end): (Lsn, Lsn),
    seed: &Hasher,
    why: Bad,
) -> std::io::Result<Result<(), LogError>> {
    let mut rest = vec![0; (end - at) as usize];
    file.read_exact_at(&mut rest, at - segment.base)?;
    let starts = rest.windows(MAGIC.len()).enumerate().skip(1).filter(|(_, w)| *w == MAGIC).map(|(i, _)| i);
    for i in starts {
        if let Ok(Some(frame)) = frame::read(&rest[i..], at + i as u64, seed)
            && frame.group > at
        {
            return Ok(Err(segment.damaged(at, &format!("{}, and whole frames stand behind", why.0))));
        }
    }
    Ok(Ok(()))
}
