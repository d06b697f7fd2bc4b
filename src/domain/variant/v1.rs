//! A variant as version 1 of the snapshots has it. Frozen: postcard knows no names, so the order and the types of these fields are the
//! format. What is taken from the present here is unchanged since; to change it, put a copy of what it was here first
//! (`tests/golden/snapshots/v1` notices).

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

use super::v2::ProposalV2;
use super::{Arm, VariantState};
use crate::domain::proposal::{Proposal, ResolvesAt, State};
use crate::domain::rules::Scope;
use crate::domain::snapshot;
use crate::domain::stock::Stock;
use crate::events::decision::Kind;
use crate::events::fact::Stamp;
use crate::events::ids::{ItemId, LocationId, ProductId};
use crate::events::record::Offset;
use crate::events::time::Millis;

/// The variant itself is the same in versions 1 and 2; `P` are its proposals.
#[derive(Serialize, Deserialize)]
pub struct VariantStateOf<P> {
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
    proposals: Vec<P>,
    last: Offset,
    deleted: bool,
    quarantined: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
pub struct ProposalV1 {
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
}

impl snapshot::State for VariantState {
    type V1 = VariantStateOf<ProposalV1>;
    type V2 = VariantStateOf<ProposalV2>;
}

impl<P: Into<Proposal>> From<VariantStateOf<P>> for VariantState {
    fn from(old: VariantStateOf<P>) -> VariantState {
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
            proposals: old.proposals.into_iter().map(Into::into).collect(),
            last: old.last,
            deleted: old.deleted,
            quarantined: old.quarantined,
        }
    }
}

impl From<ProposalV1> for Proposal {
    fn from(old: ProposalV1) -> Proposal {
        ProposalV2::from(old).into()
    }
}

impl From<ProposalV1> for ProposalV2 {
    fn from(old: ProposalV1) -> ProposalV2 {
        ProposalV2 {
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
            assigned_to: None,
            snooze: None,
            eta: None,
            reference: None,
            note: None,
            carriers: Vec::new(),
        }
    }
}
