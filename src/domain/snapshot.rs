//! Encoding of states for snapshots: versioned, checksummed (DESIGN §3).
//!
//! Version 1: postcard. Version 2: proposals have the attributes that moves give them, shops know their transfers. Version 3: proposals
//! know the receipts that were counted. A version is read for ever: what it wrote stands frozen beside the present form ([`State::V1`],
//! [`State::V2`]), with the upcast; golden files show all. To make the next
//! one, freeze the present form of what changes the same way, and read it in [`decode`].

use serde::Serialize;
use serde::de::DeserializeOwned;
use smallvec::SmallVec;

use crate::events::record::{Offset, Partition};

/// Version of the encoding written now.
pub const VERSION: i16 = 3;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its version {0} is none of 1 to {VERSION}")]
    Version(i16),
    #[error("it does not decode: {0}")]
    Decode(String),
}

/// What the checksum covers beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Seal<'a> {
    pub partition: Partition,
    pub shop: &'a str,
    /// `shard`, `shop`, or the variant's number.
    pub entity: &'a str,
    pub offset: Offset,
    pub epoch: i64,
    pub version: i16,
}

impl Seal<'_> {
    /// CRC-32 of the state in the high half, of everything else in the low half.
    pub fn checksum(&self, state: &[u8]) -> i64 {
        // In one piece: many small ones cost more than a long one.
        let mut about: SmallVec<[u8; 128]> = SmallVec::new();
        about.extend_from_slice(&self.partition.to_le_bytes());
        about.extend_from_slice(&(self.shop.len() as u64).to_le_bytes());
        about.extend_from_slice(self.shop.as_bytes());
        about.extend_from_slice(self.entity.as_bytes());
        about.extend_from_slice(&self.offset.to_le_bytes());
        about.extend_from_slice(&self.epoch.to_le_bytes());
        about.extend_from_slice(&self.version.to_le_bytes());
        (i64::from(crc32fast::hash(state)) << 32) | i64::from(crc32fast::hash(&about))
    }
}

/// What is kept in snapshots.
pub trait State: Serialize + DeserializeOwned {
    /// What version 1 wrote; `into` is the upcast.
    type V1: DeserializeOwned + Into<Self>;
    type V2: DeserializeOwned + Into<Self>;
}

pub fn encode<T: State>(state: &T) -> Vec<u8> {
    postcard::to_stdvec(state).expect("states are plain data")
}

pub fn decode<T: State>(seal: &Seal<'_>, checksum: i64, state: &[u8]) -> Result<T, SnapshotError> {
    if seal.checksum(state) != checksum {
        return Err(SnapshotError::Checksum);
    }
    read(seal.version, state)
}

/// As [`decode`], of bytes that have been checked.
pub fn read<T: State>(version: i16, state: &[u8]) -> Result<T, SnapshotError> {
    let read = match version {
        VERSION => postcard::from_bytes(state),
        1 => postcard::from_bytes::<T::V1>(state).map(Into::into),
        2 => postcard::from_bytes::<T::V2>(state).map(Into::into),
        other => return Err(SnapshotError::Version(other)),
    };
    read.map_err(|e| SnapshotError::Decode(e.to_string()))
}
