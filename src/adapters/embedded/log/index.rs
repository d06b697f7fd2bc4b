//! Where in a segment the records of a topic-partition are: for every 64 KiB of log in which it occurs, its first frame
//! there. Of the segment that is being written it is in memory; of the others in a sidecar file, which is a convenience:
//! a missing or damaged one is made anew from the segment.

use std::fs;
use std::path::Path;

use super::layout::{Layout, Lsn};
use crate::events::record::Offset;

const BLOCK: u64 = 64 << 10;
const MAGIC: &[u8; 8] = b"STOCKIX1";

/// Offset of a record and position of the frame that holds it.
pub type Entry = (Offset, Lsn);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    slots: Vec<Vec<Entry>>,
}

impl Index {
    pub fn new(layout: Layout) -> Index {
        Index { slots: vec![Vec::new(); layout.slots()] }
    }

    /// Notes a run in the frame at `lsn`; runs come in the order of the log.
    pub fn note(&mut self, slot: usize, first: Offset, lsn: Lsn) {
        let entries = &mut self.slots[slot];
        if entries.last().is_none_or(|(_, at)| at / BLOCK != lsn / BLOCK) {
            entries.push((first, lsn));
        }
    }

    pub fn into_slot(mut self, slot: usize) -> Vec<Entry> {
        std::mem::take(&mut self.slots[slot])
    }

    pub fn slot(&self, slot: usize) -> &[Entry] {
        &self.slots[slot]
    }

    /// `end` is the position after the segment: an index of another length is not this segment's.
    pub fn save(&self, path: &Path, base: Lsn, end: Lsn) -> std::io::Result<()> {
        let mut b = MAGIC.to_vec();
        for n in [base, end, self.slots.len() as u64] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        for entries in &self.slots {
            b.extend_from_slice(&(entries.len() as u64).to_le_bytes());
            for (offset, lsn) in entries {
                b.extend_from_slice(&offset.to_le_bytes());
                b.extend_from_slice(&lsn.to_le_bytes());
            }
        }
        let crc = crc32fast::hash(&b);
        b.extend_from_slice(&crc.to_le_bytes());
        let temporary = path.with_extension("index.tmp");
        fs::write(&temporary, &b)?;
        fs::rename(&temporary, path)
    }

    /// None if there is none that is whole and fits.
    pub fn load(path: &Path, layout: Layout, base: Lsn, end: Lsn) -> Option<Index> {
        let bytes = fs::read(path).ok()?;
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut numbers =
            bytes.strip_prefix(MAGIC)?.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default()));
        let mut next = || numbers.next();
        let fits = (next()?, next()?) == (base, end);
        let slots = next()? as usize;
        if !fits || slots > layout.slots() {
            return None;
        }
        let mut index = Index::new(layout);
        for entries in &mut index.slots[..slots] {
            for _ in 0..next()? {
                entries.push((next()? as Offset, next()?));
            }
        }
        Some(index)
    }
}

/// Where to look for `offset`; none if all the entries lie beyond it.
pub fn find(entries: &[Entry], offset: Offset) -> Option<Lsn> {
    let after = entries.partition_point(|(first, _)| *first <= offset);
    after.checked_sub(1).map(|i| entries[i].1)
}
