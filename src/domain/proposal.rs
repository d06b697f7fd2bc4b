//! Proposals: what was decided and what became of it (DESIGN §4). States go forward only; skipping is allowed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rules::Scope;
use crate::events::decision::Kind;
use crate::events::fact::{Move, ProposalMoved};
use crate::events::ids::LocationId;
use crate::events::record::Offset;
use crate::events::time::Millis;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    Proposed,
    /// At least one route is done.
    Sent,
    Acknowledged,
    Ordered,
    InTransit,
    Received,
    Cancelled,
    /// Nobody acted in time.
    Expired,
    /// Stock came back before anybody acted.
    Resolved,
}

impl State {
    pub const ALL: [State; 9] = [
        State::Proposed,
        State::Sent,
        State::Acknowledged,
        State::Ordered,
        State::InTransit,
        State::Received,
        State::Cancelled,
        State::Expired,
        State::Resolved,
    ];

    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            State::Proposed => "proposed",
            State::Sent => "sent",
            State::Acknowledged => "acknowledged",
            State::Ordered => "ordered",
            State::InTransit => "in_transit",
            State::Received => "received",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
            State::Resolved => "resolved",
        }
    }

    pub const fn is_open(self) -> bool {
        matches!(self, State::Proposed | State::Sent | State::Acknowledged | State::Ordered | State::InTransit)
    }

    /// Whether somebody has taken it up; then it no longer closes by itself.
    pub const fn is_acted_on(self) -> bool {
        !matches!(self, State::Proposed | State::Sent)
    }
}

/// When an untouched proposal closes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum ResolvesAt {
    /// Stock at or above.
    Level(i64),
    /// Probability of running out within the horizon (hours) below.
    RunOut { below: f64, horizon_hours: f64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub id: Uuid,
    pub rule_id: Box<str>,
    pub rule_version: i64,
    pub kind: Kind,
    pub scope: Scope,
    /// The location replenished; none unless the scope is location.
    pub location: Option<LocationId>,
    pub quantity: Option<i64>,
    pub received: i64,
    pub state: State,
    pub opened_at: Millis,
    pub opened_by: Offset,
    pub resolves_at: ResolvesAt,
    pub expires_at: Millis,
}

/// What a move did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Done,
    /// It was there already.
    Already,
    /// Backward, or closed.
    Illegal,
}

impl Proposal {
    /// Units on their way because of it (RULES: unlanded own proposals).
    pub fn under_way(&self) -> i64 {
        if self.state.is_open() { (self.quantity.unwrap_or(0) - self.received).max(0) } else { 0 }
    }

    pub fn advance(&mut self, to: State) -> Moved {
        if to == self.state {
            Moved::Already
        } else if to > self.state && self.state.is_open() {
            self.state = to;
            Moved::Done
        } else {
            Moved::Illegal
        }
    }

    pub fn apply(&mut self, m: &ProposalMoved) -> Moved {
        match m.moved {
            Move::Acknowledge => self.advance(State::Acknowledged),
            // Attributes; no state.
            Move::Assign | Move::Snooze => Moved::Already,
            Move::Ordered => {
                let moved = self.advance(State::Ordered);
                if moved == Moved::Done && m.details.quantity.is_some() {
                    self.quantity = m.details.quantity;
                }
                moved
            }
            Move::InTransit => self.advance(State::InTransit),
            Move::Cancel => self.advance(State::Cancelled),
            Move::Received if !self.state.is_open() => self.advance(State::Received),
            Move::Received => {
                let open = self.under_way();
                self.received += m.details.quantity.unwrap_or(open).max(0);
                // Less than ordered keeps it open.
                if self.under_way() == 0 { self.advance(State::Received) } else { Moved::Done }
            }
        }
    }
}
