//! Records and offsets together, or neither.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use stockwarden::events::record::Topic;
use stockwarden::ports::event_log::{CommitError, EventLog, Group};

use super::logs::foreign;
use super::node::Member;
use super::{PATIENCE, block_on, fact, record, values};
use crate::support::kafka::{broker, fresh_log, fresh_settings, open};

#[test]
fn an_open_transaction_is_seen_by_the_watermark_and_by_no_reader() {
    let settings = fresh_settings(1);
    let log = open(&settings);
    let producer = foreign(&settings.group_id);
    producer.begin_transaction().expect("begin");
    let open = BaseRecord::<[u8], str>::to(&settings.topics.decisions).partition(0).payload("open");
    producer.send(open).map_err(|(e, _)| e).expect("sent");
    producer.flush(PATIENCE).expect("flush");
    assert_eq!(log.watermarks(Topic::Decisions, 0).expect("watermarks"), (0, 1));
    let mut reader = log.reader(Topic::Decisions, 0, 0).expect("reader");
    let seen = reader.next(1, std::time::Duration::from_millis(300)).expect("read").expect("not at its end");
    assert!(seen.is_empty());
    producer.commit_transaction(PATIENCE).expect("commit");
    let seen = reader.next(1, PATIENCE).expect("read").expect("a batch");
    assert_eq!(seen.len(), 1);
}

#[test]
fn an_atomic_append_gives_positions_over_several_partitions_and_topics() {
    let log = fresh_log(3);
    let records: Vec<_> = (0..3).map(|p| fact(p, "rules")).chain([record(Topic::Decisions, 1, "d")]).collect();
    let first = block_on(log.append_atomically(records.clone())).expect("appended");
    let second = block_on(log.append_atomically(records)).expect("appended");
    assert_eq!(first.iter().map(|p| (p.partition, p.offset)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0), (1, 0)]);
    // A marker stands between.
    assert_eq!(second.iter().map(|p| (p.partition, p.offset)).collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 2), (1, 2)]);
    for p in 0..3 {
        assert_eq!(values(&*log, Topic::Facts, p), ["rules", "rules"]);
    }
}

#[test]
fn records_and_offsets_come_together_and_a_commit_for_a_foreign_partition_writes_neither() {
    let log = fresh_log(2);
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(2);
    let mut writer = log.writer(member.handle.clone()).expect("writer");
    let decisions = [record(Topic::Decisions, 0, "a"), record(Topic::Decisions, 1, "b")];
    let positions = writer.commit(&decisions, &[(0, 5), (1, 7)]).expect("commits");
    assert_eq!(positions.iter().map(|p| (p.partition, p.offset)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(5), Some(7)]);

    let error = writer.commit(&decisions, &[(0, 6), (2, 9)]).expect_err("partition 2 is nobody's");
    assert!(matches!(&error, CommitError::Fenced(why) if why.contains("partition 2")), "{error}");
    writer.commit(&[], &[(1, 8)]).expect("offsets alone");
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(5), Some(8)]);
    assert_eq!(values(&*log, Topic::Decisions, 0), ["a"]);

    // Revoked, so that nothing may be written.
    member.handle.leave();
    let error = writer.commit(&decisions, &[(0, 6)]).expect_err("no longer a member");
    assert!(matches!(error, CommitError::Fenced(_)), "{error}");
    assert_eq!(values(&*log, Topic::Decisions, 0), ["a"]);
}

#[test]
fn an_aborted_transaction_leaves_neither_records_nor_offsets_and_the_next_goes_through() {
    let settings = fresh_settings(1);
    let log = open(&settings);
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(1);
    let mut writer = log.writer(member.handle.clone()).expect("writer");
    writer.commit(&[record(Topic::Decisions, 0, "kept")], &[(0, 3)]).expect("commits");
    // A partition that the topic does not have fails its delivery after the others were written.
    let bad = [record(Topic::Decisions, 0, "never"), record(Topic::Decisions, 99, "nowhere")];
    let error = writer.commit(&bad, &[(0, 4)]).expect_err("there is no partition 99");
    assert!(matches!(error, CommitError::Aborted(_)), "{error}");
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(3)]);
    assert_eq!(values(&*log, Topic::Decisions, 0), ["kept"]);
    writer.commit(&[record(Topic::Decisions, 0, "after")], &[(0, 4)]).expect("the writer goes on");
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(4)]);
    assert_eq!(values(&*log, Topic::Decisions, 0), ["kept", "after"]);
    member.handle.leave();
}

#[test]
fn offsets_of_an_open_transaction_are_not_stable_and_are_waited_for() {
    let settings = fresh_settings(1);
    let log = open(&settings);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker()).set("group.id", &settings.group_id);
    let consumer: BaseConsumer = config.create().expect("consumer");
    let producer = foreign(&format!("{}-x", settings.group_id));
    producer.begin_transaction().expect("begin");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&settings.topics.facts, 0, Offset::Offset(11)).expect("list");
    let metadata = consumer.group_metadata().expect("metadata");
    producer.send_offsets_to_transaction(&list, &metadata, PATIENCE).expect("sent");
    let asked = std::thread::spawn(move || log.committed(Group::Shards, Topic::Facts));
    assert!(asked.thread().name().is_none() && !finishes_early(&asked), "an answer while the transaction was open");
    producer.commit_transaction(PATIENCE).expect("commit");
    assert_eq!(asked.join().expect("no panic").expect("committed"), [Some(11)]);
}

/// Whether the thread ends within a time in which a stable answer would long be there.
fn finishes_early<T>(thread: &std::thread::JoinHandle<T>) -> bool {
    let end = std::time::Instant::now() + std::time::Duration::from_millis(700);
    while std::time::Instant::now() < end {
        if thread.is_finished() {
            return true;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    false
}

#[test]
fn a_second_process_of_the_same_node_name_fences_the_first_for_good() {
    let settings = fresh_settings(2);
    let (old, new) = (open(&settings), open(&settings));
    let zombie = Member::join(&old, Group::Shards, Topic::Facts);
    zombie.assigned(2);
    let mut zombies = old.writer(zombie.handle.clone()).expect("writer");
    zombies.commit(&[record(Topic::Decisions, 0, "before")], &[(0, 1)]).expect("commits");

    let successor = Member::join(&new, Group::Shards, Topic::Facts);
    let mut successors = new.writer(successor.handle.clone()).expect("writer");
    for _ in 0..2 {
        let error = zombies.commit(&[record(Topic::Decisions, 0, "zombie")], &[]).expect_err("fenced");
        assert!(matches!(error, CommitError::Fenced(_)), "{error}");
    }
    successors.commit(&[record(Topic::Decisions, 0, "after")], &[]).expect("the successor writes");
    assert_eq!(values(&*new, Topic::Decisions, 0), ["before", "after"]);
    zombie.handle.leave();
    successor.handle.leave();
}

/// The transactional id is made of group and node name (DESIGN §3): neither alone fences anybody.
#[test]
fn nodes_of_another_name_and_groups_of_the_same_name_do_not_fence_each_other() {
    let settings = fresh_settings(1);
    let others = [("another node", fresh_settings(1)), ("another group", fresh_settings(1))].map(|(what, mut other)| {
        match what {
            "another node" => (other.group_id, other.node_name) = (settings.group_id.clone(), "node-2".into()),
            _ => assert_eq!(other.node_name, settings.node_name),
        }
        other.topics = settings.topics.clone();
        other
    });
    let log = open(&settings);
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(1);
    let mut writer = log.writer(member.handle.clone()).expect("writer");
    writer.commit(&[record(Topic::Decisions, 0, "before")], &[(0, 1)]).expect("commits");
    for other in others {
        let other = open(&other);
        let joined = Member::join(&other, Group::Shards, Topic::Facts);
        let mut theirs = other.writer(joined.handle.clone()).expect("writer");
        theirs.commit(&[record(Topic::Decisions, 0, "theirs")], &[]).expect("the other writes");
        writer.commit(&[record(Topic::Decisions, 0, "mine")], &[]).expect("and so does the first");
        joined.handle.leave();
    }
    member.handle.leave();
}
