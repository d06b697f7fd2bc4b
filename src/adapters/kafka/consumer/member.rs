//! The thread of a group member.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList, TopicPartitionListElem};

use super::assignment::{self, Pending, Place};
use super::context::{MemberContext, Report};
use super::lane::{Lane, Phase};
use super::{Command, GroupConsumer, Shared};
use crate::adapters::kafka::errors::{self, Throttle};
use crate::adapters::kafka::settings::{KafkaSettings, Role};
use crate::events::record::{Offset, Partition};
use crate::ports::event_log::{Assigned, GroupSink, LogError};

/// Rest when there is nothing to do; a record or a command ends it.
const REST: Duration = Duration::from_millis(50);
/// How often an idle member looks whether markers moved its position.
const LOOK: Duration = Duration::from_millis(250);
const SEEK: Duration = Duration::from_secs(5);
/// Leaving waits for the broker no longer than this.
const CLOSE: Duration = Duration::from_secs(10);
const REOPEN: Duration = Duration::from_secs(1);

pub(super) struct Member {
    settings: Arc<KafkaSettings>,
    shared: Arc<Shared>,
    sink: Box<dyn GroupSink>,
    consumer: Arc<GroupConsumer>,
    lanes: HashMap<Partition, Lane>,
    pending: Option<Pending>,
    round: u64,
    throttle: Throttle,
    looked: Instant,
}

enum Next {
    Go,
    Leave,
    /// The consumer is of no use any more.
    Reopen,
}

impl Member {
    pub(super) fn open(settings: Arc<KafkaSettings>, shared: Arc<Shared>, sink: Box<dyn GroupSink>) -> Result<Self, LogError> {
        let consumer = subscribe(&settings, &shared)?;
        Ok(Member {
            settings,
            shared,
            sink,
            consumer,
            lanes: HashMap::new(),
            pending: None,
            round: 0,
            throttle: Throttle::default(),
            looked: Instant::now(),
        })
    }

    pub(super) fn run(mut self) {
        loop {
            match self.serve() {
                Next::Go => {}
                Next::Leave => break,
                Next::Reopen => {
                    self.lose_everything();
                    self.close();
                    if !self.reopen() {
                        return;
                    }
                }
            }
        }
        self.close();
        // What librdkafka did not hand back within the deadline.
        self.lose_everything();
    }

    /// One round: what librdkafka has to say, what was asked for, a batch of each partition that has one.
    fn serve(&mut self) -> Next {
        // Records come through the partitions' own queues; here are only rebalances and errors, and the context was told.
        let consumer = self.consumer.clone();
        while let Some(polled) = consumer.poll(Duration::ZERO) {
            if polled.is_ok_and(|m| self.lanes.contains_key(&m.partition())) {
                tracing::error!("librdkafka does not use the partitions' own queues; the consumer is opened anew");
                return Next::Reopen;
            }
        }
        let (next, mut busy) = self.act();
        if !matches!(next, Next::Go) {
            return next;
        }
        for lane in self.lanes.values_mut() {
            busy |= lane.fill();
        }
        if busy || self.looked.elapsed() >= LOOK {
            self.advance();
        }
        self.deliver();
        if !busy {
            std::thread::park_timeout(REST);
        }
        Next::Go
    }

    /// Commands and reports; whether there were any, or any is left to try again.
    fn act(&mut self) -> (Next, bool) {
        let mut busy = false;
        for report in self.consumer.context().take() {
            busy = true;
            match report {
                Report::Assigned(list) => self.assigned(list),
                Report::Revoked(list) => self.revoked(&list),
                Report::Error { code, reason } => {
                    self.complain(code, &reason);
                    if errors::ends_consumer(code) {
                        return (Next::Reopen, true);
                    }
                }
            }
        }
        for command in self.shared.take_commands() {
            busy = true;
            match command {
                Command::Start(partition, from) => self.start(partition, from),
                Command::Resume(partition) => self.resume(partition),
                Command::Found { round, places } => self.found(round, &places),
                Command::Fault(error) => {
                    if self.throttle.lets_through(Code::UnstableOffsetCommit, Instant::now()) {
                        self.sink.fault(error);
                    }
                }
                Command::Leave => return (Next::Leave, true),
            }
        }
        self.seek_started();
        (Next::Go, busy)
    }

    fn assigned(&mut self, list: TopicPartitionList) {
        self.round += 1;
        if list.count() == 0 {
            // librdkafka waits for an answer to an empty list as well.
            return self.answer(self.consumer.incremental_assign(&list), "assigning no partitions");
        }
        self.pending = Some(assignment::find(Arc::downgrade(&self.consumer), self.shared.clone(), self.round, list));
    }

    fn found(&mut self, round: u64, places: &[Place]) {
        if self.pending.as_ref().is_none_or(|p| p.round != round) {
            return;
        }
        self.pending = None;
        let topic = self.shared.topic.clone();
        let mut list = TopicPartitionList::with_capacity(places.len());
        let mut lanes = Vec::with_capacity(places.len());
        for place in places {
            // Before librdkafka begins to fetch, or the first records go to the common queue.
            let Some(queue) = queue_of(&self.consumer, &self.shared, place.partition) else {
                return self.answer(Err(KafkaError::Canceled), "setting up a partition's queue");
            };
            if let Err(e) = list.add_partition_offset(&topic, place.partition, At::Offset(place.first)) {
                return self.answer(Err(e), "assigning partitions");
            }
            lanes.push((place.partition, Lane::held(queue, place.partition, place.first)));
        }
        if let Err(e) = self.consumer.incremental_assign(&list) {
            return self.answer(Err(e), "assigning partitions");
        }
        self.lanes.extend(lanes);
        {
            let mut membership = self.shared.membership();
            membership.owned.extend(places.iter().map(|p| p.partition));
        }
        self.sink.assigned(places.iter().map(|p| Assigned { partition: p.partition, committed: p.committed }).collect());
    }

    fn revoked(&mut self, list: &TopicPartitionList) {
        // The flag is reset by the next assign or unassign.
        let lost = self.consumer.assignment_lost();
        self.pending = None;
        let partitions: Vec<Partition> =
            list.elements().iter().map(|e| e.partition()).filter(|p| self.lanes.contains_key(p)).collect();
        self.hand_over(partitions, lost);
        self.answer(self.consumer.incremental_unassign(list), "giving partitions up");
    }

    /// Tells the sink and forgets. Without `lost` the sink may still commit until it returns.
    fn hand_over(&mut self, partitions: Vec<Partition>, lost: bool) {
        if partitions.is_empty() {
            return;
        }
        for p in &partitions {
            self.lanes.remove(p);
        }
        let disown = |shared: &Shared| {
            let mut membership = shared.membership();
            membership.owned.retain(|p| !partitions.contains(p));
        };
        if lost {
            disown(&self.shared);
        }
        self.sink.revoked(partitions.clone(), lost);
        disown(&self.shared);
    }

    fn lose_everything(&mut self) {
        self.pending = None;
        let mut partitions: Vec<Partition> = self.lanes.keys().copied().collect();
        partitions.sort_unstable();
        self.hand_over(partitions, true);
    }

    fn start(&mut self, partition: Partition, from: Offset) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.start(from);
        }
    }

    fn resume(&mut self, partition: Partition) {
        let Some(lane) = self.lanes.get_mut(&partition).filter(|lane| lane.phase == Phase::Full) else { return };
        lane.phase = Phase::Running;
        deliver(lane, &mut *self.sink);
    }

    fn seek_started(&mut self) {
        if !self.lanes.values().any(|lane| lane.phase == Phase::Seeking) {
            return;
        }
        // Before the seek, and nothing is polled in between: what it changes to afterwards is of records after the seek.
        let before = self.positions();
        for (partition, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.phase == Phase::Seeking) {
            match self.consumer.seek(&self.shared.topic, *partition, At::Offset(lane.expected), SEEK) {
                Ok(()) => lane.run(before.get(partition).copied()),
                // librdkafka has not begun the partition, or is still ending its former life; the next round tries again.
                Err(error) => tracing::debug!(partition, %error, "not started yet"),
            }
        }
    }

    fn deliver(&mut self) {
        for lane in self.lanes.values_mut().filter(|lane| lane.phase == Phase::Running) {
            deliver(lane, &mut *self.sink);
        }
    }

    /// Takes transaction markers into account, of which poll says nothing.
    fn advance(&mut self) {
        self.looked = Instant::now();
        if !self.lanes.values().any(|lane| lane.phase == Phase::Running) {
            return;
        }
        for (partition, at) in self.positions() {
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.advance(at);
            }
        }
    }

    /// Offsets after the last thing that librdkafka handed out, transaction markers included.
    fn positions(&self) -> HashMap<Partition, Offset> {
        let Ok(list) = self.consumer.position() else { return HashMap::new() };
        let known = |e: &TopicPartitionListElem<'_>| match e.offset() {
            At::Offset(at) => Some((e.partition(), at)),
            _ => None,
        };
        list.elements().iter().filter_map(known).collect()
    }

    fn answer(&self, result: rdkafka::error::KafkaResult<()>, what: &str) {
        if let Err(error) = result {
            tracing::warn!(group = self.shared.group_id, %error, "{what} failed");
        }
    }

    fn complain(&mut self, code: Code, reason: &str) {
        if self.throttle.lets_through(code, Instant::now()) {
            let during = format!("consuming {} as {}", self.shared.topic, self.shared.group_id);
            self.sink.fault(errors::from_code(&during, code, reason));
        }
    }

    /// Leaves the group; the sink hears of revocations as ever. Afterwards nobody outside holds on to this consumer.
    fn close(&mut self) {
        if let Some(pending) = self.pending.take() {
            // librdkafka waits for this answer before it closes.
            self.answer(self.consumer.incremental_assign(&pending.list), "closing an assignment");
        }
        let deadline = Instant::now() + CLOSE;
        self.answer(self.consumer.close_queue(), "leaving the group");
        while !self.consumer.closed() && Instant::now() < deadline {
            let _ = self.consumer.poll(Duration::from_millis(10));
            for report in self.consumer.context().take() {
                match report {
                    Report::Assigned(list) => self.answer(self.consumer.incremental_assign(&list), "closing"),
                    Report::Revoked(list) => self.revoked(&list),
                    Report::Error { code, reason } => self.complain(code, &reason),
                }
            }
        }
        self.shared.membership().consumer = std::sync::Weak::new();
        if !self.consumer.closed() {
            // Dropping it waits without an end, which is not for this thread to do.
            tracing::warn!(group = self.shared.group_id, "the consumer did not close in time and is left behind");
            let consumer = self.consumer.clone();
            let _ = std::thread::Builder::new().name("kafka-abandoned".into()).spawn(move || {
                while !consumer.closed() {
                    let _ = consumer.poll(Duration::from_millis(100));
                }
                drop(consumer);
            });
        }
    }

    /// False when the member was told to leave meanwhile.
    fn reopen(&mut self) -> bool {
        loop {
            // Also a pause between attempts where the cause persists, such as a duplicate group.instance.id.
            std::thread::park_timeout(REOPEN);
            if self.shared.take_commands().iter().any(|c| matches!(c, Command::Leave)) {
                return false;
            }
            match subscribe(&self.settings, &self.shared) {
                Ok(consumer) => {
                    self.consumer = consumer;
                    return true;
                }
                Err(error) => self.sink.fault(error),
            }
        }
    }
}

fn deliver(lane: &mut Lane, sink: &mut dyn GroupSink) {
    if let Some(batch) = lane.due()
        && let Err(batch) = sink.deliver(batch)
    {
        lane.give_back(batch);
    }
}

/// The partition's own queue, which wakes the member's thread.
fn queue_of(consumer: &Arc<GroupConsumer>, shared: &Arc<Shared>, partition: Partition) -> Option<PartitionQueue<MemberContext>> {
    let mut queue = consumer.split_partition_queue(&shared.topic, partition)?;
    let waker = Arc::downgrade(shared);
    queue.set_nonempty_callback(move || {
        if let Some(shared) = waker.upgrade() {
            shared.wake();
        }
    });
    Some(queue)
}

fn subscribe(settings: &KafkaSettings, shared: &Arc<Shared>) -> Result<Arc<GroupConsumer>, LogError> {
    let role = Role::Member { group: shared.group_id.clone() };
    let mut consumer: GroupConsumer = settings.create(&role, |c| c.create_with_context(MemberContext::default()))?;
    let waker = Arc::downgrade(shared);
    consumer.set_nonempty_callback(move || {
        if let Some(shared) = waker.upgrade() {
            shared.wake();
        }
    });
    let during = format!("subscribing to {}", shared.topic);
    consumer.subscribe(&[&shared.topic]).map_err(|e| errors::map(&during, &e))?;
    let consumer = Arc::new(consumer);
    shared.membership().consumer = Arc::downgrade(&consumer);
    Ok(consumer)
}
