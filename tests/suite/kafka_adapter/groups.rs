//! Group members: delivery, back-pressure, handover.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stockwarden::adapters::kafka::KafkaLog;
use stockwarden::events::record::{Partition, RecordBatch, Topic};
use stockwarden::ports::event_log::{Assigned, CommitError, EventLog, Group, GroupSink, LogError};

use super::node::{Member, Node, Told};
use super::{PATIENCE, block_on, fact, record, until, values};
use crate::support::kafka::{fresh_log, fresh_settings, open};

#[test]
fn a_partition_is_silent_until_started_and_then_delivers_from_where_it_was_told() {
    let log = fresh_log(1);
    block_on(log.append((0..100).map(|i| fact(0, i.to_string())).collect())).expect("appended");
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    let assigned = member.assigned(1);
    assert_eq!(assigned[0].committed, None);
    assert!(member.told.recv_timeout(Duration::from_millis(300)).is_err(), "silent before the start");
    member.handle.start(0, 40);
    assert_eq!(member.offsets(60), ((40..100).collect(), 100));
    // Again, from an earlier place and from one in the middle.
    for from in [0, 77] {
        member.handle.start(0, from);
        assert_eq!(member.offsets(100 - from as usize), ((from..100).collect(), 100));
    }
    member.handle.leave();
    assert!(matches!(member.next(), Told::Revoked(p, false) if p == [0]));
}

#[test]
fn commits_of_the_dispatcher_are_found_by_the_next_member_and_none_is_reported_as_none() {
    let settings = fresh_settings(2);
    let log = open(&settings);
    assert_eq!(log.committed(Group::Dispatcher, Topic::Decisions).expect("committed"), [None, None]);
    let member = Member::join(&log, Group::Dispatcher, Topic::Decisions);
    member.assigned(2);
    member.handle.commit(&[(1, 17)]).expect("commits");
    let foreign = member.handle.commit(&[(1, 18), (7, 1)]).expect_err("partition 7 is not ours");
    assert!(matches!(&foreign, LogError::Unavailable { reason, .. } if reason.contains("partition 7")), "{foreign}");
    assert_eq!(log.committed(Group::Dispatcher, Topic::Decisions).expect("committed"), [None, Some(17)]);
    assert_eq!(log.committed(Group::Shards, Topic::Decisions).expect("committed"), [None, None]);
    member.handle.leave();
    let next = Member::join(&log, Group::Dispatcher, Topic::Decisions);
    let found: Vec<_> = next.assigned(2).iter().map(|a| a.committed).collect();
    assert_eq!(found, [None, Some(17)]);
    next.handle.leave();
}

#[test]
fn refused_batches_are_offered_again_and_no_record_is_lost_or_doubled_under_stress() {
    let log = fresh_log(3);
    let each = 40_000;
    for _ in 0..each / 1_000 {
        let records = (0..3_000).map(|i| fact(i % 3, vec![b'x'; 100])).collect();
        block_on(log.append(records)).expect("appended");
    }
    // Two batches in three are given back at first.
    let member = Member::choosy(&log, Group::Shards, Topic::Facts, 3);
    for a in member.assigned(3) {
        member.handle.start(a.partition, 0);
    }
    let mut expected: HashMap<Partition, i64> = (0..3).map(|p| (p, 0)).collect();
    until("all is delivered", || {
        // At random moments, also where nothing is waiting.
        (0..3).for_each(|p| member.handle.resume(p));
        while let Ok(told) = member.told.try_recv() {
            let Told::Batch(batch) = told else { continue };
            let next = expected.get_mut(&batch.partition).expect("one of three");
            for r in batch.iter() {
                assert_eq!(r.offset, *next, "partition {}", batch.partition);
                *next += 1;
            }
        }
        expected.values().all(|n| *n == each)
    });
    assert!(member.refused.load(Ordering::SeqCst) > 100, "{:?}", member.refused);
    member.handle.leave();
}

#[test]
fn the_next_offset_reaches_past_transaction_markers() {
    let log = fresh_log(1);
    block_on(log.append_atomically(vec![fact(0, "a")])).expect("appended");
    let reaches = |member: &Member, expected: Vec<i64>| {
        let (offsets, mut next) = member.offsets(expected.len());
        assert_eq!(offsets, expected);
        while next < 2 {
            // The marker came after the batch: a batch without records brings the news.
            let Told::Batch(batch) = member.next() else { continue };
            assert!(batch.is_empty());
            next = batch.next_offset;
        }
        assert_eq!((next, log.watermarks(Topic::Facts, 0).expect("watermarks").1), (2, 2));
    };
    // Again in the same place, where the position from before the seek is not mistaken for news; and by somebody new,
    // for whom nothing but the marker is left.
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(1);
    for _ in 0..3 {
        member.handle.start(0, 0);
        reaches(&member, vec![0]);
    }
    member.handle.leave();
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(1);
    member.handle.start(0, 1);
    reaches(&member, vec![]);
    member.handle.leave();
}

fn handover(properties: &[(&str, &str)]) {
    let mut settings = fresh_settings(6);
    settings.properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let log = open(&settings);
    let appended = |from: i32, to: i32| {
        let records = (from..to).map(|i| fact(i % 6, i.to_string())).collect();
        block_on(log.append(records)).expect("appended");
    };
    appended(0, 1_200);
    let first = Node::start(&log);
    until("the first node has all partitions", || first.owns() == 6);
    until("the first decides", || first.decided.load(Ordering::SeqCst) > 0);
    settings.node_name = "node-2".into();
    let other = open(&settings);
    let second = Node::start(&other);
    appended(1_200, 3_000);
    until("both have their share", || {
        block_on(log.append(vec![fact(0, "meanwhile")])).expect("appended");
        first.owns() == 3 && second.owns() == 3
    });
    appended(3_000, 6_000);
    until("the second decides", || second.decided.load(Ordering::SeqCst) > 0);
    first.handle.leave();
    assert_eq!(first.owns(), 0);
    until("the second has all", || second.owns() == 6);
    appended(6_000, 9_000);
    let highs: Vec<i64> = (0..6).map(|p| log.watermarks(Topic::Facts, p).expect("watermarks").1).collect();
    let all: i64 = highs.iter().sum();
    let decided = || (first.decided.load(Ordering::SeqCst) + second.decided.load(Ordering::SeqCst)) as i64;
    until("all is decided", || decided() >= all);
    second.handle.leave();
    for p in 0..6 {
        let want: Vec<String> = (0..highs[p as usize]).map(|o| format!("{p}:{o}")).collect();
        assert_eq!(values(&*log, Topic::Decisions, p), want, "each fact has one decision, in order");
    }
    let committed = log.committed(Group::Shards, Topic::Facts).expect("committed");
    assert_eq!(committed, highs.into_iter().map(Some).collect::<Vec<_>>());
}

#[test]
fn two_members_hand_partitions_over_and_each_fact_is_decided_once() {
    handover(&[]);
}

#[test]
fn the_new_group_protocol_does_the_same_and_properties_it_refuses_are_only_a_warning() {
    handover(&[("group.protocol", "consumer"), ("session.timeout.ms", "6000")]);
}

#[test]
fn a_group_that_goes_with_another_store_is_refused() {
    let mut settings = fresh_settings(2);
    settings.store = Some("store-a".into());
    let log = open(&settings);
    block_on(log.append(vec![fact(0, "a"), fact(1, "b")])).expect("appended");
    let node = Node::start(&log);
    until("both are decided", || node.decided.load(Ordering::SeqCst) == 2);
    node.handle.leave();
    let member = Member::join(&log, Group::Dispatcher, Topic::Decisions);
    member.assigned(2);
    member.handle.commit(&[(0, 1)]).expect("commits");
    member.handle.leave();
    assert_eq!(open(&settings).committed(Group::Dispatcher, Topic::Decisions).expect("its own"), [Some(1), None]);

    settings.store = Some("store-b".into());
    let other = KafkaLog::connect(settings).expect("settings are in order");
    for (refused, group) in [
        (other.prepare(Duration::from_secs(30)).map(|()| Vec::new()), Group::Shards),
        (other.committed(Group::Shards, Topic::Facts), Group::Shards),
        (other.committed(Group::Dispatcher, Topic::Decisions), Group::Dispatcher),
    ] {
        let Err(LogError::Misconfigured(why)) = refused else { panic!("{group:?}: {refused:?}") };
        assert!(why.contains("store-a") && why.contains("store-b") && why.contains("group_id"), "{why}");
    }
}

#[test]
fn a_member_whose_handle_is_dropped_leaves_its_partitions_to_others() {
    let log = fresh_log(2);
    let first = Member::join(&log, Group::Shards, Topic::Facts);
    first.assigned(2);
    let Member { handle, told, .. } = first;
    assert_eq!(Arc::strong_count(&handle), 1);
    drop(handle);
    until("it is told", || matches!(told.try_recv(), Ok(Told::Revoked(..))));
    let second = Member::join(&log, Group::Shards, Topic::Facts);
    assert_eq!(second.assigned(2).len(), 2);
    second.handle.leave();
}

/// Its thread stands still at the first assignment, as in a process that is frozen.
struct Frozen {
    assigned: std::sync::mpsc::Sender<()>,
    thaw: std::sync::mpsc::Receiver<()>,
}

impl GroupSink for Frozen {
    fn assigned(&mut self, _: Vec<Assigned>) {
        let _ = self.assigned.send(());
        let _ = self.thaw.recv_timeout(PATIENCE);
    }
    fn revoked(&mut self, _: Vec<Partition>, _: bool) {}
    fn deliver(&mut self, _: RecordBatch) -> Result<(), RecordBatch> {
        Ok(())
    }
    fn fault(&mut self, _: LogError) {}
}

/// The consumer group's generation fences the transaction (DESIGN §3, invariant 5): the member does not know yet that the group
/// has given its partitions away, but the broker does.
#[test]
fn a_member_that_the_group_has_expelled_commits_nothing_before_it_learns_of_it() {
    let mut settings = fresh_settings(1);
    let short = [("session.timeout.ms", "6000"), ("max.poll.interval.ms", "6000")];
    settings.properties = short.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let log = open(&settings);
    let (assigned, was_assigned) = std::sync::mpsc::channel();
    let (thaw, thawed) = std::sync::mpsc::channel();
    let old = log.join(Group::Shards, Topic::Facts, Box::new(Frozen { assigned, thaw: thawed })).expect("joins");
    was_assigned.recv_timeout(PATIENCE).expect("assigned");
    let mut olds = log.writer(old.clone()).expect("writer");
    olds.commit(&[record(Topic::Decisions, 0, "before")], &[(0, 1)]).expect("commits while it is a member");

    settings.node_name = "node-2".into();
    let other = open(&settings);
    let new = Member::join(&other, Group::Shards, Topic::Facts);
    assert_eq!(new.assigned(1)[0].committed, Some(1));
    let error = olds.commit(&[record(Topic::Decisions, 0, "late")], &[(0, 2)]).expect_err("it is expelled");
    assert!(matches!(error, CommitError::Fenced(_) | CommitError::Aborted(_)), "{error}");
    let mut news = other.writer(new.handle.clone()).expect("writer");
    news.commit(&[record(Topic::Decisions, 0, "after")], &[(0, 3)]).expect("the new owner writes");
    assert_eq!(values(&*log, Topic::Decisions, 0), ["before", "after"]);
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(3)]);
    thaw.send(()).expect("it waits");
    old.leave();
    new.handle.leave();
}
