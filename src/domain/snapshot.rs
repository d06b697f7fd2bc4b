//! Encoding of states for snapshots: versioned, checksummed (DESIGN §3).
//!
//! Version 1: postcard. A later version keeps the reading of this one beside its own; golden files show both.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::events::record::{Offset, Partition};

/// Version of the encoding written now.
pub const VERSION: i16 = 1;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its version {0} is not {VERSION}")]
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
        let mut about = crc32fast::Hasher::new();
        about.update(&self.partition.to_le_bytes());
        about.update(&(self.shop.len() as u64).to_le_bytes());
        about.update(self.shop.as_bytes());
        about.update(self.entity.as_bytes());
        about.update(&self.offset.to_le_bytes());
        about.update(&self.epoch.to_le_bytes());
        about.update(&self.version.to_le_bytes());
        (i64::from(crc32fast::hash(state)) << 32) | i64::from(about.finalize())
    }
}

pub fn encode<T: Serialize>(state: &T) -> Vec<u8> {
    postcard::to_stdvec(state).expect("states are plain data")
}

pub fn decode<T: DeserializeOwned>(seal: &Seal<'_>, checksum: i64, state: &[u8]) -> Result<T, SnapshotError> {
    if seal.checksum(state) != checksum {
        return Err(SnapshotError::Checksum);
    }
    if seal.version != VERSION {
        return Err(SnapshotError::Version(seal.version));
    }
    postcard::from_bytes(state).map_err(|e| SnapshotError::Decode(e.to_string()))
}
