//! Members of consumer groups. There is one process, so a group has one member, and it gets every partition.

use std::any::Any;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::consumer::Consumer;
use super::frame;
use super::layout::{GroupOffset, group_number, topic_number};
use super::queue::{Failure, Work};
use super::state::lock;
use super::{COMMIT_DEADLINE, Core};
use crate::events::record::{NewRecord, Offset, Partition, Position, Topic};
use crate::ports::event_log::{CommitError, Group, GroupHandle, GroupSink, LogError, TransactionalWriter};

/// What the consumer's thread is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Start(Partition, Offset),
    Resume(Partition),
}

pub struct Membership {
    pub group: Group,
    pub topic: Topic,
    alive: AtomicBool,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
pub struct Inbox {
    pub commands: Vec<Command>,
    pub leave: bool,
}

impl Membership {
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// From here on its commits are refused.
    pub fn end(&self) {
        self.alive.store(false, Ordering::SeqCst);
    }

    pub fn take(&self) -> Inbox {
        std::mem::take(&mut lock(&self.inbox))
    }

    pub fn has_mail(&self) -> bool {
        let inbox = lock(&self.inbox);
        inbox.leave || !inbox.commands.is_empty()
    }

    fn group_offsets(&self, core: &Core, offsets: &[(Partition, Offset)]) -> Result<Vec<GroupOffset>, LogError> {
        let one = |&(partition, offset): &(Partition, Offset)| {
            core.shared.layout.known(self.topic, partition)?;
            if offset < 0 {
                return Err(LogError::Misconfigured(format!("offset {offset} of partition {partition} cannot be committed")));
            }
            Ok(GroupOffset { group: group_number(self.group), topic: topic_number(self.topic), partition, offset })
        };
        offsets.iter().map(one).collect()
    }
}

/// Gives the group free again, also when the consumer's thread panics.
pub struct Seat(Arc<Core>, Arc<Membership>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.1.end();
        lock(&self.0.shared.members).remove(&self.1.group);
    }
}

pub struct EmbeddedMember {
    core: Arc<Core>,
    member: Arc<Membership>,
    thread: Mutex<Option<JoinHandle<()>>>,
    consumer: thread::ThreadId,
}

impl EmbeddedMember {
    pub fn join(core: &Arc<Core>, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<EmbeddedMember, LogError> {
        if !lock(&core.shared.members).insert(group) {
            return Err(LogError::Misconfigured(format!(
                "the group {group:?} has a member already, and the embedded log gives a group one; run one node, or use Kafka"
            )));
        }
        let (alive, inbox) = (AtomicBool::new(true), Mutex::default());
        let member = Arc::new(Membership { group, topic, alive, inbox });
        let seat = Seat(core.clone(), member.clone());
        let committed = core.committed(group, topic)?;
        let consumer = Consumer::new(core.clone(), member.clone(), sink);
        let name = format!("log-{group:?}").to_lowercase();
        let run = move || {
            let _seat = seat;
            consumer.run(committed);
        };
        let spawned = thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|e| LogError::Unavailable { during: "starting a consumer's thread".into(), reason: e.to_string() })?;
        let consumer = spawned.thread().id();
        Ok(EmbeddedMember { core: core.clone(), member, thread: Mutex::new(Some(spawned)), consumer })
    }

    fn ask(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut lock(&self.member.inbox));
        self.core.shared.notify();
    }

    pub fn writer(&self) -> EmbeddedWriter {
        EmbeddedWriter { core: self.core.clone(), member: self.member.clone() }
    }
}

impl GroupHandle for EmbeddedMember {
    fn start(&self, partition: Partition, from: Offset) {
        self.ask(|inbox| inbox.commands.push(Command::Start(partition, from)));
    }

    fn resume(&self, partition: Partition) {
        self.ask(|inbox| inbox.commands.push(Command::Resume(partition)));
    }

    fn commit(&self, offsets: &[(Partition, Offset)]) -> Result<(), LogError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let offsets = self.member.group_offsets(&self.core, offsets)?;
        let (draft, _) = frame::draft(self.core.shared.layout, &[], &[], offsets);
        self.core.check_frame(&draft)?;
        let outcome = self.core.shared.queue.settle(Work::Commit(draft, self.member.clone()), COMMIT_DEADLINE);
        outcome.map(drop).map_err(|f| f.into_log_error("committing offsets"))
    }

    fn leave(&self) {
        self.ask(|inbox| inbox.leave = true);
        // Called by its own sink, it cannot wait for itself.
        if thread::current().id() != self.consumer
            && let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!(group = ?self.member.group, "the consumer's thread had panicked");
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for EmbeddedMember {
    fn drop(&mut self) {
        self.leave();
    }
}

pub struct EmbeddedWriter {
    core: Arc<Core>,
    member: Arc<Membership>,
}

impl TransactionalWriter for EmbeddedWriter {
    fn commit(&mut self, records: &[NewRecord], offsets: &[(Partition, Offset)]) -> Result<Vec<Position>, CommitError> {
        if records.is_empty() && offsets.is_empty() {
            return Ok(Vec::new());
        }
        let refused = |e: LogError| CommitError::Aborted(e.to_string());
        let offsets = self.member.group_offsets(&self.core, offsets).map_err(refused)?;
        let partitions = self.core.partitions_of(records).map_err(refused)?;
        let (draft, places) = frame::draft(self.core.shared.layout, records, &partitions, offsets);
        self.core.check_frame(&draft).map_err(refused)?;
        let runs = draft.runs.clone();
        let outcome = self.core.shared.queue.settle(Work::Commit(draft, self.member.clone()), COMMIT_DEADLINE);
        match outcome {
            Ok(bases) => Ok(places.positions(&runs, &bases)),
            Err(Failure::Fenced) => Err(CommitError::Fenced(format!("this member has left the group {:?}", self.member.group))),
            Err(Failure::Unknown(why)) => Err(CommitError::Unknown(why)),
            Err(Failure::NotWritten(why)) => Err(CommitError::Aborted(why)),
            Err(Failure::Full) => Err(CommitError::Aborted("the queue to the log is full".into())),
        }
    }
}
