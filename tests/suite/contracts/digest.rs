//! Contract of the port ledger: digests, rows that go out as one effect.

use chrono::{DateTime, TimeDelta, Utc};
use stockwarden::ports::ledger::{DIGEST_ROWS, Effect, EffectFilter, EffectId, EffectState, Planned, Settled};
use stockwarden::ports::snapshot_store::{Epoch, StoreError};
use uuid::Uuid;

use crate::support::stores::{Site, Store, over_every_store};

over_every_store!(
    due_rows_of_a_digest_go_out_as_one_and_share_every_outcome,
    digests_are_apart_from_each_other_and_from_single_rows,
    what_comes_after_the_claim_goes_into_the_next_digest,
    a_digest_left_by_a_dead_sender_comes_back_whole_and_only_through_its_leader,
    a_digest_that_was_not_frozen_takes_in_what_came_meanwhile,
    rows_of_one_order_key_go_together_but_never_before_an_older_one_outside,
    a_lost_claim_gives_the_whole_digest_back,
    a_failed_digest_is_retried_whole_whichever_row_is_named,
    a_digest_spans_the_partitions_of_its_claim_and_stays_with_its_leaders,
    a_digest_has_a_bound,
);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("time") + TimeDelta::seconds(seconds)
}

fn id(n: u128) -> EffectId {
    EffectId { decision_id: Uuid::from_u128(n), route_id: "0".into() }
}

/// Row `n` of partition 0 and digest "d", due at second 0, with an order key of its own.
fn row(n: u128) -> Planned {
    Planned {
        id: id(n),
        handler: "mail".into(),
        organisation: "acme".into(),
        shop: "a.example".into(),
        order_key: format!("a.example/{n}"),
        partition: 0,
        offset: n as i64,
        decision: "{}".into(),
        route: "{}".into(),
        due_at: at(0),
        digest: Some("d".into()),
    }
}

fn single(n: u128) -> Planned {
    Planned { digest: None, ..row(n) }
}

async fn owner(store: &dyn Store) -> Epoch {
    store.acquire_dispatch_epoch(0, "node").await.expect("epoch")
}

async fn plan(store: &dyn Store, epoch: Epoch, rows: &[Planned]) {
    store.plan(0, epoch, &rows.into()).await.expect("plan");
}

async fn claim(store: &dyn Store, epoch: Epoch, seconds: i64) -> Vec<Effect> {
    store.claim("mail", &[(0, epoch)], at(seconds), 100).await.expect("claim")
}

/// (leader, the others) of each.
fn groups(effects: &[Effect]) -> Vec<(u128, Vec<u128>)> {
    let number = |p: &Planned| p.id.decision_id.as_u128();
    effects.iter().map(|e| (number(&e.planned), e.shared_by.iter().map(number).collect())).collect()
}

async fn one(store: &dyn Store, n: u128) -> Effect {
    let filter = EffectFilter { decision_id: Some(Uuid::from_u128(n)), ..EffectFilter::default() };
    store.list(filter).await.expect("list").pop().expect("the row")
}

async fn states(store: &dyn Store, rows: &[u128]) -> Vec<EffectState> {
    let mut states = Vec::new();
    for n in rows {
        states.push(one(store, *n).await.state);
    }
    states
}

fn done() -> Settled {
    Settled::Done { response: Some("250".into()), reference: Some("<id>".into()), possible_duplicate: true }
}

async fn due_rows_of_a_digest_go_out_as_one_and_share_every_outcome(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1), row(2), row(3), Planned { due_at: at(5), ..row(4) }]).await;
    let got = claim(&*store, epoch, 0).await;
    assert_eq!(groups(&got), [(1, vec![2, 3])]);
    assert_eq!(got[0].shared_by[0], row(2));
    assert!(claim(&*store, epoch, 0).await.is_empty(), "the others are not given out themselves");
    assert_eq!(states(&*store, &[1, 2, 3, 4]).await[..3], [EffectState::Sending; 3]);
    store.freeze(&id(1), epoch, b"all").await.expect("freeze");
    store.settle(&id(1), epoch, Settled::Ambiguous { reason: "cut".into(), due_at: at(3) }, at(1)).await.expect("settle");
    assert_eq!(states(&*store, &[1, 2, 3]).await, [EffectState::Ambiguous; 3]);
    let again = claim(&*store, epoch, 3).await;
    assert_eq!((groups(&again), again[0].request.as_deref()), (vec![(1, vec![2, 3])], Some(&b"all"[..])));
    store.settle(&id(1), epoch, done(), at(4)).await.expect("settle");
    for n in 1..=3 {
        let row = one(&*store, n).await;
        let got = (row.state, row.reference.as_deref(), row.possible_duplicate, row.attempts, row.updated_at);
        assert_eq!(got, (EffectState::Done, Some("<id>"), true, 2, at(4)), "row {n}");
    }
    assert_eq!(groups(&claim(&*store, epoch, 5).await), [(4, vec![])]);
}

async fn digests_are_apart_from_each_other_and_from_single_rows(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let other = |n| Planned { digest: Some("e".into()), ..row(n) };
    let handler = |n| Planned { handler: "other".into(), ..row(n) };
    plan(&*store, epoch, &[single(1), row(2), other(3), row(4), single(5), handler(6), other(7)]).await;
    assert_eq!(groups(&claim(&*store, epoch, 0).await), [(1, vec![]), (2, vec![4]), (3, vec![7]), (5, vec![])]);
}

async fn what_comes_after_the_claim_goes_into_the_next_digest(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1), row(2)]).await;
    claim(&*store, epoch, 0).await;
    store.freeze(&id(1), epoch, b"1 and 2").await.expect("freeze");
    plan(&*store, epoch, &[row(3)]).await;
    store.settle(&id(1), epoch, Settled::Retry { reason: "421".into(), due_at: at(0) }, at(0)).await.expect("settle");
    assert_eq!(groups(&claim(&*store, epoch, 1).await), [(1, vec![2]), (3, vec![])], "what is frozen takes in nothing");
}

async fn a_digest_left_by_a_dead_sender_comes_back_whole_and_only_through_its_leader(site: &Site) {
    let store = site.node().await;
    let old = owner(&*store).await;
    plan(&*store, old, &[row(1), row(2), row(3)]).await;
    claim(&*store, old, 0).await;
    store.freeze(&id(1), old, b"all").await.expect("freeze");
    let new = owner(&*store).await;
    let late = store.settle(&id(1), old, done(), at(1)).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    let got = store.claim("mail", &[(0, new)], at(1), 2).await.expect("claim");
    assert_eq!((groups(&got), got[0].state), (vec![(1, vec![2, 3])], EffectState::Ambiguous));
    assert!(claim(&*store, new, 1).await.is_empty());
    store.settle(&id(1), new, done(), at(2)).await.expect("settle");
    assert_eq!(states(&*store, &[1, 2, 3]).await, [EffectState::Done; 3]);
}

async fn a_digest_that_was_not_frozen_takes_in_what_came_meanwhile(site: &Site) {
    let store = site.node().await;
    let old = owner(&*store).await;
    plan(&*store, old, &[row(1), row(2)]).await;
    claim(&*store, old, 0).await;
    plan(&*store, old, &[row(3)]).await;
    assert_eq!(groups(&claim(&*store, old, 0).await), [(3, vec![])], "a digest of its own while the first is under way");
    plan(&*store, old, &[row(4)]).await;
    let new = owner(&*store).await;
    // Of both, nothing can have been sent.
    assert_eq!(groups(&claim(&*store, new, 0).await), [(1, vec![2, 3, 4])]);
}

async fn rows_of_one_order_key_go_together_but_never_before_an_older_one_outside(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let keyed = |n: u128, key: &str| Planned { order_key: key.into(), ..row(n) };
    let first = Planned { digest: None, ..keyed(1, "held") };
    plan(&*store, epoch, &[first, keyed(2, "free"), keyed(3, "held"), keyed(4, "free"), keyed(5, "held")]).await;
    assert_eq!(groups(&claim(&*store, epoch, 0).await), [(1, vec![]), (2, vec![4])], "3 and 5 wait for 1");
    store.settle(&id(1), epoch, done(), at(0)).await.expect("settle");
    assert_eq!(groups(&claim(&*store, epoch, 0).await), [(3, vec![5])]);
    plan(&*store, epoch, &[Planned { digest: None, ..keyed(6, "free") }]).await;
    assert!(claim(&*store, epoch, 0).await.is_empty(), "what comes after waits for the digest that its older one is in");
    store.settle(&id(2), epoch, done(), at(0)).await.expect("settle");
    assert_eq!(groups(&claim(&*store, epoch, 0).await), [(6, vec![])]);
}

async fn a_lost_claim_gives_the_whole_digest_back(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1), row(2)]).await;
    claim(&*store, epoch, 0).await;
    assert_eq!(store.release("mail", &[(0, epoch)], &[id(1)], at(1)).await.expect("release"), 0, "1 is under way, and 2 with it");
    assert_eq!(store.release("mail", &[(0, epoch)], &[], at(1)).await.expect("release"), 1);
    assert_eq!(states(&*store, &[1, 2]).await, [EffectState::Planned; 2]);
    assert_eq!(groups(&claim(&*store, epoch, 1).await), [(1, vec![2])]);
    store.freeze(&id(1), epoch, b"all").await.expect("freeze");
    assert_eq!(store.release("mail", &[(0, epoch)], &[], at(1)).await.expect("release"), 1);
    assert_eq!(states(&*store, &[1, 2]).await, [EffectState::Ambiguous; 2]);
}

async fn a_failed_digest_is_retried_whole_whichever_row_is_named(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, &[row(1), row(2), row(3)]).await;
    claim(&*store, epoch, 0).await;
    store.freeze(&id(1), epoch, b"all").await.expect("freeze");
    store.settle(&id(1), epoch, Settled::Failed { reason: "550".into() }, at(1)).await.expect("settle");
    assert_eq!(one(&*store, 3).await.response.as_deref(), Some("550"), "visible on each");
    assert!(store.retry(&id(3), at(2)).await.expect("retry"));
    assert!(!store.retry(&id(1), at(2)).await.expect("retry"), "it is planned again already");
    assert_eq!(states(&*store, &[1, 2, 3]).await, [EffectState::Planned; 3]);
    let got = claim(&*store, epoch, 2).await;
    assert_eq!((groups(&got), got[0].request.as_deref()), (vec![(1, vec![2, 3])], Some(&b"all"[..])));
}

async fn a_digest_spans_the_partitions_of_its_claim_and_stays_with_its_leaders(site: &Site) {
    let store = site.node().await;
    let zero = owner(&*store).await;
    let one_old = store.acquire_dispatch_epoch(1, "node").await.expect("epoch");
    let two = store.acquire_dispatch_epoch(2, "other").await.expect("epoch");
    let there = |n, partition| Planned { partition, ..row(n) };
    plan(&*store, zero, &[row(1)]).await;
    store.plan(1, one_old, &[there(2, 1)][..].into()).await.expect("plan");
    store.plan(2, two, &[there(3, 2)][..].into()).await.expect("plan");
    let got = store.claim("mail", &[(0, zero), (1, one_old)], at(0), 10).await.expect("claim");
    assert_eq!(groups(&got), [(1, vec![2])], "partition 2 is another's");
    let one_new = store.acquire_dispatch_epoch(1, "other").await.expect("epoch");
    let other = store.claim("mail", &[(1, one_new), (2, two)], at(0), 10).await.expect("claim");
    assert_eq!(groups(&other), [(3, vec![])], "2 stays in the digest that it is in");
    store.settle(&id(1), zero, done(), at(1)).await.expect("settle");
    assert_eq!(states(&*store, &[1, 2, 3]).await, [EffectState::Done, EffectState::Done, EffectState::Sending]);
}

async fn a_digest_has_a_bound(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let rows: Vec<Planned> = (1..=DIGEST_ROWS as u128 + 3).map(row).collect();
    plan(&*store, epoch, &rows).await;
    let first = store.claim("mail", &[(0, epoch)], at(0), 1).await.expect("claim");
    assert_eq!(first[0].shared_by.len() as i64, DIGEST_ROWS - 1);
    let rest = store.claim("mail", &[(0, epoch)], at(0), 1).await.expect("claim");
    assert_eq!(rest[0].shared_by.len(), 2);
}
