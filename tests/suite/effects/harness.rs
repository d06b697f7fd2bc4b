//! A ledger in a file, a clock that stands still, and nodes over them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use stockwarden::actors::effects::{Clock, Environment, Health, Outcomes, Ownership, Sender, Shared};
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::events::decision::{CausedBy, Decision, Inputs, Kind, RiskLevel, Route};
use stockwarden::events::ids::{ItemId, VariantId};
use stockwarden::handlers::{Common, Handler, Instance, Job};
use stockwarden::ports::Ledger;
use stockwarden::ports::ledger::{Effect, EffectFilter, EffectId, EffectState, Planned};
use tokio::sync::watch;
use uuid::Uuid;

use super::log::DrivenLog;
use super::tap::{Tap, TappedLedger};
use super::toy::{Toy, ToyTarget};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A clock that moves only when told; sleepers wake when it has passed them.
#[derive(Clone)]
pub struct TestClock(Arc<watch::Sender<DateTime<Utc>>>);

impl TestClock {
    pub fn new() -> TestClock {
        TestClock(Arc::new(watch::channel("2026-11-20T10:00:00Z".parse().expect("time")).0))
    }

    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now += by);
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.borrow()
    }

    fn sleep_until(&self, at: DateTime<Utc>) -> BoxFuture<'static, ()> {
        let (mut now, keep) = (self.0.subscribe(), self.0.clone());
        Box::pin(async move {
            let _ = now.wait_for(|now| *now >= at).await;
            drop(keep);
        })
    }
}

/// What outlives a node: the ledger's file, the clock, the log.
pub struct World {
    pub folder: tempfile::TempDir,
    pub clock: TestClock,
    pub log: Arc<DrivenLog>,
}

impl World {
    pub fn new() -> World {
        World::with_log(DrivenLog::default())
    }

    pub fn with_log(log: DrivenLog) -> World {
        World { folder: tempfile::tempdir().expect("folder"), clock: TestClock::new(), log: Arc::new(log) }
    }

    pub fn env(&self) -> Environment {
        // No jitter: waits are the full backoff.
        Environment { clock: Arc::new(self.clock.clone()), random: Arc::new(|| 1.0) }
    }

    pub async fn store(&self) -> Arc<dyn Ledger> {
        let file = self.folder.path().join("store.db").display().to_string();
        Arc::new(SqliteStore::connect(&file, PATIENCE).await.expect("store"))
    }

    /// A node that owns partition 0 under a new epoch.
    pub async fn node(&self, tap: Tap) -> Node {
        let away = Arc::new(AtomicUsize::new(0));
        let ledger: Arc<dyn Ledger> = Arc::new(TappedLedger { inner: self.store().await, tap: tap.clone(), away: away.clone() });
        let epoch = ledger.acquire_dispatch_epoch(0, "node").await.expect("epoch");
        let (ownership, health) = (Arc::new(Ownership::default()), Arc::new(Health::default()));
        let token = ownership.assigned(0);
        assert!(ownership.take(0, token, epoch));
        let outcomes = Outcomes { log: self.log.clone(), env: self.env(), health: health.clone() };
        let shared = Shared { ledger: ledger.clone(), outcomes, ownership, env: self.env(), health };
        let (stop, stopped) = watch::channel(false);
        Node { shared, epoch, tap, away, stop, stopped }
    }
}

pub struct Node {
    pub shared: Shared,
    pub epoch: i64,
    tap: Tap,
    /// Calls of the store that fail from now on.
    pub away: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

impl Node {
    pub fn sender(&self, name: &str, common: Common, handler: Arc<dyn Handler>) -> Arc<Sender> {
        let sender = Arc::new(Sender::new(Instance::new(name, "toy", common, handler), self.shared.clone()));
        tokio::spawn(sender.clone().run(self.stopped.clone()));
        sender
    }

    pub fn toy(&self, target: &Arc<ToyTarget>, can_be_asked: bool) -> Arc<Sender> {
        let handler = Toy { target: target.clone(), can_be_asked, tap: self.tap.clone() };
        self.sender("toy", Common { max_attempts: 6, ..Common::default() }, Arc::new(handler))
    }

    pub async fn plan(&self, rows: &[Planned]) {
        self.shared.ledger.plan(0, self.epoch, &rows.into()).await.expect("plan");
    }

    pub async fn row(&self, n: u128) -> Effect {
        let filter = EffectFilter { decision_id: Some(Uuid::from_u128(n)), ..EffectFilter::default() };
        self.shared.ledger.list(filter).await.expect("list").pop().expect("the row")
    }

    pub async fn until(&self, n: u128, state: EffectState) -> Effect {
        until(&format!("effect {n} is {state:?}"), async || Some(self.row(n).await).filter(|r| r.state == state)).await
    }

    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }
}

/// Waits until `look` finds something; the deadline is real time.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

pub fn decision(n: u128) -> Decision {
    Decision {
        decision_id: Uuid::from_u128(n),
        proposal_id: Uuid::from_u128(n),
        organisation: "acme".into(),
        shop: Some("a.example".into()),
        variant_id: Some(VariantId(9_007_199_254_740_993)),
        inventory_item_id: Some(ItemId(7)),
        location_id: None,
        sku: Some("TB-750".into()),
        title: Some("Bottle".into()),
        vendor: Some("Acme".into()),
        rule_id: "low".into(),
        rule_version: 3,
        kind: Kind::Reorder,
        severity: RiskLevel::Warning,
        quantity: Some(24),
        available: 4,
        inputs: Inputs { previous: Some(11), threshold: Some(10), ..Inputs::default() },
        reason: "fell to 4, below 10".into(),
        caused_by: CausedBy { topic: "stock-facts".into(), partition: 0, offset: n as i64 },
        seq: 0,
        decided_at: 1_795_168_800_000,
        routes: vec![],
    }
}

pub fn route(json: serde_json::Value) -> Route {
    serde_json::from_value(json).expect("route")
}

/// A row of partition 0 for `handler`, of a variant of its own.
pub fn planned(n: u128, handler: &str, decision: &Decision, route: &Route) -> Planned {
    Planned {
        id: EffectId { decision_id: Uuid::from_u128(n), route_id: "0".into() },
        handler: handler.into(),
        organisation: decision.organisation.clone(),
        shop: "a.example".into(),
        order_key: format!("a.example/{n}"),
        partition: 0,
        offset: n as i64,
        decision: serde_json::to_string(decision).expect("JSON"),
        route: serde_json::to_string(route).expect("JSON"),
        due_at: "2026-11-20T10:00:00Z".parse().expect("time"),
        digest: None,
    }
}

pub fn toy_row(n: u128) -> Planned {
    planned(n, "toy", &decision(n), &route(serde_json::json!({"to": "toy"})))
}

pub fn job(decision: &Decision, settings: serde_json::Value) -> Job {
    Job::read(&planned(decision.decision_id.as_u128(), "x", decision, &route(settings))).expect("job")
}
