//! The ledger of effects (DESIGN §4): each (decision, route) is performed once where the target allows it (DESIGN §7.6).

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::reorders::{Change, Opening};
use super::snapshot_store::{Epoch, StoreError};
use crate::events::record::Partition;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectState {
    /// Known, not sent; due at `due_at`.
    Planned,
    /// A sender holds it; its request bytes are frozen.
    Sending,
    Done,
    /// Sent, outcome unknown; to be resolved by asking the target or by sending the same bytes.
    Ambiguous,
    /// Failed for good, until an operator retries it.
    Failed,
}

impl EffectState {
    pub const ALL: [EffectState; 5] =
        [EffectState::Planned, EffectState::Sending, EffectState::Done, EffectState::Ambiguous, EffectState::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            EffectState::Planned => "planned",
            EffectState::Sending => "sending",
            EffectState::Done => "done",
            EffectState::Ambiguous => "ambiguous",
            EffectState::Failed => "failed",
        }
    }

    pub fn parse(s: &str) -> Option<EffectState> {
        EffectState::ALL.into_iter().find(|e| e.as_str() == s)
    }
}

/// Rows of one digest, its leader included; what is more goes into the next one.
pub const DIGEST_ROWS: i64 = 500;

/// What makes an effect unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EffectId {
    pub decision_id: Uuid,
    /// The route's index unless it is named.
    pub route_id: String,
}

/// A row to be planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub id: EffectId,
    /// Name of the handler instance.
    pub handler: String,
    pub organisation: String,
    /// The decision's log key (shop).
    pub shop: String,
    /// Order of effects for the same variant is kept; `shop/variant`.
    pub order_key: String,
    /// Partition and offset of the decision in the decisions topic.
    pub partition: Partition,
    pub offset: i64,
    /// The decision as JSON and the route as JSON: all that a handler needs.
    pub decision: String,
    pub route: String,
    pub due_at: DateTime<Utc>,
    /// Rows of a handler with the same text here go out together as one effect; none: by itself.
    pub digest: Option<String>,
}

/// What a batch of the decisions topic comes to, written in one transaction: rows to be sent, and what the list of reorders
/// ([`super::reorders`]) shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    pub opened: Vec<Opening>,
    pub rows: Vec<Planned>,
    /// In the order of the topic.
    pub changes: Vec<Change>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.rows.is_empty() && self.changes.is_empty()
    }
}

impl From<&[Planned]> for Batch {
    fn from(rows: &[Planned]) -> Batch {
        Batch { rows: rows.to_vec(), ..Batch::default() }
    }
}

/// Makes of a row one that brings up to date what another row, the first of the route, has told.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateOf {
    pub route_id: String,
    /// A [`crate::events::decision::ProposalChange`] as JSON.
    pub change: String,
    /// State and reference of the first row now.
    pub first: EffectState,
    pub reference: Option<String>,
}

/// Response of an update that a later one made needless before it was sent.
pub const SUPERSEDED: &str = "superseded by a later change";

/// A row as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    pub planned: Planned,
    pub state: EffectState,
    /// Sends begun so far.
    pub attempts: i32,
    /// Request bytes frozen at first send; what is sent again is the same.
    pub request: Option<Vec<u8>>,
    /// What the target answered, shortened, without secrets; for people.
    pub response: Option<String>,
    /// Id that the target gave (issue key, message id …).
    pub reference: Option<String>,
    pub possible_duplicate: bool,
    pub updated_at: DateTime<Utc>,
    /// Epoch of the sender that holds it while `sending`.
    pub sender_epoch: Option<Epoch>,
    /// The other rows that this one is sent for, oldest first. Only [`Ledger::claim`] fills it.
    pub shared_by: Vec<Planned>,
    /// None: the row tells the decision itself.
    pub update: Option<UpdateOf>,
}

/// How a send ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Settled {
    Done {
        response: Option<String>,
        reference: Option<String>,
        possible_duplicate: bool,
    },
    /// Try again at `due_at`; nothing happened at the target.
    Retry {
        reason: String,
        due_at: DateTime<Utc>,
    },
    /// The target may have done it; resolve from `due_at` on.
    Ambiguous {
        reason: String,
        due_at: DateTime<Utc>,
    },
    Failed {
        reason: String,
    },
}

/// Rows of a handler in a state.
pub type Count = (String, EffectState, i64);

#[derive(Debug, Clone, Default)]
pub struct EffectFilter {
    pub decision_id: Option<Uuid>,
    pub handler: Option<String>,
    pub state: Option<EffectState>,
    /// Rows of this order key that the target gave a reference to: what has been told about a variant.
    pub told_about: Option<String>,
    pub limit: i64,
}

pub trait Ledger: Send + Sync + 'static {
    /// Takes ownership of a decisions partition for dispatching.
    fn acquire_dispatch_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>>;

    /// Inserts rows and proposals that are not there yet, then takes the changes in; returns how many of `rows` were new. All of
    /// it may come again. Fenced by the partition's dispatch epoch.
    ///
    /// A change is kept where its version is newer. For each handler that it is to be told to, each of the proposal's rows that has not
    /// failed gets an update, a row of its own (`ROUTE~VERSION`) after it in order; updates that were planned before and are
    /// not sent yet end as done, [`SUPERSEDED`].
    fn plan<'a>(&'a self, partition: Partition, epoch: Epoch, batch: &'a Batch) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Rows of `handler` in `partitions` (with the epoch held of each) that are due: planned or ambiguous with `due_at` ≤ `now`,
    /// and rows left `sending` by an older epoch (returned as ambiguous). They become `sending` under the given epoch and
    /// `attempts` grows by one. Of one `order_key` only the oldest unfinished row is given out. At most `limit`, oldest first.
    ///
    /// Digests: of due rows with the same [`Planned::digest`] one is given out, the leader, which in the same transaction gathers all
    /// others that are due, not sent yet, in `partitions`, and not held back by an older row of their `order_key` outside of the digest
    /// ([`DIGEST_ROWS`] at most). From then on they are never given out themselves: they are [`Effect::shared_by`] their leader,
    /// whose every change of state is theirs too, whoever owns their own partitions meanwhile. A leader whose request is frozen
    /// gathers no more.
    fn claim<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        now: DateTime<Utc>,
        limit: i64,
    ) -> BoxFuture<'a, Result<Vec<Effect>, StoreError>>;

    /// Gives back what nobody sends: rows of `handler` that are `sending` under the given epochs and are not among `under_way`,
    /// because the answer to the claim that took them was lost. With frozen bytes they become ambiguous, else planned, due as
    /// they were. Returns how many. No claim of the same handler and epochs may be under way.
    fn release<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        under_way: &'a [EffectId],
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Stores the request bytes of the first send; if some are stored already, those are returned and win.
    fn freeze<'a>(&'a self, id: &'a EffectId, epoch: Epoch, request: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, StoreError>>;

    /// Ends a send. Fails as fenced if the row is not `sending` under `epoch`.
    fn settle<'a>(
        &'a self,
        id: &'a EffectId,
        epoch: Epoch,
        how: Settled,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Makes a failed row planned again, due now; false if there is no such failed row. Of a digest, all of it.
    fn retry<'a>(&'a self, id: &'a EffectId, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// The newest effect that `handler` gave this reference to.
    fn by_reference<'a>(&'a self, handler: &'a str, reference: &'a str) -> BoxFuture<'a, Result<Option<EffectId>, StoreError>>;

    fn list(&self, filter: EffectFilter) -> BoxFuture<'_, Result<Vec<Effect>, StoreError>>;

    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, StoreError>>;
}
