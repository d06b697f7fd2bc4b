//! A variant as version 2 of the snapshots has it. Frozen: postcard knows no names, so the order and the types of these fields are the
//! format. What is taken from the present here is unchanged since; to change it, put a copy of what it was here first
//! (`tests/golden/snapshots/v2` notices).

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

use super::{Arm, VariantState};
use crate::domain::proposal::{Carrier, Proposal, ResolvesAt, Snooze, State};
use crate::domain::rules::Scope;
use crate::domain::stock::Stock;
use crate::events::decision::Kind;
use crate::events::fact::Stamp;
use crate::events::ids::{ItemId, LocationId, ProductId};
use crate::events::record::Offset;
use crate::events::time::Millis;

#[derive(Serialize, Deserialize)]
pub struct VariantStateV2 {
    product: ProductId,
    item: Option<ItemId>,
    sku: Option<Box<str>>,
    title: Box<str>,
    continue_selling: bool,
    tracked: Option<bool>,
    item_stamp: Stamp,
    stock: Stock,
    arms: SmallVec<[Arm; 1]>,
    rules_key: u64,
    proposals: Vec<ProposalV2>,
    last: Offset,
    deleted: bool,
    quarantined: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
struct ProposalV2 {
    id: Uuid,
    rule_id: Box<str>,
    rule_version: i64,
    kind: Kind,
    scope: Scope,
    location: Option<LocationId>,
    quantity: Option<i64>,
    received: i64,
    state: State,
    opened_at: Millis,
    opened_by: Offset,
    resolves_at: ResolvesAt,
    expires_at: Millis,
    assigned_to: Option<Box<str>>,
    snooze: Option<Snooze>,
    eta: Option<Millis>,
    reference: Option<Box<str>>,
    note: Option<Box<str>>,
    carriers: Vec<Carrier>,
}

impl From<VariantStateV2> for VariantState {
    fn from(old: VariantStateV2) -> VariantState {
        VariantState {
            product: old.product,
            item: old.item,
            sku: old.sku,
            title: old.title,
            continue_selling: old.continue_selling,
            tracked: old.tracked,
            item_stamp: old.item_stamp,
            stock: old.stock,
            arms: old.arms,
            rules_key: old.rules_key,
            proposals: old.proposals.into_iter().map(Proposal::from).collect(),
            last: old.last,
            deleted: old.deleted,
            quarantined: old.quarantined,
        }
    }
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
