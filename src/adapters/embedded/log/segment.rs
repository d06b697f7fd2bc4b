//! Segment files: `<20 digits of the base>.segment` (not `.log`: such files get tidied up), a header and then frames. The
//! header repeats what the log had come to (ends, groups' offsets) when the segment was begun, so that opening a log reads
//! headers and scans the last segment only. Format version 1, little-endian:
//!
//! ```text
//!  0 "STOCKLOG"   8 u32 version   12 u32 header length   16 u64 id of the log   24 u64 base   32 i64 last append time
//! 40 u32 partitions   44 u8 topics   45 u8 groups   46 i64 end of each topic-partition
//! then i64 committed offset of each (group, topic, partition), -1: none; then u32 CRC-32 of everything before
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::layout::{GROUPS, Layout, Lsn, TOPICS};
use crate::events::record::Offset;
use crate::ports::event_log::LogError;

const MAGIC: &[u8; 8] = b"STOCKLOG";
const VERSION: u32 = 1;
const FIXED: usize = 46;

/// What a segment's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub log_id: u64,
    pub base: Lsn,
    pub time: i64,
    pub partitions: i32,
    pub ends: Vec<Offset>,
    pub committed: Vec<Option<Offset>>,
}

/// A segment, as readers know it.
#[derive(Debug)]
pub struct Segment {
    pub base: Lsn,
    pub path: PathBuf,
    /// Position of the first frame.
    pub first: Lsn,
    /// Ends of the topic-partitions where it begins.
    pub starts: Vec<Offset>,
}

impl Segment {
    pub fn new(dir: &Path, head: &Head) -> Segment {
        let first = head.base + head.encode().len() as u64;
        Segment { base: head.base, path: path(dir, head.base), first, starts: head.ends.clone() }
    }

    pub fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    pub fn damaged(&self, lsn: Lsn, why: &str) -> LogError {
        damaged(&self.path, lsn - self.base, why)
    }
}

pub fn damaged(path: &Path, byte: u64, why: &str) -> LogError {
    LogError::Damaged(format!(
        "{} at byte {byte}: {why}. Restore the file from a backup. If there is none: stop, keep a copy, and cut the log off \
         there (truncate -s {byte} {0}, remove the .segment files with higher numbers); everything after is then lost",
        path.display()
    ))
}

/// As [`damaged`], where nothing of the segment can be used.
pub fn damaged_head(path: &Path, byte: u64, why: &str) -> LogError {
    LogError::Damaged(format!(
        "{} at byte {byte}: {why}. Restore the file from a backup. If there is none: stop, keep a copy, and remove it and the \
         .segment files with higher numbers; what they held is then lost",
        path.display()
    ))
}

pub fn path(dir: &Path, base: Lsn) -> PathBuf {
    dir.join(format!("{base:020}.segment"))
}

pub fn unavailable(during: &str, path: &Path, error: &std::io::Error) -> LogError {
    LogError::Unavailable { during: format!("{during} {}", path.display()), reason: error.to_string() }
}

impl Head {
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(FIXED + 8 * (self.ends.len() + self.committed.len()) + 4);
        b.extend_from_slice(MAGIC);
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(&((FIXED + 8 * (self.ends.len() + self.committed.len()) + 4) as u32).to_le_bytes());
        b.extend_from_slice(&self.log_id.to_le_bytes());
        b.extend_from_slice(&self.base.to_le_bytes());
        b.extend_from_slice(&self.time.to_le_bytes());
        b.extend_from_slice(&self.partitions.to_le_bytes());
        b.extend_from_slice(&[TOPICS.len() as u8, GROUPS.len() as u8]);
        let offsets = self.ends.iter().copied().chain(self.committed.iter().map(|c| c.unwrap_or(-1)));
        offsets.for_each(|o| b.extend_from_slice(&o.to_le_bytes()));
        let crc = crc32fast::hash(&b);
        b.extend_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads the header; the length with it.
    pub fn read(path: &Path) -> Result<(Head, u64), LogError> {
        let io = |e| unavailable("reading", path, &e);
        let bad = |byte, why: &str| damaged_head(path, byte, why);
        let mut file = File::open(path).map_err(io)?;
        let mut fixed = [0; FIXED];
        file.read_exact(&mut fixed).map_err(|_| bad(0, "the segment's header is incomplete"))?;
        let u32_at = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &fixed[..8] != MAGIC {
            return Err(bad(0, "this is no segment of a log"));
        }
        let (version, len, partitions) = (u32_at(8), u32_at(12) as usize, u32_at(40) as i32);
        if version != VERSION {
            let newer = format!("{} has format {version}; this program knows format {VERSION}. Use a newer one", path.display());
            return Err(LogError::Misconfigured(newer));
        }
        let (topics, groups) = (usize::from(fixed[44]), usize::from(fixed[45]));
        let width = topics * partitions.clamp(1, MAX_PARTITIONS) as usize;
        if len != FIXED + 8 * (width + width * groups) + 4 {
            return Err(bad(12, "the segment's header does not add up"));
        }
        let mut rest = vec![0; len - FIXED];
        file.read_exact(&mut rest).map_err(|_| bad(FIXED as u64, "the segment's header is incomplete"))?;
        let (rest, crc) = rest.split_at(len - FIXED - 4);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&fixed);
        hasher.update(rest);
        if crc != hasher.finalize().to_le_bytes() {
            return Err(bad(0, "the checksum of the segment's header is wrong"));
        }
        if topics > TOPICS.len() || groups > GROUPS.len() {
            let newer = format!("{} was written by a newer version of this program; use that one", path.display());
            return Err(LogError::Misconfigured(newer));
        }
        let numbers: Vec<Offset> = rest.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap_or_default())).collect();
        // A log from before a topic or a group was added to the lists: what it does not know starts empty.
        let layout = Layout { partitions };
        let mut ends = vec![0; layout.slots()];
        ends[..width].copy_from_slice(&numbers[..width]);
        let mut committed = vec![None; layout.commit_slots()];
        for (i, o) in numbers[width..].iter().enumerate().filter(|(_, o)| **o >= 0) {
            committed[i / width * layout.slots() + i % width] = Some(*o);
        }
        let head = Head { log_id: u64_at(16), base: u64_at(24), time: u64_at(32) as i64, partitions, ends, committed };
        Ok((head, len as u64))
    }

    /// Makes the segment's file, durable, name and all. It appears whole or not at all.
    pub fn create(&self, dir: &Path, disk: &dyn Disk) -> std::io::Result<File> {
        let temporary = dir.join("segment.tmp");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        disk.write(&file, &self.encode(), 0)?;
        disk.sync(&file)?;
        fs::rename(&temporary, path(dir, self.base))?;
        sync_dir(dir)?;
        Ok(file)
    }
}

pub const MAX_PARTITIONS: i32 = 4096;

pub fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The bases of the segments in `dir`, in order.
pub fn list(dir: &Path) -> std::io::Result<Vec<Lsn>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let base = name.to_str().and_then(|n| n.strip_suffix(".segment")).filter(|n| n.len() == 20);
        bases.extend(base.and_then(|n| n.parse::<Lsn>().ok()));
    }
    bases.sort_unstable();
    Ok(bases)
}
