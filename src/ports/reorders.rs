//! Proposals as people see them: every one that was ever opened, with what became of it and of each of its routes. A projection of
//! `reorder-decisions`; the facts remain the truth.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use uuid::Uuid;

use super::ledger::EffectState;
use super::snapshot_store::StoreError;
use crate::domain::proposal::State;
use crate::events::fact::{Move, MoveDetails};
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition, Position};

/// A proposal as its decision opened it.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    /// The opening decision's id.
    pub proposal_id: Uuid,
    pub organisation: String,
    /// The decision's log key.
    pub shop: String,
    /// None where the rule's scope is `sku`.
    pub variant_id: Option<VariantId>,
    /// Offset of the causing fact.
    pub caused_by: Offset,
    pub vendor: Option<String>,
    pub opened_at: DateTime<Utc>,
    /// The decision as recorded, JSON.
    pub decision: String,
}

/// A change of a proposal, as recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub proposal_id: Uuid,
    /// Offset of the causing fact: of two changes the later one holds.
    pub version: Offset,
    pub state: String,
    pub changed_at: DateTime<Utc>,
    /// A [`crate::events::decision::ProposalChange`] as JSON.
    pub change: String,
    /// Where it stands in the decisions' partition.
    pub offset: Offset,
    /// Handlers that are to show it, where the proposal has been told to them.
    pub tell: Vec<String>,
    /// When they may be told.
    pub due_at: DateTime<Utc>,
}

/// A proposal as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Reorder {
    pub opening: Opening,
    pub partition: Partition,
    /// Offset of the fact of the last change; that of the opening before the first.
    pub version: Offset,
    /// What was recorded last; `sent` instead of `proposed` once a route is done.
    pub state: String,
    /// The last change as JSON.
    pub change: Option<String>,
    pub updated_at: DateTime<Utc>,
    /// By id. Those with `updates` tell a change where another one told the proposal.
    pub routes: Vec<RouteState>,
}

/// A row of the ledger, as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteState {
    pub route_id: String,
    pub handler: String,
    pub state: EffectState,
    pub attempts: i32,
    pub reference: Option<String>,
    pub response: Option<String>,
    pub possible_duplicate: bool,
    pub updated_at: DateTime<Utc>,
    /// The route whose message is brought up to date.
    pub updates: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReorderFilter {
    pub organisation: String,
    /// Log keys; empty: all of the organisation.
    pub shops: Vec<String>,
    pub state: Option<State>,
    pub open: Option<bool>,
    /// Exact vendor.
    pub vendor: Option<String>,
    /// With a route to this handler.
    pub handler: Option<String>,
    /// Only older ones.
    pub before: Option<Cursor>,
    pub limit: usize,
}

/// Place in the list, newest first; `MILLIS_UUID` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub opened_at: DateTime<Utc>,
    pub proposal_id: Uuid,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReorderPage {
    pub reorders: Vec<Reorder>,
    /// Pass as `before` for the next page; none at the end.
    pub next: Option<Cursor>,
}

/// The list, as [`super::Ledger::plan`] keeps it.
pub trait Reorders: Send + Sync + 'static {
    fn reorder(&self, proposal_id: Uuid) -> BoxFuture<'_, Result<Option<Reorder>, StoreError>>;
    /// Newest first.
    fn reorders(&self, filter: ReorderFilter) -> BoxFuture<'_, Result<ReorderPage, StoreError>>;
}

impl ReorderPage {
    /// Of one row more than the limit, where there are so many.
    pub fn of(mut reorders: Vec<Reorder>, limit: usize) -> ReorderPage {
        let more = reorders.len() > limit;
        reorders.truncate(limit);
        let last = reorders.last().filter(|_| more);
        let next = last.map(|r| Cursor { opened_at: r.opening.opened_at, proposal_id: r.opening.proposal_id });
        ReorderPage { reorders, next }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.opened_at.timestamp_millis(), self.proposal_id)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("that is no cursor of a page of reorders")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (ms, id) = s.split_once('_').ok_or(BadCursor)?;
        let opened_at = ms.parse().ok().and_then(DateTime::from_timestamp_millis).ok_or(BadCursor)?;
        Ok(Cursor { opened_at, proposal_id: id.parse().map_err(|_| BadCursor)? })
    }
}

/// A move that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRequest {
    pub proposal_id: Uuid,
    pub moved: Move,
    pub details: MoveDetails,
    /// Who, as the channel knows them.
    pub by: String,
    /// `api`, or the handler's name.
    pub via: String,
    /// The same for each delivery of the same act.
    pub dedupe_id: Option<String>,
    /// How long to wait, once the fact is durable, until it shows in what is read.
    pub wait: Duration,
}

/// What a move did. Its fact is durable in any case but `Already`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveOutcome {
    /// The fact stands at this position, and the proposal is in this state.
    Moved { position: Position, state: String },
    /// It was there already; nothing was written.
    Already { state: String },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error("there is no reorder {0}")]
    NotFound(Uuid),
    /// Backward, or the proposal is closed.
    #[error("{0}")]
    Illegal(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Duration },
}

/// Moves proposals: checks against live state, writes the fact, waits until it is applied.
pub trait Moves: Send + Sync + 'static {
    fn carry_out(&self, request: MoveRequest) -> BoxFuture<'_, Result<MoveOutcome, MoveError>>;
}
