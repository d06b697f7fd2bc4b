//! Reading frames in order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crc32fast::Hasher;

use super::frame::{self, Bad, Frame};
use super::layout::Lsn;
use super::segment::{Segment, unavailable};
use super::state::Shared;
use crate::ports::event_log::LogError;

/// How much is read at once; a longer frame is read whole.
pub const CHUNK: u64 = 512 << 10;

/// A buffer over part of a file.
#[derive(Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    len: usize,
}

impl FrameBuffer {
    /// Reads from `from` on, no further than `end`: a chunk, or the first frame if it is longer.
    pub fn fill(&mut self, file: &File, from: u64, end: u64) -> io::Result<&[u8]> {
        self.len = (end - from).min(CHUNK) as usize;
        self.read(file, from)?;
        if let Some(len) = frame::claimed_len(&self.bytes[..self.len]).filter(|l| *l > self.len && *l as u64 <= end - from) {
            self.len = len;
            self.read(file, from)?;
        }
        Ok(&self.bytes[..self.len])
    }

    fn read(&mut self, file: &File, from: u64) -> io::Result<()> {
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        file.read_exact_at(&mut self.bytes[..self.len], from)
    }
}

/// Where a walk over frames ended, and why if it was before the end.
#[derive(Debug, PartialEq, Eq)]
pub struct Stop {
    pub at: Lsn,
    pub why: Option<Bad>,
}

/// Shows `on` the good frames of a file from `from` to `end` up to the first that is not.
pub fn walk(
    (file, base): (&File, Lsn),
    (from, end): (Lsn, Lsn),
    seed: &Hasher,
    mut on: impl FnMut(&Frame<'_>) -> Result<(), LogError>,
) -> Result<io::Result<Stop>, LogError> {
    let (mut buffer, mut at) = (FrameBuffer::default(), from);
    while at < end {
        let bytes = match buffer.fill(file, at - base, end - base) {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e)),
        };
        let start = at;
        loop {
            match frame::read(&bytes[(at - start) as usize..], at, seed) {
                Ok(Some(frame)) => {
                    on(&frame)?;
                    at += frame.len as u64;
                }
                Ok(None) => break,
                Err(why) => return Ok(Ok(Stop { at, why: Some(why) })),
            }
        }
        if at == start {
            return Ok(Ok(Stop { at, why: Some(Bad("the file ends inside a frame")) }));
        }
    }
    Ok(Ok(Stop { at, why: None }))
}

/// Reads what is durable, from anywhere on, segment after segment.
pub struct Scanner {
    shared: Arc<Shared>,
    open: Option<(Arc<Segment>, File)>,
    buffer: FrameBuffer,
}

/// Some frames in a row. At its end `at` says where the next one begins.
pub struct Chunk<'a> {
    pub at: Lsn,
    bytes: &'a [u8],
    segment: &'a Segment,
    seed: &'a Hasher,
}

impl Scanner {
    pub fn new(shared: Arc<Shared>) -> Scanner {
        Scanner { shared, open: None, buffer: FrameBuffer::default() }
    }

    /// Frames from `from` on: at least one, unless all that is durable lies before.
    pub fn read(&mut self, from: Lsn) -> Result<Chunk<'_>, LogError> {
        let (segment, end) = self.shared.segment_at(from);
        if self.open.as_ref().is_none_or(|(s, _)| s.base != segment.base) {
            let file = File::open(&segment.path).map_err(|e| unavailable("opening", &segment.path, &e))?;
            self.open = Some((segment, file));
        }
        let (segment, file) = self.open.as_ref().expect("just opened");
        let from = from.max(segment.first);
        let bytes = match from < end {
            true => self
                .buffer
                .fill(file, from - segment.base, end - segment.base)
                .map_err(|e| unavailable("reading", &segment.path, &e))?,
            false => &[],
        };
        let chunk = Chunk { at: from, bytes, segment, seed: &self.shared.seed };
        if from < end && frame::claimed_len(bytes).is_none_or(|len| len > bytes.len()) {
            return Err(chunk.damaged(Bad("no frame begins here")));
        }
        Ok(chunk)
    }

    /// Reads the next chunk into these bytes.
    pub fn lend(&mut self, bytes: Vec<u8>) {
        self.buffer.bytes = bytes;
    }

    /// The bytes that the last chunk is in, perhaps some more behind it, and the segment that they are of.
    pub fn take(&mut self) -> (Vec<u8>, Arc<Segment>) {
        let (segment, _) = self.open.as_ref().expect("a chunk was read");
        (std::mem::take(&mut self.buffer.bytes), segment.clone())
    }
}

impl<'a> Chunk<'a> {
    /// The next frame; none when the rest is to be read anew from `at`.
    pub fn frame(&mut self) -> Result<Option<Frame<'a>>, LogError> {
        match frame::read(self.bytes, self.at, self.seed) {
            Ok(Some(frame)) => {
                self.bytes = &self.bytes[frame.len..];
                self.at += frame.len as u64;
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(why) => Err(self.damaged(why)),
        }
    }

    pub fn damaged(&self, why: Bad) -> LogError {
        self.segment.damaged(self.at, why.0)
    }
}
