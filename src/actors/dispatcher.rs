//! Dispatcher ─ Handler(name): from `reorder-decisions` through the ledger to effects (DESIGN §2, §4).
//!
//! The actors here are shells. [`DispatcherActor`] takes assignments and batches from the consumer's thread through its bounded mailbox
//! and plans one after the other ([`intake::Intake`]); a full mailbox gives the batch back, which pauses the partition. A [`HandlerActor`]
//! keeps one [`Sender`] going. The work itself runs on the runtime that [`Dispatcher::start`] is given, so that no arbiter is
//! held up and the store's connections live on one runtime.
//!
//! With the rows goes the list of reorders (`ports::reorders`): both are written from the same records, in one transaction.
//!
//! Rows for a handler that is not configured get a sender as well, of a handler that refuses everything with a reason ([`Missing`]): so they
//! fail visibly, with their fact, and an operator can retry them when the handler is there.

mod digest;
pub mod intake;
mod plan;
mod shell;

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;

use self::intake::{Intake, blocking};
pub use self::plan::Plan;
use self::shell::{Delivery, DispatcherActor, Senders, Sink, Stop};
use super::effects::{Environment, Health, Outcomes, Ownership, SenderState, Shared};
use crate::events::record::{Partition, Topic};
use crate::handlers::{Common, Guarantee, Handler, Handlers, Instance, Job, Verdict};
use crate::ports::event_log::{EventLog, Group, GroupHandle, LogError};
use crate::ports::ledger::Ledger;
use crate::ports::snapshot_store::Epoch;

/// What a dispatcher is made of.
pub struct Parts {
    pub log: Arc<dyn EventLog>,
    pub ledger: Arc<dyn Ledger>,
    pub handlers: Handlers,
    pub env: Environment,
    /// Name of this node.
    pub node: String,
    /// Where planning and sending run: the runtime that the store and the log were opened on.
    pub runtime: tokio::runtime::Handle,
    /// Longest wait for sends under way when partitions are taken away or the node stops.
    pub drain: Duration,
}

/// A running dispatcher.
pub struct Dispatcher {
    actor: Addr<DispatcherActor>,
    arbiter: Arbiter,
    group: Arc<dyn GroupHandle>,
    ownership: Arc<Ownership>,
    health: Arc<Health>,
    senders: Arc<Senders>,
    stop: watch::Sender<bool>,
    drain: Duration,
}

/// What the dispatcher is doing, for the dashboard, metrics and tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DispatcherState {
    /// Partitions with the epoch held of each.
    pub partitions: Vec<(Partition, Epoch)>,
    pub handlers: Vec<SenderState>,
    pub problem: Option<String>,
}

impl Dispatcher {
    /// Joins the group and begins. To be called where an actix `System` runs; the actors get an arbiter of their own.
    pub async fn start(parts: Parts) -> Result<Dispatcher, LogError> {
        let Parts { log, ledger, handlers, env, node, runtime, drain } = parts;
        let (ownership, health) = (Arc::new(Ownership::default()), Arc::new(Health::default()));
        let outcomes = Outcomes { log: log.clone(), env: env.clone(), health: health.clone() };
        let shared =
            Shared { ledger: ledger.clone(), outcomes, ownership: ownership.clone(), env: env.clone(), health: health.clone() };
        let intake = Intake {
            log: log.clone(),
            ledger,
            ownership: ownership.clone(),
            env,
            health: health.clone(),
            node,
            handlers: handlers.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let (tell_group, group_known) = watch::channel(None);
        let returned = Arc::new(Delivery::default());
        let senders = Arc::new(Senders::default());
        let setup = shell::Setup {
            intake,
            shared,
            handlers,
            runtime,
            stopped,
            group: group_known,
            returned: returned.clone(),
            senders: senders.clone(),
        };
        let arbiter = Arbiter::new();
        let actor = DispatcherActor::start(&arbiter.handle(), setup);
        let sink = Sink { actor: actor.clone(), ownership: ownership.clone(), health: health.clone(), returned, drain };
        let join =
            blocking("joining the dispatcher's group", move || log.join(Group::Dispatcher, Topic::Decisions, Box::new(sink)));
        let group = match join.await {
            Ok(group) => group,
            Err(e) => {
                arbiter.stop();
                return Err(e);
            }
        };
        // Assignments that came before wait for it in the actor.
        tell_group.send_replace(Some(group.clone()));
        Ok(Dispatcher { actor, arbiter, group, ownership, health, senders, stop, drain })
    }

    /// Stops taking new work, waits for sends under way (at most the drain time), leaves the group, ends the actors.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let group = self.group.clone();
        // Leaving revokes the partitions through the sink, which waits for what is under way.
        let left = blocking("leaving the dispatcher's group", move || {
            group.leave();
            Ok(())
        });
        if let Err(e) = left.await {
            tracing::warn!(error = %e, "the dispatcher did not leave its group in order");
        }
        let actor = self.actor.clone();
        let ended = tokio::time::timeout(self.drain, async move { actor.send(Stop).await }).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the dispatcher's actor did not end in time");
        }
        self.arbiter.stop();
        let _ = blocking("ending the dispatcher's arbiter", move || Ok(self.arbiter.join().is_ok())).await;
    }

    pub fn state(&self) -> DispatcherState {
        let handlers = self.senders.all().iter().map(|s| s.state()).collect();
        DispatcherState { partitions: self.ownership.held(), handlers, problem: self.health.summary() }
    }

    /// Asks the senders what they are doing, also after the dispatcher has been moved.
    pub fn states(&self) -> impl Fn() -> Vec<SenderState> + Send + Sync + 'static {
        let senders = self.senders.clone();
        move || senders.all().iter().map(|s| s.state()).collect()
    }

    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// (name, problem or none), for readiness.
    pub fn readiness(&self) -> (&'static str, Option<String>) {
        ("dispatcher", self.health.summary())
    }
}

/// Stands in for a handler that a route names and the configuration does not.
struct Missing {
    reason: String,
}

impl Missing {
    fn instance(name: &str, configured: &Handlers) -> Instance {
        let reason = format!("there is no handler \"{name}\"; configured are: {}", configured.names());
        Instance::new(name, "missing", Common::default(), Arc::new(Missing { reason }))
    }
}

impl Handler for Missing {
    fn guarantee(&self) -> Guarantee {
        Guarantee::EffectivelyOnce
    }

    fn prepare(&self, _job: &Job, _now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        Err(self.reason.clone())
    }

    fn send<'a>(&'a self, _job: &'a Job, _request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        // Also rows that a handler of that name has begun, before it was taken out of the configuration.
        Box::pin(async { Verdict::Permanent { reason: self.reason.clone() } })
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}
