//! Handlers: what a decision becomes.
//!
//! A handler *kind* (`target`, `email`, …) is code; a handler *instance* is a named table `[handlers.NAME]` of the
//! configuration, and rules route to it by that name. The dispatcher (`actors::effects`) owns everything that kinds have in
//! common: the ledger, when and how often something is sent, order, the circuit breaker, deadlines. A kind says only how a
//! request is built, how it is sent, and what the target's answer means. Replay has no path to here (DESIGN §7.7).
//!
//! # Adding a kind
//!
//! `tests/suite/effects/new_kind.rs` follows this lesson from the configuration to the moves that come back.
//!
//! 1. **Configuration.** A folder `handlers/KIND/` (or a file, if it stays short) with a `Config` that is read from the instance's
//!    table by [`registry::read_config`]: `#[derive(Deserialize)] #[serde(deny_unknown_fields)]`; secrets are
//!    [`SecretRef`](crate::config::SecretRef)s, found by [`Context::secret`]. What can be checked without a network (addresses,
//!    templates, numbers) is checked in its `build`, with the key in the message, so that `check` finds it and no send has to.
//!    `concurrency`, `max_attempts`, `deadline` and `organisations` ([`Common`]) are taken out before; every kind has them. What
//!    speaks HTTP takes client, addresses and the meaning of a missing answer from `http`.
//! 2. **[`Handler::prepare`]** is pure: it has no side effect and everything that may differ from one call to the next (a date, a
//!    boundary) ends up in the bytes. They are frozen in the ledger before the first send, and every send gets the same. No
//!    secret belongs into them; what needs one (signatures, tokens) is added while sending. [`Job::key`] names the effect to the
//!    target: take it for whatever the target knows repeats by. Texts of a decision come from outside: they are escaped and cut here. An
//!    error is permanent, so it says what is to be mended.
//! 3. **[`Handler::send`]** gives a verdict for every outcome. The question is always what the target may have *done*: nothing, and it
//!    may go better later ([`Verdict::Retry`], with the wait that it asks for) or never ([`Verdict::Permanent`]); it
//!    ([`Verdict::Done`], with the id that it gave; [`Verdict::AlreadyDone`]); or who knows ([`Verdict::Ambiguous`]): a timeout, a
//!    connection that ends, an answer that cannot be read, an error of the target's inside. In doubt it is ambiguous. How
//!    often and when is not decided here.
//! 4. **[`Handler::resolve`]**, where the target can be asked whether it has seen the request: before anything is sent again after an
//!    ambiguous end. [`Resolution::NotDone`] is a promise: what only an index that lags does not show is
//!    [`Resolution::AskLater`]. Where nobody can be asked, the same bytes are sent again and the row is a possible duplicate.
//!    [`Handler::sweep`], where what happened twice all the same can be found and undone later.
//! 5. **[`Handler::follows`]**, if the target can show what became of a proposal: then `prepare` also gets jobs with
//!    [`Job::update`], with the id that the first send gave; also of changes that came from there, with [`Handler::follows_its_own`]. [`Handler::looks_back`], if a message refers to earlier ones about
//!    the variant ([`Job::earlier`]).
//! 6. **[`Handler::inbound`]**, if the target talks back: an [`Inbound`] that checks a signature over the raw body and its age, and
//!    says which moves are asked for, by whom, with an id that is the same at each delivery. The API serves it at
//!    `/webhooks/KIND[/NAME]`. Nothing else than the signature is trusted, and no move is carried out here.
//! 7. **[`Handler::guarantee`]** is what 2 to 4 amount to, also when the process dies between any two steps: `GUARANTEE` of the kind.
//! 8. **[`Handler::probe`]**, where the target can be asked without an effect: whether it answers, knows the account, and has what the
//!    instance and the routes name. `check` shows it. Whatever a send would be refused for and can be known before belongs here; a
//!    [`Finding`] says what was answered and what to mend. What cannot be asked is said as well ([`Finding::not_asked`]).
//! 9. **[`Handler::secrets`]**: everything that must not be seen in what a target echoes.
//! 10. **One line in [`registry::KINDS`]**, which is also the docs' table (`docs/handlers.md`; a test compares them).
//! 11. **Tests** in `tests/suite/effects/` against a stand-in that commits and then drops the connection, hangs, throttles and answers
//!     nonsense: a verdict for each, hostile texts, and through the ledger (`harness.rs`) the number of effects that the
//!     target has in the end. `send` and `prepare` alone make no exactly-once.

mod common;
pub mod email;
mod http;
pub mod jira;
mod placeholders;
mod probe;
mod redactor;
pub mod registry;
pub mod shopify_transfer;
pub mod slack;
pub mod target;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde_json::{Map, Value};

pub use common::Common;
pub use probe::ask as ask_targets;
pub use redactor::Redactor;
pub use registry::{Context, Handlers, Instance, Problem};

use crate::events::decision::{Decision, ProposalChange, Route};
use crate::ports::inbound::Inbound;
use crate::ports::ledger::{Effect, EffectId, Planned};
use crate::ports::targets::{Finding, Scope};

/// What a kind can promise about effects that happen twice (DESIGN §7.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// The target refuses a repeat by its key, for good.
    EffectivelyOnce,
    /// A repeat can be found afterwards and is mended.
    DetectAndRepair,
    /// A repeat is possible and is shown (`possible_duplicate`).
    BestEffort,
}

impl Guarantee {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Guarantee::EffectivelyOnce => "effectively once",
            Guarantee::DetectAndRepair => "detect and repair",
            Guarantee::BestEffort => "best effort",
        }
    }
}

/// One effect, as a handler sees it.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: EffectId,
    pub organisation: String,
    /// The decision's log key.
    pub shop: String,
    pub decision: Decision,
    /// The decision as recorded, with fields that this version does not know.
    pub recorded: Map<String, Value>,
    pub route: Route,
    /// What the instance has told about the same variant before and got a reference for, newest first, the last few; only for
    /// handlers that [`Handler::looks_back`], and only in [`Handler::prepare`].
    pub earlier: Vec<Earlier>,
    /// Not the decision itself is to be told, but what became of its proposal; only for handlers that [`Handler::follows`].
    pub update: Option<Update>,
}

/// An effect that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The frozen bytes.
    pub request: Vec<u8>,
    /// What its send gave as [`Verdict::Done::reference`].
    pub reference: String,
}

/// What became of a proposal that the handler has told before.
#[derive(Debug, Clone)]
pub struct Update {
    pub change: ProposalChange,
    /// What the first send gave as [`Verdict::Done::reference`]; none if it did not succeed.
    pub reference: Option<String>,
}

impl Job {
    /// Reads a ledger row. The error is for people: such a row can never be sent.
    pub fn read(planned: &Planned) -> Result<Job, String> {
        let fail = |what: &str, e: serde_json::Error| format!("the {what} stored in the ledger cannot be read: {e}");
        Ok(Job {
            id: planned.id.clone(),
            organisation: planned.organisation.clone(),
            shop: planned.shop.clone(),
            decision: serde_json::from_str(&planned.decision).map_err(|e| fail("decision", e))?,
            recorded: serde_json::from_str(&planned.decision).map_err(|e| fail("decision", e))?,
            route: serde_json::from_str(&planned.route).map_err(|e| fail("route", e))?,
            earlier: Vec::new(),
            update: None,
        })
    }

    /// Reads a claimed row, with the change that it tells if it is an update.
    pub fn of(effect: &Effect) -> Result<Job, String> {
        let mut job = Job::read(&effect.planned)?;
        if let Some(update) = &effect.update {
            let change = serde_json::from_str(&update.change)
                .map_err(|e| format!("the change stored in the ledger cannot be read: {e}"))?;
            job.update = Some(Update { change, reference: update.reference.clone() });
        }
        Ok(job)
    }

    /// A setting of the route, if it is text.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.route.settings.get(name).and_then(Value::as_str)
    }

    /// Names the effect to the target, the same at every send: `decision_id/route_id`, printable ASCII without a dot.
    pub fn key(&self) -> String {
        let mut key = format!("{}/", self.id.decision_id);
        for byte in self.id.route_id.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => key.push(char::from(byte)),
                _ => key.push_str(&format!("%{byte:02X}")),
            }
        }
        key
    }
}

/// How a send went. `reason` and `response` are for people; the dispatcher shortens them and takes secrets out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The target did it.
    Done {
        response: Option<String>,
        /// Id that the target gave.
        reference: Option<String>,
    },
    /// The target had done it before, and only once.
    AlreadyDone { response: Option<String> },
    /// Nothing happened; a later try may succeed, not before `after` if the target said so.
    Retry { reason: String, after: Option<Duration>, blame: Blame },
    /// The target may have done it.
    Ambiguous { reason: String },
    /// Nothing happened, and nothing will until someone mends it; the reason says what.
    Permanent { reason: String },
}

/// Whose fault it is that a send has to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The target as a whole: it counts against its circuit breaker.
    Target,
    /// Something of this effect alone, a recipient that is deferred for example; the target works.
    Effect,
}

/// What the target says about a request of unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    Done {
        response: Option<String>,
        reference: Option<String>,
    },
    /// It certainly did not happen: send.
    NotDone,
    /// Not known yet (an index that lags, a target that is away): ask again.
    AskLater {
        reason: String,
        after: Option<Duration>,
    },
    /// This target cannot be asked: the same bytes are sent again and the row says `possible_duplicate`.
    CannotAsk,
}

pub trait Handler: Send + Sync + 'static {
    fn guarantee(&self) -> Guarantee;

    /// Whether it is also given this change of a proposal that it told ([`Job::update`]), so that what is acknowledged anywhere
    /// shows everywhere (DESIGN §4).
    fn follows(&self, _change: &ProposalChange) -> bool {
        false
    }

    /// Whether it is also given changes that its own target asked for, because nothing shows them there otherwise: the buttons of a
    /// message stay as they are when somebody presses one.
    fn follows_its_own(&self) -> bool {
        false
    }

    /// Whether [`Handler::prepare`] needs [`Job::earlier`], to answer in a thread for example.
    fn looks_back(&self) -> bool {
        false
    }

    /// How the target talks back, if it does.
    fn inbound(self: Arc<Self>) -> Option<Arc<dyn Inbound>> {
        None
    }

    /// The search for effects that happened twice all the same, where the target can be searched.
    fn sweep(self: Arc<Self>) -> Option<Arc<dyn Sweep>> {
        None
    }

    /// Asks the target whether sends would succeed, without an effect there: nobody is told anything. What the account may do, whether
    /// what routes name is there. Begins anew at each call, and may be dropped at any time. Empty: there is nothing to ask.
    fn probe<'a>(&'a self, _scope: &'a Scope, _now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }

    /// The request, built once for an effect. An error is permanent and says what is to be mended.
    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String>;

    /// Whether several decisions for the same address can go into one request, where their route says `digest = "1h"`.
    fn digests(&self) -> bool {
        false
    }

    /// One request for several decisions whose routes have the same `address`; for handlers that take [`Handler::digests`].
    fn prepare_digest(&self, jobs: &[Job], now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        match jobs {
            [job] => self.prepare(job, now),
            // Rows of a handler that has become another kind since; what is wrong with one of them says more.
            _ => jobs
                .iter()
                .try_for_each(|job| self.prepare(job, now).map(drop))
                .and(Err("this handler takes no digests".to_owned())),
        }
    }

    /// Sends the frozen bytes. Ends within the instance's deadline; past it, the dispatcher drops the future and takes the outcome
    /// for ambiguous.
    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Verdict>;

    /// Asks the target about a request whose outcome is unknown.
    fn resolve<'a>(&'a self, _job: &'a Job, _request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        Box::pin(async { Resolution::CannotAsk })
    }

    /// What must never be seen in a log or a stored answer.
    fn secrets(&self) -> Vec<String>;
}

/// An effect that the target shows more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twins {
    pub effect: EffectId,
    /// As [`Verdict::Done::reference`] has them, all of the same effect.
    pub references: Vec<String>,
}

/// Looks for effects that happened twice, and mends them. The ledger says which one stays: it is what moves and updates refer to.
pub trait Sweep: Send + Sync + 'static {
    fn every(&self) -> Duration;

    /// What has happened twice since about the last call.
    fn twins(&self, now: DateTime<Utc>) -> BoxFuture<'_, Result<Vec<Twins>, String>>;

    /// Undoes all of them but `keep`, one of `twins.references`.
    fn keep<'a>(&'a self, twins: &'a Twins, keep: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<(), String>>;
}
