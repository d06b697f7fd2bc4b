//! Binds a group to the store that goes with it: the store's id is the metadata of the group's committed offsets.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::topic_partition_list::TopicPartitionList;

use crate::ports::event_log::LogError;

const PREFIX: &str = "store=";

pub(super) fn of(store: &str) -> String {
    format!("{PREFIX}{store}")
}

/// Refuses offsets that were committed by a cluster with another store. Offsets without an id, as Kafka's own tools set them, are
/// anybody's.
pub(super) fn check(found: &TopicPartitionList, group: &str, store: &str) -> Result<(), LogError> {
    for entry in found.elements() {
        // rdkafka panics where somebody else's metadata is not UTF-8.
        let metadata = catch_unwind(AssertUnwindSafe(|| entry.metadata().to_owned())).unwrap_or_default();
        if let Some(other) = metadata.strip_prefix(PREFIX).filter(|other| *other != store) {
            return Err(LogError::Misconfigured(format!(
                "the group \"{group}\" belongs to the store {other}, and this node's store is {store}: what the group has decided stands in \
                 the other one. Give this cluster a [log] group_id of its own, or the [store] url of the group's"
            )));
        }
    }
    Ok(())
}
