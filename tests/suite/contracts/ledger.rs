//! Contract of the port ledger.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use stockwarden::ports::ledger::{Effect, EffectFilter, EffectId, EffectState, Planned, Settled};
use stockwarden::ports::snapshot_store::{Epoch, StoreError};
use uuid::Uuid;

use crate::support::stores::{Site, Store, over_every_store};

over_every_store!(
    a_planned_row_reads_back_and_is_planned_once,
    rows_become_due_and_go_out_the_longest_due_first,
    a_claim_takes_only_its_handler_and_its_partitions,
    of_one_order_key_only_the_oldest_unfinished_row_goes_out,
    a_failed_row_does_not_hold_up_its_order_key,
    order_keys_of_two_handlers_are_apart,
    two_nodes_that_claim_at_once_get_each_row_once_and_in_order,
    a_row_left_sending_by_an_older_epoch_comes_back_as_ambiguous,
    a_row_left_sending_comes_back_even_if_the_clock_was_set_back,
    what_a_lost_claim_took_is_given_back_and_what_is_under_way_is_not,
    frozen_bytes_win,
    every_way_to_settle_is_stored,
    a_row_that_is_not_ours_is_neither_frozen_nor_settled,
    an_old_dispatcher_plans_claims_freezes_and_settles_nothing,
    dispatch_epochs_grow_and_are_apart_from_those_of_snapshots,
    a_failed_row_is_retried_once_with_the_same_bytes,
    rows_are_listed_by_filter_newest_first,
    states_are_counted_by_handler,
    an_unknown_effect_is_an_error,
);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_456_000).expect("time") + TimeDelta::seconds(seconds)
}

fn id(n: u128) -> EffectId {
    EffectId { decision_id: Uuid::from_u128(n), route_id: "0".into() }
}

/// Effect `n` stands at offset `n` of partition 0, is due at second 0 and has an order key of its own.
fn row(n: u128) -> Planned {
    Planned {
        id: id(n),
        handler: "mail".into(),
        organisation: "acme".into(),
        shop: "a.example".into(),
        order_key: format!("a.example/{n}"),
        partition: 0,
        offset: n as i64,
        decision: format!("{{\"n\":{n}}}"),
        route: "{\"to\":\"ä\"}".into(),
        due_at: at(0),
        digest: None,
    }
}

fn keyed(n: u128, key: &str) -> Planned {
    Planned { order_key: key.into(), ..row(n) }
}

async fn owner(store: &dyn Store) -> Epoch {
    store.acquire_dispatch_epoch(0, "node").await.expect("epoch")
}

async fn plan(store: &dyn Store, epoch: Epoch, rows: &[Planned]) -> u64 {
    store.plan(0, epoch, &rows.into()).await.expect("plan")
}

async fn claim(store: &dyn Store, epoch: Epoch, seconds: i64) -> Vec<Effect> {
    store.claim("mail", &[(0, epoch)], at(seconds), 100).await.expect("claim")
}

fn numbers(effects: &[Effect]) -> Vec<u128> {
    effects.iter().map(|e| e.planned.id.decision_id.as_u128()).collect()
}

fn done() -> Settled {
    Settled::Done { response: None, reference: None, possible_duplicate: false }
}

async fn one(store: &dyn Store, n: u128) -> Effect {
    let filter = EffectFilter { decision_id: Some(Uuid::from_u128(n)), ..EffectFilter::default() };
    store.list(filter).await.expect("list").pop().expect("the row")
}

fn assert_fenced<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Fenced { partition: 0, .. })), "{outcome:?}");
}

async fn a_planned_row_reads_back_and_is_planned_once(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    assert_eq!(plan(&*store, epoch, &[row(1), row(2), row(1)]).await, 2);
    let changed = Planned { decision: "{}".into(), ..row(1) };
    let second_route = Planned { id: EffectId { route_id: "by-mail".into(), ..id(1) }, ..row(1) };
    assert_eq!(plan(&*store, epoch, &[changed, second_route, row(3)]).await, 2);
    assert_eq!(plan(&*store, epoch, &[]).await, 0);
    let got = one(&*store, 2).await;
    assert_eq!(
        got,
        Effect {
            planned: row(2),
            state: EffectState::Planned,
            attempts: 0,
            request: None,
            response: None,
            reference: None,
            possible_duplicate: false,
            updated_at: got.updated_at,
            sender_epoch: None,
            shared_by: Vec::new(),
            update: None,
        }
    );
    let kept = store.list(EffectFilter { decision_id: Some(Uuid::from_u128(1)), ..EffectFilter::default() }).await.expect("list");
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|e| e.planned.decision == row(1).decision), "the first planned stays");
    let stray = store.plan(1, store.acquire_dispatch_epoch(1, "node").await.expect("epoch"), &[row(9)][..].into()).await;
    assert!(matches!(stray, Err(StoreError::Failed { .. })), "a row of partition 0 under the fence of 1: {stray:?}");
}

async fn rows_become_due_and_go_out_the_longest_due_first(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let due = |n, seconds| Planned { due_at: at(seconds), ..row(n) };
    plan(&*store, epoch, &[due(1, 30), due(2, 10), due(3, 20), due(4, 10), due(5, 99)]).await;
    assert!(claim(&*store, epoch, 9).await.is_empty());
    let first = store.claim("mail", &[(0, epoch)], at(30), 3).await.expect("claim");
    assert_eq!(numbers(&first), [2, 4, 3]);
    assert_eq!(numbers(&claim(&*store, epoch, 30).await), [1]);
    assert!(claim(&*store, epoch, 98).await.is_empty());
    let last = claim(&*store, epoch, 99).await.pop().expect("row");
    assert_eq!(
        last,
        Effect {
            planned: due(5, 99),
            state: EffectState::Planned,
            attempts: 1,
            request: None,
            response: None,
            reference: None,
            possible_duplicate: false,
            updated_at: at(99),
            sender_epoch: Some(epoch),
            shared_by: Vec::new(),
            update: None,
        }
    );
    assert_eq!(one(&*store, 5).await, Effect { state: EffectState::Sending, ..last });
    assert!(store.claim("mail", &[(0, epoch)], at(99), 0).await.expect("claim").is_empty());
}

async fn a_claim_takes_only_its_handler_and_its_partitions(site: &Site) {
    let store = site.node().await;
    let (zero, one) = (owner(&*store).await, store.acquire_dispatch_epoch(1, "node").await.expect("epoch"));
    let two = store.acquire_dispatch_epoch(2, "node").await.expect("epoch");
    let in_partition = |n, partition| Planned { partition, ..row(n) };
    plan(&*store, zero, &[row(1), Planned { handler: "slack".into(), ..row(2) }]).await;
    store.plan(1, one, &[in_partition(3, 1)][..].into()).await.expect("plan");
    store.plan(2, two, &[in_partition(4, 2)][..].into()).await.expect("plan");
    let got = store.claim("mail", &[(2, two), (0, zero)], at(0), 100).await.expect("claim");
    assert_eq!(numbers(&got), [1, 4]);
    assert_eq!(got.iter().map(|e| e.sender_epoch).collect::<Vec<_>>(), [Some(zero), Some(two)]);
    assert!(store.claim("mail", &[], at(0), 100).await.expect("claim").is_empty());
    assert!(store.claim("nobody", &[(1, one)], at(0), 100).await.expect("claim").is_empty());
}

async fn of_one_order_key_only_the_oldest_unfinished_row_goes_out(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    // Planned in another order than decided, and the oldest is the last one due.
    let late = Planned { due_at: at(10), ..keyed(1, "k") };
    let second_route = Planned { id: EffectId { route_id: "1".into(), ..id(2) }, ..keyed(2, "k") };
    plan(&*store, epoch, &[keyed(3, "k"), keyed(2, "k"), second_route, late, row(7)]).await;
    assert_eq!(numbers(&claim(&*store, epoch, 9).await), [7], "the oldest is not due yet and the others wait for it");
    assert_eq!(numbers(&claim(&*store, epoch, 10).await), [1]);
    assert!(claim(&*store, epoch, 10).await.is_empty(), "it is being sent");
    store.settle(&id(1), epoch, Settled::Retry { reason: "busy".into(), due_at: at(20) }, at(11)).await.expect("settle");
    assert!(claim(&*store, epoch, 19).await.is_empty(), "it waits for its retry");
    assert_eq!(numbers(&claim(&*store, epoch, 20).await), [1]);
    store.settle(&id(1), epoch, Settled::Ambiguous { reason: "cut".into(), due_at: at(30) }, at(21)).await.expect("settle");
    assert!(claim(&*store, epoch, 29).await.is_empty(), "it is unresolved");
    let again = claim(&*store, epoch, 30).await;
    assert_eq!((numbers(&again), again[0].state, again[0].attempts), (vec![1], EffectState::Ambiguous, 3));
    store.settle(&id(1), epoch, done(), at(31)).await.expect("settle");
    for (n, route) in [(2, "0"), (2, "1"), (3, "0")] {
        let got = claim(&*store, epoch, 40).await;
        assert_eq!(got.len(), 1);
        let want = EffectId { route_id: route.into(), ..id(n) };
        assert_eq!(got[0].planned.id, want);
        store.settle(&want, epoch, done(), at(41)).await.expect("settle");
    }
}

async fn a_failed_row_does_not_hold_up_its_order_key(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[keyed(1, "k"), keyed(2, "k")]).await;
    claim(&*store, epoch, 0).await;
    store.settle(&id(1), epoch, Settled::Failed { reason: "400".into() }, at(1)).await.expect("settle");
    assert_eq!(numbers(&claim(&*store, epoch, 1).await), [2]);
}

async fn order_keys_of_two_handlers_are_apart(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[Planned { handler: "slack".into(), ..keyed(1, "k") }, keyed(2, "k")]).await;
    assert_eq!(numbers(&claim(&*store, epoch, 0).await), [2]);
}

async fn two_nodes_that_claim_at_once_get_each_row_once_and_in_order(site: &Site) {
    const ROWS: u128 = 400;
    let nodes = [site.node().await, site.node().await];
    let epoch = owner(&*nodes[0]).await;
    let rows: Vec<_> = (1..=ROWS).map(|n| keyed(n, &format!("k{}", n % 40))).collect();
    assert_eq!(plan(&*nodes[0], epoch, &rows).await, ROWS as u64);
    let started = std::sync::Arc::new(std::sync::Mutex::new(Vec::<u128>::new()));
    let workers = (0..6).map(|w| {
        let (store, started) = (nodes[w % 2].clone(), started.clone());
        tokio::spawn(async move {
            loop {
                let got = store.claim("mail", &[(0, epoch)], at(0), 5).await.expect("claim");
                started.lock().expect("lock").extend(numbers(&got));
                for e in &got {
                    store.settle(&e.planned.id, epoch, done(), at(0)).await.expect("settle");
                }
                let open = EffectFilter { state: Some(EffectState::Planned), limit: 1, ..EffectFilter::default() };
                if got.is_empty() && store.list(open).await.expect("list").is_empty() {
                    return;
                }
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.expect("worker");
    }
    let started = started.lock().expect("lock");
    assert_eq!(started.len(), ROWS as usize, "each row went out once");
    assert_eq!(started.iter().collect::<HashSet<_>>().len(), ROWS as usize);
    let mut last: HashMap<u128, u128> = HashMap::new();
    for n in started.iter() {
        let before = last.insert(n % 40, *n);
        assert!(before.is_none_or(|b| b < *n), "{before:?} was claimed before {n}");
    }
}

async fn a_row_left_sending_by_an_older_epoch_comes_back_as_ambiguous(site: &Site) {
    let store = site.node().await;
    let old = owner(&*store).await;
    plan(&*store, old, &[keyed(1, "k"), keyed(2, "k"), row(3)]).await;
    assert_eq!(numbers(&claim(&*store, old, 0).await), [1, 3]);
    store.freeze(&id(1), old, b"bytes").await.expect("freeze");
    store.settle(&id(3), old, done(), at(1)).await.expect("settle");
    assert!(claim(&*store, old, 5).await.is_empty(), "our own are not left");
    let new = owner(&*store).await;
    let got = claim(&*store, new, 5).await;
    assert_eq!(numbers(&got), [1]);
    let e = &got[0];
    assert_eq!((e.state, e.attempts, e.sender_epoch), (EffectState::Ambiguous, 2, Some(new)));
    assert_eq!(e.request.as_deref(), Some(&b"bytes"[..]));
    assert_eq!(one(&*store, 1).await.state, EffectState::Sending);
    assert!(claim(&*store, new, 6).await.is_empty());
}

async fn what_a_lost_claim_took_is_given_back_and_what_is_under_way_is_not(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let other = Planned { handler: "other".into(), ..row(4) };
    plan(&*store, epoch, &[row(1), row(2), row(3), other]).await;
    assert_eq!(claim(&*store, epoch, 0).await.len(), 3);
    assert_eq!(store.claim("other", &[(0, epoch)], at(0), 9).await.expect("claim").len(), 1);
    store.freeze(&id(2), epoch, b"bytes").await.expect("freeze");
    store.freeze(&id(3), epoch, b"bytes").await.expect("freeze");
    assert_eq!(store.release("mail", &[(0, epoch)], &[id(3)], at(1)).await.expect("release"), 2);
    let mut states = Vec::new();
    for n in 1..=4 {
        states.push(one(&*store, n).await.state);
    }
    use EffectState::{Ambiguous, Planned as Known, Sending};
    assert_eq!(states, [Known, Ambiguous, Sending, Sending]);
    store.settle(&id(3), epoch, done(), at(2)).await.expect("what is under way is settled as ever");
    assert_eq!(numbers(&claim(&*store, epoch, 3).await), [1, 2]);
    let new = owner(&*store).await;
    let late = store.release("mail", &[(0, epoch)], &[], at(4)).await;
    assert!(matches!(late, Err(StoreError::Fenced { ours, current, .. }) if (ours, current) == (epoch, new)), "{late:?}");
}

async fn a_row_left_sending_comes_back_even_if_the_clock_was_set_back(site: &Site) {
    let store = site.node().await;
    let old = owner(&*store).await;
    plan(&*store, old, &[row(1), row(2)]).await;
    assert_eq!(claim(&*store, old, 0).await.len(), 2);
    let new = owner(&*store).await;
    let got = store.claim("mail", &[(0, new)], at(-3600), 1).await.expect("claim");
    assert_eq!(numbers(&got), [1], "and the limit holds");
    assert_eq!(numbers(&claim(&*store, new, -3600).await), [2]);
}

async fn frozen_bytes_win(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1)]).await;
    claim(&*store, epoch, 0).await;
    assert_eq!(store.freeze(&id(1), epoch, b"first\0").await.expect("freeze"), b"first\0");
    assert_eq!(store.freeze(&id(1), epoch, b"second").await.expect("freeze"), b"first\0");
    store.settle(&id(1), epoch, Settled::Retry { reason: "503".into(), due_at: at(5) }, at(1)).await.expect("settle");
    assert_eq!(claim(&*store, epoch, 5).await[0].request.as_deref(), Some(&b"first\0"[..]));
    assert_eq!(store.freeze(&id(1), epoch, b"third").await.expect("freeze"), b"first\0");
}

async fn every_way_to_settle_is_stored(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1), row(2), row(3), row(4)]).await;
    claim(&*store, epoch, 0).await;
    let sure = Settled::Done { response: Some("20\0 ok".into()), reference: Some("JIRA-1".into()), possible_duplicate: true };
    let ways = [
        sure,
        Settled::Retry { reason: "busy".into(), due_at: at(50) },
        Settled::Ambiguous { reason: "cut".into(), due_at: at(60) },
        Settled::Failed { reason: "400".into() },
    ];
    for (n, how) in (1..).zip(ways) {
        store.settle(&id(n), epoch, how, at(7)).await.expect("settle");
    }
    let want = [
        (EffectState::Done, Some("20\u{fffd} ok"), Some("JIRA-1"), true, at(0)),
        (EffectState::Planned, Some("busy"), None, false, at(50)),
        (EffectState::Ambiguous, Some("cut"), None, false, at(60)),
        (EffectState::Failed, Some("400"), None, false, at(0)),
    ];
    for (n, want) in (1..).zip(want) {
        let e = one(&*store, n).await;
        let got = (e.state, e.response.as_deref(), e.reference.as_deref(), e.possible_duplicate, e.planned.due_at);
        assert_eq!(got, want);
        assert_eq!((e.sender_epoch, e.updated_at, e.attempts), (None, at(7), 1));
    }
}

async fn a_row_that_is_not_ours_is_neither_frozen_nor_settled(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1)]).await;
    assert_fenced(store.freeze(&id(1), epoch, b"x").await);
    assert_fenced(store.settle(&id(1), epoch, done(), at(1)).await);
    claim(&*store, epoch, 0).await;
    store.settle(&id(1), epoch, done(), at(1)).await.expect("settle");
    assert_fenced(store.settle(&id(1), epoch, Settled::Failed { reason: "late".into() }, at(2)).await);
    assert_fenced(store.freeze(&id(1), epoch, b"x").await);
    let e = one(&*store, 1).await;
    assert_eq!((e.state, e.request), (EffectState::Done, None));
}

async fn an_old_dispatcher_plans_claims_freezes_and_settles_nothing(site: &Site) {
    // DESIGN §7.5
    let (before, after) = (site.node().await, site.node().await);
    assert_fenced(before.plan(0, 1, &[row(1)][..].into()).await);
    let old = owner(&*before).await;
    plan(&*before, old, &[row(1), row(2)]).await;
    assert_eq!(before.claim("mail", &[(0, old)], at(0), 1).await.expect("claim").len(), 1);
    let new = owner(&*after).await;
    assert_fenced(before.plan(0, old, &[row(3)][..].into()).await);
    assert_fenced(before.claim("mail", &[(0, old)], at(0), 100).await);
    assert_fenced(before.freeze(&id(1), old, b"x").await);
    assert_fenced(before.settle(&id(1), old, done(), at(1)).await);
    assert_fenced(before.claim("mail", &[(0, new + 1)], at(0), 100).await);
    // Also once the new owner has taken the row up itself.
    let got = claim(&*after, new, 0).await;
    assert_eq!((numbers(&got), got[0].request.clone()), (vec![1, 2], None));
    assert_fenced(before.settle(&id(1), old, done(), at(1)).await);
    after.settle(&id(1), new, done(), at(1)).await.expect("the new owner settles");
    assert_eq!(after.list(EffectFilter::default()).await.expect("list").len(), 2, "nothing was planned");
}

async fn dispatch_epochs_grow_and_are_apart_from_those_of_snapshots(site: &Site) {
    let nodes = [site.node().await, site.node().await];
    let calls = (0..20).map(|i| {
        let node = nodes[i % 2].clone();
        tokio::spawn(async move { node.acquire_dispatch_epoch(5, "n").await.expect("epoch") })
    });
    let mut epochs: Vec<Epoch> = futures::future::join_all(calls).await.into_iter().map(|e| e.expect("task")).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 20);
    let owner = nodes[0].acquire_epoch(5, "n").await.expect("epoch");
    assert!(owner < epochs[19]);
    assert!(nodes[0].acquire_dispatch_epoch(5, "n").await.expect("epoch") > epochs[19]);
}

async fn a_failed_row_is_retried_once_with_the_same_bytes(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1)]).await;
    assert!(!store.retry(&id(1), at(1)).await.expect("retry"), "it has not failed");
    claim(&*store, epoch, 0).await;
    store.freeze(&id(1), epoch, b"bytes").await.expect("freeze");
    store.settle(&id(1), epoch, Settled::Failed { reason: "400".into() }, at(1)).await.expect("settle");
    assert!(claim(&*store, epoch, 99).await.is_empty());
    assert!(store.retry(&id(1), at(100)).await.expect("retry"));
    assert!(!store.retry(&id(1), at(100)).await.expect("retry"), "it is planned again already");
    assert!(!store.retry(&id(2), at(100)).await.expect("retry"), "there is no such row");
    assert!(claim(&*store, epoch, 99).await.is_empty());
    let e = claim(&*store, epoch, 100).await.pop().expect("row");
    assert_eq!((e.state, e.request.as_deref(), e.attempts), (EffectState::Planned, Some(&b"bytes"[..]), 2));
}

async fn rows_are_listed_by_filter_newest_first(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1), row(2), Planned { handler: "slack".into(), ..row(3) }, row(4)]).await;
    claim(&*store, epoch, 0).await;
    store.settle(&id(2), epoch, Settled::Failed { reason: "400".into() }, at(1)).await.expect("settle");
    let all = EffectFilter::default;
    let list = async |filter| numbers(&store.list(filter).await.expect("list"));
    assert_eq!(list(all()).await, [4, 3, 2, 1]);
    assert_eq!(list(EffectFilter { limit: 2, ..all() }).await, [4, 3]);
    assert_eq!(list(EffectFilter { handler: Some("slack".into()), ..all() }).await, [3]);
    assert_eq!(list(EffectFilter { state: Some(EffectState::Sending), ..all() }).await, [4, 1]);
    assert_eq!(list(EffectFilter { decision_id: Some(Uuid::from_u128(2)), ..all() }).await, [2]);
    let both = EffectFilter { handler: Some("mail".into()), state: Some(EffectState::Failed), ..all() };
    assert_eq!(list(both).await, [2]);
    let about = |key: &str| EffectFilter { told_about: Some(key.into()), ..all() };
    assert!(list(about("a.example/1")).await.is_empty(), "nobody gave it a reference yet");
    let referred = Settled::Done { response: None, reference: Some("T-1".into()), possible_duplicate: false };
    store.settle(&id(1), epoch, referred, at(1)).await.expect("settle");
    assert_eq!((list(about("a.example/1")).await, list(about("a.example/2")).await), (vec![1], vec![]));
}

async fn states_are_counted_by_handler(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    assert!(store.counts().await.expect("counts").is_empty());
    plan(&*store, epoch, &[row(1), row(2), Planned { handler: "slack".into(), ..row(3) }]).await;
    claim(&*store, epoch, 0).await;
    store.settle(&id(2), epoch, done(), at(1)).await.expect("settle");
    assert_eq!(
        store.counts().await.expect("counts"),
        [
            ("mail".to_owned(), EffectState::Done, 1),
            ("mail".to_owned(), EffectState::Sending, 1),
            ("slack".to_owned(), EffectState::Planned, 1),
        ]
    );
}

async fn an_unknown_effect_is_an_error(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let error = store.settle(&id(1), epoch, done(), at(0)).await.expect_err("unknown");
    assert!(matches!(&error, StoreError::Failed { reason, .. } if reason.contains("there is no effect")), "{error}");
    assert!(matches!(store.freeze(&id(1), epoch, b"x").await, Err(StoreError::Failed { .. })));
}
