//! The actors, their messages, and the sink on the consumer's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::SendError;
use actix::{
    Actor, ActorFutureExt, Addr, ArbiterHandle, AsyncContext, AtomicResponse, Context, Handler as ActixHandler, Message,
    ResponseFuture, WrapFuture,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Missing;
use super::intake::Intake;
use crate::actors::effects::{Health, Ownership, Sender, Shared, Token};
use crate::events::record::{Partition, RecordBatch};
use crate::handlers::Handlers;
use crate::ports::event_log::{Assigned, GroupHandle, GroupSink, LogError};

/// Batches that wait to be planned; more are given back to the consumer, which pauses the partition.
const DISPATCHER_MAILBOX: usize = 16;
/// A handler's mailbox holds nothing but calls to look; one that waits is as good as ten.
const HANDLER_MAILBOX: usize = 4;

#[derive(Message)]
#[rtype(result = "()")]
pub struct Take {
    assigned: Assigned,
    token: Token,
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Deliver(RecordBatch);

/// Answered when nothing is under way any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

#[derive(Message)]
#[rtype(result = "()")]
struct Wake;

/// Partitions whose batch was given back.
#[derive(Debug, Default)]
pub struct Delivery {
    paused: Mutex<BTreeSet<Partition>>,
}

impl Delivery {
    fn pausing(&self, partition: Partition) {
        self.paused.lock().expect("no code panics while holding this lock").insert(partition);
    }

    fn taken(&self, partition: Partition) {
        self.paused.lock().expect("no code panics while holding this lock").remove(&partition);
    }

    fn take(&self) -> BTreeSet<Partition> {
        std::mem::take(&mut *self.paused.lock().expect("no code panics while holding this lock"))
    }
}

/// What the consumer's thread tells.
pub struct Sink {
    pub actor: Addr<DispatcherActor>,
    pub ownership: Arc<Ownership>,
    pub health: Arc<Health>,
    pub returned: Arc<Delivery>,
    pub drain: Duration,
}

const LOG: &str = "decisions from the log";

impl GroupSink for Sink {
    fn assigned(&mut self, partitions: Vec<Assigned>) {
        for assigned in partitions {
            let token = self.ownership.assigned(assigned.partition);
            // Past the mailbox's bound, because an assignment must not get lost; there are never more than partitions.
            self.actor.do_send(Take { assigned, token });
        }
    }

    fn revoked(&mut self, partitions: Vec<Partition>, lost: bool) {
        // From here on nothing new begins for them. Lost or not, a send under way may still settle: the ledger's epoch fences it.
        self.ownership.release(&partitions);
        if !lost && !self.ownership.drained(&partitions, self.drain) {
            tracing::warn!(?partitions, "sends are still under way after the drain time; the next owner resolves them");
        }
    }

    fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
        self.health.well(LOG);
        // Noted before the try, so that the actor cannot empty its mailbox between the refusal and the note and never resume.
        let partition = batch.partition;
        self.returned.pausing(partition);
        match self.actor.try_send(Deliver(batch)) {
            Ok(()) => {
                self.returned.taken(partition);
                Ok(())
            }
            Err(SendError::Full(Deliver(batch)) | SendError::Closed(Deliver(batch))) => Err(batch),
        }
    }

    fn fault(&mut self, error: LogError) {
        match error {
            // Readiness asks the log itself; here the fault would stay until the next decision, which may be days away.
            LogError::Unavailable { .. } | LogError::QueueFull => {
                tracing::warn!(%error, "the dispatcher's consumer has a fault and tries again");
            }
            _ => self.health.problem(LOG, error),
        }
    }
}

pub struct Setup {
    pub intake: Intake,
    pub shared: Shared,
    pub handlers: Handlers,
    pub runtime: Handle,
    pub stopped: watch::Receiver<bool>,
    /// Known as soon as the group is joined.
    pub group: watch::Receiver<Option<Arc<dyn GroupHandle>>>,
    pub returned: Arc<Delivery>,
    pub senders: Arc<Senders>,
}

/// All senders, readable while the actor is busy.
#[derive(Default)]
pub struct Senders {
    by_name: Mutex<BTreeMap<String, Arc<Sender>>>,
}

impl Senders {
    fn insert(&self, name: &str, sender: Arc<Sender>) {
        self.by_name.lock().expect("no code panics while holding this lock").insert(name.to_owned(), sender);
    }

    pub fn all(&self) -> Vec<Arc<Sender>> {
        self.by_name.lock().expect("no code panics while holding this lock").values().cloned().collect()
    }
}

/// Plans; starts and wakes the handlers.
pub struct DispatcherActor {
    setup: Setup,
    handlers: BTreeMap<String, Addr<HandlerActor>>,
}

impl DispatcherActor {
    pub fn start(arbiter: &ArbiterHandle, setup: Setup) -> Addr<DispatcherActor> {
        Actor::start_in_arbiter(arbiter, move |_| DispatcherActor { setup, handlers: BTreeMap::new() })
    }

    fn wake(&mut self, name: &str) {
        if let Some(handler) = self.handlers.get(name) {
            // Full means that it is going to look anyway.
            let _ = handler.try_send(Wake);
            return;
        }
        let configured = &self.setup.handlers;
        let instance = configured.get(name).cloned().unwrap_or_else(|| Missing::instance(name, configured));
        let sender = Arc::new(Sender::new(instance, self.setup.shared.clone()));
        self.setup.senders.insert(name, sender.clone());
        let shell = HandlerActor { sender, runtime: self.setup.runtime.clone(), stopped: self.setup.stopped.clone() };
        self.handlers.insert(name.to_owned(), shell.start());
    }

    /// Runs `work` on the work's runtime, while no other message is handled; then wakes the handlers that it names and lets the consumer
    /// offer again what was given back.
    fn in_turn(&self, work: impl Future<Output = BTreeSet<String>> + Send + 'static) -> AtomicResponse<Self, ()> {
        let work = self.setup.runtime.spawn(work).into_actor(self);
        AtomicResponse::new(Box::pin(work.map(|ended, actor, _| {
            match ended {
                Ok(names) => names.iter().for_each(|name| actor.wake(name)),
                Err(e) => tracing::error!(error = %e, "planning broke down; the batch is read again by the next owner"),
            }
            let group = actor.setup.group.borrow().clone();
            if let Some(group) = group {
                actor.setup.returned.take().into_iter().for_each(|p| group.resume(p));
            }
        })))
    }
}

impl Actor for DispatcherActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(DISPATCHER_MAILBOX);
        let names: Vec<String> = self.setup.handlers.iter().map(|i| i.name.clone()).collect();
        names.iter().for_each(|name| self.wake(name));
    }
}

impl ActixHandler<Take> for DispatcherActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Take { assigned, token }: Take, _ctx: &mut Self::Context) -> Self::Result {
        let (intake, mut group) = (self.setup.intake.clone(), self.setup.group.clone());
        self.in_turn(async move {
            let Some(from) = intake.take_over(assigned, token).await else { return BTreeSet::new() };
            if let Ok(known) = group.wait_for(Option::is_some).await
                && let Some(group) = known.as_ref()
            {
                group.start(assigned.partition, from);
            }
            intake.handlers_with_work(assigned.partition, token).await
        })
    }
}

impl ActixHandler<Deliver> for DispatcherActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Deliver(batch): Deliver, _ctx: &mut Self::Context) -> Self::Result {
        let (intake, group) = (self.setup.intake.clone(), self.setup.group.borrow().clone());
        self.in_turn(async move {
            match group {
                Some(group) => intake.plan(&batch, &group).await,
                // Nothing is delivered before `start` was called, through the group.
                None => BTreeSet::new(),
            }
        })
    }
}

impl ActixHandler<Stop> for DispatcherActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Stop: Stop, _ctx: &mut Self::Context) -> Self::Result {
        let senders = self.setup.senders.all();
        Box::pin(async move {
            for sender in senders {
                sender.idle().await;
            }
        })
    }
}

/// Keeps one sender going.
pub struct HandlerActor {
    sender: Arc<Sender>,
    runtime: Handle,
    stopped: watch::Receiver<bool>,
}

impl HandlerActor {
    fn launch(&mut self, ctx: &mut Context<Self>) {
        let running = self.runtime.spawn(self.sender.clone().run(self.stopped.clone())).into_actor(self);
        ctx.spawn(running.map(|ended, actor, ctx| {
            if ended.is_err_and(|e| e.is_panic()) {
                tracing::error!(handler = actor.sender.state().handler, "a sender broke down; beginning again");
                ctx.run_later(Duration::from_secs(1), HandlerActor::launch);
            }
        }));
    }
}

impl Actor for HandlerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(HANDLER_MAILBOX);
        self.launch(ctx);
    }
}

impl ActixHandler<Wake> for HandlerActor {
    type Result = ();

    fn handle(&mut self, Wake: Wake, _ctx: &mut Self::Context) {
        self.sender.wake();
    }
}
