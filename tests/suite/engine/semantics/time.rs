//! Domain time and the ticks that carry it on.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use stockwarden::events::record::{Offset, Topic};

use super::super::snapshots;
use super::*;

fn tick(partition: i32) -> NewRecord {
    NewRecord {
        topic: Topic::Facts,
        partition: Some(partition),
        key: Some(b"~clock".to_vec()),
        headers: vec![("fact", b"clock/tick".to_vec()), ("version", b"1".to_vec())],
        value: Some(b"{}".to_vec()),
    }
}

/// The second crossing is older than the end of the cool-down, but the partition has seen a later time.
#[test]
fn domain_time_is_the_running_maximum_so_that_a_late_fact_does_not_turn_it_back() {
    let bench = Bench::at("2026-11-01T01:00:00Z", &LOW.replace("\"0s\"", "\"1h\""));
    bench.take(vec![product_with(1, "2026-11-01T00:00:00Z", &[(1, None), (2, None)])]);
    let own = |available, at: &str| level_at(1, 1, available, &format!("2026-11-01T{at}Z"));
    bench.take(vec![own(20, "01:00:00"), own(9, "01:01:00"), own(30, "01:02:00")]);
    set_clock(&bench.site, "2026-11-01T02:30:00Z");
    bench.take(vec![level_at(2, 1, 50, "2026-11-01T02:30:00Z")]);
    let crossed = bench.take(vec![own(8, "01:03:00")]);
    let decided = bench.decided(2);
    assert_eq!(decided.iter().map(|d| d.available).collect::<Vec<_>>(), [9, 8]);
    assert_eq!(decided[1].caused_by.offset, crossed.offset);
    assert_eq!(
        stockwarden::events::time::format(decided[1].decided_at),
        "2026-11-01T01:03:00.000Z",
        "decided at the time of its fact"
    );
    bench.engine.stop();
}

#[test]
fn the_owner_of_a_partition_writes_ticks_into_it_under_the_key_of_the_clock() {
    let site = Site::new();
    let log = site.log();
    let mut ticking = settings("a");
    ticking.tick_interval = Duration::from_millis(10);
    ticking.clock = site.clock.reader();
    let engine = Running::start(log.clone(), site.store(), ticking);
    let ticked = || -> BTreeSet<i32> { read_all(&*log, Topic::Facts).iter().map(|b| b.partition).collect() };
    eventually("each partition has its tick", || ticked().len() == log.partitions() as usize);
    engine.stop();
    for batch in read_all(&*log, Topic::Facts) {
        for r in batch.iter() {
            assert_eq!((r.key, r.headers.text("fact")), (Some(&b"~clock"[..]), Some("clock/tick")));
            assert_eq!(
                r.headers.text("event_time"),
                Some("2026-11-01T02:26:40.000Z"),
                "the wall's time, for whoever reads the log"
            );
        }
    }
}

/// Who is woken, the fault probe sees.
#[test]
fn a_tick_wakes_those_whose_deadline_is_due_and_changes_nothing_else() {
    let site = Site::new();
    set_clock(&site, "2026-11-01T01:00:10Z");
    let log = site.log();
    let woken: Arc<Mutex<Vec<(u64, Offset)>>> = Arc::default();
    let seen = woken.clone();
    let settings = with_probe(settings("a"), move |v, offset| seen.lock().expect("lock").push((v.0, offset)));
    let engine = Running::start(log.clone(), site.store(), settings);
    append(&*log, rules(1, &format!("{LOW}expire_after = \"1h\"\n"), log.partitions()));
    append(&*log, (1..=3).map(|id| foreign(SHOP, product(id))).collect());
    append(&*log, (1..=3).map(|id| foreign(SHOP, level(id, 20, 1))).collect());
    // Two cross; the third has no deadline.
    append(&*log, (1..=2).map(|id| foreign(SHOP, level(id, 9, 2))).collect());
    engine.catch_up(&*log);
    let partition = decisions_at(&*log);
    let at_tick = |time: &str| -> Vec<u64> {
        set_clock(&site, time);
        let at = append(&*log, vec![tick(partition)])[0];
        engine.catch_up(&*log);
        let mut who: Vec<_> = woken.lock().expect("lock").iter().filter(|(_, o)| *o == at.offset).map(|(v, _)| *v).collect();
        who.sort_unstable();
        who
    };
    assert_eq!(at_tick("2026-11-01T01:59:00Z"), [0; 0]);
    assert_eq!(at_tick("2026-11-01T02:00:30Z"), [1, 2]);
    assert!((1..=2).all(|id| engine.variant(SHOP, id, None).expect("known").open_proposals.is_empty()));
    engine.stop();

    // Of variants and shops, nothing is another after ticks at which nothing is due.
    let store = site.store();
    let states = || {
        let all = snapshots(&*store, log.partitions());
        all.into_iter().filter(|(_, _, entity, ..)| entity != "Shard").collect::<Vec<_>>()
    };
    let before = states();
    assert_eq!(before.len(), 4);
    append(&*log, (0..log.partitions()).flat_map(|p| [tick(p), tick(p)]).collect());
    let engine = Running::start(log.clone(), store.clone(), super::super::harness::settings("a"));
    engine.wait_live();
    engine.catch_up(&*log);
    engine.stop();
    assert_eq!(states(), before);
}

/// The partition of the shop's decisions.
fn decisions_at(log: &dyn EventLog) -> i32 {
    eventually("both are decided", || decisions(log).len() == 2);
    decisions(log)[0].caused_by.partition
}
