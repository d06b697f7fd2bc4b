//! A log that tests drive: they say what is assigned, delivered and revoked, and see what is appended and committed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use stockwarden::events::record::{NewRecord, Offset, Partition, Position, Topic};
use stockwarden::ports::event_log::{EventLog, Group, GroupHandle, GroupSink, LogError, PartitionReader, TransactionalWriter};

use super::tap::{Step, Tap};

#[derive(Default)]
pub struct DrivenLog {
    pub appended: Mutex<Vec<NewRecord>>,
    /// So many appends fail before one succeeds.
    pub away: AtomicUsize,
    pub sink: Mutex<Option<Box<dyn GroupSink>>>,
    pub group: Arc<DrivenGroup>,
    pub tap: Tap,
}

#[derive(Default)]
pub struct DrivenGroup {
    pub started: Mutex<Vec<(Partition, Offset)>>,
    pub resumed: Mutex<Vec<Partition>>,
    pub committed: Mutex<Vec<(Partition, Offset)>>,
    /// Called at each commit, before it is noted.
    pub at_commit: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl GroupHandle for DrivenGroup {
    fn start(&self, partition: Partition, from: Offset) {
        self.started.lock().expect("lock").push((partition, from));
    }

    fn resume(&self, partition: Partition) {
        self.resumed.lock().expect("lock").push(partition);
    }

    fn commit(&self, offsets: &[(Partition, Offset)]) -> Result<(), LogError> {
        if let Some(hook) = self.at_commit.lock().expect("lock").as_ref() {
            hook();
        }
        self.committed.lock().expect("lock").extend_from_slice(offsets);
        Ok(())
    }

    fn leave(&self) {}

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl DrivenLog {
    pub fn of(&self, topic: Topic) -> Vec<NewRecord> {
        self.appended.lock().expect("lock").iter().filter(|r| r.topic == topic).cloned().collect()
    }

    /// Outcomes in the facts topic, as (state, record).
    pub fn outcomes(&self) -> Vec<(String, NewRecord)> {
        let state = |r: &NewRecord| {
            let fact: serde_json::Value = serde_json::from_slice(r.value.as_deref().expect("value")).expect("JSON");
            fact["state"].as_str().expect("state").to_owned()
        };
        self.of(Topic::Facts).into_iter().map(|r| (state(&r), r)).collect()
    }

    pub fn states(&self) -> Vec<String> {
        self.outcomes().into_iter().map(|(state, _)| state).collect()
    }
}

impl EventLog for DrivenLog {
    fn prepare(&self, _timeout: Duration) -> Result<(), LogError> {
        Ok(())
    }

    fn partitions(&self) -> i32 {
        4
    }

    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let fails = |n: usize| n.checked_sub(1);
            if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
                return Err(LogError::Unavailable { during: "appending".into(), reason: "the test says so".into() });
            }
            self.tap.at(Step::BeforeFact).await;
            self.appended.lock().expect("lock").extend(records.clone());
            self.tap.at(Step::AfterFact).await;
            Ok(records.iter().map(|_| Position { partition: 0, offset: 0 }).collect())
        })
    }

    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.append(records)
    }

    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        assert_eq!((group, topic), (Group::Dispatcher, Topic::Decisions));
        *self.sink.lock().expect("lock") = Some(sink);
        Ok(self.group.clone())
    }

    fn writer(&self, _member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        panic!("the dispatcher writes no transactions")
    }

    fn reader(&self, _topic: Topic, _partition: Partition, _from: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        panic!("the dispatcher reads through its group only")
    }

    fn watermarks(&self, _topic: Topic, _partition: Partition) -> Result<(Offset, Offset), LogError> {
        Ok((5, 100))
    }

    fn committed(&self, _group: Group, _topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        panic!("assignments carry the committed offsets")
    }

    fn probe(&self, _timeout: Duration) -> Result<(), LogError> {
        Ok(())
    }
}
