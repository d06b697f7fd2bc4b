//! Questions to the broker outside of any group membership: watermarks and committed offsets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::client::{Quiet, QuietConsumer};
use super::settings::{KafkaSettings, Role};
use super::{admin, errors};
use crate::events::record::{Offset, Partition, Topic};
use crate::ports::event_log::{Group, LogError};

const WATERMARKS: Duration = Duration::from_secs(10);
/// Longer than a transaction can stay open: until it ends, the offsets it carries are not stable.
const COMMITTED: Duration = Duration::from_secs(15);

const BINDING: Duration = Duration::from_secs(1);

/// Between two tries of a question.
const STEP: Duration = Duration::from_millis(20);

/// Clients are opened when they are first needed and kept, until one fails: a client that met a broker in the middle of its start
/// can go on to know no leader of a partition, or no coordinator, for minutes; so the next question goes through a new one.
pub(super) struct Observers {
    settings: Arc<KafkaSettings>,
    watermarks: Mutex<Option<Arc<QuietConsumer>>>,
    groups: Mutex<HashMap<Group, Arc<QuietConsumer>>>,
}

impl Observers {
    pub(super) fn new(settings: Arc<KafkaSettings>) -> Self {
        Observers { settings, watermarks: Mutex::default(), groups: Mutex::default() }
    }

    /// Read uncommitted, so that the high watermark counts open transactions (DESIGN §3).
    pub(super) fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError> {
        if !(0..self.settings.partitions).contains(&partition) {
            let name = self.settings.topics.of(topic);
            return Err(LogError::Misconfigured(format!(
                "{name} has no partition {partition}; there are {}",
                self.settings.partitions
            )));
        }
        let client = self.uncommitted()?;
        let found = watermarks(&client, self.settings.topics.of(topic), partition, Instant::now() + WATERMARKS);
        if matches!(found, Err(LogError::Unavailable { .. })) {
            // See `Observers`.
            let mut slot = self.watermarks.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &client)) {
                *slot = None;
            }
        }
        found
    }

    pub(super) fn probe(&self, timeout: Duration) -> Result<(), LogError> {
        admin::answers(&self.settings, &*self.uncommitted()?, Topic::Facts, timeout)
    }

    pub(super) fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        let client = self.member_of(group)?;
        let name = self.settings.topics.of(topic);
        let partitions: Vec<_> = (0..self.settings.partitions).collect();
        let deadline = Instant::now() + COMMITTED;
        let during = format!("asking for the offsets committed for {name}");
        let found = stable(|t, left| client.committed_offsets(t, left), name, &partitions, deadline).map_err(|reason| {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            if groups.get(&group).is_some_and(|kept| Arc::ptr_eq(kept, &client)) {
                groups.remove(&group);
            }
            errors::unavailable(&during, reason)
        })?;
        self.settings.check_binding(group, &found)?;
        Ok(offsets(&found, name, &partitions))
    }

    /// Whether the groups go with this node's store. Where that cannot be told now, the first one who needs the offsets is told.
    pub(super) fn check_binding(&self) -> Result<(), LogError> {
        for (group, topic) in [(Group::Shards, Topic::Facts), (Group::Dispatcher, Topic::Decisions)] {
            let client = self.member_of(group)?;
            let partitions: Vec<_> = (0..self.settings.partitions).collect();
            let ask = |t, left| client.committed_offsets(t, left);
            if let Ok(found) = stable(ask, self.settings.topics.of(topic), &partitions, Instant::now() + BINDING) {
                self.settings.check_binding(group, &found)?;
            }
        }
        Ok(())
    }

    fn uncommitted(&self) -> Result<Arc<QuietConsumer>, LogError> {
        let mut slot = self.watermarks.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.open(&Role::Watermarks)?);
        }
        Ok(drained(slot.as_ref().expect("was just filled")))
    }

    fn member_of(&self, group: Group) -> Result<Arc<QuietConsumer>, LogError> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = groups.get(&group) {
            return Ok(drained(client));
        }
        let client = self.open(&Role::Committed { group: self.settings.group(group) })?;
        groups.insert(group, client.clone());
        Ok(client)
    }

    fn open(&self, role: &Role) -> Result<Arc<QuietConsumer>, LogError> {
        self.settings.create(role, |c| c.create_with_context(Quiet)).map(Arc::new)
    }
}

/// Log lines and errors of a client queue up until somebody polls.
fn drained(client: &Arc<QuietConsumer>) -> Arc<QuietConsumer> {
    for _ in 0..64 {
        let _ = client.poll(Duration::ZERO);
    }
    client.clone()
}

/// Asks again while a leader is being elected or does not know of its office yet: librdkafka gives such answers back.
pub(super) fn watermarks(
    client: &QuietConsumer,
    topic: &str,
    partition: Partition,
    deadline: Instant,
) -> Result<(Offset, Offset), LogError> {
    let during = format!("asking for the watermarks of {topic}, partition {partition}");
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.fetch_watermarks(topic, partition, left.max(STEP)).map_err(|e| errors::map_known(&during, &e)) {
            Err(LogError::Unavailable { .. }) if !left.is_zero() => std::thread::sleep(STEP.min(left)),
            other => return other,
        }
    }
}

/// Stable committed offsets. librdkafka asks for stable ones in read_committed; a single
/// partition's answer can still be an error in a list that as a whole succeeded.
pub(super) fn stable(
    ask: impl Fn(TopicPartitionList, Duration) -> KafkaResult<TopicPartitionList>,
    topic: &str,
    partitions: &[Partition],
    deadline: Instant,
) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for p in partitions {
        list.add_partition(topic, *p);
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let reason = match ask(list.clone(), left.max(Duration::from_millis(1))) {
            Ok(found) => match found.elements().iter().find_map(|e| e.error().err()) {
                None => return Ok(found),
                Some(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if left.is_zero() {
            return Err(reason);
        }
        std::thread::sleep(STEP.min(left));
    }
}

/// In the order of `partitions`; none where nothing was committed.
pub(super) fn offsets(found: &TopicPartitionList, topic: &str, partitions: &[Partition]) -> Vec<Option<Offset>> {
    partitions.iter().map(|p| offset_of(found, topic, *p)).collect()
}

fn offset_of(found: &TopicPartitionList, topic: &str, partition: Partition) -> Option<Offset> {
    match found.find_partition(topic, partition)?.offset() {
        At::Offset(offset) => Some(offset),
        _ => None,
    }
}
