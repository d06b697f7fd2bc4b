//! A member of a consumer group: a thread of its own that polls one librdkafka consumer (PITFALLS 1) and tells the sink.
//!
//! `context` takes what librdkafka reports during a poll, `lane` is one assigned partition, `assignment` finds where
//! new partitions stand, `member` is the thread that brings them together. A partition is delivered only between
//! `GroupHandle::start` and its revocation; a start elsewhere than where librdkafka began it seeks, so what was buffered before
//! does not matter.

mod assignment;
mod context;
mod lane;
mod member;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use self::context::MemberContext;
use super::settings::KafkaSettings;
use super::{binding, errors};
use crate::events::record::{Offset, Partition, Topic};
use crate::ports::event_log::{Group, GroupHandle, GroupSink, LogError};

type GroupConsumer = BaseConsumer<MemberContext>;

/// librdkafka's own commit waits for the coordinator without an end.
const COMMIT: Duration = Duration::from_secs(10);

enum Command {
    Start(Partition, Offset),
    Resume(Partition),
    /// Where newly assigned partitions stand; `round` tells answers to an outdated question.
    Found {
        round: u64,
        places: Vec<assignment::Place>,
    },
    Fault(LogError),
    Leave,
}

/// What the member's thread and its handle share.
pub(super) struct Shared {
    pub(super) group: Group,
    group_id: String,
    topic: String,
    store: Option<String>,
    inbox: Mutex<Vec<Command>>,
    thread: Mutex<Option<Thread>>,
    membership: Mutex<Membership>,
}

/// What this member may write for. A revoked partition leaves `owned` before librdkafka may rejoin, so group metadata
/// taken together with a look at `owned` never belongs to a later generation than the ownership.
#[derive(Default)]
struct Membership {
    owned: HashSet<Partition>,
    consumer: Weak<GroupConsumer>,
}

impl Shared {
    fn send(&self, command: Command) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offsets for a transaction and the group metadata to fence it with; an error where a partition is not ours.
    pub(super) fn offsets(&self, offsets: &[(Partition, Offset)]) -> Result<(TopicPartitionList, ConsumerGroupMetadata), String> {
        let membership = self.membership();
        if let Some((p, _)) = offsets.iter().find(|(p, _)| !membership.owned.contains(p)) {
            return Err(format!("partition {p} of {} is not owned by this member of {}", self.topic, self.group_id));
        }
        let consumer = membership.consumer.upgrade().ok_or("this member has left the group")?;
        let metadata = consumer.group_metadata().ok_or("this member is not in the group")?;
        Ok((self.list(offsets).map_err(|e| e.to_string())?, metadata))
    }

    /// Whether all of these are ours, as far as this member knows.
    pub(super) fn owns(&self, offsets: &[(Partition, Offset)]) -> bool {
        let membership = self.membership();
        offsets.iter().all(|(p, _)| membership.owned.contains(p))
    }

    fn list(&self, offsets: &[(Partition, Offset)]) -> rdkafka::error::KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, *partition, At::Offset(*offset))?;
            if let (Some(store), Some(mut entry)) = (&self.store, list.find_partition(&self.topic, *partition)) {
                entry.set_metadata(binding::of(store));
            }
        }
        Ok(list)
    }
}

pub(super) struct KafkaMember {
    pub(super) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn join(
    settings: &Arc<KafkaSettings>,
    group: Group,
    topic: Topic,
    sink: Box<dyn GroupSink>,
) -> Result<KafkaMember, LogError> {
    let shared = Arc::new(Shared {
        group,
        group_id: settings.group(group),
        topic: settings.topics.of(topic).to_owned(),
        store: settings.store.clone(),
        inbox: Mutex::default(),
        thread: Mutex::default(),
        membership: Mutex::default(),
    });
    let member = member::Member::open(settings.clone(), shared.clone(), sink)?;
    let thread = std::thread::Builder::new()
        .name(format!("kafka-{topic:?}").to_lowercase())
        .spawn(move || member.run())
        .map_err(|e| errors::unavailable("starting the consumer's thread", e.to_string()))?;
    *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
    Ok(KafkaMember { shared, thread: Mutex::new(Some(thread)) })
}

impl GroupHandle for KafkaMember {
    fn start(&self, partition: Partition, from: Offset) {
        self.shared.send(Command::Start(partition, from));
    }

    fn resume(&self, partition: Partition) {
        self.shared.send(Command::Resume(partition));
    }

    fn commit(&self, offsets: &[(Partition, Offset)]) -> Result<(), LogError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let during = format!("committing offsets of {}", self.shared.group_id);
        let (list, consumer) = {
            let membership = self.shared.membership();
            if let Some((p, _)) = offsets.iter().find(|(p, _)| !membership.owned.contains(p)) {
                return Err(errors::unavailable(&during, format!("partition {p} is not owned by this member")));
            }
            let list = self.shared.list(offsets).map_err(|e| errors::map(&during, &e))?;
            (list, membership.consumer.upgrade().ok_or_else(|| errors::unavailable(&during, "this member has left the group"))?)
        };
        let (done, answer) = mpsc::channel();
        let call = move || {
            let _ = done.send(consumer.commit(&list, CommitMode::Sync));
        };
        let spawned = std::thread::Builder::new().name("kafka-commit".into()).spawn(call);
        spawned.map_err(|e| errors::unavailable(&during, e.to_string()))?;
        match answer.recv_timeout(COMMIT) {
            Ok(result) => result.map_err(|e| errors::map(&during, &e)),
            Err(_) => Err(errors::unavailable(&during, format!("no answer within {COMMIT:?}"))),
        }
    }

    fn leave(&self) {
        self.shared.send(Command::Leave);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // From within a sink there is no waiting: the thread ends when the sink returns.
        let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) else { return };
        if thread.join().is_err() {
            tracing::error!("the consumer's thread panicked");
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.shared.send(Command::Leave);
    }
}
