//! Reads one partition outside of any group, up to an exact offset.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::client::{Quiet, QuietConsumer};
use super::settings::{KafkaSettings, Role};
use super::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, copy, errors};
use crate::events::record::{Offset, Partition, RecordBatch};
use crate::ports::event_log::{LogError, PartitionReader};

/// Markers move the position without waking a poll, so it is looked at this often.
const LOOK: Duration = Duration::from_millis(5);
const SEEK: Duration = Duration::from_secs(5);

pub(super) struct KafkaReader {
    consumer: QuietConsumer,
    topic: String,
    partition: Partition,
    position: Offset,
    /// A record at or past `until` was taken off the queue; before reading on, go back to `position`.
    overshot: bool,
    /// librdkafka's position from before the last seek, which it keeps until it delivers something.
    stale: Option<Offset>,
    /// Of the last batch, to size the next.
    usual: (usize, usize),
}

impl KafkaReader {
    pub(super) fn open(settings: &KafkaSettings, topic: &str, partition: Partition, from: Offset) -> Result<Self, LogError> {
        let consumer: QuietConsumer = settings.create(&Role::Reader, |c| c.create_with_context(Quiet))?;
        let during = format!("reading {topic}, partition {partition}");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, At::Offset(from)).map_err(|e| errors::map(&during, &e))?;
        consumer.assign(&list).map_err(|e| errors::map(&during, &e))?;
        Ok(KafkaReader {
            consumer,
            topic: topic.to_owned(),
            partition,
            position: from,
            overshot: false,
            stale: None,
            usual: (64, 16 * 1024),
        })
    }

    fn go_back(&mut self) -> Result<(), LogError> {
        let at = At::Offset(self.position);
        self.stale = self.consumed();
        self.consumer.seek(&self.topic, self.partition, at, SEEK).map_err(|e| errors::map(&self.during(), &e))?;
        self.overshot = false;
        Ok(())
    }

    /// Past markers and records of aborted transactions, of which poll says nothing.
    fn look_at_position(&mut self) {
        if self.overshot {
            return;
        }
        if let Some(at) = self.consumed().filter(|at| Some(*at) != self.stale) {
            self.stale = None;
            self.position = self.position.max(at);
        }
    }

    /// After the last thing that librdkafka handed out, transaction markers included.
    fn consumed(&self) -> Option<Offset> {
        match self.consumer.position().ok()?.find_partition(&self.topic, self.partition)?.offset() {
            At::Offset(at) => Some(at),
            _ => None,
        }
    }

    fn during(&self) -> String {
        format!("reading {}, partition {} from offset {}", self.topic, self.partition, self.position)
    }
}

impl PartitionReader for KafkaReader {
    fn next(&mut self, until: Offset, timeout: Duration) -> Result<Option<RecordBatch>, LogError> {
        if self.position >= until {
            return Ok(None);
        }
        if self.overshot {
            self.go_back()?;
        }
        let deadline = Instant::now() + timeout;
        let mut batch = RecordBatch::with_capacity(self.partition, self.position, self.usual.0, self.usual.1);
        let mut trouble = None;
        while batch.len() < MAX_BATCH_RECORDS && batch.bytes() < MAX_BATCH_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = if batch.is_empty() { left.min(LOOK) } else { Duration::ZERO };
            match self.consumer.poll(patience) {
                Some(Ok(m)) if m.offset() < self.position => {}
                Some(Ok(m)) if m.offset() >= until => {
                    self.position = until;
                    self.overshot = true;
                    break;
                }
                Some(Ok(m)) => {
                    copy::push(&mut batch, &m);
                    self.position = m.offset() + 1;
                    self.stale = None;
                }
                Some(Err(e)) => match errors::map_known(&self.during(), &e) {
                    LogError::Unavailable { reason, .. } => trouble = Some((e.rdkafka_error_code(), reason)),
                    LogError::Damaged(_) => return Err(self.gone(&e.to_string())),
                    other => return Err(other),
                },
                None => {
                    self.look_at_position();
                    if self.position >= until || !batch.is_empty() {
                        break;
                    }
                    if Instant::now() >= deadline {
                        return match trouble {
                            Some((Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve), reason)) => {
                                Err(errors::unavailable(&self.during(), reason))
                            }
                            _ => Ok(Some(batch)),
                        };
                    }
                }
            }
        }
        if batch.is_empty() {
            return Ok(None);
        }
        batch.next_offset = self.position;
        self.usual = (batch.len(), batch.bytes());
        Ok(Some(batch))
    }

    fn position(&self) -> Offset {
        self.position
    }
}

impl KafkaReader {
    fn gone(&self, reason: &str) -> LogError {
        LogError::Damaged(format!(
            "{}: the broker does not have this offset ({reason}); records were deleted, or the topic was created anew",
            self.during()
        ))
    }
}
