//! The port's writer for a member of a group.

use std::sync::Arc;

use super::super::consumer::Shared;
use super::super::producer::refuse;
use super::super::settings::KafkaSettings;
use super::{Failure, GroupOffsets, Transactor};
use crate::events::record::{NewRecord, Offset, Partition, Position};
use crate::ports::event_log::{CommitError, LogError, TransactionalWriter};

/// Once another process has opened the same node name it is fenced for good: leave the group and join anew.
pub(in super::super) struct KafkaWriter {
    settings: Arc<KafkaSettings>,
    member: Arc<Shared>,
    transactor: Transactor,
}

impl KafkaWriter {
    pub(in super::super) fn open(settings: Arc<KafkaSettings>, member: Arc<Shared>) -> Result<Self, LogError> {
        let id = format!("{}-{}", settings.group(member.group), settings.node_name);
        let transactor = Transactor::open(settings.clone(), id)?;
        Ok(KafkaWriter { settings, member, transactor })
    }
}

impl TransactionalWriter for KafkaWriter {
    fn commit(&mut self, records: &[NewRecord], offsets: &[(Partition, Offset)]) -> Result<Vec<Position>, CommitError> {
        if records.is_empty() && offsets.is_empty() {
            return Ok(Vec::new());
        }
        refuse(&self.settings, records).map_err(|e| CommitError::Aborted(e.to_string()))?;
        let carried = if offsets.is_empty() {
            None
        } else {
            let (list, metadata) = self.member.offsets(offsets).map_err(CommitError::Fenced)?;
            Some(GroupOffsets { list, metadata })
        };
        self.transactor.commit(records, carried).map_err(|failure| match failure {
            // A rebalance gives a new generation also to those who keep their partitions; then the same bytes go again.
            Failure::OldGeneration(why) if self.member.owns(offsets) => CommitError::Aborted(why),
            Failure::OldGeneration(why) | Failure::Expelled(why) | Failure::Superseded(why) => CommitError::Fenced(why),
            Failure::Aborted(why) => CommitError::Aborted(why),
            Failure::Unknown(why) => CommitError::Unknown(why),
        })
    }
}
