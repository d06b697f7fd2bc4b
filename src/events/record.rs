//! Log records: what is written, and batches of what is read.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A partition's number.
pub type Partition = i32;
/// A record's place in its partition.
pub type Offset = i64;

/// The topics, a closed set; what they are called on a broker is configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    Facts,
    Decisions,
    DeadLetters,
}

impl Topic {
    pub const ALL: [Topic; 3] = [Topic::Facts, Topic::Decisions, Topic::DeadLetters];

    /// The topic's name unless configuration says otherwise; ids and provenance always use this one.
    pub const fn default_name(self) -> &'static str {
        match self {
            Topic::Facts => "stock-facts",
            Topic::Decisions => "reorder-decisions",
            Topic::DeadLetters => "dead-letters",
        }
    }
}

/// Where a record stands in its topic; `"3:1042"` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub partition: Partition,
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a position; a position is partition:offset, such as 3:1042")]
pub struct BadPosition(String);

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadPosition(s.chars().take(64).collect());
        let (p, o) = s.split_once(':').ok_or_else(bad)?;
        let partition: Partition = p.parse().map_err(|_| bad())?;
        let offset: Offset = o.parse().map_err(|_| bad())?;
        if partition < 0 || offset < 0 {
            return Err(bad());
        }
        Ok(Position { partition, offset })
    }
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    pub topic: Topic,
    /// `None`: the partition that murmur2 of the key names.
    pub partition: Option<Partition>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub value: Option<Vec<u8>>,
}

/// Records of one partition in offset order: the consumer copies each record once, into `arena`, so that the hot path allocates
/// per batch and not per fact. A log that has them in memory already shares that instead.
#[derive(Debug, Clone, Default)]
pub struct RecordBatch {
    pub partition: Partition,
    arena: Vec<u8>,
    shared: Vec<Arc<Vec<u8>>>,
    /// Of records in `shared`.
    shared_bytes: usize,
    entries: Vec<Entry>,
    /// Offset after the last record consumed into this batch; can lie beyond the last entry, because transaction markers
    /// take offsets as well.
    pub next_offset: Offset,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: Offset,
    append_time_ms: i64,
    /// Index in `shared`, or the arena.
    buffer: u32,
    start: u32,
    /// Lengths; -1 says null.
    key: i32,
    value: i32,
    headers: u32,
}

const ARENA: u32 = u32::MAX;

/// Where in shared bytes a record stands: key, value and headers one behind the other, a header as u16 length of its name, u32
/// length of its value, name, value.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub start: usize,
    pub len: usize,
    /// Lengths; none: null.
    pub key: Option<usize>,
    pub value: Option<usize>,
    pub headers: u16,
}

impl RecordBatch {
    pub fn new(partition: Partition, next_offset: Offset) -> Self {
        RecordBatch { partition, next_offset, ..Default::default() }
    }

    pub fn with_capacity(partition: Partition, next_offset: Offset, records: usize, bytes: usize) -> Self {
        let (arena, entries) = (Vec::with_capacity(bytes), Vec::with_capacity(records));
        RecordBatch { partition, next_offset, arena, entries, ..RecordBatch::default() }
    }

    /// Appends a record. Headers come as (name, value); a null value is read as empty.
    pub fn push<'h>(
        &mut self,
        offset: Offset,
        append_time_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    ) {
        let start = self.arena.len();
        if let Some(k) = key {
            self.arena.extend_from_slice(k);
        }
        if let Some(v) = value {
            self.arena.extend_from_slice(v);
        }
        let mut count = 0;
        for (name, value) in headers {
            self.arena.extend_from_slice(&(name.len() as u32).to_le_bytes());
            self.arena.extend_from_slice(&(value.len() as u32).to_le_bytes());
            self.arena.extend_from_slice(name.as_bytes());
            self.arena.extend_from_slice(value);
            count += 1;
        }
        self.entries.push(Entry {
            offset,
            append_time_ms,
            buffer: ARENA,
            start: u32::try_from(start).expect("a batch is flushed long before 4 GiB"),
            key: key.map_or(-1, |k| k.len() as i32),
            value: value.map_or(-1, |v| v.len() as i32),
            headers: count,
        });
        self.next_offset = offset + 1;
    }

    /// As [`RecordBatch::push`], of a record that is in memory already and stays there with the batch.
    pub fn push_shared(&mut self, offset: Offset, append_time_ms: i64, bytes: &Arc<Vec<u8>>, place: Place) {
        if self.shared.last().is_none_or(|last| !Arc::ptr_eq(last, bytes)) {
            self.shared.push(bytes.clone());
        }
        let len = |l: Option<usize>| l.map_or(-1, |l| l as i32);
        self.shared_bytes += place.len;
        self.entries.push(Entry {
            offset,
            append_time_ms,
            buffer: self.shared.len() as u32 - 1,
            start: u32::try_from(place.start).expect("no shared bytes reach 4 GiB"),
            key: len(place.key),
            value: len(place.value),
            headers: place.headers.into(),
        });
        self.next_offset = offset + 1;
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held, for flow control.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.shared_bytes
    }

    pub fn first_offset(&self) -> Option<Offset> {
        self.entries.first().map(|e| e.offset)
    }

    /// Takes the records from `index` on into a batch of their own; what stays ends before the first of them.
    pub fn split_off(&mut self, index: usize) -> RecordBatch {
        let mut entries = self.entries.split_off(index);
        let next_offset = entries.first().map_or(self.next_offset, |e| e.offset);
        let in_arena = entries.iter().find(|e| e.buffer == ARENA).map(|e| e.start);
        let from = in_arena.map_or(self.arena.len(), |start| start as usize);
        let arena = self.arena.split_off(from);
        for entry in entries.iter_mut().filter(|e| e.buffer == ARENA) {
            entry.start -= from as u32;
        }
        let next_offset = std::mem::replace(&mut self.next_offset, next_offset);
        let (shared, shared_bytes) = (self.shared.clone(), self.shared_bytes);
        RecordBatch { partition: self.partition, arena, shared, shared_bytes, entries, next_offset }
    }

    pub fn get(&self, index: usize) -> Option<RecordRef<'_>> {
        self.entries.get(index).map(|e| self.view(e))
    }

    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.entries.iter().map(|e| self.view(e))
    }

    fn view(&self, e: &Entry) -> RecordRef<'_> {
        let bytes: &[u8] = self.shared.get(e.buffer as usize).map_or(&self.arena, |shared| shared);
        let mut at = e.start as usize;
        let mut take = |len: i32| {
            (len >= 0).then(|| {
                let s = &bytes[at..at + len as usize];
                at += len as usize;
                s
            })
        };
        let key = take(e.key);
        let value = take(e.value);
        let headers = Headers { rest: &bytes[at..], left: e.headers, is_narrow: e.buffer != ARENA };
        RecordRef { partition: self.partition, offset: e.offset, append_time_ms: e.append_time_ms, key, value, headers }
    }
}

/// A record as read, borrowed from its batch.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    pub partition: Partition,
    pub offset: Offset,
    /// The broker's append time, Unix milliseconds.
    pub append_time_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

impl RecordRef<'_> {
    pub fn position(&self) -> Position {
        Position { partition: self.partition, offset: self.offset }
    }
}

/// The headers of a record, an iterator of (name, value).
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
    /// The length of a name has two bytes instead of four.
    is_narrow: bool,
}

impl<'a> Headers<'a> {
    /// Value of the last header called `name`, compared without regard to case.
    pub fn get(mut self, name: &str) -> Option<&'a [u8]> {
        let mut found = None;
        while let Some((n, value)) = self.next_bytes() {
            if n.eq_ignore_ascii_case(name.as_bytes()) {
                found = Some(value);
            }
        }
        found
    }

    /// As [`Headers::get`], as text.
    pub fn text(self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    pub fn is_empty(self) -> bool {
        self.left == 0
    }
}

impl<'a> Headers<'a> {
    /// The next one, its name not yet checked to be UTF-8; the hot path compares bytes.
    pub fn next_bytes(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let (nl, rest) = match self.is_narrow {
            true => self.rest.split_first_chunk().map(|(l, rest)| (u16::from_le_bytes(*l).into(), rest))?,
            false => self.rest.split_first_chunk().map(|(l, rest)| (u32::from_le_bytes(*l) as usize, rest))?,
        };
        let (vl, rest) = rest.split_at(4);
        let vl = u32::from_le_bytes(vl.try_into().ok()?) as usize;
        let (name, rest) = rest.split_at(nl);
        let (value, rest) = rest.split_at(vl);
        self.rest = rest;
        Some((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_bytes().map(|(name, value)| (std::str::from_utf8(name).unwrap_or(""), value))
    }
}

/// The partition of a key as Kafka's Java producer and librdkafka's `murmur2_random` choose it, for a non-null key.
pub fn partition_of(key: &[u8], partitions: i32) -> Partition {
    ((murmur2(key) & 0x7fff_ffff) as i32) % partitions.max(1)
}

/// Kafka's murmur2 (org.apache.kafka.common.utils.Utils#murmur2).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for c in &mut chunks {
        let mut k = u32::from_le_bytes([c[0], c[1], c[2], c[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        for (i, b) in tail.iter().enumerate() {
            h ^= u32::from(*b) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_is_split_has_the_same_records_in_two() {
        let mut whole = RecordBatch::new(3, 0);
        for (offset, key) in [(5, "a"), (7, "bb"), (8, "")] {
            whole.push(offset, 1, Some(key.as_bytes()), Some(b"value"), [("h", &b"x"[..])].into_iter());
        }
        whole.next_offset = 12;
        for at in 0..=3 {
            let mut head = whole.clone();
            let tail = head.split_off(at);
            assert_eq!((head.len(), tail.len(), tail.partition, tail.next_offset), (at, 3 - at, 3, 12));
            assert_eq!(head.next_offset, tail.first_offset().unwrap_or(12));
            for (joined, one) in head.iter().chain(tail.iter()).zip(whole.iter()) {
                assert_eq!((joined.offset, joined.key, joined.value), (one.offset, one.key, one.value));
                assert_eq!(joined.headers.text("h"), Some("x"));
            }
        }
    }

    #[test]
    fn records_that_share_their_bytes_read_as_those_that_were_copied_and_can_be_split_off() {
        let (key, value, name) = (b"shop", b"value", b"h");
        let mut bytes = b"before".to_vec();
        let start = bytes.len();
        bytes.extend([&key[..], value, &1u16.to_le_bytes(), &2u32.to_le_bytes(), name, b"xy"].concat());
        let place = Place { start, len: bytes.len() - start, key: Some(4), value: Some(5), headers: 1 };
        let nulls = Place { start: 0, len: 0, key: None, value: None, headers: 0 };
        let bytes = Arc::new(bytes);
        let mut whole = RecordBatch::new(3, 0);
        for offset in [0, 3] {
            whole.push(offset, 1, Some(key), Some(value), [("h", &b"xy"[..])].into_iter());
            whole.push_shared(offset + 1, 1, &bytes, place);
            whole.push_shared(offset + 2, 1, &bytes, nulls);
        }
        for at in 0..=6 {
            let mut head = whole.clone();
            let tail = head.split_off(at);
            for r in head.iter().chain(tail.iter()) {
                let is_null = r.offset % 3 == 2;
                assert_eq!((r.key, r.value), if is_null { (None, None) } else { (Some(&key[..]), Some(&value[..])) });
                assert_eq!(r.headers.collect::<Vec<_>>(), if is_null { vec![] } else { vec![("h", &b"xy"[..])] });
            }
            let offsets: Vec<_> = head.iter().chain(tail.iter()).map(|r| r.offset).collect();
            assert_eq!(offsets, [0, 1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn murmur2_gives_the_values_of_kafkas_own_test() {
        // org.apache.kafka.common.utils.UtilsTest#testMurmur2
        for (text, want) in [("21", -973932308i32), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)] {
            assert_eq!(murmur2(text.as_bytes()) as i32, want, "{text}");
        }
    }

    #[test]
    fn a_batch_gives_back_what_was_pushed() {
        let mut b = RecordBatch::new(3, 7);
        b.push(7, 1000, Some(b"k"), Some(b"value"), [("a", &b"1"[..]), ("B", &b""[..])].into_iter());
        b.push(9, 1001, None, None, std::iter::empty());
        let r = b.get(0).expect("first");
        assert_eq!((r.key, r.value, r.headers.text("b")), (Some(&b"k"[..]), Some(&b"value"[..]), Some("")));
        assert_eq!(r.headers.text("A"), Some("1"));
        let r = b.get(1).expect("second");
        assert_eq!((r.key, r.value, r.headers.count()), (None, None, 0));
        assert_eq!(b.next_offset, 10);
    }

    #[test]
    fn a_position_reads_what_it_prints() {
        let p: Position = "3:1042".parse().expect("position");
        assert_eq!(p.to_string(), "3:1042");
        for bad in ["", "3", "3:", "-1:4", "a:b", "3:4:5"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
