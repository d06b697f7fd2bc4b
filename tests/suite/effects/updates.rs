//! Acknowledged anywhere is acknowledged everywhere (DESIGN §4): changes of proposals go to the handlers that told them.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde_json::json;
use stockwarden::events::decision::{ProposalChange, RECORD_HEADER, RECORD_PROPOSAL};
use stockwarden::events::record::RecordBatch;
use stockwarden::handlers::{Common, Guarantee, Handler, Handlers, Instance, Job, Verdict};
use stockwarden::ports::ledger::{Effect, EffectState};
use uuid::Uuid;

use super::dispatching::{Running, routed, running_with};
use super::harness::until;
use super::tap::Tap;
use super::toy::{Toy, ToyTarget};

/// Tells the state, if it is told one, and of which message.
struct Follower {
    said: Arc<Mutex<Vec<String>>>,
    refuses: bool,
}

impl Handler for Follower {
    fn guarantee(&self) -> Guarantee {
        Guarantee::BestEffort
    }

    fn follows(&self, _: &ProposalChange) -> bool {
        true
    }

    fn prepare(&self, job: &Job, _now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let text = match &job.update {
            None => "proposed".to_owned(),
            Some(u) => format!(
                "{} {} by {}",
                u.reference.as_deref().unwrap_or("?"),
                u.change.state,
                u.change.by.as_deref().unwrap_or("?")
            ),
        };
        Ok(text.into_bytes())
    }

    fn send<'a>(&'a self, _job: &'a Job, request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            if self.refuses {
                return Verdict::Permanent { reason: "no such channel".into() };
            }
            let text = String::from_utf8(request.to_vec()).expect("text");
            let mut said = self.said.lock().expect("lock");
            said.push(text);
            Verdict::Done { response: None, reference: Some(format!("M-{}", said.len())) }
        })
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}

struct World {
    run: Running,
    said: Arc<Mutex<Vec<String>>>,
    toys: Arc<ToyTarget>,
}

/// A follower `chat` and a `toy` that does not follow.
async fn world(refuses: bool) -> World {
    let (said, toys) = (Arc::default(), ToyTarget::with([]));
    let mut handlers = Handlers::default();
    let chat = Follower { said: Arc::clone(&said), refuses };
    handlers.insert(Instance::new("chat", "chat", Common::default(), Arc::new(chat)));
    let toy = Toy { target: toys.clone(), can_be_asked: false, tap: Tap::default() };
    handlers.insert(Instance::new("toy", "toy", Common::default(), Arc::new(toy)));
    let run = running_with(toys.clone(), handlers).await;
    run.assigned(0, Some(0)).await;
    World { run, said, toys }
}

impl World {
    fn said(&self) -> Vec<String> {
        self.said.lock().expect("lock").clone()
    }

    async fn until_rows(&self, n: usize) -> Vec<Effect> {
        let finished = |r: &Effect| matches!(r.state, EffectState::Done | EffectState::Failed);
        until(&format!("{n} rows are finished"), async || {
            Some(self.run.rows().await).filter(|rows| rows.len() == n && rows.iter().all(finished))
        })
        .await
    }
}

const CHAT: &str = r#"{"to": "chat"}"#;
const TOY: &str = r#"{"to": "toy"}"#;

/// The decision of proposal 1 at offset 0.
fn opened(routes: &[&str]) -> RecordBatch {
    let mut batch = RecordBatch::new(0, 1);
    let value = serde_json::to_vec(&routed(1, routes)).expect("JSON");
    batch.push(0, 0, Some(b"a.example"), Some(&value), std::iter::empty());
    batch
}

fn changed(batch: &mut RecordBatch, offset: i64, state: &str, via: Option<&str>) {
    let value = json!({
        "proposal_id": Uuid::from_u128(1), "organisation": "acme", "shop": "a.example", "variant_id": "9007199254740993", "state": state,
        "quantity": 24, "received": 0, "by": "jana", "via": via,
        "caused_by": {"topic": "stock-facts", "partition": 0, "offset": 100 + offset}, "changed_at": "2026-11-20T10:00:00Z",
    });
    let header = [(RECORD_HEADER, RECORD_PROPOSAL.as_bytes())];
    batch.push(offset, 0, Some(b"a.example"), Some(value.to_string().as_bytes()), header.into_iter());
    batch.next_offset = offset + 1;
}

fn change(offset: i64, state: &str, via: Option<&str>) -> RecordBatch {
    let mut batch = RecordBatch::new(0, offset + 1);
    changed(&mut batch, offset, state, via);
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_elsewhere_is_told_after_the_first_send_and_with_its_reference() {
    let world = world(false).await;
    // Both in one batch: the change must not overtake.
    let mut both = opened(&[CHAT, TOY]);
    changed(&mut both, 1, "acknowledged", Some("api"));
    world.run.deliver(both).expect("taken");
    let rows = world.until_rows(3).await;
    assert_eq!(world.said(), ["proposed", "M-1 acknowledged by jana"]);
    assert_eq!(world.toys.keys().len(), 1, "a handler that does not follow hears nothing");
    let ids: Vec<_> = rows.iter().map(|r| r.planned.id.route_id.as_str()).collect();
    assert_eq!(ids, ["0", "1", "0~101"]);
    assert_eq!(world.run.world.log.states(), ["done"; 2], "that an update arrived is no fact");
    // Stock came back: nobody moved it.
    world.run.deliver(change(2, "resolved", None)).expect("taken");
    world.until_rows(4).await;
    assert_eq!(world.said()[2], "M-1 resolved by jana", "of the first message, whatever the updates gave");
    // Read again, as after a crash: nothing is said twice.
    let committed = world.run.world.log.group.committed.lock().expect("lock").len();
    world.run.deliver(change(2, "resolved", None)).expect("taken");
    until("it is planned", async || (world.run.world.log.group.committed.lock().expect("lock").len() > committed).then_some(()))
        .await;
    assert_eq!(world.until_rows(4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_not_told_what_it_said_itself() {
    let world = world(false).await;
    world.run.deliver(opened(&[CHAT, TOY])).expect("taken");
    world.run.deliver(change(1, "acknowledged", Some("chat"))).expect("taken");
    world.run.deliver(change(2, "ordered", Some("toy"))).expect("taken");
    world.until_rows(3).await;
    assert_eq!(world.said(), ["proposed", "M-1 ordered by jana"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_first_send_failed_there_is_nothing_to_update() {
    let world = world(true).await;
    let mut both = opened(&[CHAT]);
    changed(&mut both, 1, "acknowledged", Some("api"));
    world.run.deliver(both).expect("taken");
    let rows = world.until_rows(2).await;
    assert_eq!((rows[0].state, rows[1].state, rows[1].attempts), (EffectState::Failed, EffectState::Done, 1));
    assert!(rows[1].response.as_deref().is_some_and(|r| r.contains("nothing to update")), "{:?}", rows[1].response);
    assert_eq!(world.run.world.log.states(), ["failed"]);
}
