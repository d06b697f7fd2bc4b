//! The log on Apache Kafka, through rdkafka.
//!
//! A file a job: `settings` (what a user may say, and each client's configuration), `admin` (topics), `producer` (plain
//! appends), `transaction` (records and offsets together), `consumer` (group members), `reader` (one partition to an exact
//! offset), `observer` (watermarks, committed offsets), `errors` (the driver's errors to the port's).

mod admin;
mod binding;
mod client;
mod consumer;
mod copy;
mod errors;
mod observer;
mod producer;
mod reader;
mod settings;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};

use self::consumer::KafkaMember;
use self::observer::Observers;
use self::producer::Appender;
use self::reader::KafkaReader;
pub use self::settings::{KafkaSettings, TopicNames};
use self::transaction::{AtomicAppender, KafkaWriter};
use crate::events::record::{NewRecord, Offset, Partition, Position, Topic};
use crate::ports::event_log::{EventLog, Group, GroupHandle, GroupSink, LogError, PartitionReader, TransactionalWriter};

/// A batch is handed on at either.
const MAX_BATCH_RECORDS: usize = 1_024;
const MAX_BATCH_BYTES: usize = 384 * 1024;

pub struct KafkaLog {
    settings: Arc<KafkaSettings>,
    appender: Appender,
    atomic: AtomicAppender,
    observers: Observers,
}

impl KafkaLog {
    /// Checks the settings. Whether the broker answers is for [`EventLog::prepare`] to say.
    pub fn connect(settings: KafkaSettings) -> Result<Arc<KafkaLog>, LogError> {
        settings.check()?;
        let settings = Arc::new(settings);
        Ok(Arc::new(KafkaLog {
            appender: Appender::open(settings.clone())?,
            atomic: AtomicAppender::new(settings.clone()),
            observers: Observers::new(settings.clone()),
            settings,
        }))
    }
}

impl EventLog for KafkaLog {
    fn prepare(&self, timeout: Duration) -> Result<(), LogError> {
        admin::prepare(&self.settings, timeout)?;
        self.observers.check_binding()
    }

    fn inspect(&self, timeout: Duration) -> Result<Vec<Topic>, LogError> {
        let missing = admin::inspect(&self.settings, timeout)?;
        self.observers.check_binding()?;
        Ok(missing)
    }

    fn partitions(&self) -> i32 {
        self.settings.partitions
    }

    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.appender.append(records).boxed()
    }

    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.atomic.append(records).boxed()
    }

    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        Ok(Arc::new(consumer::join(&self.settings, group, topic, sink)?))
    }

    fn writer(&self, member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        let Some(member) = member.as_any().downcast_ref::<KafkaMember>() else {
            return Err(LogError::Misconfigured("a writer of the Kafka log needs a member of a Kafka group".into()));
        };
        Ok(Box::new(KafkaWriter::open(self.settings.clone(), member.shared.clone())?))
    }

    fn reader(&self, topic: Topic, partition: Partition, from: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        Ok(Box::new(KafkaReader::open(&self.settings, self.settings.topics.of(topic), partition, from)?))
    }

    fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError> {
        self.observers.watermarks(topic, partition)
    }

    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        self.observers.committed(group, topic)
    }

    fn probe(&self, timeout: Duration) -> Result<(), LogError> {
        self.observers.probe(timeout)
    }
}
