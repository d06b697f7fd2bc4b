//! One sender: classes of outcomes, waits, breaker, limits, order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stockwarden::actors::effects::BreakerState;
use stockwarden::handlers::{Blame, Common, Verdict};
use stockwarden::ports::ledger::{EffectId, EffectState, Planned};

use super::harness::{World, decision, planned, route, toy_row, until};
use super::tap::{Step, Tap};
use super::toy::{Move, Toy, ToyTarget, busy, done, lost};

fn say(verdict: Verdict) -> Move {
    Move::Say(verdict)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_done_effect_is_stored_with_its_reference_and_becomes_a_fact_of_the_shop() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[toy_row(1)]).await;
    let sender = node.toy(&ToyTarget::with([]), false);
    let row = node.until(1, EffectState::Done).await;
    assert_eq!((row.reference.as_deref(), row.response.as_deref(), row.possible_duplicate), (Some("T-1"), Some("ok"), false));
    let (state, fact) = world.log.outcomes().pop().expect("a fact");
    let header = |name: &str| {
        let found = fact.headers.iter().find(|(n, _)| *n == name);
        String::from_utf8(found.expect(name).1.clone()).expect("text")
    };
    assert_eq!((state.as_str(), fact.key.as_deref()), ("done", Some(&b"a.example"[..])));
    assert_eq!(
        (header("fact").as_str(), header("source").as_str(), header("version").as_str()),
        ("effect/settled", "dispatcher", "1")
    );
    assert_eq!(header("dedupe_id"), format!("{}/0/done", row.planned.id.decision_id));
    assert_eq!(header("event_time"), "2026-11-20T10:00:00.000Z");
    until("it counts", async || (sender.state().done == 1).then_some(())).await;
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_that_the_dispatcher_writes_is_read_back_by_the_fold() {
    use stockwarden::events::{codec, fact::Fact, record::RecordBatch};
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[toy_row(1)]).await;
    node.toy(&ToyTarget::with([]), false);
    node.until(1, EffectState::Done).await;
    let (_, fact) = world.log.outcomes().pop().expect("a fact");
    let mut batch = RecordBatch::new(0, 0);
    batch.push(0, 0, fact.key.as_deref(), fact.value.as_deref(), fact.headers.iter().map(|(n, v)| (*n, v.as_slice())));
    let read = codec::read(&batch.get(0).expect("record")).expect("readable");
    assert!(matches!(read.fact, Fact::EffectSettled(settled) if settled.state == "done" && settled.handler == "toy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_effect_is_tried_again_with_the_same_bytes_after_growing_waits() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([busy(), busy(), done()]);
    node.plan(&[toy_row(1)]).await;
    node.toy(&target, false);
    for (sends, wait) in [(1, 2), (2, 4)] {
        until("the row waits", async || Some(()).filter(|()| target.received().len() == sends)).await;
        let row = until("it is planned again", async || {
            Some(node.row(1).await).filter(|r| r.state == EffectState::Planned && r.attempts == sends as i32)
        })
        .await;
        assert_eq!(row.planned.due_at, stockwarden::actors::effects::Clock::now(&world.clock) + Duration::from_secs(wait));
        world.clock.advance(Duration::from_secs(wait));
    }
    let row = node.until(1, EffectState::Done).await;
    let received = target.received();
    assert_eq!((row.attempts, row.possible_duplicate, received.len()), (3, false, 3));
    assert!(received.iter().all(|r| *r == received[0]), "{received:?}");
    assert_eq!(world.log.states(), ["done"], "a try that had no effect is no outcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_names_a_time_is_not_asked_before_it() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let later = Verdict::Retry { reason: "slow down".into(), after: Some(Duration::from_secs(90)), blame: Blame::Target };
    let target = ToyTarget::with([say(later), done()]);
    node.plan(&[toy_row(1)]).await;
    node.toy(&target, false);
    let waiting = async || Some(node.row(1).await).filter(|r| r.state == EffectState::Planned && r.attempts == 1);
    let row = until("it waits", waiting).await;
    assert_eq!((row.planned.due_at - toy_row(1).due_at).num_seconds(), 90);
    world.clock.advance(Duration::from_secs(90));
    node.until(1, EffectState::Done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_shown_and_sent_again_as_a_possible_duplicate() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    // The second answer says nothing happened, but that is about the second send.
    let target = ToyTarget::with([lost(), busy(), done()]);
    node.plan(&[toy_row(1)]).await;
    node.toy(&target, false);
    for (attempts, wait) in [(1, 2), (2, 4)] {
        let waiting = async || Some(node.row(1).await).filter(|r| r.state == EffectState::Ambiguous && r.attempts == attempts);
        until("it is ambiguous", waiting).await;
        world.clock.advance(Duration::from_secs(wait));
    }
    let row = node.until(1, EffectState::Done).await;
    let received = target.received();
    assert!(row.possible_duplicate);
    assert!(received.len() == 3 && received.iter().all(|r| *r == received[0]), "{received:?}");
    assert_eq!(world.log.states(), ["ambiguous", "ambiguous", "done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_can_be_asked_gets_nothing_twice() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([lost()]);
    node.plan(&[toy_row(1)]).await;
    node.toy(&target, true);
    node.until(1, EffectState::Ambiguous).await;
    world.clock.advance(Duration::from_secs(2));
    let row = node.until(1, EffectState::Done).await;
    assert_eq!((target.received().len(), row.possible_duplicate, target.asked.load(Ordering::SeqCst)), (1, false, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_knows_the_request_already_is_no_duplicate() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([lost(), say(Verdict::AlreadyDone { response: Some("409".into()) })]);
    node.plan(&[toy_row(1)]).await;
    node.toy(&target, false);
    node.until(1, EffectState::Ambiguous).await;
    world.clock.advance(Duration::from_secs(2));
    assert!(!node.until(1, EffectState::Done).await.possible_duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_fails_at_once_with_what_to_mend_and_without_secrets() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([say(Verdict::Permanent { reason: "no project REP for hunter2".into() })]);
    let broken = planned(2, "toy", &decision(2), &route(serde_json::json!({"to": "toy", "broken": "yes"})));
    let unreadable = Planned { decision: "{".into(), ..toy_row(3) };
    node.plan(&[toy_row(1), broken, unreadable]).await;
    node.toy(&target, false);
    assert_eq!(node.until(1, EffectState::Failed).await.response.as_deref(), Some("no project REP for ***"));
    assert!(node.until(2, EffectState::Failed).await.response.is_some_and(|r| r.contains("mend it")));
    assert!(node.until(3, EffectState::Failed).await.response.is_some_and(|r| r.contains("cannot be read")));
    assert_eq!(target.received().len(), 1);
    assert_eq!(world.log.states(), ["failed", "failed"], "of an unreadable row nobody can be told");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_last_attempt_an_effect_fails_and_an_operators_retry_still_knows_that_it_may_have_arrived() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([lost(), lost(), lost(), lost(), busy(), busy()]);
    node.plan(&[toy_row(1)]).await;
    let sender = node.toy(&target, false);
    let failed = until("it gives up", async || {
        world.clock.advance(Duration::from_secs(600));
        sender.wake();
        Some(node.row(1).await).filter(|r| r.state == EffectState::Failed)
    })
    .await;
    assert_eq!((failed.attempts, target.received().len()), (6, 6));
    let reason = failed.response.expect("reason");
    assert!(reason.contains("may have arrived") && reason.contains("6 sends") && reason.contains("busy"), "{reason}");
    assert!(node.shared.ledger.retry(&failed.planned.id, failed.updated_at).await.expect("retry"));
    let row = until("it is done", async || {
        world.clock.advance(Duration::from_secs(600));
        sender.wake();
        Some(node.row(1).await).filter(|r| r.state == EffectState::Done)
    })
    .await;
    assert!(row.possible_duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hangs_or_breaks_leaves_an_ambiguous_effect_and_goes_on() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([Move::Panic, Move::Hang]);
    node.plan(&[toy_row(1)]).await;
    node.toy(&target, false);
    node.until(1, EffectState::Ambiguous).await;
    world.clock.advance(Duration::from_secs(2));
    until("the second send hangs", async || (target.received().len() == 2).then_some(())).await;
    assert_eq!(node.row(1).await.state, EffectState::Sending);
    let row = until("the deadline passes", async || {
        world.clock.advance(Duration::from_secs(60));
        Some(node.row(1).await).filter(|r| r.state == EffectState::Done)
    })
    .await;
    assert_eq!((target.received().len(), row.possible_duplicate), (3, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hangs_delays_no_other() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let hanging = ToyTarget::with((0..100).map(|_| Move::Hang));
    let well = ToyTarget::with([]);
    let rows: Vec<Planned> =
        (0..40).map(|n| Planned { handler: if n < 20 { "hangs" } else { "well" }.into(), ..toy_row(n) }).collect();
    node.plan(&rows).await;
    let toy = |target: &Arc<ToyTarget>| Arc::new(Toy { target: target.clone(), can_be_asked: false, tap: Tap::default() });
    let stuck = node.sender("hangs", Common { concurrency: 3, ..Common::default() }, toy(&hanging));
    node.sender("well", Common::default(), toy(&well));
    for n in 20..40 {
        node.until(n, EffectState::Done).await;
    }
    until("all of its slots hang", async || (stuck.state().in_flight == 3).then_some(())).await;
    assert_eq!(hanging.received().len(), 3, "and no more than its slots are claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_again_and_again_is_left_alone_and_probed_with_one() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with((0..6).map(|_| busy()));
    node.plan(&(0..5).map(toy_row).collect::<Vec<_>>()).await;
    let sender = node.toy(&target, false);
    until("it opens", async || (sender.state().breaker == BreakerState::Open && sender.state().in_flight == 0).then_some(()))
        .await;
    node.plan(&(5..9).map(toy_row).collect::<Vec<_>>()).await;
    assert_eq!(sender.round().await, Duration::from_secs(10), "nothing is begun while it is open");
    assert_eq!(target.received().len(), 5);
    world.clock.advance(Duration::from_secs(10));
    until("one probe fails", async || (target.received().len() == 6 && sender.state().in_flight == 0).then_some(())).await;
    assert_eq!(sender.round().await, Duration::from_secs(20), "and it opens for twice as long");
    world.clock.advance(Duration::from_secs(20));
    for n in 0..9 {
        node.until(n, EffectState::Done).await;
    }
    assert_eq!(sender.state().breaker, BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_effect_does_not_open_the_breaker() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let deferred = Verdict::Retry { reason: "mailbox full".into(), after: None, blame: Blame::Effect };
    let target = ToyTarget::with((0..20).map(|_| say(deferred.clone())));
    node.plan(&(0..20).map(toy_row).collect::<Vec<_>>()).await;
    let sender = node.toy(&target, false);
    until("all were tried", async || (sender.state().retried == 20).then_some(())).await;
    assert_eq!(sender.state().breaker, BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_of_one_variant_keep_their_order_and_the_others_do_not_wait() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([]);
    let same = |n| Planned { order_key: "a.example/1".into(), ..toy_row(n) };
    node.plan(&[same(1), same(2), same(3), toy_row(4)]).await;
    // The first row is tried twice; whoever else is sent in between must be of another variant.
    target.script.lock().expect("lock").extend([busy(), busy(), busy()]);
    let sender = node.toy(&target, false);
    until("all is done", async || {
        world.clock.advance(Duration::from_secs(5));
        sender.wake();
        (sender.state().done == 4).then_some(())
    })
    .await;
    let of_one: Vec<String> = target.keys().into_iter().filter(|k| !k.contains("000000000004/")).collect();
    assert!(of_one.is_sorted(), "{of_one:?}");
    assert!(of_one.len() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_or_the_log_after_a_send_costs_no_second_send() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([]);
    node.plan(&[toy_row(1)]).await;
    world.log.away.store(3, Ordering::SeqCst);
    node.away.store(3, Ordering::SeqCst);
    node.toy(&target, false);
    let row = until("it is done", async || {
        world.clock.advance(Duration::from_secs(1));
        Some(node.row(1).await).filter(|r| r.state == EffectState::Done)
    })
    .await;
    assert_eq!((target.received().len(), row.possible_duplicate, world.log.states().len()), (1, false, 1));
    assert_eq!(node.shared.health.summary(), None, "and all is well again");
}

/// The call was carried out and its answer lost; the node lives and stays the owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_the_store_neither_strands_an_effect_nor_deposes_its_sender() {
    for step in [Step::AfterClaim, Step::AfterSettle] {
        let world = World::new();
        let node = world.node(Tap::losing_the_answer(step)).await;
        let target = ToyTarget::with([]);
        node.plan(&[toy_row(1)]).await;
        node.toy(&target, false);
        until("the first is done", async || {
            world.clock.advance(Duration::from_secs(1));
            Some(node.row(1).await).filter(|r| r.state == EffectState::Done)
        })
        .await;
        node.plan(&[toy_row(2)]).await;
        let row = until("the next as well", async || {
            world.clock.advance(Duration::from_secs(1));
            Some(node.row(2).await).filter(|r| r.state == EffectState::Done)
        })
        .await;
        assert_eq!((target.received().len(), row.possible_duplicate), (2, false), "{step:?}");
        assert_eq!(node.shared.ownership.held(), [(0, node.epoch)], "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routes_of_a_decision_are_two_effects_with_keys_of_their_own() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([]);
    let named = Planned { id: EffectId { route_id: "nörd\r\n.x".into(), ..toy_row(1).id }, ..toy_row(1) };
    node.plan(&[toy_row(1), named]).await;
    let sender = node.toy(&target, false);
    until("both are done", async || (sender.state().done == 2).then_some(())).await;
    let keys = target.keys();
    assert!(keys.iter().all(|k| k.bytes().all(|b| b.is_ascii_graphic() && b != b'.')), "{keys:?}");
    assert_ne!(keys[0], keys[1]);
}
