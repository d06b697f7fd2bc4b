//! A node that dies between any two steps of an effect, and the next one over the same ledger (DESIGN §7.5, §7.6).

use stockwarden::ports::StoreError;
use stockwarden::ports::ledger::{EffectState, Settled};

use super::harness::{World, toy_row};
use super::log::DrivenLog;
use super::tap::{Step, Tap};
use super::toy::ToyTarget;

struct Aftermath {
    sends: usize,
    possible_duplicate: bool,
}

/// Kills a node at `step`, lets another finish, and says what the target got.
fn die_at(step: Step, can_be_asked: bool) -> Aftermath {
    let tap = Tap::stopping_at(step);
    let world = World::with_log(DrivenLog { tap: tap.clone(), ..DrivenLog::default() });
    let target = ToyTarget::with([]);
    let first = tokio::runtime::Runtime::new().expect("runtime");
    first.block_on(async {
        let node = world.node(tap.clone()).await;
        node.plan(&[toy_row(1)]).await;
        node.toy(&target, can_be_asked);
        tap.reached().await;
    });
    // Every task of the node ends where it stands.
    first.shutdown_background();

    let after = World { log: std::sync::Arc::new(DrivenLog::default()), ..world };
    let second = tokio::runtime::Runtime::new().expect("runtime");
    second.block_on(async {
        let node = after.node(Tap::default()).await;
        node.toy(&target, can_be_asked);
        let row = node.until(1, EffectState::Done).await;
        let received = target.received();
        assert!(received.iter().all(|r| *r == received[0]), "{step:?}: the same bytes at every send: {received:?}");
        if !matches!(step, Step::AfterSettle) {
            assert_eq!(after.log.states(), ["done"], "{step:?}: the outcome is in the log");
        }
        Aftermath { sends: received.len(), possible_duplicate: row.possible_duplicate }
    })
}

#[test]
fn a_crash_anywhere_leaves_one_effect_where_the_target_can_be_asked() {
    for step in Step::ALL {
        let after = die_at(step, true);
        assert_eq!((after.sends, after.possible_duplicate), (1, false), "{step:?}");
    }
}

#[test]
fn a_crash_anywhere_is_never_silent_where_the_target_cannot_be_asked() {
    for step in Step::ALL {
        let after = die_at(step, false);
        let expected = match step {
            // Nothing was frozen, so nothing can have been sent; or all was settled.
            Step::AfterClaim | Step::AfterSettle => (1, false),
            // It might have been sent.
            Step::AfterFreeze | Step::BeforeSend => (1, true),
            Step::AfterSend | Step::BeforeFact | Step::AfterFact => (2, true),
        };
        assert_eq!((after.sends, after.possible_duplicate), expected, "{step:?}");
    }
}

#[test]
fn an_outcome_is_in_the_log_before_its_row_is_settled() {
    let tap = Tap::stopping_at(Step::BeforeFact);
    let world = World::with_log(DrivenLog { tap: tap.clone(), ..DrivenLog::default() });
    tokio::runtime::Runtime::new().expect("runtime").block_on(async {
        let node = world.node(tap.clone()).await;
        node.plan(&[toy_row(1)]).await;
        node.toy(&ToyTarget::with([]), false);
        tap.reached().await;
        assert_eq!(node.row(1).await.state, EffectState::Sending);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_sender_settles_nothing_and_stops_claiming() {
    let tap = Tap::stopping_at(Step::AfterFact);
    let world = World::with_log(DrivenLog { tap: tap.clone(), ..DrivenLog::default() });
    let old = world.node(tap.clone()).await;
    old.plan(&[toy_row(1), toy_row(2)]).await;
    let new = world.node(Tap::default()).await;
    let target = ToyTarget::with([]);
    old.toy(&target, true);
    super::harness::until("the old one sees that it is deposed", async || old.shared.ownership.held().is_empty().then_some(()))
        .await;
    assert!(target.received().is_empty(), "a deposed sender claims nothing");
    let settled = Settled::Failed { reason: "late".into() };
    let late = old.shared.ledger.settle(&toy_row(1).id, old.epoch, settled, chrono::Utc::now()).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    assert_eq!(new.row(1).await.state, EffectState::Planned);
}
