//! Webhooks of Shopify's inventory transfers, the way back of orders placed as transfers (contracts/apis.md §1, §4).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::MAX_QUANTITY;
use crate::events::fact::{FactType, TransferObserved, TransferStage};
use crate::events::ids::{ItemId, TransferId};

#[derive(Deserialize)]
pub(super) struct TransferBody<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    /// Of a form that Shopify does not document; what cannot be read of it is not there.
    #[serde(borrow, default)]
    line_items: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub updated_at: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    inventory_item_id: Id<'a>,
    quantity: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(u64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

/// None: not a transfer of a form that we know, or nothing that concerns us has happened to it.
pub(super) fn observed(fact_type: FactType, body: &TransferBody<'_>) -> Option<TransferObserved> {
    let stage = match (fact_type, body.status.as_deref()) {
        (FactType::TransfersReadyToShip, _) => TransferStage::ReadyToShip,
        (FactType::TransfersComplete, _) => TransferStage::Complete,
        (FactType::TransfersCancel, _) => TransferStage::Cancelled,
        (_, Some("READY_TO_SHIP")) => TransferStage::ReadyToShip,
        (_, Some("IN_PROGRESS")) => TransferStage::InProgress,
        (_, Some("TRANSFERRED")) => TransferStage::Complete,
        (_, Some("CANCELED")) => TransferStage::Cancelled,
        _ => return None,
    };
    let lines: Vec<Line<'_>> = body.line_items.and_then(|l| serde_json::from_str(l.get()).ok()).unwrap_or_default();
    let item = |id: &Id<'_>| match id {
        Id::Number(n) => Some(ItemId(*n)),
        Id::Text(t) => ItemId::from_gid(t).or_else(|| t.parse().ok().map(ItemId)),
    };
    let lines = lines.iter().filter(|l| (1..=MAX_QUANTITY).contains(&l.quantity));
    Some(TransferObserved {
        transfer: TransferId::from_gid(&body.id)?,
        stage,
        lines: lines.filter_map(|l| Some((item(&l.inventory_item_id)?, l.quantity))).collect(),
    })
}
