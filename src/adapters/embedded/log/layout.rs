//! How topics, partitions and groups are numbered, in memory and on disk. The lists only ever grow at their ends: a
//! number, once written, keeps its meaning.

use crate::events::record::{Offset, Partition, Topic};
use crate::ports::event_log::{Group, LogError};

/// A byte's place in the whole log; a segment's first byte stands at its `base`.
pub type Lsn = u64;

/// Topics by their number on disk.
pub const TOPICS: [Topic; 3] = [Topic::Facts, Topic::Decisions, Topic::DeadLetters];
/// Groups by their number on disk.
pub const GROUPS: [Group; 2] = [Group::Shards, Group::Dispatcher];

pub const fn topic_number(topic: Topic) -> u8 {
    match topic {
        Topic::Facts => 0,
        Topic::Decisions => 1,
        Topic::DeadLetters => 2,
    }
}

pub const fn group_number(group: Group) -> u8 {
    match group {
        Group::Shards => 0,
        Group::Dispatcher => 1,
    }
}

/// Tables over topic-partitions are vectors; this says which place is whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub partitions: i32,
}

impl Layout {
    pub fn slots(self) -> usize {
        TOPICS.len() * self.partitions as usize
    }

    pub fn commit_slots(self) -> usize {
        GROUPS.len() * self.slots()
    }

    /// The place of a topic-partition, none if it does not exist. Numbers come from callers and from disk.
    pub fn slot(self, topic: u8, partition: Partition) -> Option<usize> {
        let known = usize::from(topic) < TOPICS.len() && (0..self.partitions).contains(&partition);
        known.then(|| usize::from(topic) * self.partitions as usize + partition as usize)
    }

    pub fn commit_slot(self, group: u8, topic: u8, partition: Partition) -> Option<usize> {
        let slot = self.slot(topic, partition)?;
        (usize::from(group) < GROUPS.len()).then(|| usize::from(group) * self.slots() + slot)
    }

    /// As [`Layout::slot`], for callers who can be told that they asked for nothing that exists.
    pub fn known(self, topic: Topic, partition: Partition) -> Result<usize, LogError> {
        self.slot(topic_number(topic), partition).ok_or_else(|| {
            LogError::Misconfigured(format!(
                "partition {partition} of {} does not exist; the log has partitions 0 to {}",
                topic.default_name(),
                self.partitions - 1
            ))
        })
    }
}

/// An offset that a group commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupOffset {
    pub group: u8,
    pub topic: u8,
    pub partition: Partition,
    pub offset: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_and_group_has_its_own_number() {
        for (i, t) in TOPICS.iter().enumerate() {
            assert_eq!(usize::from(topic_number(*t)), i);
        }
        for (i, g) in GROUPS.iter().enumerate() {
            assert_eq!(usize::from(group_number(*g)), i);
        }
        assert!(Topic::ALL.iter().all(|t| TOPICS.contains(t)));
    }
}
