//! The dispatcher: from records of the decisions topic to rows and effects, with partitions that come and go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use stockwarden::actors::dispatcher::{Dispatcher, Parts};
use stockwarden::events::decision::{Decision, RECORD_HEADER, RECORD_QUARANTINE, Route};
use stockwarden::events::record::{RecordBatch, Topic};
use stockwarden::handlers::{Common, Handlers, Instance};
use stockwarden::ports::Ledger;
use stockwarden::ports::event_log::Assigned;
use stockwarden::ports::ledger::{Effect, EffectFilter, EffectState};

use super::harness::{World, decision, route, until};
use super::tap::{Tap, TappedLedger};
use super::toy::{Move, Toy, ToyTarget};

pub struct Running {
    pub world: World,
    target: Arc<ToyTarget>,
    ledger: Arc<dyn Ledger>,
    away: Arc<AtomicUsize>,
    dispatcher: Option<Dispatcher>,
    /// The actix system lives on a thread of its own; it ends when this is dropped.
    _system: mpsc::Sender<()>,
}

/// A dispatcher with one handler, `toy`, on the runtime of the test.
async fn running(target: Arc<ToyTarget>) -> Running {
    let mut handlers = Handlers::default();
    let toy = Toy { target: target.clone(), can_be_asked: false, tap: Tap::default() };
    handlers.insert(Instance::new("toy", "toy", Common::default(), Arc::new(toy)));
    running_with(target, handlers).await
}

pub async fn running_with(target: Arc<ToyTarget>, handlers: Handlers) -> Running {
    let world = World::new();
    let away = Arc::new(AtomicUsize::new(0));
    let ledger: Arc<dyn Ledger> = Arc::new(TappedLedger { inner: world.store().await, tap: Tap::default(), away: away.clone() });
    let parts = Parts {
        log: world.log.clone(),
        ledger: ledger.clone(),
        handlers,
        env: world.env(),
        node: "a".into(),
        runtime: tokio::runtime::Handle::current(),
        drain: Duration::from_secs(10),
    };
    let (started, dispatcher) = tokio::sync::oneshot::channel();
    let (system, until_dropped) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let system = actix::System::new();
        let dispatcher = system.block_on(Dispatcher::start(parts)).expect("start");
        assert!(started.send(dispatcher).is_ok());
        system.block_on(async move { tokio::task::spawn_blocking(move || until_dropped.recv()).await.expect("thread").ok() });
    });
    let dispatcher = Some(dispatcher.await.expect("started"));
    Running { world, target, ledger, away, dispatcher, _system: system }
}

impl Running {
    fn dispatcher(&self) -> &Dispatcher {
        self.dispatcher.as_ref().expect("runs")
    }

    fn assign(&self, partition: i32, committed: Option<i64>) {
        let mut sink = self.world.log.sink.lock().expect("lock");
        sink.as_mut().expect("joined").assigned(vec![Assigned { partition, committed }]);
    }

    /// On a thread, as the consumer's.
    async fn revoke(&self, partition: i32) {
        let log = self.world.log.clone();
        let revoke = move || log.sink.lock().expect("lock").as_mut().expect("joined").revoked(vec![partition], false);
        tokio::task::spawn_blocking(revoke).await.expect("revoked");
    }

    pub fn deliver(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        self.world.log.sink.lock().expect("lock").as_mut().expect("joined").deliver(batch)
    }

    pub async fn assigned(&self, partition: i32, committed: Option<i64>) {
        self.assign(partition, committed);
        until("the partition is started", async || {
            self.world.log.group.started.lock().expect("lock").iter().any(|(p, _)| *p == partition).then_some(())
        })
        .await;
    }

    pub async fn rows(&self) -> Vec<Effect> {
        let mut rows = self.ledger.list(EffectFilter { limit: 1000, ..EffectFilter::default() }).await.expect("list");
        rows.sort_by_key(|r| (r.planned.offset, r.planned.id.route_id.clone()));
        rows
    }

    async fn until_states(&self, want: &[EffectState]) -> Vec<Effect> {
        until(&format!("the rows are {want:?}"), async || {
            Some(self.rows().await).filter(|rows| rows.iter().map(|r| r.state).eq(want.iter().copied()))
        })
        .await
    }

    fn committed(&self) -> Vec<(i32, i64)> {
        self.world.log.group.committed.lock().expect("lock").clone()
    }
}

pub fn routed(n: u128, routes: &[&str]) -> Decision {
    let routes: Vec<Route> = routes.iter().map(|json| route(serde_json::from_str(json).expect("JSON"))).collect();
    Decision { routes, ..decision(n) }
}

const TOY: &str = r#"{"to": "toy"}"#;

/// Decisions from `offset` on.
fn batch(partition: i32, offset: i64, decisions: &[Decision]) -> RecordBatch {
    let mut batch = RecordBatch::new(partition, offset);
    for (i, decision) in decisions.iter().enumerate() {
        let value = serde_json::to_vec(decision).expect("JSON");
        batch.push(offset + i as i64, 0, Some(b"a.example"), Some(&value), std::iter::empty());
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_become_effects_one_a_route_and_the_offset_follows_the_rows() {
    let run = running(ToyTarget::with([])).await;
    run.assigned(0, Some(7)).await;
    assert_eq!(*run.world.log.group.started.lock().expect("lock"), [(0, 7)]);
    // At the commit, the rows must be there already.
    let (ledger, runtime) = (run.ledger.clone(), tokio::runtime::Handle::current());
    let seen = Arc::new(AtomicUsize::new(0));
    let note = seen.clone();
    *run.world.log.group.at_commit.lock().expect("lock") = Some(Box::new(move || {
        let rows = runtime.block_on(ledger.list(EffectFilter { limit: 100, ..EffectFilter::default() })).expect("list");
        note.store(rows.len(), Ordering::SeqCst);
    }));
    let named = r#"{"to": "toy", "id": "north", "digest": "1h"}"#;
    let mut two = batch(0, 7, &[routed(1, &[TOY, named]), routed(2, &[TOY])]);
    two.next_offset = 12;
    run.deliver(two).expect("taken");
    let rows = run.until_states(&[EffectState::Done; 3]).await;
    let ids: Vec<&str> = rows.iter().map(|r| r.planned.id.route_id.as_str()).collect();
    assert_eq!(ids, ["0", "north", "0"]);
    assert_eq!((rows[0].planned.shop.as_str(), rows[0].planned.order_key.as_str()), ("a.example", "a.example/9007199254740993"));
    until("the offset is committed", async || (run.committed() == [(0, 12)]).then_some(())).await;
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    assert_eq!(run.world.log.states(), ["done"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_committed_offset_is_read_from_its_first_record() {
    let run = running(ToyTarget::with([])).await;
    run.assigned(3, None).await;
    assert_eq!(*run.world.log.group.started.lock().expect("lock"), [(3, 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_twice_has_its_effects_once() {
    let run = running(ToyTarget::with([])).await;
    run.assigned(0, Some(0)).await;
    for _ in 0..2 {
        run.deliver(batch(0, 0, &[routed(1, &[TOY]), routed(2, &[TOY])])).expect("taken");
    }
    run.until_states(&[EffectState::Done; 2]).await;
    until("both are committed", async || (run.committed().len() == 2).then_some(())).await;
    assert_eq!(run.target.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_decision_goes_to_the_dead_letters_and_the_next_goes_on() {
    let run = running(ToyTarget::with([])).await;
    run.assigned(0, Some(0)).await;
    let mut mixed = RecordBatch::new(0, 0);
    let none = || std::iter::empty();
    let quarantine = [(RECORD_HEADER, RECORD_QUARANTINE.as_bytes())];
    let body = br#"{"shop":"a","variant_id":null,"caused_by":{"topic":"stock-facts","partition":0,"offset":1},"message":"m"}"#;
    mixed.push(0, 5, Some(b"a.example"), Some(b"{not json"), none());
    mixed.push(1, 5, Some(b"a.example"), Some(br#"{"decision_id": 1}"#), none());
    mixed.push(2, 5, None, None, none());
    mixed.push(3, 5, Some(b"a.example"), Some(b"{}"), [("version", &b"99"[..])].into_iter());
    mixed.push(4, 5, Some(b"a.example"), Some(body), quarantine.into_iter());
    mixed.push(5, 5, Some(b"a.example"), Some(b"{}"), [(RECORD_HEADER, &b"seal"[..])].into_iter());
    let value = serde_json::to_vec(&routed(1, &[TOY])).expect("JSON");
    mixed.push(6, 5, Some(b"a.example"), Some(&value), none());
    run.deliver(mixed).expect("taken");
    run.until_states(&[EffectState::Done]).await;
    let reasons: Vec<String> = run
        .world
        .log
        .of(Topic::DeadLetters)
        .iter()
        .map(|r| serde_json::from_slice::<serde_json::Value>(r.value.as_deref().expect("value")).expect("JSON"))
        .map(|l| {
            format!(
                "{} {} {}",
                l["origin"]["topic"].as_str().expect("topic"),
                l["origin"]["offset"],
                l["reason"].as_str().expect("code")
            )
        })
        .collect();
    assert_eq!(
        reasons,
        [
            "reorder-decisions 0 invalid_json",
            "reorder-decisions 1 wrong_type",
            "reorder-decisions 2 empty_record",
            "reorder-decisions 3 newer_version",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_to_a_handler_that_nobody_configured_fails_and_names_those_that_are() {
    let run = running(ToyTarget::with([])).await;
    run.assigned(0, Some(0)).await;
    run.deliver(batch(0, 0, &[routed(1, &[r#"{"to": "tyo"}"#, TOY])])).expect("taken");
    let rows = run.until_states(&[EffectState::Failed, EffectState::Done]).await;
    let reason = rows[0].response.clone().expect("reason");
    assert!(reason.contains("\"tyo\"") && reason.contains("configured are: toy"), "{reason}");
    until("both outcomes are facts", async || (run.world.log.states().len() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routes_of_one_name_are_both_sent() {
    let run = running(ToyTarget::with([])).await;
    run.assigned(0, Some(0)).await;
    run.deliver(batch(0, 0, &[routed(1, &[r#"{"to": "toy", "id": "1"}"#, TOY, r#"{"to": "toy", "id": "1"}"#])])).expect("taken");
    run.until_states(&[EffectState::Done; 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_delays_and_loses_nothing() {
    let run = running(ToyTarget::with([])).await;
    run.away.store(2, Ordering::SeqCst);
    run.assign(0, Some(0));
    until("readiness says so", async || run.dispatcher().readiness().1).await;
    let advance = || run.world.clock.advance(Duration::from_secs(1));
    until("it is taken over", async || {
        advance();
        (!run.world.log.group.started.lock().expect("lock").is_empty()).then_some(())
    })
    .await;
    run.away.store(4, Ordering::SeqCst);
    let mut given_back = 0;
    for n in 0..100 {
        given_back += usize::from(run.deliver(batch(0, n, &[routed(n as u128, &[TOY])])).is_err());
    }
    assert!(given_back > 0, "a full mailbox gives batches back");
    until("what was given back may come again", async || {
        advance();
        run.world.log.group.resumed.lock().expect("lock").contains(&0).then_some(())
    })
    .await;
    until("all that was taken is done", async || {
        advance();
        let rows = run.rows().await;
        (rows.len() == 100 - given_back && rows.iter().all(|r| r.state == EffectState::Done)).then_some(())
    })
    .await;
    assert_eq!(run.committed().len(), 100 - given_back);
    until("and readiness is well", async || run.dispatcher().readiness().1.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_the_send_under_way_and_begins_nothing_more() {
    let target = ToyTarget::with([Move::Hang]);
    let run = running(target.clone()).await;
    run.assigned(0, Some(0)).await;
    run.deliver(batch(0, 0, &[routed(1, &[TOY])])).expect("taken");
    until("it is under way", async || (target.received().len() == 1).then_some(())).await;
    let revoked = run.revoke(0);
    tokio::pin!(revoked);
    until("nothing is held", async || {
        let _ = futures::poll!(&mut revoked);
        run.dispatcher().state().partitions.is_empty().then_some(())
    })
    .await;
    assert!(futures::poll!(&mut revoked).is_pending(), "the send is still under way");
    // The hanging send reaches its deadline, is settled as ambiguous, and the revocation returns.
    run.world.clock.advance(Duration::from_secs(60));
    revoked.await;
    assert_eq!(run.rows().await[0].state, EffectState::Ambiguous);
    // A batch that was still on its way changes nothing: its new owner reads it again.
    run.deliver(batch(0, 1, &[routed(2, &[TOY])])).expect("taken");
    run.assigned(1, Some(0)).await;
    assert_eq!((run.rows().await.len(), run.committed()), (1, vec![(0, 1)]));
    assert_eq!(target.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_left_is_taken_up_on_assignment_also_for_handlers_that_are_gone() {
    let mut run = running(ToyTarget::with([])).await;
    let epoch = run.ledger.acquire_dispatch_epoch(0, "dead").await.expect("epoch");
    let rows =
        [super::harness::toy_row(1), stockwarden::ports::ledger::Planned { handler: "old".into(), ..super::harness::toy_row(2) }];
    run.ledger.plan(0, epoch, &rows[..].into()).await.expect("plan");
    run.assigned(0, Some(9)).await;
    let rows = run.until_states(&[EffectState::Done, EffectState::Failed]).await;
    assert!(rows[1].response.as_deref().is_some_and(|r| r.contains("\"old\"")));
    let state = run.dispatcher().state();
    assert_eq!(state.partitions, [(0, epoch + 1)]);
    let dispatcher = run.dispatcher.take().expect("runs");
    tokio::time::timeout(super::harness::PATIENCE, dispatcher.stop()).await.expect("it stops");
}
