//! Copies a record off librdkafka's queue into a batch.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::events::record::RecordBatch;

pub(super) fn push(batch: &mut RecordBatch, m: &BorrowedMessage<'_>) {
    let time = m.timestamp().to_millis().unwrap_or(0);
    let Some(headers) = m.headers() else {
        batch.push(m.offset(), time, m.key(), m.payload(), std::iter::empty());
        return;
    };
    let each = (0..headers.count()).filter_map(|i| headers.try_get(i)).map(|h| (h.key, h.value.unwrap_or_default()));
    // rdkafka panics at a header whose name is not UTF-8. Anybody may write such a record, and no input stops a
    // shard (DESIGN §7.8); an entry of the batch is made only when all of it was copied, so nothing is left half done.
    if catch_unwind(AssertUnwindSafe(|| batch.push(m.offset(), time, m.key(), m.payload(), each))).is_err() {
        let readable = (0..headers.count()).filter_map(|i| {
            let header = catch_unwind(AssertUnwindSafe(|| headers.try_get(i))).ok().flatten()?;
            Some((header.key, header.value.unwrap_or_default()))
        });
        batch.push(m.offset(), time, m.key(), m.payload(), readable);
    }
}
