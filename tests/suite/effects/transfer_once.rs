//! The kind `shopify-transfer` through the ledger: one transfer an effect, whatever happens to requests, answers, keys and nodes
//! (DESIGN §7.6).

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use stockwarden::actors::effects::{BreakerState, Clock, Sender};
use stockwarden::handlers::Common;
use stockwarden::ports::ledger::{Effect, EffectState, Planned};

use super::harness::{Node, World, planned, route, until};
use super::tap::Tap;
use super::transfer::{decision, handler};
use super::transfer_shop::{Fault, Shopify, TOKEN};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn row(n: u128) -> Planned {
    planned(n, "t", &decision(n), &route(json!({"to": "t"})))
}

/// A node that sends to `shopify`.
struct Running {
    node: Node,
    sender: Arc<Sender>,
}

async fn run(world: &World, shopify: &Shopify, rows: &[Planned]) -> Running {
    let node = world.node(Tap::default()).await;
    node.plan(rows).await;
    let sender = node.sender("t", Common { max_attempts: 40, ..Common::default() }, handler(shopify, ""));
    Running { node, sender }
}

impl Running {
    /// Passes the time for which an effect waits. Never while something is sent, so that no deadline ends it.
    async fn pass_time(&self, world: &World, n: u128) -> Effect {
        let row = self.node.row(n).await;
        if matches!(row.state, EffectState::Planned | EffectState::Ambiguous) {
            match (row.planned.due_at - world.clock.now()).to_std() {
                Ok(wait) if !wait.is_zero() => world.clock.advance(wait),
                _ if self.sender.state().breaker != BreakerState::Closed => world.clock.advance(Duration::from_secs(1)),
                _ => {}
            }
            self.sender.wake();
        }
        row
    }

    async fn end(&self, world: &World, n: u128) -> Effect {
        let ended = async || {
            let row = self.pass_time(world, n).await;
            Some(row).filter(|r| matches!(r.state, EffectState::Done | EffectState::Failed))
        };
        until(&format!("effect {n} ends"), ended).await
    }
}

fn keys(shopify: &Shopify) -> Vec<String> {
    shopify.state().mutations.iter().map(|m| m.json["variables"]["key"].as_str().expect("key").to_owned()).collect()
}

fn is_one(shopify: &Shopify, row: &Effect) {
    let state = shopify.state();
    assert_eq!(state.transfers.len(), 1, "{row:?}");
    assert_eq!((row.state, row.possible_duplicate), (EffectState::Done, false), "{row:?}");
    assert_eq!(row.reference.as_deref(), Some(state.transfers[0].gid.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_with_the_same_bytes_while_the_index_lags() {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [Fault::CommitThenDrop]).await;
    shopify.state().index_lag = TimeDelta::days(1);
    let node = run(&world, &shopify, &[row(1)]).await;
    let row = node.end(&world, 1).await;
    is_one(&shopify, &row);
    let state = shopify.state();
    assert_eq!(state.mutations.len(), 2);
    assert_eq!(state.mutations[0].body, state.mutations[1].body);
    assert_eq!(Some(&state.mutations[0].body), row.request.as_ref());
    assert_eq!(state.searches.len(), 1, "asked before it was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_by_its_tag_and_nothing_is_sent_again() {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [Fault::CommitThenHang]).await;
    shopify.state().index_lag = TimeDelta::zero();
    let node = run(&world, &shopify, &[row(1)]).await;
    let row = node.end(&world, 1).await;
    is_one(&shopify, &row);
    assert_eq!(shopify.state().mutations.len(), 1);
    assert!(row.response.is_some_and(|r| r.contains("found by its tag")));
}

/// An ambiguous effect whose node ends, and another node a day and more later, when its key is forgotten.
async fn after_a_day(fault: Fault, index_lag: TimeDelta) -> (World, Shopify, Effect) {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [fault]).await;
    let first = run(&world, &shopify, &[row(1)]).await;
    first.node.until(1, EffectState::Ambiguous).await;
    first.node.stop();
    world.clock.advance(DAY + DAY);
    shopify.state().index_lag = index_lag;
    let second = run(&world, &shopify, &[]).await;
    let row = second.end(&world, 1).await;
    (world, shopify, row)
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_window_a_transfer_that_is_there_is_found() {
    let (_world, shopify, row) = after_a_day(Fault::CommitThenDrop, TimeDelta::zero()).await;
    is_one(&shopify, &row);
    assert_eq!(shopify.state().mutations.len(), 1, "its key is forgotten, and would make another");
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_window_nothing_is_sent_before_the_index_had_time() {
    // It shows in the index a minute after the first look.
    let lag = TimeDelta::days(2) + TimeDelta::seconds(60);
    let (_world, shopify, row) = after_a_day(Fault::CommitThenDrop, lag).await;
    is_one(&shopify, &row);
    let state = shopify.state();
    assert!(state.mutations.len() == 1 && state.searches.len() > 1, "{} searches", state.searches.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_window_what_never_arrived_is_sent_in_the_end() {
    let (_world, shopify, row) = after_a_day(Fault::DropBefore, TimeDelta::zero()).await;
    is_one(&shopify, &row);
    assert_eq!(shopify.state().mutations.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_effect_that_is_retried_days_later_is_searched_for_first() {
    let world = World::new();
    // The second send cannot be judged by the first: it is refused, and somebody mends that days later.
    let shopify = Shopify::start(&world.clock, [Fault::CommitThenDrop, Fault::Denied]).await;
    shopify.state().index_lag = TimeDelta::hours(1);
    let node = run(&world, &shopify, &[row(1)]).await;
    assert_eq!(node.end(&world, 1).await.state, EffectState::Failed);
    world.clock.advance(3 * DAY);
    assert!(node.node.shared.ledger.retry(&row(1).id, world.clock.now()).await.expect("retry"));
    until("it is due", async || (node.node.row(1).await.state != EffectState::Failed).then_some(())).await;
    let row = node.end(&world, 1).await;
    is_one(&shopify, &row);
    assert_eq!(shopify.state().mutations.len(), 2, "found, not sent a third time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_key_is_followed_by_the_next_one_after_a_search() {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [Fault::FailInside]).await;
    let node = run(&world, &shopify, &[row(1)]).await;
    let row = node.end(&world, 1).await;
    is_one(&shopify, &row);
    let keys = keys(&shopify);
    assert!(keys.len() == 3 && keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
    let state = shopify.state();
    assert_eq!(state.mutations[2].json["variables"]["input"], state.mutations[0].json["variables"]["input"]);
    assert!(state.searches.len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_under_a_later_key_is_found_by_walking_the_same_keys() {
    let world = World::new();
    // The frozen key fails; its repeat says so; the second key fails; …; the third makes it, and nobody hears.
    let script = [Fault::FailInside, Fault::UserError("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"), Fault::FailInside];
    let shopify = Shopify::start(&world.clock, script).await;
    shopify.state().index_lag = TimeDelta::days(1);
    let first = run(&world, &shopify, &[row(1)]).await;
    until("two keys are dead", async || {
        first.pass_time(&world, 1).await;
        (keys(&shopify).len() == 3).then_some(())
    })
    .await;
    shopify.state().script.extend([
        Fault::UserError("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"),
        Fault::UserError("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"),
        Fault::CommitThenDrop,
    ]);
    until("the third makes it", async || {
        first.pass_time(&world, 1).await;
        (shopify.state().transfers.len() == 1).then_some(())
    })
    .await;
    // A node that knows nothing of these keys.
    first.node.stop();
    first.node.until(1, EffectState::Ambiguous).await;
    let second = run(&world, &shopify, &[]).await;
    let row = second.end(&world, 1).await;
    is_one(&shopify, &row);
    let keys = keys(&shopify);
    assert_eq!(keys[keys.len() - 3..], keys[3..6], "the same walk: {keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_transfers_with_its_tag_are_told_and_the_oldest_is_taken() {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [Fault::CommitThenDrop]).await;
    shopify.state().index_lag = TimeDelta::zero();
    let first = run(&world, &shopify, &[row(1)]).await;
    until("it is there", async || (shopify.state().transfers.len() == 1).then_some(())).await;
    {
        let mut state = shopify.state();
        let mut younger = state.transfers[0].clone();
        younger.gid = "gid://shopify/InventoryTransfer/10000000".into();
        state.transfers.insert(0, younger);
    }
    let row = first.end(&world, 1).await;
    assert_eq!(row.reference.as_deref(), Some("gid://shopify/InventoryTransfer/2921201"));
    assert!(row.response.is_some_and(|r| r.contains("2 transfers bear its tag") && r.contains("cancel the others")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_fails_leaves_it_ambiguous_until_it_works() {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [Fault::CommitThenDrop]).await;
    shopify.state().search_script.extend(["503 Service Unavailable", "429 Too Many Requests", "403 Forbidden"]);
    let node = run(&world, &shopify, &[row(1)]).await;
    let row = node.end(&world, 1).await;
    is_one(&shopify, &row);
    assert!(shopify.state().searches.len() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_fails_visibly_and_its_text_is_nowhere() {
    let world = World::new();
    let shopify = Shopify::start(&world.clock, [Fault::Revoke]).await;
    let node = run(&world, &shopify, &[row(1)]).await;
    let row = node.end(&world, 1).await;
    assert_eq!(row.state, EffectState::Failed);
    let told = row.response.expect("reason");
    assert!(told.contains("refuses the access token") && !told.contains(TOKEN), "{told}");
    assert!(!String::from_utf8_lossy(&row.request.expect("frozen")).contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_fault_for_every_effect_each_makes_one_transfer() {
    const EFFECTS: u128 = 60;
    let world = World::new();
    let shopify = Shopify::start(&world.clock, []).await;
    let faults = [
        Fault::CommitThenDrop,
        Fault::DropBefore,
        Fault::FailInside,
        Fault::UserError("IDEMPOTENCY_CONCURRENT_REQUEST"),
        Fault::Status("500 Internal Server Error", &[], ""),
        Fault::Throttle(10),
        Fault::Status("429 Too Many Requests", &[("retry-after", "9")], ""),
        Fault::Body("{\"data\":"),
    ];
    let script = (0..EFFECTS as usize).map(|i| faults[i % faults.len()].clone());
    shopify.state().script.extend(script);
    let rows: Vec<Planned> = (1..=EFFECTS).map(row).collect();
    let node = run(&world, &shopify, &rows).await;
    for n in 1..=EFFECTS {
        let row = node.end(&world, n).await;
        assert_eq!((row.state, row.possible_duplicate), (EffectState::Done, false), "{row:?}");
    }
    let state = shopify.state();
    assert_eq!(state.transfers.len(), EFFECTS as usize, "{} requests", state.mutations.len());
    let tags: std::collections::BTreeSet<_> = state.transfers.iter().map(|t| t.tags[2].clone()).collect();
    assert_eq!(tags.len(), EFFECTS as usize);
}
