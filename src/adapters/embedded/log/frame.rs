//! A frame: what is written as one atomic unit, records of any topic-partitions and committed offsets together. Format
//! version 1, all numbers little-endian:
//!
//! ```text
//!  0 magic "FRM1"    4 u32 length of the frame      8 u32 CRC-32 over the log's id, bytes 0..8 and bytes 12..length
//! 12 u16 offsets    14 u16 runs                    16 u64 own position in the log
//! 24 u64 position of the first frame that was written in the same go (nothing before it awaited its fsync any more)
//! 32 i64 append time, Unix ms                      40 offsets, then runs
//! an offset: u8 group, u8 topic, i32 partition, i64 offset
//! a run:     u8 topic, i32 partition, i64 first offset, u32 records, u32 bytes, records
//! a record:  i32 key length (-1: null), i32 value length (-1: null), u16 headers, key, value, headers
//! a header:  u16 name length, u32 value length, name, value
//! ```
//!
//! The own position and the log's id in the checksum keep bytes that merely look like a frame (a value that holds a copy
//! of one, say) from being taken for one.

use std::ops::Range;

use crc32fast::Hasher;
use smallvec::SmallVec;

use super::layout::{GroupOffset, Layout, Lsn, topic_number};
use crate::events::record::{NewRecord, Offset, Partition, Place, Position};

pub const MAGIC: [u8; 4] = *b"FRM1";
pub const HEAD: usize = 40;
/// No frame is longer; a length beyond it is damage.
pub const MAX_FRAME: usize = 256 << 20;
const OFFSET_BYTES: usize = 14;
const RUN_HEAD: usize = 21;

/// A frame to be: everything but what only the writer knows (offsets, position, time).
#[derive(Debug)]
pub struct Draft {
    pub bytes: Vec<u8>,
    pub runs: SmallVec<[DraftRun; 2]>,
    pub offsets: Vec<GroupOffset>,
}

#[derive(Debug, Clone, Copy)]
pub struct DraftRun {
    pub slot: usize,
    pub partition: Partition,
    pub count: u32,
    /// Where in the frame the first offset belongs.
    base_at: usize,
}

/// Which place of which run each record took, in the caller's order.
pub struct Places(SmallVec<[(u32, u32); 2]>);

impl Places {
    pub fn positions(&self, runs: &[DraftRun], bases: &[Offset]) -> Vec<Position> {
        let place = |&(run, nth): &(u32, u32)| Position {
            partition: runs[run as usize].partition,
            offset: bases[run as usize] + Offset::from(nth),
        };
        self.0.iter().map(place).collect()
    }
}

pub fn record_size(r: &NewRecord) -> usize {
    r.key.as_ref().map_or(0, Vec::len)
        + r.value.as_ref().map_or(0, Vec::len)
        + r.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
}

/// Bytes that a record takes in a frame.
pub fn encoded_size(r: &NewRecord) -> usize {
    record_size(r) + 10 + 6 * r.headers.len()
}

/// Lays out a frame; `partitions` names each record's. Records of one topic-partition keep their order.
pub fn draft(layout: Layout, records: &[NewRecord], partitions: &[Partition], offsets: Vec<GroupOffset>) -> (Draft, Places) {
    let slot =
        |i: u32| layout.slot(topic_number(records[i as usize].topic), partitions[i as usize]).expect("checked by the caller");
    let mut order: SmallVec<[u32; 8]> = (0..records.len() as u32).collect();
    order.sort_by_key(|i| slot(*i));
    let about = records.iter().map(encoded_size).sum::<usize>();
    let mut bytes =
        Vec::with_capacity(HEAD + offsets.len() * OFFSET_BYTES + about + RUN_HEAD * records.len().min(layout.slots()));
    bytes.resize(HEAD, 0);
    for o in &offsets {
        bytes.extend_from_slice(&[o.group, o.topic]);
        bytes.extend_from_slice(&o.partition.to_le_bytes());
        bytes.extend_from_slice(&o.offset.to_le_bytes());
    }
    let mut runs: SmallVec<[DraftRun; 2]> = SmallVec::new();
    let mut places = SmallVec::from_elem((0, 0), records.len());
    for i in order {
        let (record, partition, slot) = (&records[i as usize], partitions[i as usize], slot(i));
        if runs.last().is_none_or(|r| r.slot != slot) {
            end_run(&mut bytes, &runs);
            bytes.push(topic_number(record.topic));
            bytes.extend_from_slice(&partition.to_le_bytes());
            runs.push(DraftRun { slot, partition, count: 0, base_at: bytes.len() });
            bytes.extend_from_slice(&[0; 16]);
        }
        let last = runs.len() - 1;
        places[i as usize] = (last as u32, runs[last].count);
        runs[last].count += 1;
        push_record(&mut bytes, record);
    }
    end_run(&mut bytes, &runs);
    let counts = [(12, offsets.len()), (14, runs.len())];
    for (at, n) in counts {
        bytes[at..at + 2].copy_from_slice(&(n as u16).to_le_bytes());
    }
    (Draft { bytes, runs, offsets }, Places(places))
}

fn end_run(bytes: &mut [u8], runs: &[DraftRun]) {
    let Some(run) = runs.last() else { return };
    let len = (bytes.len() - run.base_at - 16) as u32;
    bytes[run.base_at + 8..run.base_at + 12].copy_from_slice(&run.count.to_le_bytes());
    bytes[run.base_at + 12..run.base_at + 16].copy_from_slice(&len.to_le_bytes());
}

fn push_record(bytes: &mut Vec<u8>, r: &NewRecord) {
    let len = |b: &Option<Vec<u8>>| b.as_ref().map_or(-1, |b| b.len() as i32);
    bytes.extend_from_slice(&len(&r.key).to_le_bytes());
    bytes.extend_from_slice(&len(&r.value).to_le_bytes());
    bytes.extend_from_slice(&(r.headers.len() as u16).to_le_bytes());
    bytes.extend_from_slice(r.key.as_deref().unwrap_or_default());
    bytes.extend_from_slice(r.value.as_deref().unwrap_or_default());
    for (name, value) in &r.headers {
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(value);
    }
}

/// Where and when a frame is written.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub lsn: Lsn,
    pub group: Lsn,
    pub time: i64,
}

impl Draft {
    /// A frame that says nothing but that it could be written.
    pub fn empty() -> Draft {
        Draft { bytes: vec![0; HEAD], runs: SmallVec::new(), offsets: Vec::new() }
    }

    /// Appends the finished frame to `out`; `bases` holds each run's first offset.
    pub fn finish(&self, out: &mut Vec<u8>, stamp: Stamp, bases: &[Offset], seed: &Hasher) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let frame = &mut out[start..];
        let len = frame.len() as u32;
        frame[..4].copy_from_slice(&MAGIC);
        frame[4..8].copy_from_slice(&len.to_le_bytes());
        frame[16..24].copy_from_slice(&stamp.lsn.to_le_bytes());
        frame[24..32].copy_from_slice(&stamp.group.to_le_bytes());
        frame[32..40].copy_from_slice(&stamp.time.to_le_bytes());
        for (run, base) in self.runs.iter().zip(bases) {
            frame[run.base_at..run.base_at + 8].copy_from_slice(&base.to_le_bytes());
        }
        let crc = checksum(frame, seed);
        frame[8..12].copy_from_slice(&crc.to_le_bytes());
    }
}

fn checksum(frame: &[u8], seed: &Hasher) -> u32 {
    let mut h = seed.clone();
    h.update(&frame[..8]);
    h.update(&frame[12..]);
    h.finalize()
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad(pub &'static str);

/// A frame as read; its checksum was right.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub lsn: Lsn,
    pub group: Lsn,
    pub time: i64,
    pub len: usize,
    offsets: u16,
    runs: u16,
    body: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub topic: u8,
    pub partition: Partition,
    pub base: Offset,
    pub count: u32,
    bytes: &'a [u8],
    /// Where in the frame its records begin.
    start: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: u16,
    rest: &'a [u8],
    /// Where among the run's bytes its key begins, and how long key, value and headers are together.
    at: usize,
    len: usize,
}

/// The length that the frame at the head of `bytes` gives itself, for who has to read all of it; none if these bytes are
/// too few to tell or tell nonsense.
pub fn claimed_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    (bytes[..4] == MAGIC && (HEAD..=MAX_FRAME).contains(&len)).then_some(len)
}

/// Reads the frame that stands at `lsn`; none if `bytes` end before it does.
pub fn read<'a>(bytes: &'a [u8], lsn: Lsn, seed: &Hasher) -> Result<Option<Frame<'a>>, Bad> {
    if bytes.len() >= 8 && claimed_len(bytes).is_none() {
        return Err(Bad("no frame begins here"));
    }
    let Some(frame) = claimed_len(bytes).and_then(|len| bytes.get(..len)) else { return Ok(None) };
    let mut b = Bytes(&frame[8..]);
    let mut head = || Some((b.u32()?, b.u16()?, b.u16()?, b.i64()? as u64, b.i64()? as u64, b.i64()?));
    let (crc, offsets, runs, own, group, time) = head().ok_or(Bad("its head is short"))?;
    if crc != checksum(frame, seed) {
        return Err(Bad("its checksum is wrong"));
    }
    if own != lsn {
        return Err(Bad("it belongs to another position"));
    }
    Ok(Some(Frame { lsn, group, time, len: frame.len(), offsets, runs, body: &frame[HEAD..] }))
}

const SHORT: Bad = Bad("it holds less than it says");

impl<'a> Frame<'a> {
    pub fn offsets(&self) -> impl Iterator<Item = Result<GroupOffset, Bad>> + 'a {
        let mut b = Bytes(self.body);
        (0..self.offsets).map(move |_| {
            let mut one = || Some(GroupOffset { group: b.u8()?, topic: b.u8()?, partition: b.u32()? as i32, offset: b.i64()? });
            one().ok_or(SHORT)
        })
    }

    pub fn runs(&self) -> impl Iterator<Item = Result<Run<'a>, Bad>> + 'a {
        let frame_len = self.len;
        let mut b = Bytes(self.body.get(usize::from(self.offsets) * OFFSET_BYTES..).unwrap_or_default());
        (0..self.runs).map(move |_| {
            let mut one = || {
                let (topic, partition, base, count) = (b.u8()?, b.u32()? as i32, b.i64()?, b.u32()?);
                let len = b.u32()?;
                let start = frame_len - b.0.len();
                Some(Run { topic, partition, base, count, bytes: b.take(len as usize)?, start })
            };
            one().ok_or(SHORT)
        })
    }
}

impl<'a> Run<'a> {
    pub fn end(&self) -> Offset {
        self.base + Offset::from(self.count)
    }

    /// The records with their offsets.
    pub fn records(&self) -> impl Iterator<Item = Result<(Offset, Record<'a>), Bad>> + use<'a> {
        records(self.bytes, self.base, self.count)
    }

    /// Which bytes of the frame [`records`] reads.
    pub fn place(&self) -> Range<usize> {
        self.start..self.start + self.bytes.len()
    }
}

/// The records of a run with their offsets.
pub fn records(bytes: &[u8], base: Offset, count: u32) -> impl Iterator<Item = Result<(Offset, Record<'_>), Bad>> {
    let mut b = Bytes(bytes);
    (0..count).map(move |nth| {
        let record = b.record(bytes.len()).ok_or(SHORT)?;
        Ok((base + Offset::from(nth), record))
    })
}

impl<'a> Record<'a> {
    /// Where it stands in bytes in which its run begins at `run`.
    pub fn place(&self, run: usize) -> Place {
        Place {
            start: run + self.at,
            len: self.len,
            key: self.key.map(<[u8]>::len),
            value: self.value.map(<[u8]>::len),
            headers: self.headers,
        }
    }

    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + 'a {
        let mut b = Bytes(self.rest);
        (0..self.headers).map_while(move |_| b.header())
    }
}

/// A reading position in bytes that may end early.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    #[inline]
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    #[inline]
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    #[inline]
    fn nullable(&mut self, len: u32) -> Option<Option<&'a [u8]>> {
        if len == u32::MAX { Some(None) } else { self.take(len as usize).map(Some) }
    }

    /// `all` is how many bytes there were at first.
    fn record(&mut self, all: usize) -> Option<Record<'a>> {
        let (key, value, headers) = (self.u32()?, self.u32()?, self.u16()?);
        let at = all - self.0.len();
        let (key, value) = (self.nullable(key)?, self.nullable(value)?);
        let rest = self.0;
        for _ in 0..headers {
            let (name, value) = (self.u16()?, self.u32()?);
            self.take(usize::from(name) + value as usize)?;
        }
        Some(Record { key, value, headers, rest, at, len: all - self.0.len() - at })
    }

    #[inline]
    fn header(&mut self) -> Option<(&'a str, &'a [u8])> {
        let (name, value) = (self.u16()?, self.u32()?);
        let name = std::str::from_utf8(self.take(usize::from(name))?).ok()?;
        Some((name, self.take(value as usize)?))
    }
}
