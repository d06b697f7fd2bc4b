//! Dead letters: what could not be understood, and why (DESIGN §10). Nothing is dropped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fact;
use super::record::{NewRecord, Offset, Partition, Topic};
use super::time::{self, Millis};

/// Why a record could not be understood; the codes are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    EmptyRecord,
    InvalidJson,
    WrongType,
    MissingField,
    OutOfRange,
    UnknownShape,
    UnknownFact,
    UnknownTopic,
    NewerVersion,
    MissingKey,
    BadKey,
    /// Level facts of items that no catalogue names, past the bound of what a shop may hold.
    WaitingFull,
    /// Killed the actor again and again.
    Poison,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::EmptyRecord => "empty_record",
            Reason::InvalidJson => "invalid_json",
            Reason::WrongType => "wrong_type",
            Reason::MissingField => "missing_field",
            Reason::OutOfRange => "out_of_range",
            Reason::UnknownShape => "unknown_shape",
            Reason::UnknownFact => "unknown_fact",
            Reason::UnknownTopic => "unknown_topic",
            Reason::NewerVersion => "newer_version",
            Reason::MissingKey => "missing_key",
            Reason::BadKey => "bad_key",
            Reason::WaitingFull => "waiting_full",
            Reason::Poison => "poison",
        }
    }
}

/// A record or body that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unreadable {
    pub reason: Reason,
    pub message: String,
}

impl Unreadable {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Unreadable { reason, message: message.into() }
    }
}

/// Of a letter's bytes in base64 and its key, so that the whole stays below the 4 MiB that a record may have.
const LARGEST: usize = (4 << 20) - (64 << 10);
const LONGEST_KEY: usize = 1024;
const LONGEST_TOPIC: usize = 255;

/// Where the bytes came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// A topic's default name, or the source (`webhooks/shopify`) if it never reached a topic.
    pub topic: String,
    #[serde(default)]
    pub partition: Option<Partition>,
    #[serde(default)]
    pub offset: Option<Offset>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub origin: Origin,
    /// The fact's type, where its sender named it: a body alone does not always tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fact: Option<String>,
    pub reason: Reason,
    pub message: String,
    /// base64; absent where the bytes may hold buyers' data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// SHA-256 in hex, where the bytes are not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub size: usize,
    #[serde(with = "time::text")]
    pub at: Millis,
}

impl DeadLetter {
    /// `topic` is the fact's topic, if it is known: bodies that may hold buyers' data are not kept (DESIGN §7.10).
    pub fn new(origin: Origin, topic: Option<&str>, bytes: &[u8], why: &Unreadable, at: Millis) -> Self {
        let keep = topic.is_none_or(|t| !fact::may_hold_personal_data(t)) && !looks_personal(bytes);
        DeadLetter {
            origin,
            fact: topic.map(|t| t.chars().take(LONGEST_TOPIC).collect()),
            reason: why.reason,
            message: why.message.clone(),
            bytes: keep.then(|| STANDARD.encode(bytes)),
            digest: (!keep).then(|| hex::encode(Sha256::digest(bytes))),
            size: bytes.len(),
            at,
        }
    }

    /// A record that the log takes: of bytes that are too many only the digest stays, of a key that is too long its begin.
    pub fn into_record(mut self, mut key: Option<Vec<u8>>, partition: Option<Partition>) -> NewRecord {
        if self.bytes.as_ref().map_or(0, String::len) + key.as_ref().map_or(0, Vec::len) > LARGEST
            && let Some(bytes) = self.bytes.take()
        {
            self.digest = Some(hex::encode(Sha256::digest(STANDARD.decode(bytes).unwrap_or_default())));
        }
        if let Some(key) = key.as_mut().filter(|key| key.len() > LARGEST / 2) {
            key.truncate(LONGEST_KEY);
        }
        let value = serde_json::to_vec(&self).expect("a dead letter is plain data");
        NewRecord {
            topic: Topic::DeadLetters,
            partition,
            key,
            headers: vec![("version", b"1".to_vec()), ("reason", self.reason.as_str().as_bytes().to_vec())],
            value: Some(value),
        }
    }
}

/// A record without headers can be an order that is broken; its topic is not known, so the bytes are searched.
fn looks_personal(bytes: &[u8]) -> bool {
    const MARKS: [&[u8]; 5] = [b"\"email\"", b"\"customer\"", b"\"billing_address\"", b"\"shipping_address\"", b"\"phone\""];
    MARKS.iter().any(|m| bytes.windows(m.len()).any(|w| w == *m))
}
