//! Contract of the list of reorders: kept by the ledger's `plan`, read by the port reorders.

use chrono::{DateTime, TimeDelta, Utc};
use stockwarden::domain::proposal::State;
use stockwarden::events::ids::VariantId;
use stockwarden::ports::ledger::{Batch, Effect, EffectFilter, EffectId, EffectState, Planned, SUPERSEDED, Settled};
use stockwarden::ports::reorders::{Change, Cursor, Opening, Reorder, ReorderFilter};
use stockwarden::ports::snapshot_store::{Epoch, StoreError};
use uuid::Uuid;

use crate::support::stores::{Site, Store, over_every_store};

over_every_store!(
    an_opened_proposal_reads_back_with_its_routes,
    a_proposal_is_opened_once_and_the_newest_change_holds,
    a_proposed_one_with_a_route_done_shows_as_sent,
    pages_come_newest_first_and_lose_nothing,
    each_filter_narrows_the_list,
    what_an_old_dispatcher_says_is_not_taken_in,
    text_that_a_store_may_not_take_breaks_neither_row_nor_filter,
    a_change_is_told_to_who_told_the_proposal,
    of_several_changes_only_the_last_one_not_told_yet_is_told,
    an_effect_is_found_by_the_reference_that_its_target_gave,
);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_000_000).expect("time") + TimeDelta::seconds(seconds)
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Proposal `n` is opened by fact `n` at second `n`.
fn opening(n: u128) -> Opening {
    Opening {
        proposal_id: uuid(n),
        organisation: "acme".into(),
        shop: "a.example".into(),
        variant_id: Some(VariantId((1 << 53) + 1)),
        caused_by: n as i64,
        vendor: Some("Ä & Co".into()),
        opened_at: at(n as i64),
        decision: format!("{{\"n\":{n}}}"),
    }
}

fn row(n: u128, route: &str, handler: &str) -> Planned {
    Planned {
        id: EffectId { decision_id: uuid(n), route_id: route.into() },
        handler: handler.into(),
        organisation: "acme".into(),
        shop: "a.example".into(),
        order_key: format!("a.example/{n}"),
        partition: 0,
        offset: n as i64,
        decision: format!("{{\"n\":{n}}}"),
        route: "{}".into(),
        due_at: at(0),
        digest: None,
    }
}

fn change(n: u128, version: i64, state: &str, tell: &[&str]) -> Change {
    Change {
        proposal_id: uuid(n),
        version,
        state: state.into(),
        changed_at: at(version),
        change: format!("{{\"version\":{version}}}"),
        offset: 1000 + version,
        tell: tell.iter().map(|t| (*t).to_owned()).collect(),
        due_at: at(0),
    }
}

fn changes(list: impl Into<Vec<Change>>) -> Batch {
    Batch { changes: list.into(), ..Batch::default() }
}

async fn owner(store: &dyn Store) -> Epoch {
    store.acquire_dispatch_epoch(0, "node").await.expect("epoch")
}

async fn plan(store: &dyn Store, epoch: Epoch, batch: Batch) -> u64 {
    store.plan(0, epoch, &batch).await.expect("plan")
}

async fn get(store: &dyn Store, n: u128) -> Reorder {
    store.reorder(uuid(n)).await.expect("read").expect("it is there")
}

fn all() -> ReorderFilter {
    ReorderFilter { organisation: "acme".into(), limit: 100, ..ReorderFilter::default() }
}

async fn numbers(store: &dyn Store, filter: ReorderFilter) -> Vec<u128> {
    let page = store.reorders(filter).await.expect("list");
    page.reorders.iter().map(|r| r.opening.proposal_id.as_u128()).collect()
}

async fn claim(store: &dyn Store, epoch: Epoch, handler: &str) -> Vec<Effect> {
    store.claim(handler, &[(0, epoch)], at(0), 10).await.expect("claim")
}

fn done(reference: &str) -> Settled {
    Settled::Done { response: Some("ok".into()), reference: Some(reference.into()), possible_duplicate: false }
}

/// Claims what is due of `handler` and settles it.
async fn settle(store: &dyn Store, epoch: Epoch, handler: &str, how: Settled) -> Vec<Effect> {
    let rows = claim(store, epoch, handler).await;
    for r in &rows {
        store.settle(&r.planned.id, epoch, how.clone(), at(1)).await.expect("settled");
    }
    rows
}

async fn an_opened_proposal_reads_back_with_its_routes(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let opened = Batch { opened: vec![opening(1)], rows: vec![row(1, "0", "mail"), row(1, "1", "slack")], changes: vec![] };
    assert_eq!(plan(&*store, epoch, opened).await, 2);
    let got = get(&*store, 1).await;
    assert_eq!((&got.opening, got.partition, got.version), (&opening(1), 0, 1));
    assert_eq!((got.state.as_str(), &got.change, got.updated_at), ("proposed", &None, at(1)));
    let routes: Vec<_> = got.routes.iter().map(|r| (r.route_id.as_str(), r.handler.as_str(), r.state)).collect();
    assert_eq!(routes, [("0", "mail", EffectState::Planned), ("1", "slack", EffectState::Planned)]);
    assert_eq!(store.reorders(all()).await.expect("list").reorders, [got]);
    assert_eq!(store.reorder(uuid(2)).await.expect("read"), None);
    let pooled = Opening { variant_id: None, vendor: None, ..opening(3) };
    plan(&*store, epoch, Batch { opened: vec![pooled.clone()], ..Batch::default() }).await;
    assert_eq!(get(&*store, 3).await.opening, pooled);
}

async fn a_proposal_is_opened_once_and_the_newest_change_holds(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let other = Opening { decision: "{}".into(), ..opening(1) };
    plan(&*store, epoch, Batch { opened: vec![opening(1)], ..Batch::default() }).await;
    plan(&*store, epoch, changes([change(1, 5, "acknowledged", &[]), change(1, 7, "ordered", &[])])).await;
    // Read again from an older offset, as after a crash before the commit.
    plan(&*store, epoch, Batch { opened: vec![other], changes: vec![change(1, 5, "acknowledged", &[])], rows: vec![] }).await;
    let got = get(&*store, 1).await;
    assert_eq!((got.state.as_str(), got.version, got.change.as_deref()), ("ordered", 7, Some("{\"version\":7}")));
    assert_eq!((got.opening, got.updated_at), (opening(1), at(7)));
    // Of a proposal that is not known (the list is younger than the log).
    plan(&*store, epoch, changes([change(9, 5, "acknowledged", &["mail"])])).await;
    assert_eq!(store.reorder(uuid(9)).await.expect("read"), None);
}

async fn a_proposed_one_with_a_route_done_shows_as_sent(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let rows = vec![row(1, "0", "mail"), row(1, "1", "slack"), row(2, "0", "slack"), row(3, "0", "mail")];
    plan(&*store, epoch, Batch { opened: vec![opening(1), opening(2), opening(3)], rows, changes: vec![] }).await;
    settle(&*store, epoch, "mail", done("m")).await;
    settle(&*store, epoch, "slack", Settled::Failed { reason: "no".into() }).await;
    plan(&*store, epoch, changes([change(3, 9, "acknowledged", &[])])).await;
    assert_eq!(get(&*store, 1).await.state, "sent");
    assert_eq!(get(&*store, 2).await.state, "proposed", "a failed route is none that is done");
    assert_eq!(get(&*store, 3).await.state, "acknowledged");
    let in_state = |state| ReorderFilter { state: Some(state), ..all() };
    assert_eq!(numbers(&*store, in_state(State::Sent)).await, [1]);
    assert_eq!(numbers(&*store, in_state(State::Proposed)).await, [2]);
    assert_eq!(numbers(&*store, in_state(State::Acknowledged)).await, [3]);
}

async fn pages_come_newest_first_and_lose_nothing(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    // Several of one instant: the id decides.
    let opened = (1..=7).map(|n| Opening { opened_at: at(n as i64 / 3), ..opening(n) }).collect();
    plan(&*store, epoch, Batch { opened, ..Batch::default() }).await;
    let mut seen = Vec::new();
    let mut filter = ReorderFilter { limit: 2, ..all() };
    loop {
        let page = store.reorders(filter.clone()).await.expect("page");
        seen.extend(page.reorders.iter().map(|r| r.opening.proposal_id.as_u128()));
        let Some(next) = page.next else { break };
        assert_eq!(page.reorders.len(), 2);
        filter.before = Some(next.to_string().parse::<Cursor>().expect("a cursor reads what it writes"));
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
}

async fn each_filter_narrows_the_list(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let opened = vec![
        opening(1),
        Opening { shop: "b.example".into(), ..opening(2) },
        Opening { vendor: None, ..opening(3) },
        Opening { organisation: "other".into(), ..opening(4) },
    ];
    let rows = vec![row(1, "0", "mail"), row(2, "0", "slack"), row(2, "1", "mail"), row(4, "0", "mail")];
    plan(&*store, epoch, Batch { opened, rows, changes: vec![change(2, 9, "cancelled", &[]), change(3, 9, "in_transit", &[])] })
        .await;
    assert_eq!(numbers(&*store, all()).await, [3, 2, 1]);
    for (filter, want) in [
        (ReorderFilter { shops: vec!["b.example".into()], ..all() }, vec![2]),
        (ReorderFilter { shops: vec!["b.example".into(), "a.example".into()], ..all() }, vec![3, 2, 1]),
        (ReorderFilter { shops: vec!["c.example".into()], ..all() }, vec![]),
        (ReorderFilter { vendor: Some("Ä & Co".into()), ..all() }, vec![2, 1]),
        (ReorderFilter { handler: Some("mail".into()), ..all() }, vec![2, 1]),
        (ReorderFilter { handler: Some("slack".into()), vendor: Some("Ä & Co".into()), ..all() }, vec![2]),
        (ReorderFilter { open: Some(true), ..all() }, vec![3, 1]),
        (ReorderFilter { open: Some(false), ..all() }, vec![2]),
        (ReorderFilter { state: Some(State::InTransit), ..all() }, vec![3]),
        (ReorderFilter { state: Some(State::InTransit), open: Some(false), ..all() }, vec![]),
        (ReorderFilter { organisation: "other".into(), ..all() }, vec![4]),
    ] {
        assert_eq!(numbers(&*store, filter.clone()).await, want, "{filter:?}");
    }
}

async fn what_an_old_dispatcher_says_is_not_taken_in(site: &Site) {
    let (before, after) = (site.node().await, site.node().await);
    let old = owner(&*before).await;
    plan(&*before, old, Batch { opened: vec![opening(1)], ..Batch::default() }).await;
    let new = owner(&*after).await;
    let late = Batch { opened: vec![opening(2)], changes: vec![change(1, 5, "cancelled", &[])], rows: vec![] };
    let refused = before.plan(0, old, &late).await;
    assert!(matches!(refused, Err(StoreError::Fenced { partition: 0, .. })), "{refused:?}");
    assert_eq!((get(&*after, 1).await.state.as_str(), after.reorder(uuid(2)).await.expect("read")), ("proposed", None));
    plan(&*after, new, late).await;
    assert_eq!(get(&*after, 1).await.state, "cancelled");
}

async fn text_that_a_store_may_not_take_breaks_neither_row_nor_filter(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, Batch { opened: vec![opening(1)], ..Batch::default() }).await;
    let odd = || "a\0'; drop table reorders; --".to_owned();
    for filter in [
        ReorderFilter { vendor: Some(odd()), ..all() },
        ReorderFilter { handler: Some(odd()), ..all() },
        ReorderFilter { shops: vec![odd()], ..all() },
    ] {
        assert!(numbers(&*store, filter).await.is_empty());
    }
    assert_eq!(store.by_reference("mail", "a\0b").await.expect("look-up"), None);
    assert_eq!(numbers(&*store, all()).await, [1]);
}

async fn updates(store: &dyn Store, n: u128) -> Vec<Effect> {
    let filter = EffectFilter { decision_id: Some(uuid(n)), ..EffectFilter::default() };
    let mut rows = store.list(filter).await.expect("list");
    rows.retain(|r| r.update.is_some());
    rows.sort_by_key(|r| (r.planned.offset, r.planned.id.route_id.clone()));
    rows
}

async fn a_change_is_told_to_who_told_the_proposal(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let rows = vec![row(1, "0", "jira"), row(1, "1", "slack"), row(1, "2", "slack"), row(1, "3", "mail")];
    plan(&*store, epoch, Batch { opened: vec![opening(1)], rows, changes: vec![] }).await;
    settle(&*store, epoch, "jira", Settled::Failed { reason: "no such project".into() }).await;
    let first = claim(&*store, epoch, "slack").await;
    let told = changes([change(1, 5, "acknowledged", &["jira", "slack"])]);
    assert_eq!(plan(&*store, epoch, told.clone()).await, 0, "updates are no rows of the batch");
    plan(&*store, epoch, told).await;
    let rows = updates(&*store, 1).await;
    let ids: Vec<_> = rows.iter().map(|r| r.planned.id.route_id.as_str()).collect();
    assert_eq!(ids, ["1~5", "2~5"], "not of a route that failed, not to a handler that is not to be told, and once");
    assert_eq!(rows[0].planned, Planned { id: rows[0].planned.id.clone(), offset: 1005, ..row(1, "1", "slack") });
    assert!(claim(&*store, epoch, "slack").await.is_empty(), "the first send comes first");

    store.settle(&first[0].planned.id, epoch, done("C1/1"), at(1)).await.expect("settled");
    let next = claim(&*store, epoch, "slack").await;
    assert_eq!(next[0].planned.id.route_id, "2", "in the order of one variant");
    store.settle(&next[0].planned.id, epoch, done("C1/2"), at(1)).await.expect("settled");
    let update = claim(&*store, epoch, "slack").await.remove(0);
    let of = update.update.expect("an update");
    assert_eq!((of.route_id.as_str(), of.change.as_str()), ("1", "{\"version\":5}"));
    assert_eq!((of.first, of.reference.as_deref()), (EffectState::Done, Some("C1/1")));
    store.settle(&update.planned.id, epoch, Settled::Failed { reason: "gone".into() }, at(1)).await.expect("settled");
    let shown = get(&*store, 1).await;
    let told: Vec<_> = shown.routes.iter().filter_map(|r| r.updates.as_deref()).collect();
    assert_eq!(told, ["1", "2"], "the list tells routes and updates apart");
}

async fn of_several_changes_only_the_last_one_not_told_yet_is_told(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    plan(&*store, epoch, Batch { opened: vec![opening(1)], rows: vec![row(1, "0", "slack")], changes: vec![] }).await;
    settle(&*store, epoch, "slack", done("C1/1")).await;
    plan(&*store, epoch, changes([change(1, 5, "acknowledged", &["slack"]), change(1, 6, "ordered", &["slack"])])).await;
    let sending = claim(&*store, epoch, "slack").await;
    assert_eq!(sending.iter().map(|r| r.planned.id.route_id.as_str()).collect::<Vec<_>>(), ["0~6"]);
    // What is under way goes its way; what slack itself says makes older news needless and is not told to it.
    plan(&*store, epoch, changes([change(1, 7, "in_transit", &["slack"])])).await;
    plan(&*store, epoch, changes([change(1, 8, "received", &[])])).await;
    let rows = updates(&*store, 1).await;
    let states: Vec<_> = rows.iter().map(|r| (r.planned.id.route_id.as_str(), r.state, r.response.as_deref())).collect();
    assert_eq!(
        states,
        [
            ("0~5", EffectState::Done, Some(SUPERSEDED)),
            ("0~6", EffectState::Sending, None),
            ("0~7", EffectState::Done, Some(SUPERSEDED))
        ]
    );
    assert_eq!(get(&*store, 1).await.state, "received");
}

async fn an_effect_is_found_by_the_reference_that_its_target_gave(site: &Site) {
    let store = site.node().await;
    let epoch = owner(&*store).await;
    let rows = vec![row(1, "0", "jira"), row(2, "by-name", "jira"), row(3, "0", "slack")];
    plan(&*store, epoch, Batch { rows, ..Batch::default() }).await;
    for (n, r) in claim(&*store, epoch, "jira").await.iter().enumerate() {
        store.settle(&r.planned.id, epoch, done(&format!("REP-{n}")), at(1)).await.expect("settled");
    }
    settle(&*store, epoch, "slack", done("REP-1")).await;
    let found = store.by_reference("jira", "REP-1").await.expect("look-up").expect("found");
    assert_eq!((found.decision_id, found.route_id.as_str()), (uuid(2), "by-name"));
    assert_eq!(store.by_reference("slack", "REP-1").await.expect("look-up").expect("found").decision_id, uuid(3));
    assert_eq!(store.by_reference("jira", "REP-9").await.expect("look-up"), None);
    assert_eq!(store.by_reference("mail", "REP-1").await.expect("look-up"), None);
}
