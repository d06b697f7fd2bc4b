//! What DESIGN §3 promises while a partition is owned and when it is given up: transactions, aborts, drains, lost assignments,
//! fences.

use std::time::{Duration, Instant};

use stockwarden::actors::settings::EngineSettings;
use stockwarden::events::record::{Offset, Partition, Topic, partition_of};
use stockwarden::ports::event_log::Group;
use stockwarden::ports::queries::Queries as _;
use stockwarden::ports::{EventLog, SnapshotStore, StoreError};

use super::harness::*;
use super::tapped::{Attempt, TappedLog, Verdict, tapped};
use super::{SHOP, Site, sell_down};

const NEVER: Duration = Duration::from_secs(3600);
const ALL: [Partition; 3] = [0, 1, 2];

fn home() -> Partition {
    partition_of(SHOP.as_bytes(), 3)
}

fn committed(log: &dyn EventLog) -> Vec<Option<Offset>> {
    log.committed(Group::Shards, Topic::Facts).expect("committed")
}

fn ends(log: &dyn EventLog) -> Vec<Option<Offset>> {
    ALL.iter().map(|p| Some(log.watermarks(Topic::Facts, *p).expect("watermarks").1)).collect()
}

/// Nothing is committed or saved but when something asks for it.
fn unhurried() -> EngineSettings {
    EngineSettings { commit_interval: NEVER, snapshot_interval: NEVER, ..settings("a") }
}

/// Variants that are in stock; nothing is decided.
fn stocked(log: &dyn EventLog, variants: u64) {
    append(log, rules(1, LOW, log.partitions()));
    append(log, (1..=variants).map(|id| foreign(SHOP, product(id))).collect());
    append(log, (1..=variants).map(|id| foreign(SHOP, level(id, 20, 1))).collect());
}

fn epoch(engine: &Running) -> i64 {
    engine.variant(SHOP, 1, None).expect("known").provenance.epoch
}

/// Whether each transaction carries the offsets of all partitions that it has records of.
fn all_carry_offsets(attempts: &[Attempt]) -> bool {
    attempts
        .iter()
        .all(|a| !a.offsets.is_empty() && a.records.iter().all(|r| a.offsets.iter().any(|(p, _)| Some(*p) == r.partition)))
}

#[test]
fn a_decision_is_committed_at_once_and_offsets_alone_at_the_next_interval() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store, unhurried());
    stocked(&*log, 2);
    engine.catch_up(&*log);
    assert!(log.attempts().is_empty(), "nothing is decided, so nothing is in a hurry");
    append(&*log, vec![foreign(SHOP, level(1, 9, 2))]);
    eventually("the decision is committed", || decisions(&*log).len() == 1);
    // With all that is decided by then.
    assert_eq!(committed(&*log)[home() as usize], ends(&*log)[home() as usize]);
    engine.stop();

    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store, settings("a"));
    stocked(&*log, 2);
    eventually("offsets alone are committed", || committed(&*log) == ends(&*log));
    engine.stop();
    assert!(decisions(&*log).is_empty() && all_carry_offsets(&log.attempts()));
}

/// Of issue 4, the case that matters most: the actors are ahead of the log after an abort. No snapshot is.
#[test]
fn what_an_abort_held_is_sent_again_byte_for_byte_and_no_snapshot_runs_ahead_of_it() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    log.say(Verdict::Abort);
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    sell_down(&*log, 5);
    engine.catch_up(&*log);
    assert_eq!(engine.variant(SHOP, 1, None).expect("known").open_proposals.len(), 1);
    // Snapshots are due every 50 ms; by the fifth try 1.5 s have passed.
    eventually("it is tried again and again", || log.attempts().len() >= 5);
    assert!(store.saves().is_empty() && decisions(&*log).is_empty(), "{:?}", store.saves());
    log.say(Verdict::Commit);
    eventually("all is committed", || committed(&*log) == ends(&*log));
    engine.stop();
    assert_eq!(decisions(&*log).len(), 5);
    let attempts = log.attempts();
    assert!(all_carry_offsets(&attempts));
    let first = attempts.iter().position(|a| a.landed).expect("one has landed");
    for pair in attempts[..=first].windows(2) {
        assert_eq!(pair[1].records[..pair[0].records.len()], pair[0].records, "the same bytes, in their order");
    }
    let saves = store.saves();
    assert!(!saves.is_empty() && saves.iter().all(|s| Some(s.checkpoint.facts) <= s.decided), "{saves:?}");
    let engine = Running::start(log.clone(), store, settings("a"));
    engine.wait_live();
    assert_eq!((engine.stats.replayed.get(), engine.variant(SHOP, 5, None).expect("known").open_proposals.len()), (0, 1));
    engine.stop();
    assert_eq!(decisions(&*log).len(), 5);
}

/// PITFALLS 21: sent again before it is known, a decision could stand in the log twice; not sent again, not at all.
#[test]
fn a_transaction_of_unknown_outcome_is_looked_up_before_its_bytes_are_sent_again() {
    for verdict in [Verdict::LoseTheAnswer, Verdict::LoseTheCall] {
        let site = Site::new();
        let (log, store) = tapped(&site);
        log.say(verdict);
        let engine = Running::start(log.clone(), store.clone(), settings("a"));
        sell_down(&*log, 5);
        engine.catch_up(&*log);
        if verdict == Verdict::LoseTheCall {
            eventually("it is tried again", || log.attempts().len() >= 4);
            assert!(decisions(&*log).is_empty());
            log.say(Verdict::Commit);
        }
        eventually("all is committed", || committed(&*log) == ends(&*log));
        engine.stop();
        assert_eq!(decisions(&*log).len(), 5, "{verdict:?}");
        let engine = Running::start(log.clone(), store, settings("a"));
        engine.wait_live();
        assert_eq!(engine.stats.replayed.get(), 0, "{verdict:?}: the drain was told that it is in the log");
        engine.stop();
    }
}

#[test]
fn a_partition_is_drained_committed_and_saved_in_one_go_before_it_is_given_up() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store.clone(), unhurried());
    stocked(&*log, 40);
    engine.catch_up(&*log);
    let before = epoch(&engine);
    assert!(log.attempts().is_empty() && store.saves().is_empty());
    log.revoke(&ALL, false);
    // When the group hears that it is given up.
    let (saves, given_up) = (store.saves(), ends(&*log));
    assert_eq!(committed(&*log), given_up);
    let mut saved: Vec<_> = saves.iter().map(|s| (s.partition, Some(s.checkpoint.facts), s.rows)).collect();
    saved.sort_unstable();
    // The shard; where the shop is, that as well, and all its variants.
    let rows = |p| if p == home() { 42 } else { 1 };
    let expected: Vec<_> = ALL.iter().map(|p| (*p, given_up[*p as usize], rows(*p))).collect();
    assert_eq!(saved, expected, "one batch a partition, with the checkpoint");
    // What comes meanwhile is the next owner's.
    append(&*log, vec![foreign(SHOP, level(1, 9, 2))]);
    log.assign(&ALL);
    engine.wait_live();
    assert_eq!((engine.stats.replayed.get(), epoch(&engine)), (0, before + 1), "a new epoch for each ownership");
    eventually("it is decided", || decisions(&*log).len() == 1);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 1);
}

#[test]
fn a_drain_that_does_not_end_is_given_up_at_its_deadline() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let in_a_hurry = EngineSettings { drain_deadline: Duration::from_millis(100), ..unhurried() };
    let engine = Running::start(log.clone(), store.clone(), in_a_hurry);
    stocked(&*log, 3);
    engine.catch_up(&*log);
    store.hold_saves(true);
    log.revoke(&ALL, false);
    assert!(store.saves().is_empty() && store.held() > 0);
    assert_eq!(committed(&*log), ends(&*log));
    // Its next owner folds what is missing from the log.
    log.assign(&ALL);
    engine.wait_live();
    assert!(engine.stats.replayed.get() >= 9);
    store.hold_saves(false);
    append(&*log, vec![foreign(SHOP, level(1, 9, 2))]);
    engine.catch_up(&*log);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 1);
}

/// Waits until a transaction of another partition has landed: transactions come one after the other.
fn a_later_transaction_has_landed(log: &TappedLog, engine: &Running, elsewhere: Partition) {
    log.assign(&[elsewhere]);
    engine.wait_live();
    append(log, rules(2, &LOW.replace("threshold = 10", "threshold = 11"), log.partitions()));
    eventually("the other partition goes on", || committed(log)[elsewhere as usize] == ends(log)[elsewhere as usize]);
}

#[test]
fn of_a_partition_that_is_lost_nothing_more_is_written() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store.clone(), unhurried());
    stocked(&*log, 3);
    engine.catch_up(&*log);
    log.revoke(&ALL, true);
    assert!(log.attempts().is_empty() && store.saves().is_empty(), "a drain would have written both");
    assert_eq!(committed(&*log), [None; 3]);
    log.assign(&ALL);
    engine.wait_live();
    append(&*log, vec![foreign(SHOP, level(1, 9, 2))]);
    eventually("it is decided", || decisions(&*log).len() == 1);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 1);
}

/// The other half of the case that matters most: what an abort left is not sent any more once the partition is somebody else's.
#[test]
fn what_an_abort_held_of_a_lost_partition_is_discarded_and_decided_anew_by_its_next_owner() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    log.say(Verdict::Abort);
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    sell_down(&*log, 5);
    engine.catch_up(&*log);
    eventually("it is tried", || log.attempts().iter().any(|a| !a.records.is_empty()));
    log.revoke(&ALL, true);
    log.say(Verdict::Commit);
    a_later_transaction_has_landed(&log, &engine, (home() + 1) % 3);
    assert_eq!((committed(&*log)[home() as usize], decisions(&*log).len()), (None, 0));
    log.assign(&[home(), (home() + 2) % 3]);
    engine.wait_live();
    eventually("it is decided", || decisions(&*log).len() == 5);
    engine.catch_up(&*log);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 5);
    assert!(store.saves().iter().all(|s| Some(s.checkpoint.facts) <= s.decided));
}

/// Whoever takes a partition up again on the same node reads the committed offset only when no transaction of its former life can
/// move it any more.
#[test]
fn a_partition_that_comes_back_waits_for_the_transaction_that_its_former_life_has_under_way() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store, settings("a"));
    stocked(&*log, 5);
    eventually("all is committed", || committed(&*log) == ends(&*log));
    log.say(Verdict::Hold);
    append(&*log, (1..=5).map(|id| foreign(SHOP, level(id, 9, 2))).collect());
    eventually("its transaction is under way", || log.is_holding());
    log.revoke(&ALL, true);
    log.assign(&ALL);
    let is_live = || engine.queries.readiness().iter().all(|(_, problem)| problem.is_none());
    assert!(!soon(is_live), "it has read an offset that may still move");
    log.say(Verdict::Commit);
    engine.wait_live();
    engine.catch_up(&*log);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 5);
}

/// Whether it comes to hold within a time in which it would long do so if nothing were waited for.
fn soon(holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end && !holds() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    holds()
}

/// Invariant 5: the epoch fences snapshots; a node that still owns the partition by the group takes a newer one.
#[test]
fn a_node_that_the_store_fences_discards_its_state_and_goes_on_under_a_newer_epoch() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    sell_down(&*log, 3);
    engine.catch_up(&*log);
    let other = block(store.acquire_epoch(home(), "other")).expect("an epoch");
    append(&*log, (1..=3).map(|id| foreign(SHOP, level(id, 70, 10))).collect());
    eventually("it has a newer epoch", || epoch(&engine) == other + 1);
    append(&*log, vec![foreign(SHOP, level(1, 9, 11))]);
    engine.catch_up(&*log);
    assert_eq!(engine.variant(SHOP, 1, None).expect("known").open_proposals.len(), 1);
    engine.stop();
    assert_eq!(decisions(&*log).len(), 4);
    let is_fence =
        |e: &StoreError| matches!(e, StoreError::Fenced { ours, current, .. } if (*ours, *current) == (other - 1, other));
    assert!(store.saves().iter().any(|s| s.result.as_ref().is_err_and(is_fence)));
    assert!(store.saves().iter().filter(|s| s.partition == home() && s.epoch > other).all(|s| s.result.is_ok()));
}

/// The node itself has taken the newer epoch: there is nothing to discard.
#[test]
fn a_late_save_of_a_former_ownership_is_refused_and_leaves_the_present_one_alone() {
    let site = Site::new();
    let (log, store) = tapped(&site);
    let engine = Running::start(log.clone(), store.clone(), settings("a"));
    engine.wait_live();
    store.hold_saves(true);
    stocked(&*log, 3);
    eventually("a save of each partition is under way", || store.held() == 3);
    log.revoke(&ALL, true);
    log.assign(&ALL);
    engine.wait_live();
    let now = epoch(&engine);
    store.hold_saves(false);
    for second in 2..6 {
        let so_far = store.saves().len();
        append(&*log, vec![foreign(SHOP, level(1, 30, second))]);
        eventually("it is saved", || store.saves()[so_far..].iter().any(|s| s.partition == home() && s.result.is_ok()));
    }
    assert_eq!(epoch(&engine), now);
    engine.stop();
    let of_home: Vec<_> = store.saves().into_iter().filter(|s| s.partition == home()).collect();
    assert!(
        of_home.iter().any(|s| matches!(s.result, Err(StoreError::Fenced { ours, current, .. }) if ours < now && current == now))
    );
    assert!(of_home.iter().all(|s| s.result.is_ok() == (s.epoch == now)), "{of_home:?}");
}
