//! A webhook on its way, and the record that it becomes where it goes straight to the log.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::events::fact::{FactType, VERSION, header};
use crate::events::ids::VariantId;
use crate::events::record::{NewRecord, Topic};
use crate::events::time;

use super::truth::{Cause, Fate};

/// Which part of the run a delivery belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Products and first levels: all due at the start, to be sent before anything live.
    Catalogue,
    Live,
}

/// A webhook on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub shop: Arc<str>,
    pub topic: FactType,
    pub webhook_id: Uuid,
    pub event_id: Uuid,
    /// Unix nanoseconds, virtual.
    pub triggered_at: i64,
    /// When it arrives, Unix nanoseconds, virtual. Never falls from one delivery to the next.
    pub due: i64,
    pub phase: Phase,
    pub body: Vec<u8>,
    pub cause: Cause,
    /// Delivered, duplicate, late, merged or thin; what is lost does not come here.
    pub fate: Fate,
    /// The key of the row of truth that it tells of.
    pub variant: VariantId,
}

impl Delivery {
    /// RFC 3339 with nanoseconds, as in `X-Shopify-Triggered-At`.
    pub fn triggered_at_text(&self) -> String {
        chrono::DateTime::from_timestamp_nanos(self.triggered_at).to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
    }

    /// The record of the facts topic: with our headers, or as a foreign producer writes it, without any.
    pub fn to_record(&self, headers: RecordHeaders) -> NewRecord {
        let headers = match headers {
            RecordHeaders::None => Vec::new(),
            RecordHeaders::Ours => vec![
                (header::FACT, self.topic.as_str().into()),
                (header::VERSION, VERSION.to_string().into_bytes()),
                (header::DEDUPE_ID, self.webhook_id.to_string().into_bytes()),
                (header::SOURCE, b"simulate".to_vec()),
                (header::EVENT_TIME, time::format(self.triggered_at / 1_000_000).into_bytes()),
                (header::TRIGGERED_AT, self.triggered_at_text().into_bytes()),
                (header::PAYLOAD_SHA256, hex::encode(Sha256::digest(&self.body)).into_bytes()),
            ],
        };
        NewRecord {
            topic: Topic::Facts,
            partition: None,
            key: Some(self.shop.as_bytes().to_vec()),
            headers,
            value: Some(self.body.clone()),
        }
    }
}

/// Which headers a record gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordHeaders {
    Ours,
    /// The record is understood by its shape (DESIGN §1).
    None,
}
