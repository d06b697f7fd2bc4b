//! The sender of one handler instance; `actors::effects` says what happens in which order and why.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};

use super::breaker::{Backoff, Breaker, BreakerState, Gate};
use super::clock::Environment;
use super::digest;
use super::health::Health;
use super::outcome::{self, Outcomes};
use super::ownership::{InFlight, Ownership};
use super::sweeper;
use crate::events::record::Partition;
use crate::handlers::{Blame, Earlier, Instance, Job, Resolution, Verdict};
use crate::ports::Ledger;
use crate::ports::ledger::{Effect, EffectFilter, EffectId, EffectState, Settled};
use crate::ports::snapshot_store::{Epoch, StoreError};

/// How often the ledger is asked for due rows when nobody says that there are any: retries come due, operators retry from elsewhere.
const POLL: Duration = Duration::from_secs(2);
/// How often the ledger is searched for rows that it believes to be with us, and that are not: the answer to their claim was lost. At
/// once after a claim of unknown outcome; now and then because a server may carry a claim out after we have given it up.
const SEARCH: TimeDelta = TimeDelta::seconds(15);
/// Begins the reason of an effect that failed although a send of it may have arrived. It survives an operator's retry, so that the row
/// can end as a possible duplicate (DESIGN §7.6).
const MAY_HAVE_ARRIVED: &str = "an earlier send may have arrived; ";
/// Response of an update whose target has never been told the proposal.
const NOTHING_TO_UPDATE: &str = "nothing to update: the first send failed";
const PART: &str = "ledger";
/// How many earlier effects a handler that looks back is shown.
const EARLIER: i64 = 20;

/// What all senders share.
#[derive(Clone)]
pub struct Shared {
    pub ledger: Arc<dyn Ledger>,
    pub outcomes: Outcomes,
    pub ownership: Arc<Ownership>,
    pub env: Environment,
    pub health: Arc<Health>,
}

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    retried: AtomicU64,
    ambiguous: AtomicU64,
    failed: AtomicU64,
}

/// What a sender is doing, for the dashboard, metrics and tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SenderState {
    pub handler: String,
    pub kind: &'static str,
    pub guarantee: crate::handlers::Guarantee,
    pub in_flight: usize,
    pub breaker: BreakerState,
    /// Since the start of the process.
    pub done: u64,
    pub retried: u64,
    pub ambiguous: u64,
    pub failed: u64,
}

pub struct Sender {
    instance: Instance,
    shared: Shared,
    breaker: Mutex<Breaker>,
    permits: Arc<Semaphore>,
    wake: Notify,
    /// The earliest time at which a row that went through here is due again.
    next_due: Mutex<Option<DateTime<Utc>>>,
    /// Claimed rows, from the claim to the settlement.
    under_way: Mutex<BTreeSet<EffectId>>,
    /// When to search for lost ones.
    next_search: Mutex<DateTime<Utc>>,
    counters: Counters,
}

impl Sender {
    pub fn new(instance: Instance, shared: Shared) -> Sender {
        let permits = Arc::new(Semaphore::new(instance.common.concurrency));
        Sender {
            instance,
            shared,
            breaker: Mutex::new(Breaker::new()),
            permits,
            wake: Notify::new(),
            next_due: Mutex::new(None),
            under_way: Mutex::default(),
            next_search: Mutex::new(DateTime::<Utc>::MIN_UTC),
            counters: Counters::default(),
        }
    }

    /// There may be rows that are due. Never blocks, and costs nothing when said twice.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sends until `stop` says true or its other end is gone. What is under way then runs on; dropping the future does not end it.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let sweeper = sweeper::run(&self.instance, &self.shared);
        tokio::pin!(sweeper);
        while !*stop.borrow() {
            // Counted from before the look, so that nothing that falls due during it is slept over.
            let begun = self.shared.env.clock.now();
            let next = begun + self.round().await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.shared.env.clock.sleep_until(next) => {}
                () = &mut sweeper => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Begins what is due, as far as limits and breaker allow; returns how long nothing is to be done unless woken.
    pub async fn round(self: &Arc<Self>) -> Duration {
        let now = self.shared.env.clock.now();
        let (limit, probe) = match self.breaker().gate(now) {
            Gate::Free => (self.permits.available_permits(), false),
            Gate::Probe => (self.permits.available_permits().min(1), true),
            Gate::Shut(wait) => return wait,
            Gate::Probing => return POLL,
        };
        if limit == 0 {
            // The end of a send wakes.
            return POLL;
        }
        let held = self.shared.ownership.begin_all();
        if held.is_empty() {
            return POLL;
        }
        let epochs: Vec<(Partition, Epoch)> = held.iter().map(|(p, guard)| (*p, guard.epoch)).collect();
        if let Err(e) = self.search(&epochs, now).await {
            return self.claim_failed(e, &epochs);
        }
        let limit_rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = match self.shared.ledger.claim(&self.instance.name, &epochs, now, limit_rows).await {
            Ok(rows) => rows,
            Err(e) => return self.claim_failed(e, &epochs),
        };
        self.shared.health.well(PART);
        if rows.is_empty() {
            return self.until_next_due(now);
        }
        if probe {
            self.breaker().probe_sent();
        }
        self.begin(rows, &held);
        self.until_next_due(now)
    }

    fn begin(self: &Arc<Self>, rows: Vec<Effect>, held: &BTreeMap<Partition, InFlight>) {
        for effect in rows {
            let Some(guard) = held.get(&effect.planned.partition).cloned() else { continue };
            let Ok(permit) = self.permits.clone().try_acquire_owned() else { continue };
            let sender = self.clone();
            let listed = UnderWay::list(self.clone(), effect.planned.id.clone());
            tokio::spawn(async move {
                sender.carry_out(&effect, guard.epoch).await;
                drop(listed);
                // A probe that never got as far as a verdict (a request that cannot be built) leaves the next one its turn.
                sender.breaker().probe_dropped();
                drop((permit, guard));
                sender.wake();
            });
        }
    }

    /// Gives back what the ledger believes to be with us and is not.
    async fn search(&self, epochs: &[(Partition, Epoch)], now: DateTime<Utc>) -> Result<(), StoreError> {
        if now < *self.next_search.lock().expect("no code panics while holding this lock") {
            return Ok(());
        }
        let under_way: Vec<EffectId> =
            self.under_way.lock().expect("no code panics while holding this lock").iter().cloned().collect();
        let handler = &self.instance.name;
        let found = self.shared.ledger.release(handler, epochs, &under_way, now).await?;
        if found > 0 {
            tracing::warn!(handler, found, "effects were claimed by a call whose answer was lost; they are taken up again");
        }
        *self.next_search.lock().expect("no code panics while holding this lock") = now + SEARCH;
        Ok(())
    }

    fn search_soon(&self) {
        *self.next_search.lock().expect("no code panics while holding this lock") = DateTime::<Utc>::MIN_UTC;
    }

    fn claim_failed(&self, e: StoreError, epochs: &[(Partition, Epoch)]) -> Duration {
        // It may have been carried out all the same.
        self.search_soon();
        if let StoreError::Fenced { partition, ours, .. } = e {
            tracing::warn!(partition, ours, "another dispatcher has taken the partition");
            self.shared.ownership.fenced(partition, ours);
            return if epochs.len() > 1 { Duration::from_millis(1) } else { POLL };
        }
        self.shared.health.problem(PART, e);
        POLL
    }

    fn until_next_due(&self, now: DateTime<Utc>) -> Duration {
        let mut next = self.next_due.lock().expect("no code panics while holding this lock");
        match *next {
            Some(due) if due > now => (due - now).to_std().unwrap_or_default().min(POLL),
            Some(_) => {
                *next = None;
                POLL
            }
            None => POLL,
        }
    }

    /// Steps 2 to 6 for a claimed row.
    async fn carry_out(&self, effect: &Effect, epoch: Epoch) {
        let id = &effect.planned.id;
        let (job, settled) = match Job::of(effect) {
            Err(reason) => (None, Settled::Failed { reason }),
            // It goes after the first row in order, so that one has failed for good.
            Ok(_) if effect.update.as_ref().is_some_and(|u| u.first != EffectState::Done) => {
                (None, self.done(Some(NOTHING_TO_UPDATE.to_owned()), None, false))
            }
            Ok(job) => match self.attempt(effect, &job, epoch).await {
                Ok(settled) => (Some(job), settled),
                Err(e) => return self.given_up(effect, epoch, &e),
            },
        };
        let now = self.shared.env.clock.now();
        let name = &self.instance.name;
        if let Some(fact) = job.as_ref().and_then(|job| outcome::fact(job, name, &settled)) {
            self.shared.outcomes.append(outcome::record(&effect.planned.shop, &fact, now)).await;
        }
        let others = digest::others(effect).unwrap_or_default();
        let facts = others.iter().filter_map(|other| Some((&other.shop, outcome::fact(other, name, &settled)?)));
        // Together, so that the log can take them in one go.
        join_all(facts.map(|(shop, fact)| self.shared.outcomes.append(outcome::record(shop, &fact, now)))).await;
        self.count(&settled, effect);
        let stored = self
            .persist(|| async { self.shared.ledger.settle(id, epoch, settled.clone(), self.shared.env.clock.now()).await })
            .await;
        if let Err(e) = stored {
            self.given_up(effect, epoch, &e);
        }
    }

    /// The store will not have it: the row stays `sending` for whoever holds the partition next.
    fn given_up(&self, effect: &Effect, epoch: Epoch, e: &StoreError) {
        let Effect { planned, .. } = effect;
        if matches!(e, StoreError::Fenced { ours, current, .. } if ours == current) {
            // The partition is ours and the row is settled: by ourselves, in a call whose answer was lost.
            return;
        }
        tracing::warn!(handler = self.instance.name, decision = %planned.id.decision_id, route = planned.id.route_id, error = %e,
            "the outcome of a send is left to the partition's new owner");
        if matches!(e, StoreError::Fenced { .. }) {
            self.shared.ownership.fenced(planned.partition, epoch);
        }
    }

    async fn attempt(&self, effect: &Effect, job: &Job, epoch: Epoch) -> Result<Settled, StoreError> {
        let handler = &self.instance.handler;
        if let Some(reason) = self.instance.refuses(&effect.planned.organisation) {
            return Ok(self.failed(effect, reason, false));
        }
        let (request, mut uncertain) = match &effect.request {
            Some(request) => (request.clone(), may_have_arrived(effect)),
            None => match self.prepare(effect, &self.looking_back(effect, job).await?) {
                Err(reason) => return Ok(self.failed(effect, reason, false)),
                Ok(built) => {
                    let freeze = || async { self.shared.ledger.freeze(&effect.planned.id, epoch, &built).await };
                    (self.persist(freeze).await?, false)
                }
            },
        };
        if uncertain {
            match self.guarded(handler.resolve(job, &request, self.shared.env.clock.now())).await {
                Some(Resolution::Done { response, reference }) => return Ok(self.done(response, reference, false)),
                Some(Resolution::NotDone) => uncertain = false,
                Some(Resolution::CannotAsk) => {}
                Some(Resolution::AskLater { reason, after }) => return Ok(self.again(effect, reason, after, true)),
                None => return Ok(self.again(effect, "the target did not say what became of it".to_owned(), None, true)),
            }
        }
        let verdict = self.guarded(handler.send(job, &request, self.shared.env.clock.now())).await;
        let verdict = verdict.unwrap_or_else(|| Verdict::Ambiguous {
            reason: format!("no verdict within {} s, or the handler broke down", self.instance.common.deadline.as_secs_f64()),
        });
        self.tell_breaker(&verdict);
        Ok(match verdict {
            Verdict::Done { response, reference } => self.done(response, reference, uncertain),
            Verdict::AlreadyDone { response } => self.done(response, None, false),
            Verdict::Retry { reason, after, .. } => self.again(effect, reason, after, uncertain),
            Verdict::Ambiguous { reason } => self.again(effect, reason, None, true),
            Verdict::Permanent { reason } => self.failed(effect, reason, uncertain),
        })
    }

    /// The job with what was told about the variant before, if the handler wants it. Of one order key no two effects are under way, so
    /// what came before has ended.
    async fn looking_back(&self, effect: &Effect, job: &Job) -> Result<Job, StoreError> {
        let mut job = job.clone();
        if self.instance.handler.looks_back() {
            let filter = || EffectFilter {
                handler: Some(self.instance.name.clone()),
                state: Some(EffectState::Done),
                told_about: Some(effect.planned.order_key.clone()),
                limit: EARLIER,
                ..EffectFilter::default()
            };
            let told = self.persist(|| async { self.shared.ledger.list(filter()).await }).await?;
            let earlier = |e: Effect| Some(Earlier { request: e.request?, reference: e.reference? });
            job.earlier = told.into_iter().filter_map(earlier).collect();
        }
        Ok(job)
    }

    fn prepare(&self, effect: &Effect, job: &Job) -> Result<Vec<u8>, String> {
        let now = self.shared.env.clock.now();
        std::panic::catch_unwind(AssertUnwindSafe(|| digest::prepare(&*self.instance.handler, effect, job, now)))
            .unwrap_or_else(|_| Err("the handler broke down while building the request".to_owned()))
    }

    /// None: past the deadline, or a panic.
    async fn guarded<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            result = AssertUnwindSafe(call).catch_unwind() => result.ok(),
            () = self.shared.env.clock.sleep(self.instance.common.deadline) => None,
        }
    }

    /// Repeats a write to the ledger until it is stored or the partition is somebody else's.
    async fn persist<T, F: Future<Output = Result<T, StoreError>>>(&self, mut write: impl FnMut() -> F) -> Result<T, StoreError> {
        let mut attempt = 0;
        loop {
            match write().await {
                Ok(value) => {
                    self.shared.health.well(PART);
                    return Ok(value);
                }
                Err(e @ (StoreError::Fenced { .. } | StoreError::Misconfigured(_))) => return Err(e),
                Err(e) => {
                    attempt += 1;
                    self.shared.health.problem(PART, e);
                    let wait = Backoff::SERVICE.wait(attempt, self.shared.env.random());
                    self.shared.env.clock.sleep(wait).await;
                }
            }
        }
    }

    fn tell_breaker(&self, verdict: &Verdict) {
        let (now, random) = (self.shared.env.clock.now(), self.shared.env.random());
        match verdict {
            Verdict::Retry { blame: Blame::Target, .. } | Verdict::Ambiguous { .. } => self.breaker().failure(now, random),
            // The target answered, whatever it said.
            _ => self.breaker().success(),
        }
    }

    fn done(&self, response: Option<String>, reference: Option<String>, possible_duplicate: bool) -> Settled {
        let clean = |text: String| self.instance.redactor.clean(&text);
        Settled::Done { response: response.map(clean), reference: reference.map(clean), possible_duplicate }
    }

    fn again(&self, effect: &Effect, reason: String, after: Option<Duration>, uncertain: bool) -> Settled {
        if effect.attempts >= self.instance.common.max_attempts {
            return self.failed(effect, format!("given up after {} sends; the last: {reason}", effect.attempts), uncertain);
        }
        let reason = self.instance.redactor.clean(&reason);
        let backoff = Backoff::EFFECT.wait(effect.attempts, self.shared.env.random());
        let due_at = self.shared.env.clock.now() + after.unwrap_or_default().max(backoff);
        // What was uncertain stays so: a later answer "nothing happened" is about the later send only.
        if uncertain { Settled::Ambiguous { reason, due_at } } else { Settled::Retry { reason, due_at } }
    }

    fn failed(&self, effect: &Effect, reason: String, uncertain: bool) -> Settled {
        let reason = self.instance.redactor.clean(&reason);
        let uncertain = uncertain || may_have_arrived(effect);
        Settled::Failed { reason: if uncertain { format!("{MAY_HAVE_ARRIVED}{reason}") } else { reason } }
    }

    fn count(&self, settled: &Settled, effect: &Effect) {
        let counter = match settled {
            Settled::Done { .. } => &self.counters.done,
            Settled::Retry { due_at, .. } => {
                self.remember(*due_at);
                &self.counters.retried
            }
            Settled::Ambiguous { due_at, .. } => {
                self.remember(*due_at);
                &self.counters.ambiguous
            }
            Settled::Failed { reason } => {
                let id = &effect.planned.id;
                tracing::warn!(handler = self.instance.name, decision = %id.decision_id, route = id.route_id, reason, "an effect failed");
                &self.counters.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn remember(&self, due_at: DateTime<Utc>) {
        let mut next = self.next_due.lock().expect("no code panics while holding this lock");
        *next = Some(next.map_or(due_at, |n| n.min(due_at)));
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().expect("no code panics while holding this lock")
    }

    /// Resolves when nothing is under way.
    pub async fn idle(&self) {
        let all = u32::try_from(self.instance.common.concurrency).expect("concurrency is small");
        drop(self.permits.acquire_many(all).await);
    }

    pub fn state(&self) -> SenderState {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        SenderState {
            handler: self.instance.name.clone(),
            kind: self.instance.kind,
            guarantee: self.instance.guarantee(),
            in_flight: self.instance.common.concurrency - self.permits.available_permits(),
            breaker: self.breaker().state(self.shared.env.clock.now()),
            done: read(&self.counters.done),
            retried: read(&self.counters.retried),
            ambiguous: read(&self.counters.ambiguous),
            failed: read(&self.counters.failed),
        }
    }
}

/// Keeps a row on the list of those under way.
struct UnderWay {
    sender: Arc<Sender>,
    id: EffectId,
}

impl UnderWay {
    fn list(sender: Arc<Sender>, id: EffectId) -> UnderWay {
        sender.under_way.lock().expect("no code panics while holding this lock").insert(id.clone());
        UnderWay { sender, id }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.sender.under_way.lock().expect("no code panics while holding this lock").remove(&self.id);
    }
}

/// Whether a send of frozen bytes may have arrived before. Only what was frozen can have been sent.
fn may_have_arrived(effect: &Effect) -> bool {
    let marked = effect.response.as_deref().is_some_and(|r| r.starts_with(MAY_HAVE_ARRIVED));
    effect.request.is_some() && (effect.state == EffectState::Ambiguous || marked)
}
