//! The kind behind a sender and its ledger: how many messages there are in the end.

use std::time::Duration;

use serde_json::{Value, json};
use stockwarden::handlers::Common;
use stockwarden::ports::ledger::{Effect, EffectState, Planned};

use super::server::{ALL_SCOPES, CHANNEL, Fault, SlackServer, TOKEN};
use super::{SIGNING_SECRET, answer, handler};
use crate::effects::harness::{Node, World, decision, planned, route, until};
use crate::effects::tap::Tap;

async fn settled(world: &World, node: &Node, n: u128) -> Effect {
    until("it is settled", async || {
        world.clock.advance(Duration::from_secs(3));
        Some(node.row(n).await).filter(|r| matches!(r.state, EffectState::Done | EffectState::Failed))
    })
    .await
}

async fn through_the_ledger(server: &SlackServer) -> Effect {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[planned(1, "slack", &decision(1), &route(json!({"to": "slack"})))]).await;
    node.sender("slack", Common::default(), handler(server));
    settled(&world, &node, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_ledger_a_lost_answer_is_one_message() {
    for fault in [Fault::CommitThenDrop, Fault::CommitThenHang, Fault::CommitThenError("fatal_error"), Fault::Drop] {
        let server = SlackServer::start(false, ALL_SCOPES, [fault.clone()]).await;
        let row = through_the_ledger(&server).await;
        let posted = server.posted();
        assert_eq!((posted.len(), row.possible_duplicate, row.state), (1, false, EffectState::Done), "{fault:?}");
        assert_eq!(row.reference, Some(format!("{CHANNEL}:{}", posted[0].ts)), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_scope_the_same_message_is_sent_again_and_shown_as_a_possible_duplicate() {
    for (remembers, messages) in [(true, 1), (false, 2)] {
        let server = SlackServer::start(remembers, &[], [Fault::CommitThenDrop]).await;
        let row = through_the_ledger(&server).await;
        assert_eq!((server.posted().len(), row.possible_duplicate), (messages, true), "{remembers}");
        let calls = server.calls("chat.postMessage");
        assert!(calls.len() == 2 && calls[0].body == calls[1].body, "the same bytes: {calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_ledger_a_revoked_token_fails_visibly_and_shows_no_secret() {
    let echo = format!("{{\"ok\":false,\"error\":\"token_revoked\",\"x\":\"{TOKEN}\"}}");
    let server = SlackServer::start(true, ALL_SCOPES, [answer("200 OK", &[], &echo)]).await;
    let row = through_the_ledger(&server).await;
    assert!(row.response.as_deref().is_some_and(|r| r.contains("token_revoked") && r.contains("install the app again")));
    let told = answer("404 Not Found", &[], &format!("you sent {TOKEN} and {SIGNING_SECRET}"));
    let row = through_the_ledger(&SlackServer::start(true, ALL_SCOPES, [told]).await).await;
    let response = row.response.expect("a reason");
    assert!(response.contains("you sent ***") && !response.contains(TOKEN) && !response.contains(SIGNING_SECRET), "{response}");
    let request = String::from_utf8(row.request.expect("frozen")).expect("text");
    assert!(!request.contains(TOKEN) && !request.contains(SIGNING_SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_ledger_a_variant_has_one_thread_in_each_channel() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let row = |n: u128, key: &str, channel: &str| {
        let route = route(json!({"to": "slack", "channel": channel}));
        Planned { order_key: key.into(), ..planned(n, "slack", &decision(n), &route) }
    };
    let about = "a.example/1";
    let rows = [
        row(1, about, CHANNEL),
        row(2, about, "C9000000000"),
        row(3, about, CHANNEL),
        row(4, "a.example/2", CHANNEL),
        row(5, about, CHANNEL),
        row(6, about, "C9000000000"),
    ];
    node.plan(&rows).await;
    node.sender("slack", Common::default(), handler(&server));
    for n in 1..=6 {
        node.until(n, EffectState::Done).await;
    }
    let posted = server.posted();
    let of = |n: u128| {
        let id = json!(uuid::Uuid::from_u128(n));
        posted.iter().find(|p| p.body["metadata"]["event_payload"]["decision_id"] == id).expect("posted")
    };
    for (n, first) in [(1, None), (2, None), (3, Some(1)), (4, None), (5, Some(1)), (6, Some(2))] {
        let thread = first.map_or(Value::Null, |first| json!(of(first).ts));
        assert_eq!(of(n).body["thread_ts"], thread, "message {n}");
    }
}
