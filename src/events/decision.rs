//! What `reorder-decisions` holds: decisions, and the quarantines that replay has to know of.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{self, ItemId, LocationId, VariantId};
use super::record::{Offset, Partition, Topic};
use super::time::{self, Millis};

/// Version of the format written now.
pub const VERSION: u16 = 1;

/// Header that tells what a record of the topic is: [`RECORD_DECISION`], [`RECORD_QUARANTINE`] or [`RECORD_PROPOSAL`].
pub const RECORD_HEADER: &str = "record";
pub const RECORD_DECISION: &str = "decision";
pub const RECORD_QUARANTINE: &str = "quarantine";
pub const RECORD_PROPOSAL: &str = "proposal";

/// Namespace of decision ids. Fixed for ever: ids are re-derivable from the log (DESIGN §7.4).
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_4a52_7c5e_5b1f_9a3e_2f6b_8a41_c0de);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something is to be ordered: `quantity` says how much.
    Reorder,
    /// Somebody should look.
    Warning,
    /// Another location can give.
    Transfer,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Reorder => "reorder",
            Kind::Warning => "warning",
            Kind::Transfer => "transfer",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskLevel {
    None,
    /// Below a threshold, not proposed.
    Low,
    /// A trigger holds.
    Warning,
    /// Under six hours left.
    Critical,
    /// Nothing available.
    Out,
}

impl RiskLevel {
    pub const fn as_str(self) -> &'static str {
        match self {
            RiskLevel::None => "none",
            RiskLevel::Low => "low",
            RiskLevel::Warning => "warning",
            RiskLevel::Critical => "critical",
            RiskLevel::Out => "out",
        }
    }
}

/// The record that caused a decision: the first one in the log that crossed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CausedBy {
    /// The topic's default name, whatever it is called on the broker, so that ids survive a rename.
    pub topic: String,
    pub partition: Partition,
    pub offset: Offset,
}

/// What the decision was computed from. Quantities in units, rates in units per hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Available before the causing fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<i64>,
    /// Available + own proposals under way (RULES: P).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead_time_days: Option<f64>,
    /// Probability of running out within `horizon_hours` (RULES R2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon_hours: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_fast: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_slow: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours_left: Option<f64>,
    /// Sales are at least three times as fast as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerating: Option<bool>,
    /// What changed the computed quantity: minimum, pack, maximum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjustments: Vec<String>,
}

/// Where a decision goes: the handler's name and what the route says to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Name of the handler instance.
    pub to: String,
    /// Names the route in the ledger; its index in the rule unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(flatten)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub decision_id: Uuid,
    /// The opening decision's id.
    pub proposal_id: Uuid,
    pub organisation: String,
    /// Null for scope `sku`.
    pub shop: Option<String>,
    #[serde(with = "ids::text::option")]
    pub variant_id: Option<VariantId>,
    #[serde(with = "ids::text::option")]
    pub inventory_item_id: Option<ItemId>,
    /// Null unless the rule's scope is `location`.
    #[serde(with = "ids::text::option")]
    pub location_id: Option<LocationId>,
    pub sku: Option<String>,
    pub title: Option<String>,
    pub vendor: Option<String>,
    pub rule_id: String,
    pub rule_version: i64,
    pub kind: Kind,
    pub severity: RiskLevel,
    /// Units; null for a warning.
    pub quantity: Option<i64>,
    pub available: i64,
    pub inputs: Inputs,
    /// For people.
    pub reason: String,
    pub caused_by: CausedBy,
    /// Order among the decisions of one fact.
    pub seq: u32,
    /// Event time of the causing fact.
    #[serde(with = "time::text")]
    pub decided_at: Millis,
    pub routes: Vec<Route>,
}

/// What a decision's id is made of (DESIGN §10).
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    pub organisation: &'a str,
    pub shop: Option<&'a str>,
    pub variant: Option<VariantId>,
    pub sku: Option<&'a str>,
    pub location: Option<LocationId>,
    pub rule: &'a str,
    pub kind: Kind,
    pub donor: Option<LocationId>,
    pub partition: Partition,
    pub offset: Offset,
}

impl Identity<'_> {
    /// UUID v5 of the canonical JSON array [organisation, shop, variant, sku, location, rule, kind, donor, topic, partition, offset];
    /// ids are text, absent parts null. `sku` is set only where the scope is `sku`.
    pub fn decision_id(&self) -> Uuid {
        let parts = serde_json::json!([
            self.organisation,
            self.shop,
            self.variant.map(|v| v.to_string()),
            self.sku,
            self.location.map(|l| l.to_string()),
            self.rule,
            self.kind.as_str(),
            self.donor.map(|l| l.to_string()),
            Topic::Facts.default_name(),
            self.partition,
            self.offset,
        ]);
        Uuid::new_v5(&NAMESPACE, parts.to_string().as_bytes())
    }
}

/// A variant that a fact kills again and again: it takes no more facts, and nothing releases it yet. Recorded with the
/// offsets' transaction, so that replay merges it like a decision (DESIGN §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    pub shop: String,
    /// Null: the fact is skipped for the whole shop.
    #[serde(with = "ids::text::option")]
    pub variant_id: Option<VariantId>,
    pub caused_by: CausedBy,
    pub message: String,
}

/// What became of a proposal: written with the offsets' transaction whenever one changes after its decision, so that readers of the
/// topic (the list of reorders, the channels that show it) see each change once and in order. That a route is done (state
/// `sent`) is not told: whoever sent it knows. Replay does not need it: the facts make the same change again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalChange {
    pub proposal_id: Uuid,
    pub organisation: String,
    pub shop: String,
    #[serde(with = "ids::text")]
    pub variant_id: VariantId,
    /// proposed | sent | acknowledged | ordered | in_transit | received | cancelled | expired | resolved
    pub state: String,
    /// Units, as ordered meanwhile.
    pub quantity: Option<i64>,
    /// Units received so far.
    pub received: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<String>,
    /// Snoozed now: until this time …
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::text::option")]
    pub snoozed_until: Option<Millis>,
    /// … or until `available` is at or below this level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snoozed_level: Option<i64>,
    /// The move that did it; none where stock or time did.
    #[serde(rename = "move", default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<super::fact::Move>,
    /// Who moved it, and where (`via`: `api`, or a handler's name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::text::option")]
    pub eta: Option<Millis>,
    /// The order's name elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The fact that changed it. Its offset orders the changes of a proposal.
    pub caused_by: CausedBy,
    /// Domain time of that fact.
    #[serde(with = "time::text")]
    pub changed_at: Millis,
}

/// A record of the decisions topic, as read.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    Decision(Box<Decision>),
    Quarantine(Quarantine),
    Proposal(Box<ProposalChange>),
    /// A kind of record that this version does not know; it changes no state.
    Other,
}

#[derive(Debug, thiserror::Error)]
#[error("the decision at {topic} {partition}:{offset} cannot be read: {reason}", topic = Topic::Decisions.default_name())]
pub struct Unreadable {
    pub partition: Partition,
    pub offset: Offset,
    pub reason: String,
}

impl Recorded {
    pub fn read(record: &super::record::RecordRef<'_>) -> Result<Recorded, Unreadable> {
        let fail = |reason: String| Unreadable { partition: record.partition, offset: record.offset, reason };
        let value = record.value.unwrap_or_default();
        if let Some(version) = record.headers.text("version").and_then(|v| v.parse::<u16>().ok())
            && version > VERSION
        {
            return Err(fail(format!("its version {version} is newer than {VERSION}; upgrade this node")));
        }
        match record.headers.text(RECORD_HEADER) {
            Some(RECORD_DECISION) | None => {
                serde_json::from_slice(value).map(Recorded::Decision).map_err(|e| fail(e.to_string()))
            }
            Some(RECORD_QUARANTINE) => serde_json::from_slice(value).map(Recorded::Quarantine).map_err(|e| fail(e.to_string())),
            Some(RECORD_PROPOSAL) => serde_json::from_slice(value).map(Recorded::Proposal).map_err(|e| fail(e.to_string())),
            Some(_) => Ok(Recorded::Other),
        }
    }

    /// Offset of the fact after which replay takes it in; none: it changes no state.
    pub fn caused_by(&self) -> Option<Offset> {
        match self {
            Recorded::Decision(d) => Some(d.caused_by.offset),
            Recorded::Quarantine(q) => Some(q.caused_by.offset),
            Recorded::Proposal(_) | Recorded::Other => None,
        }
    }
}
