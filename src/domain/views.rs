//! What queries answer, in the field names of the wire (DESIGN §5).

use serde::Serialize;
use uuid::Uuid;

use crate::events::decision::{Kind, RiskLevel};
use crate::events::ids::{self, ItemId, LocationId, ProductId, VariantId};
use crate::events::record::{Offset, Partition};
use crate::events::time::{self, Millis};

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Provenance {
    pub partition: Partition,
    /// Offset of the last fact applied; -1 before the first.
    pub offset: Offset,
    pub epoch: i64,
    pub node: String,
    /// `owner`, `snapshot+tail` or `snapshot`.
    pub source: &'static str,
    pub staleness_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelView {
    #[serde(with = "ids::text")]
    pub location_id: LocationId,
    pub available: Option<i64>,
    #[serde(with = "time::text")]
    pub updated_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RiskView {
    pub level: RiskLevel,
    /// Probability of running out within the horizon of the gradient rule that holds for the variant, 24 h without one;
    /// null without enough sales.
    pub probability: Option<f64>,
    /// At the present rate of sales; null without one.
    pub hours_left: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProposalView {
    pub proposal_id: Uuid,
    pub rule_id: String,
    pub kind: Kind,
    pub state: &'static str,
    pub quantity: Option<i64>,
    #[serde(with = "ids::text::option")]
    pub location_id: Option<LocationId>,
    #[serde(with = "time::text")]
    pub opened_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VariantView {
    pub shop: String,
    #[serde(with = "ids::text")]
    pub variant_id: VariantId,
    #[serde(with = "ids::text::option")]
    pub inventory_item_id: Option<ItemId>,
    #[serde(with = "ids::text")]
    pub product_id: ProductId,
    pub sku: Option<String>,
    /// The product's and the variant's title.
    pub title: String,
    pub product_title: String,
    pub variant_title: String,
    pub vendor: Option<String>,
    pub product_type: Option<String>,
    pub tags: Vec<String>,
    /// Sum over tracked locations, see DESIGN §10; null: not tracked or not known.
    pub available: Option<i64>,
    /// Whether stock is tracked, as far as the inventory item said.
    pub tracked: Option<bool>,
    pub levels: Vec<LevelView>,
    pub levels_complete: bool,
    /// Since when the product is known to have changed in a way that nobody told.
    #[serde(with = "time::text::option")]
    pub stale_since: Option<Millis>,
    pub risk: RiskView,
    pub open_proposals: Vec<ProposalView>,
    /// Set if a fact kills the variant again and again; it takes no facts until an operator releases it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    pub provenance: Provenance,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShopView {
    pub shop: String,
    pub organisation: String,
    pub kind: String,
    /// Variants that the catalogue names, without deleted ones.
    pub variants: u64,
    /// Variants whose risk level is not `none`.
    pub at_risk: u64,
    pub open_proposals: u64,
    /// Inventory items with levels, whose variant no catalogue has named yet.
    pub waiting_items: u64,
    pub rule_version: Option<i64>,
    pub provenance: Provenance,
}
