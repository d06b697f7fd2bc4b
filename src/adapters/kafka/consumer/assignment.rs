//! Finds where newly assigned partitions stand: the group's stable committed offsets, or the first offset of the log.
//!
//! On a thread of its own, because stable offsets can take as long as a dead node's transaction stays open, and the
//! partitions that this member already has must not wait for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::super::{binding, errors, observer};
use super::{Command, GroupConsumer, Shared};
use crate::events::record::{Offset, Partition};
use crate::ports::event_log::LogError;

/// One question; after each the answer is asked for again, unless it is not wanted any more.
const ASK: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Place {
    pub(super) partition: Partition,
    pub(super) committed: Option<Offset>,
    /// Explicit, so that librdkafka needs no reset policy to begin (PITFALLS 3, 11).
    pub(super) first: Offset,
}

/// An assignment that librdkafka waits for while its places are being found.
pub(super) struct Pending {
    pub(super) round: u64,
    pub(super) list: TopicPartitionList,
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

pub(super) fn find(consumer: Weak<GroupConsumer>, shared: Arc<Shared>, round: u64, list: TopicPartitionList) -> Pending {
    let cancelled = Arc::new(AtomicBool::new(false));
    let partitions: Vec<Partition> = list.elements().iter().map(|e| e.partition()).collect();
    let unwanted = cancelled.clone();
    let search = move || {
        while !unwanted.load(Ordering::Acquire) {
            let Some(consumer) = consumer.upgrade() else { return };
            match ask(&consumer, &shared, &partitions) {
                Ok(places) => return shared.send(Command::Found { round, places }),
                Err(error) => {
                    shared.send(Command::Fault(error));
                    std::thread::park_timeout(PAUSE);
                }
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("kafka-places".into()).spawn(search) {
        tracing::error!(%error, "no thread to ask for committed offsets; the assignment waits for the next rebalance");
    }
    Pending { round, list, cancelled }
}

fn ask(consumer: &GroupConsumer, shared: &Shared, partitions: &[Partition]) -> Result<Vec<Place>, LogError> {
    let topic = &shared.topic;
    let during = format!("asking for the committed offsets of {topic}");
    let found = observer::stable(|t, left| consumer.committed_offsets(t, left), topic, partitions, Instant::now() + ASK)
        .map_err(|reason| errors::unavailable(&during, reason))?;
    if let Some(store) = &shared.store {
        binding::check(&found, &shared.group_id, store)?;
    }
    let committed = observer::offsets(&found, topic, partitions);
    let mut places = Vec::with_capacity(partitions.len());
    for (partition, committed) in partitions.iter().zip(committed) {
        let first = match committed {
            Some(offset) => offset,
            None => consumer.fetch_watermarks(topic, *partition, ASK).map_err(|e| errors::map(&during, &e))?.0,
        };
        places.push(Place { partition: *partition, committed, first });
    }
    Ok(places)
}
