//! Consumer groups and transactions.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use stockwarden::events::record::{Partition, RecordBatch, Topic};
use stockwarden::ports::event_log::{Assigned, CommitError, Group, GroupSink, LogError, TransactionalWriter};

use super::LogUnderTest;
use super::kit::{MAX_RECORD, PATIENCE, Watch, append, fact, facts, read_all, record, texts, values};

type Factory = fn(i32) -> Box<dyn LogUnderTest>;

pub fn nothing_is_delivered_before_start(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    append(&*log, facts(0, 0..10));
    append(&*log, facts(1, 0..10));
    let (watch, member) = Watch::greedy(&*log);
    assert!(watch.see(|s| s.assigned.iter().all(|a| a.committed.is_none())));
    watch.start(&*member, 1, 0);
    watch.until_taken(1, 10);
    assert!(!watch.soon(|s| !s.uncalled.is_empty()), "partition 0 was not started");
    watch.start(&*member, 0, 0);
    watch.until_taken(0, 10);
    member.leave();
}

pub fn delivery_begins_where_start_says_and_goes_on_live(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    append(&*log, facts(0, 0..6000));
    let (watch, member) = Watch::greedy(&*log);
    watch.start(&*member, 0, 100);
    watch.start(&*member, 1, 0);
    watch.until_taken(0, 5900);
    for round in 0..20 {
        append(&*log, facts(0, 6000 + round..6001 + round));
        append(&*log, facts(1, round..round + 1));
        watch.until_taken(1, round as usize + 1);
    }
    watch.until_taken(0, 5920);
    assert_eq!(watch.taken(0), texts(100..6020));
    assert_eq!(watch.taken(1), texts(0..20));
    member.leave();
}

pub fn a_transaction_writes_records_and_offsets_together(fresh: Factory) {
    let mut under = fresh(2);
    let log = under.log();
    append(&*log, facts(1, 0..10));
    let (_, member) = Watch::greedy(&*log);
    let mut writer = log.writer(member.clone()).expect("writer");
    for round in 0..5 {
        let decisions = vec![record(Topic::Decisions, 1, format!("d{round}")), record(Topic::Decisions, 0, format!("e{round}"))];
        let positions = writer.commit(&decisions, &[(1, i64::from(round) + 1)]).expect("commits");
        assert_eq!(read_all(&*log, Topic::Decisions, 1).last(), Some(&(positions[0].offset, format!("d{round}"))));
        assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [None, Some(i64::from(round) + 1)]);
    }
    writer.commit(&[], &[(0, 0)]).expect("offsets alone");
    member.leave();
    drop((writer, member, log));
    under.reopen();
    let log = under.log();
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(0), Some(5)]);
    assert_eq!(values(&*log, Topic::Decisions, 0), ["e0", "e1", "e2", "e3", "e4"]);
}

pub fn a_refused_transaction_writes_nothing(fresh: Factory) {
    let under = fresh(1);
    let log = under.log();
    let (_, member) = Watch::greedy(&*log);
    let mut writer = log.writer(member.clone()).expect("writer");
    let too_big = vec![record(Topic::Decisions, 0, "good"), record(Topic::Decisions, 0, vec![b'x'; MAX_RECORD + 1])];
    let refused = writer.commit(&too_big, &[(0, 3)]);
    assert!(matches!(refused, Err(CommitError::Aborted(_))), "{refused:?}");
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [None]);
    assert!(values(&*log, Topic::Decisions, 0).is_empty());
    writer.commit(&too_big[..1], &[(0, 3)]).expect("the writer goes on");
    assert_eq!(values(&*log, Topic::Decisions, 0), ["good"]);
    member.leave();
}

pub fn committed_offsets_are_there_after_a_restart_and_per_group(fresh: Factory) {
    let mut under = fresh(2);
    append(&*under.log(), facts(0, 0..20));
    append(&*under.log(), vec![record(Topic::Decisions, 1, "d")]);
    for round in 1..4 {
        let log = under.log();
        let (watch, member) = Watch::greedy(&*log);
        let expected = (round > 1).then_some(round - 1);
        watch.see(|s| assert_eq!(s.assigned.iter().find(|a| a.partition == 0).expect("assigned").committed, expected));
        member.commit(&[(0, round)]).expect("commits");
        let (_, dispatcher) = Watch::join(&*log, Group::Dispatcher, Topic::Decisions, Box::new(|_| false));
        dispatcher.commit(&[(1, 10 * round)]).expect("commits");
        member.leave();
        dispatcher.leave();
        drop((member, dispatcher, log));
        under.reopen();
        assert_eq!(under.log().committed(Group::Shards, Topic::Facts).expect("committed"), [Some(round), None]);
        assert_eq!(under.log().committed(Group::Dispatcher, Topic::Decisions).expect("committed"), [None, Some(10 * round)]);
    }
}

pub fn a_refused_batch_is_offered_again_and_holds_up_no_other_partition(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    append(&*log, facts(0, 0..100));
    // Refuses the first two batches of partition 0.
    let mut left = 2;
    let refuse = move |b: &RecordBatch| {
        let refused = b.partition == 0 && left > 0;
        left -= i32::from(refused);
        refused
    };
    let (watch, member) = Watch::join(&*log, Group::Shards, Topic::Facts, Box::new(refuse));
    watch.start(&*member, 0, 0);
    watch.start(&*member, 1, 0);
    watch.until("partition 0 refuses", |s| s.refused.len() == 1);
    append(&*log, facts(0, 100..5000));
    append(&*log, facts(1, 0..5000));
    watch.until_taken(1, 5000);
    assert!(!watch.soon(|s| !s.uncalled.is_empty()), "nothing of a paused partition is offered");
    watch.resume(&*member, 0);
    watch.until("partition 0 refuses again", |s| s.refused.len() == 2);
    watch.see(|s| assert_eq!(s.refused[0], s.refused[1], "the very batch is offered again"));
    watch.resume(&*member, 0);
    watch.until_taken(0, 5000);
    assert_eq!(watch.taken(0), texts(0..5000));
    assert_eq!(watch.taken(1), texts(0..5000));
    watch.see(|s| assert!(s.uncalled.is_empty(), "{:?}", s.uncalled));
    member.leave();
}

pub fn random_refusals_lose_double_and_reorder_nothing(fresh: Factory) {
    const PARTITIONS: i32 = 4;
    const EACH: u32 = 8000;
    for seed in 0..4 {
        let under = fresh(PARTITIONS);
        let log = under.log();
        let mut random = SmallRng::seed_from_u64(seed);
        let mut refusing = SmallRng::seed_from_u64(seed + 100);
        let refuse = move |_: &RecordBatch| refusing.random_bool(0.4);
        let (watch, member) = Watch::join(&*log, Group::Shards, Topic::Facts, Box::new(refuse));
        (0..PARTITIONS).for_each(|p| watch.start(&*member, p, 0));
        let mut written: BTreeMap<Partition, u32> = (0..PARTITIONS).map(|p| (p, 0)).collect();
        let mut resumed = 0;
        let done = |written: &BTreeMap<Partition, u32>| written.values().all(|w| *w == EACH);
        while !done(&written)
            || watch.see(|s| s.taken.values().map(Vec::len).sum::<usize>()) < (PARTITIONS as u32 * EACH) as usize
        {
            let p = random.random_range(0..PARTITIONS);
            let from = written[&p];
            // The first append of each is more than a batch, so that batches end, and are refused, inside of it.
            let some = if from == 0 { 5000 } else { random.random_range(1..400) };
            let to = EACH.min(from + some);
            append(&*log, facts(p, from..to));
            written.insert(p, to);
            // Some of what was refused waits longer, so that partitions fall far behind each other.
            if done(&written) {
                let total = (PARTITIONS as u32 * EACH) as usize;
                watch.until("it is all taken, or something refused", |s| {
                    s.refused.len() > resumed || s.taken.values().map(Vec::len).sum::<usize>() == total
                });
            }
            while watch.see(|s| s.refused.len()) > resumed && (done(&written) || random.random_bool(0.3)) {
                let partition = watch.see(|s| s.refused[resumed].0);
                resumed += 1;
                watch.resume(&*member, partition);
            }
        }
        for p in 0..PARTITIONS {
            assert_eq!(watch.taken(p), texts(0..EACH), "seed {seed}, partition {p}");
        }
        watch.see(|s| {
            assert!(s.uncalled.is_empty() && s.faults.is_empty(), "seed {seed}: {:?} {:?}", s.uncalled, s.faults);
            assert!(s.refused.len() > 10, "seed {seed} refused {} times only", s.refused.len());
        });
        member.leave();
    }
}

pub fn leaving_revokes_first_and_fences_the_writer(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    let (watch, member) = Watch::greedy(&*log);
    let mut writer = log.writer(member.clone()).expect("writer");
    writer.commit(&[fact(0, "mine")], &[(0, 1)]).expect("commits");
    member.leave();
    watch.see(|s| {
        let (mut partitions, lost) = s.revoked.clone().expect("revoked before leave returns");
        partitions.sort_unstable();
        assert_eq!((partitions, lost), (vec![0, 1], false));
    });
    let fenced = writer.commit(&[fact(0, "too late")], &[(0, 2)]);
    assert!(matches!(fenced, Err(CommitError::Fenced(_))), "{fenced:?}");
    assert!(member.commit(&[(0, 2)]).is_err());
    assert_eq!(values(&*log, Topic::Facts, 0), ["mine"]);
    drop((writer, member));
    let (watch, member) = Watch::greedy(&*log);
    watch.see(|s| assert_eq!(s.assigned.iter().find(|a| a.partition == 0).expect("assigned").committed, Some(1)));
    watch.start(&*member, 0, 0);
    watch.until_taken(0, 1);
    member.leave();
    log.probe(PATIENCE).expect("the log goes on");
}

/// Commits once more when its partition is revoked.
#[derive(Default)]
struct LastCommit {
    writer: Arc<Mutex<Option<Box<dyn TransactionalWriter>>>>,
    assigned: Arc<(Mutex<bool>, Condvar)>,
}

impl GroupSink for LastCommit {
    fn assigned(&mut self, _: Vec<Assigned>) {
        *self.assigned.0.lock().expect("assigned") = true;
        self.assigned.1.notify_all();
    }
    fn revoked(&mut self, _: Vec<Partition>, lost: bool) {
        let mut writer = self.writer.lock().expect("writer").take().expect("a writer");
        assert!(!lost);
        writer.commit(&[record(Topic::Decisions, 0, "last")], &[(0, 7)]).expect("still a member");
    }
    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        Err(batch)
    }
    fn fault(&mut self, _: LogError) {}
}

pub fn what_is_drained_while_revoked_can_still_be_committed(fresh: Factory) {
    let under = fresh(1);
    let log = under.log();
    append(&*log, facts(0, 0..10));
    let sink = LastCommit::default();
    let (writer, assigned) = (sink.writer.clone(), sink.assigned.clone());
    let member = log.join(Group::Shards, Topic::Facts, Box::new(sink)).expect("joins");
    *writer.lock().expect("writer") = Some(log.writer(member.clone()).expect("writer"));
    let (there, _) = assigned.1.wait_timeout_while(assigned.0.lock().expect("lock"), PATIENCE, |a| !*a).expect("lock");
    assert!(*there, "the partition is assigned");
    drop(there);
    member.start(0, 0);
    member.leave();
    assert!(writer.lock().expect("writer").is_none(), "revoked was called");
    assert_eq!(log.committed(Group::Shards, Topic::Facts).expect("committed"), [Some(7)]);
    assert_eq!(values(&*log, Topic::Decisions, 0), ["last"]);
}
