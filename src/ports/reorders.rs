//! Proposals as people see them: every one that was ever opened, with what became of it and of each of its routes. A projection of
//! `reorder-decisions`; the facts remain the truth.

use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::events::fact::{Move, MoveDetails};
use crate::events::record::Position;

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
