//! Proposals as version 2 of the snapshots has them. Frozen: postcard knows no names, so the order and the types of these fields are the
//! format. What is taken from the present here is unchanged since; to change it, put a copy of what it was here first
//! (`tests/golden/snapshots/v2` notices).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::proposal::{Carrier, Proposal, ResolvesAt, Snooze, State};
use crate::domain::rules::Scope;
use crate::events::decision::Kind;
use crate::events::ids::LocationId;
use crate::events::record::Offset;
use crate::events::time::Millis;

#[derive(Serialize, Deserialize)]
pub struct ProposalV2 {
    pub(super) id: Uuid,
    pub(super) rule_id: Box<str>,
    pub(super) rule_version: i64,
    pub(super) kind: Kind,
    pub(super) scope: Scope,
    pub(super) location: Option<LocationId>,
    pub(super) quantity: Option<i64>,
    pub(super) received: i64,
    pub(super) state: State,
    pub(super) opened_at: Millis,
    pub(super) opened_by: Offset,
    pub(super) resolves_at: ResolvesAt,
    pub(super) expires_at: Millis,
    pub(super) assigned_to: Option<Box<str>>,
    pub(super) snooze: Option<Snooze>,
    pub(super) eta: Option<Millis>,
    pub(super) reference: Option<Box<str>>,
    pub(super) note: Option<Box<str>>,
    pub(super) carriers: Vec<Carrier>,
}

impl From<ProposalV2> for Proposal {
    fn from(old: ProposalV2) -> Proposal {
        Proposal {
            id: old.id,
            rule_id: old.rule_id,
            rule_version: old.rule_version,
            kind: old.kind,
            scope: old.scope,
            location: old.location,
            quantity: old.quantity,
            received: old.received,
            state: old.state,
            opened_at: old.opened_at,
            opened_by: old.opened_by,
            resolves_at: old.resolves_at,
            expires_at: old.expires_at,
            assigned_to: old.assigned_to,
            snooze: old.snooze,
            eta: old.eta,
            reference: old.reference,
            note: old.note,
            carriers: old.carriers,
            receipts: Vec::new(),
        }
    }
}
