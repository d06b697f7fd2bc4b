//! The thread of a group member.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList, TopicPartitionListElem};

use super::assignment::{self, Pending, Place};
use super::context::{MemberContext, Report};
use super::lane::{Lane, Phase};
use super::{Command, GroupConsumer, Shared};
use crate::adapters::kafka::errors::{self, Throttle};
use crate::adapters::kafka::settings::{KafkaSettings, Role};
use crate::events::record::{Offset, Partition, RecordBatch};
use crate::ports::event_log::{Assigned, GroupSink, LogError};

/// Rest when there is nothing to do; a record or a command ends it.
const REST: Duration = Duration::from_millis(50);
/// A batch waits no longer than this while other partitions keep the queue from running empty.
const LINGER: Duration = Duration::from_millis(10);
/// Records between looks at commands, reports and the clock.
const STRIDE: usize = 256;
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

    /// Polls until the queue is empty, tells the sink, rests.
    fn serve(&mut self) -> Next {
        let consumer = self.consumer.clone();
        let mut oldest = Instant::now();
        let mut taken = 0;
        loop {
            match consumer.poll(Duration::ZERO) {
                Some(Ok(m)) => {
                    taken += 1;
                    if self.lanes.get_mut(&m.partition()).is_some_and(|lane| lane.take(&m)) {
                        self.flush(m.partition());
                    }
                    if taken % STRIDE != 0 {
                        continue;
                    }
                    if oldest.elapsed() >= LINGER {
                        self.flush_all();
                        oldest = Instant::now();
                    }
                }
                // The context was told as well, with a better reason.
                Some(Err(_)) => taken += 1,
                None => {
                    let (next, busy) = self.act();
                    if !matches!(next, Next::Go) {
                        return next;
                    }
                    if taken > 0 || self.looked.elapsed() >= LOOK {
                        self.advance();
                    }
                    self.flush_all();
                    if taken == 0 && !busy {
                        std::thread::park_timeout(REST);
                    }
                    return Next::Go;
                }
            }
            let (next, _) = self.act();
            if !matches!(next, Next::Go) {
                return next;
            }
        }
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
        self.begin_started();
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
        for place in places {
            if let Err(e) = list.add_partition_offset(&topic, place.partition, At::Offset(place.first)) {
                return self.answer(Err(e), "assigning partitions");
            }
        }
        if let Err(e) = self.consumer.incremental_assign(&list) {
            return self.answer(Err(e), "assigning partitions");
        }
        // Fetching may have begun; what came of it is dropped, because its lane does not run.
        self.answer(self.consumer.pause(&list), "pausing new partitions");
        {
            let mut membership = self.shared.membership();
            membership.owned.extend(places.iter().map(|p| p.partition));
        }
        for place in places {
            self.lanes.insert(place.partition, Lane::held(place.partition, place.first));
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

    fn start(&mut self, partition: Partition, from: i64) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let was = lane.phase;
        lane.start(from);
        if was == Phase::Running {
            self.pause(partition);
        }
    }

    fn resume(&mut self, partition: Partition) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        if lane.phase != Phase::Full {
            return;
        }
        let Some(batch) = lane.due() else { return };
        match self.sink.deliver(batch) {
            Ok(()) => lane.phase = Phase::Starting,
            Err(batch) => lane.give_back(batch),
        }
    }

    /// Seeks and resumes. Always to an explicit offset: what librdkafka believes was consumed may be ahead of what the
    /// sink took.
    fn begin_started(&mut self) {
        if !self.lanes.values().any(|lane| lane.phase == Phase::Starting) {
            return;
        }
        // Before the seek, and nothing is polled in between: what it changes to afterwards is of records after the seek.
        let before = self.positions();
        for (partition, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.phase == Phase::Starting) {
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition(&self.shared.topic, *partition);
            let at = At::Offset(lane.expected);
            let sought = self.consumer.seek(&self.shared.topic, *partition, at, SEEK).and_then(|()| self.consumer.resume(&list));
            match sought {
                Ok(()) => lane.run(before.get(partition).copied()),
                // librdkafka has not begun the partition, or is still ending its former life; the next round tries again.
                Err(error) => tracing::debug!(partition, %error, "not started yet"),
            }
        }
    }

    fn pause(&mut self, partition: Partition) {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.shared.topic, partition);
        self.answer(self.consumer.pause(&list), "pausing a partition");
    }

    fn flush(&mut self, partition: Partition) {
        let Some(lane) = self.lanes.get_mut(&partition).filter(|lane| lane.phase == Phase::Running) else { return };
        let Some(batch) = lane.due() else { return };
        if let Err(batch) = self.sink.deliver(batch) {
            lane.give_back(batch);
            self.pause(partition);
        }
    }

    fn flush_all(&mut self) {
        let mut full: Vec<RecordBatch> = Vec::new();
        for lane in self.lanes.values_mut().filter(|lane| lane.phase == Phase::Running) {
            if let Some(batch) = lane.due()
                && let Err(batch) = self.sink.deliver(batch)
            {
                full.push(batch);
            }
        }
        for batch in full {
            let partition = batch.partition;
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.give_back(batch);
            }
            self.pause(partition);
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
