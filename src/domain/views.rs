//! What queries answer, in the field names of the wire (DESIGN §5).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::proposal::{Proposal, State};
use crate::events::decision::{Kind, RiskLevel};
use crate::events::ids::{self, ItemId, LocationId, ProductId, VariantId};
use crate::events::record::{Offset, Partition};
use crate::events::time::{self, Millis};

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub partition: Partition,
    /// Offset of the last fact applied; -1 before the first.
    pub offset: Offset,
    pub epoch: i64,
    pub node: String,
    pub source: Source,
    /// How long ago everything that was in the log then is in the answer; 0 from the owner, which answers as far as it has
    /// come (`offset` says how far).
    pub staleness_ms: i64,
}

/// Who answers: the partition's owner, or, while there is none, any node from what is stored (DESIGN §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    #[serde(rename = "owner")]
    Owner,
    /// The last snapshot, and the log after it.
    #[serde(rename = "snapshot+tail")]
    SnapshotTail,
    #[serde(rename = "snapshot")]
    Snapshot,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelView {
    #[serde(with = "ids::text")]
    pub location_id: LocationId,
    pub available: Option<i64>,
    #[serde(with = "time::text")]
    pub updated_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RiskView {
    pub level: RiskLevel,
    /// Probability of running out within the horizon of the gradient rule that holds for the variant, 24 h without one;
    /// null without enough sales.
    #[serde(deserialize_with = "exact")]
    pub probability: Option<f64>,
    /// At the present rate of sales; null without one.
    #[serde(deserialize_with = "exact")]
    pub hours_left: Option<f64>,
}

/// A number as it was written: serde_json's own reading may differ in the last bit, and nodes would answer differently.
fn exact<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    let text = Option::<Box<serde_json::value::RawValue>>::deserialize(d)?;
    text.map(|t| t.get().parse().map_err(serde::de::Error::custom)).transpose()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposalView {
    pub proposal_id: Uuid,
    pub rule_id: String,
    pub kind: Kind,
    #[serde(with = "state_text")]
    pub state: State,
    /// Units, as ordered meanwhile.
    pub quantity: Option<i64>,
    /// Units received so far.
    #[serde(default)]
    pub received: i64,
    #[serde(with = "ids::text::option")]
    pub location_id: Option<LocationId>,
    #[serde(with = "time::text")]
    pub opened_at: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<String>,
    /// Snoozed: until this time …
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::text::option")]
    pub snoozed_until: Option<Millis>,
    /// … or until `available` is at or below this level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snoozed_level: Option<i64>,
    /// When what is ordered is expected.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::text::option")]
    pub eta: Option<Millis>,
    /// The order's name elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl ProposalView {
    pub fn of(p: &Proposal) -> ProposalView {
        ProposalView {
            proposal_id: p.id,
            rule_id: p.rule_id.to_string(),
            kind: p.kind,
            state: p.state,
            quantity: p.quantity,
            received: p.received,
            location_id: p.location,
            opened_at: p.opened_at,
            assigned_to: p.assigned_to.as_deref().map(str::to_owned),
            snoozed_until: p.snooze.and_then(|s| s.until),
            snoozed_level: p.snooze.and_then(|s| s.level),
            eta: p.eta,
            reference: p.reference.as_deref().map(str::to_owned),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Set if a fact kills the variant again and again; it takes no facts, and nothing releases it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    pub provenance: Provenance,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// serde of a proposal's state by its name; snapshots have their own form.
mod state_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::State;

    pub fn serialize<S: Serializer>(state: &State, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(state.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<State, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        State::parse(&text).ok_or_else(|| D::Error::custom(format!("\"{text}\" is not a proposal's state")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_reads_back_from_its_json_to_the_last_bit() {
        let view = VariantView {
            shop: "a.example".into(),
            variant_id: VariantId((1 << 53) + 1),
            inventory_item_id: None,
            product_id: ProductId(7),
            sku: Some("S".into()),
            title: "T".into(),
            product_title: "T".into(),
            variant_title: String::new(),
            vendor: None,
            product_type: None,
            tags: vec!["x".into()],
            available: Some(-4),
            tracked: Some(true),
            levels: vec![LevelView { location_id: LocationId(1), available: None, updated_at: 1_700_000_000_123 }],
            levels_complete: false,
            stale_since: Some(1),
            risk: RiskView { level: RiskLevel::Critical, probability: Some(0.123_456_789_012_345_67), hours_left: Some(1e-7) },
            open_proposals: vec![ProposalView {
                proposal_id: Uuid::from_u128(5),
                rule_id: "low".into(),
                kind: Kind::Reorder,
                state: State::InTransit,
                quantity: Some(12),
                received: 2,
                location_id: Some(LocationId(1)),
                opened_at: 5,
                assigned_to: Some("u-7".into()),
                snoozed_until: Some(1_700_000_000_123),
                snoozed_level: Some(-1),
                eta: Some(1_700_000_000_000),
                reference: Some("PO-9".into()),
            }],
            quarantined: None,
            provenance: Provenance {
                partition: 3,
                offset: 7,
                epoch: 2,
                node: "a".into(),
                source: Source::SnapshotTail,
                staleness_ms: 12,
            },
        };
        let json = serde_json::to_string(&view).expect("plain data");
        assert!(json.contains(r#""source":"snapshot+tail""#) && json.contains(r#""state":"in_transit""#), "{json}");
        assert_eq!(serde_json::from_str::<VariantView>(&json).expect("read"), view);
        for bits in (0..2_000u64).map(|i| 0x3fd5_5555_0000_0000 + i * 0x0000_0001_2345_6789) {
            let risk = RiskView { level: RiskLevel::Low, probability: Some(f64::from_bits(bits)), hours_left: None };
            let json = serde_json::to_string(&risk).expect("plain data");
            assert_eq!(serde_json::from_str::<RiskView>(&json).expect("read"), risk, "{json}");
        }
    }
}
