//! The list of reorders and the moves, over a real store and log and a small implementation of the queries.

use std::time::Duration;

use chrono::DateTime;
use reqwest::Response;
use serde_json::{Value, json};
use stockwarden::api::{Limits, Listener, NodeRole};
use stockwarden::domain::proposal::State;
use stockwarden::domain::views::ProposalView;
use stockwarden::events::decision::Kind;
use stockwarden::events::ids::VariantId;
use stockwarden::events::record::{NewRecord, Topic};
use stockwarden::ports::ledger::{Batch, EffectId, Planned, Settled};
use stockwarden::ports::registry::Role;
use stockwarden::ports::reorders::{Change, Opening};
use stockwarden::ports::{EventLog as _, Ledger as _, LogError};
use uuid::Uuid;

use super::site::{SHOP, Site, problem};

const OTHER: &str = "other.myshopify.com";

pub fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn opening(n: u128, shop: &str, organisation: &str) -> Opening {
    let decision = json!({
        "decision_id": uuid(n), "proposal_id": uuid(n), "organisation": organisation, "shop": shop, "variant_id": "1",
        "kind": "a kind of a later version", "quantity": 48, "available": 4, "reason": "fell to 4", "routes": [{"to": "erp"}],
        "inputs": {"threshold": 10}, "new_field": "shown as it is",
    });
    Opening {
        proposal_id: uuid(n),
        organisation: organisation.into(),
        shop: shop.into(),
        variant_id: Some(VariantId(1)),
        caused_by: 2,
        vendor: Some(format!("Vendor {}", n % 2)),
        opened_at: DateTime::from_timestamp_millis(1_795_168_800_000 + n as i64).expect("time"),
        decision: decision.to_string(),
    }
}

fn change(n: u128, version: i64, state: &str, change: Value) -> Change {
    Change {
        proposal_id: uuid(n),
        version,
        state: state.into(),
        changed_at: DateTime::from_timestamp_millis(1_795_168_900_000).expect("time"),
        change: change.to_string(),
        offset: version,
        tell: vec![],
        due_at: DateTime::UNIX_EPOCH,
    }
}

pub struct Desk {
    pub site: Site,
    epoch: i64,
    partition: i32,
    staff: String,
}

/// Reorders 1 to 3 of [`SHOP`], 4 of another shop, 5 of another organisation; live state knows 1 to 3 as proposed.
async fn desk() -> Desk {
    desk_with(Limits { query_wait: Duration::from_millis(200), ..Limits::default() }, Vec::new()).await
}

pub async fn desk_with(limits: Limits, listeners: Vec<Listener>) -> Desk {
    let site = Site::listening(limits, NodeRole::ALL.to_vec(), listeners).await;
    for (shop, organisation) in [(SHOP, "default"), (OTHER, "default"), ("c.myshopify.com", "acme")] {
        site.queries.add(shop, organisation);
    }
    // What the small queries know: partition 3, applied up to offset 7.
    let partition = 3;
    let epoch = site.store.inner.acquire_dispatch_epoch(partition, "node").await.expect("epoch");
    let opened = vec![
        opening(1, SHOP, "default"),
        opening(2, SHOP, "default"),
        opening(3, SHOP, "default"),
        opening(4, OTHER, "default"),
        opening(5, "c.myshopify.com", "acme"),
    ];
    let row = |n: u128, route: &str| Planned {
        id: EffectId { decision_id: uuid(n), route_id: route.into() },
        handler: "erp".into(),
        organisation: "default".into(),
        shop: SHOP.into(),
        order_key: format!("{SHOP}/{n}"),
        partition,
        offset: 0,
        decision: "{}".into(),
        route: "{}".into(),
        due_at: DateTime::UNIX_EPOCH,
        digest: None,
    };
    let batch = Batch { opened, rows: vec![row(1, "0"), row(2, "0")], changes: vec![] };
    site.store.inner.plan(partition, epoch, &batch).await.expect("plan");
    *site.queries.open_proposals.lock().expect("lock") = (1..=3).map(|n| live(n, State::Proposed)).collect();
    let staff = site.token(Role::Staff, "default", &[]).await;
    Desk { site, epoch, partition, staff }
}

fn live(n: u128, state: State) -> ProposalView {
    ProposalView {
        proposal_id: uuid(n),
        rule_id: "low".into(),
        kind: Kind::Reorder,
        state,
        quantity: Some(48),
        location_id: None,
        opened_at: 0,
        ..proposal_view()
    }
}

fn proposal_view() -> ProposalView {
    serde_json::from_value(json!({
        "proposal_id": uuid(0), "rule_id": "", "kind": "reorder", "state": "proposed", "quantity": null, "location_id": null,
        "opened_at": "2026-11-20T10:00:00Z",
    }))
    .expect("a view")
}

impl Desk {
    async fn get(&self, path: &str) -> Value {
        let response = self.site.get(path, &self.staff).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    async fn post(&self, token: &str, path: &str, body: &str) -> Response {
        let url = format!("{}{path}", self.site.base);
        self.site.client.post(url).bearer_auth(token).body(body.to_owned()).send().await.expect("an answer")
    }

    async fn make(&self, n: u128, moved: &str, body: &str) -> Response {
        self.post(&self.staff, &format!("/v1/reorders/{}/{moved}", uuid(n)), body).await
    }

    async fn ids(&self, query: &str) -> Vec<u128> {
        let body = self.get(&format!("/v1/reorders?{query}")).await;
        let id = |r: &Value| r["reorder_id"].as_str().expect("id").parse::<Uuid>().expect("UUID").as_u128();
        body["reorders"].as_array().expect("list").iter().map(id).collect()
    }

    async fn change(&self, change: Change) {
        let batch = Batch { changes: vec![change], ..Batch::default() };
        self.site.store.inner.plan(self.partition, self.epoch, &batch).await.expect("plan");
    }

    pub async fn settle(&self, how: Settled) {
        let now = chrono::Utc::now();
        let rows = self.site.store.inner.claim("erp", &[(self.partition, self.epoch)], now, 1).await.expect("claim");
        self.site.store.inner.settle(&rows[0].planned.id, self.epoch, how, now).await.expect("settled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorder_is_shown_with_its_decision_what_became_of_it_and_its_routes() {
    let desk = desk().await;
    let shown = desk.get(&format!("/v1/reorders/{}", uuid(1))).await;
    assert_eq!((&shown["reorder_id"], &shown["proposal_id"]), (&json!(uuid(1)), &json!(uuid(1))));
    assert_eq!(
        (&shown["available"], &shown["reason"], &shown["inputs"]["threshold"]),
        (&4.into(), &"fell to 4".into(), &10.into())
    );
    assert_eq!((&shown["kind"], &shown["new_field"]), (&"a kind of a later version".into(), &"shown as it is".into()));
    assert_eq!((&shown["state"], &shown["received"], &shown["quantity"]), (&"proposed".into(), &0.into(), &48.into()));
    for key in ["assigned_to", "snoozed_until", "snoozed_level", "eta", "reference", "changed_by"] {
        assert_eq!(shown.get(key), Some(&Value::Null), "{key}");
    }
    let route = &shown["routes"][0];
    assert_eq!((&route["route_id"], &route["handler"], &route["kind"]), (&"0".into(), &"erp".into(), &"target".into()));
    assert_eq!((&route["state"], &route["attempts"], &route["reason"]), (&"planned".into(), &0.into(), &Value::Null));

    desk.settle(Settled::Done { response: Some("201".into()), reference: Some("PO-1".into()), possible_duplicate: true }).await;
    let said = json!({
        "state": "ordered", "quantity": 60, "received": 6, "assigned_to": "jana", "eta": "2026-12-01T00:00:00.000Z",
        "reference": "PO-1", "move": "ordered", "by": "t1 (staff)", "via": "api", "note": "by phone", "changed_at": "2026-11-20T10:01:40.000Z",
    });
    desk.change(change(1, 5, "ordered", said)).await;
    let shown = desk.get(&format!("/v1/reorders/{}", uuid(1))).await;
    assert_eq!((&shown["state"], &shown["quantity"], &shown["proposed_quantity"]), (&"ordered".into(), &60.into(), &48.into()));
    assert_eq!(
        (&shown["received"], &shown["assigned_to"], &shown["eta"]),
        (&6.into(), &"jana".into(), &"2026-12-01T00:00:00.000Z".into())
    );
    assert_eq!(
        shown["changed_by"],
        json!({"move": "ordered", "by": "t1 (staff)", "via": "api", "note": "by phone", "at": "2026-11-20T10:01:40.000Z"})
    );
    let route = &shown["routes"][0];
    assert_eq!((&route["state"], &route["reference"]), (&"done".into(), &"PO-1".into()));
    assert_eq!((&route["response"], &route["possible_duplicate"]), (&"201".into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered_and_paged_newest_first() {
    let desk = desk().await;
    desk.change(change(2, 5, "cancelled", json!({}))).await;
    assert_eq!(desk.ids("").await, [4, 3, 2, 1]);
    for (query, want) in [
        ("state=cancelled", vec![2]),
        ("state=proposed", vec![4, 3, 1]),
        ("open=false", vec![2]),
        ("open=true&vendor=Vendor%201", vec![3, 1]),
        ("handler=erp", vec![2, 1]),
        ("handler=mail", vec![]),
        ("shop=other.myshopify.com", vec![4]),
        ("shop=Demo-Outdoor.MyShopify.com&limit=1", vec![3]),
        ("vendor=nobody", vec![]),
    ] {
        assert_eq!(desk.ids(query).await, want, "{query}");
    }
    let first = desk.get("/v1/reorders?limit=3").await;
    let cursor = first["next_cursor"].as_str().expect("there is more");
    assert_eq!(desk.ids(&format!("limit=3&cursor={cursor}")).await, [1]);
    assert_eq!(desk.get(&format!("/v1/reorders?limit=3&cursor={cursor}")).await["next_cursor"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_with_what_is_valid() {
    let desk = desk().await;
    for (path, word) in [
        ("/v1/reorders?stat=open", "known are state, shop"),
        ("/v1/reorders?state=open", "in_transit"),
        ("/v1/reorders?open=maybe", "true or false"),
        ("/v1/reorders?handler=jira", "erp, mail"),
        ("/v1/reorders?limit=0", "1 to 1000"),
        ("/v1/reorders?limit=1001", "1 to 1000"),
        ("/v1/reorders?cursor=xyz", "next_cursor"),
        ("/v1/reorders?after=9:1", "no partition 9"),
        ("/v1/reorders?after=x", "3:1042"),
        ("/v1/reorders/7", "UUID"),
    ] {
        let (status, told) = problem(desk.site.get(path, &desk.staff).await).await;
        assert_eq!(status, 400, "{path}");
        assert!(told["detail"].as_str().expect("detail").contains(word), "{path}: {told}");
    }
    for (moved, body, word) in [
        ("acknowledge", r#"{"qty": 3}"#, "it may have note"),
        ("acknowledge", "[]", "not a JSON object"),
        ("acknowledge", "{", "not JSON"),
        ("ordered", r#"{"quantity": "3"}"#, "quantity is not a whole number"),
        ("ordered", r#"{"quantity": 1.5}"#, "quantity is not a whole number"),
        ("ordered", r#"{"quantity": 0}"#, "from 1 to"),
        ("ordered", r#"{"eta": "soon"}"#, "RFC 3339"),
        ("received", r#"{"quantity": -1}"#, "from 1 to"),
        ("snooze", "", "either until"),
        ("snooze", r#"{"level": 3, "until": "2099-01-01T00:00:00Z"}"#, "not both"),
        ("snooze", r#"{"until": "2020-01-01T00:00:00Z"}"#, "in the past"),
        ("assign", r#"{"note": "x"}"#, "needs to"),
        ("assign", r#"{"to": 7}"#, "to is not a text"),
        ("assign", &format!(r#"{{"to": "{}"}}"#, "x".repeat(2001)), "2000 characters"),
    ] {
        let (status, told) = problem(desk.make(1, moved, body).await).await;
        assert_eq!(status, 400, "{moved} {body}");
        assert!(told["detail"].as_str().expect("detail").contains(word), "{moved} {body}: {told}");
    }
    let (status, told) = problem(desk.make(1, "approve", "").await).await;
    assert_eq!(status, 404);
    assert!(told["detail"].as_str().expect("detail").contains("acknowledge, assign"), "{told}");
    assert_eq!(problem(desk.make(1, "acknowledge", &" ".repeat(65 * 1024)).await).await.0, 413);
    assert!(desk.site.records(Topic::Facts).is_empty(), "nothing of that is a fact");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorder_of_others_looks_like_one_that_is_not_there() {
    let desk = desk().await;
    let one = desk.site.token(Role::Staff, "default", &[OTHER]).await;
    let acme = desk.site.token(Role::Admin, "acme", &[]).await;
    let list: Value = desk.site.get("/v1/reorders", &one).await.json().await.expect("JSON");
    assert_eq!(list["reorders"].as_array().map(Vec::len), Some(1));
    assert_eq!(problem(desk.site.get(&format!("/v1/reorders?shop={SHOP}"), &one).await).await.0, 404);
    for (token, n, want) in [(&one, 4, 200), (&one, 1, 404), (&one, 5, 404), (&acme, 5, 200), (&acme, 1, 404), (&acme, 99, 404)] {
        let response = desk.site.get(&format!("/v1/reorders/{}", uuid(n)), token).await;
        assert_eq!(response.status().as_u16(), want, "{n} {token}");
        if want == 404 {
            let told = format!("there is no reorder {}", uuid(n));
            assert_eq!(problem(response).await.1["detail"], told);
            let moved = desk.post(token, &format!("/v1/reorders/{}/acknowledge", uuid(n)), "").await;
            assert_eq!(problem(moved).await.1["detail"], told);
        }
    }
    for (role, read, write) in
        [(Role::Reader, 200, 403), (Role::Auditor, 200, 403), (Role::Ingest, 403, 403), (Role::Admin, 200, 200)]
    {
        let token = desk.site.token(role, "default", &[]).await;
        assert_eq!(desk.site.get("/v1/reorders", &token).await.status().as_u16(), read, "{}", role.as_str());
        let moved = desk.post(&token, &format!("/v1/reorders/{}/acknowledge", uuid(1)), "").await;
        assert_eq!(moved.status().as_u16(), write, "{}", role.as_str());
    }
    let bare = desk.site.client.post(format!("{}/v1/reorders/{}/cancel", desk.site.base, uuid(1))).send().await.expect("answer");
    assert_eq!(problem(bare).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_a_fact_with_who_and_when_and_a_repeat_writes_nothing() {
    let desk = desk().await;
    let body = r#"{"quantity": 60, "eta": "2026-12-01T00:00:00Z", "reference": "PO-1", "note": "by phone"}"#;
    let response = desk.make(1, "ordered", body).await;
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.expect("JSON");
    let facts = desk.site.records(Topic::Facts);
    assert_eq!(facts.len(), 1);
    assert_eq!(answer["position"], facts[0].position, "the list lags, the fact is there");
    assert_eq!(answer["reorder"]["reorder_id"], json!(uuid(1)));
    assert_eq!((facts[0].key.as_str(), facts[0].header("fact")), (SHOP, Some("proposal/moved")));
    assert!(facts[0].position.starts_with("3:"), "in the partition where the proposal is");
    assert!(facts[0].header("dedupe_id").is_some() && facts[0].header("event_time").is_some());
    assert_eq!(
        facts[0].json(),
        json!({
            "proposal_id": uuid(1), "variant_id": "1", "move": "ordered", "by": "staff-default- (staff)", "via": "api",
            "quantity": 60, "eta": "2026-12-01T00:00:00.000Z", "reference": "PO-1", "note": "by phone",
        })
    );
    // As the fold and the dispatcher make it.
    desk.site.queries.open_proposals.lock().expect("lock")[0].state = State::Ordered;
    {
        let mut open = desk.site.queries.open_proposals.lock().expect("lock");
        open[0].quantity = Some(60);
        open[0].eta = stockwarden::events::time::parse_millis("2026-12-01T00:00:00Z");
        open[0].reference = Some("PO-1".into());
    }
    let said = json!({
        "proposal_id": uuid(1), "organisation": "default", "shop": SHOP, "variant_id": "1", "state": "ordered", "quantity": 60,
        "received": 0, "eta": "2026-12-01T00:00:00.000Z", "reference": "PO-1", "changed_at": "2026-11-20T10:01:40.000Z",
        "caused_by": {"topic": "stock-facts", "partition": 3, "offset": 3},
    });
    desk.change(change(1, 3, "ordered", said)).await;
    let again: Value = desk.make(1, "ordered", body).await.json().await.expect("JSON");
    assert_eq!((&again["position"], &again["reorder"]["state"]), (&Value::Null, &"ordered".into()));
    let (status, told) = problem(desk.make(1, "acknowledge", "").await).await;
    let told = told["detail"].as_str().expect("detail").to_owned();
    assert!(status == 409 && told.contains("is ordered") && told.contains("in-transit, received, cancel"), "{status}: {told}");
    assert_eq!(desk.site.records(Topic::Facts).len(), 1);
    let postponed = desk.make(1, "ordered", r#"{"eta": "2026-12-24T00:00:00Z"}"#).await;
    assert_eq!(postponed.status(), 200);
    assert_eq!(desk.site.records(Topic::Facts).len(), 2, "another date is news");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_reorder_takes_no_moves_but_repeats() {
    let desk = desk().await;
    desk.change(change(2, 5, "cancelled", json!({}))).await;
    desk.site.queries.open_proposals.lock().expect("lock").retain(|p| p.proposal_id != uuid(2));
    assert_eq!(desk.make(2, "cancel", "").await.status(), 200);
    for moved in ["acknowledge", "ordered", "in-transit", "received"] {
        let (status, told) = problem(desk.make(2, moved, "").await).await;
        let told = told["detail"].as_str().expect("detail").to_owned();
        assert!(status == 409 && told.contains("is cancelled") && told.contains("closed"), "{moved} {status}: {told}");
    }
    assert!(desk.site.records(Topic::Facts).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_sent_twice_at_once_is_one_fact() {
    let desk = desk().await;
    let url = format!("{}/v1/reorders/{}/received", desk.site.base, uuid(1));
    let send =
        || desk.site.client.post(&url).bearer_auth(&desk.staff).header("Idempotency-Key", "k-1").body(r#"{"quantity":5}"#).send();
    let (a, b) = tokio::join!(send(), send());
    assert_eq!((a.expect("answer").status(), b.expect("answer").status()), (reqwest::StatusCode::OK, reqwest::StatusCode::OK));
    assert_eq!(desk.site.records(Topic::Facts).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_away_a_move_is_asked_to_come_again() {
    let desk = desk().await;
    desk.site.log.set_fault(Some(LogError::Unavailable { during: "testing".into(), reason: "it is away".into() }));
    let response = desk.make(1, "acknowledge", "").await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await.0, 503);
    desk.site.log.set_fault(None);
    assert_eq!(desk.make(1, "acknowledge", "").await.status(), 200);
    assert_eq!(desk.site.records(Topic::Facts).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_route_is_tried_again_by_staff_only_and_once() {
    let desk = desk().await;
    let path = |n: u128, route: &str| format!("/v1/reorders/{}/routes/{route}/retry", uuid(n));
    let (status, told) = problem(desk.post(&desk.staff, &path(1, "0"), "").await).await;
    assert!(status == 409 && told["detail"].as_str().expect("detail").contains("planned"), "{told}");
    desk.settle(Settled::Failed { reason: "no such project".into() }).await;
    let shown = desk.get(&format!("/v1/reorders/{}", uuid(1))).await;
    assert_eq!((&shown["routes"][0]["state"], &shown["routes"][0]["reason"]), (&"failed".into(), &"no such project".into()));
    let reader = desk.site.token(Role::Reader, "default", &[]).await;
    assert_eq!(problem(desk.post(&reader, &path(1, "0"), "").await).await.0, 403);
    let retried = desk.post(&desk.staff, &path(1, "0"), "").await;
    assert_eq!(retried.status(), 200);
    let retried: Value = retried.json().await.expect("JSON");
    assert_eq!(retried["reorder"]["routes"][0]["state"], "planned");
    assert_eq!(problem(desk.post(&desk.staff, &path(1, "0"), "").await).await.0, 409);
    let (status, told) = problem(desk.post(&desk.staff, &path(1, "9"), "").await).await;
    assert!(status == 404 && told["detail"].as_str().expect("detail").contains("its routes are: 0"), "{told}");
    assert_eq!(problem(desk.post(&desk.staff, &path(5, "0"), "").await).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_not_in_the_list_yet_is_waited_for_and_then_told() {
    let desk = desk().await;
    let fact = NewRecord { topic: Topic::Facts, partition: Some(3), key: None, headers: vec![], value: Some(b"{}".to_vec()) };
    let at = desk.site.log.inner.append(vec![fact]).await.expect("appended")[0];
    let response = desk.site.get(&format!("/v1/reorders?after={at}"), &desk.staff).await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, told) = problem(response).await;
    assert!(status == 503 && told["detail"].as_str().expect("detail").contains("not in the list yet"), "nobody reads: {told}");
}
