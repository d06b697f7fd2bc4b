//! What `stock-facts` holds: types of facts and their owned, read form.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{self, ItemId, LocationId, ProductId, TransferId, VariantId};
use super::record::Offset;
use super::time::{self, Millis};

/// Version of the format of facts written now.
pub const VERSION: u16 = 1;

/// Headers of a fact (DESIGN §5).
pub mod header {
    pub const FACT: &str = "fact";
    pub const VERSION: &str = "version";
    pub const DEDUPE_ID: &str = "dedupe_id";
    pub const SOURCE: &str = "source";
    pub const EVENT_TIME: &str = "event_time";
    pub const TRIGGERED_AT: &str = "triggered_at";
    pub const PAYLOAD_SHA256: &str = "payload_sha256";
    pub const TRACEPARENT: &str = "traceparent";
}

macro_rules! fact_types {
    ($($name:ident = $text:literal),+ $(,)?) => {
        /// The types of facts, a closed set. Webhook facts are called after Shopify's topic.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FactType { $($name),+ }

        impl FactType {
            pub const ALL: &[FactType] = &[$(FactType::$name),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(FactType::$name => $text),+ }
            }

            pub fn parse(text: &str) -> Option<FactType> {
                match text { $($text => Some(FactType::$name),)+ _ => None }
            }
        }
    };
}

fact_types! {
    // Folded.
    ProductsCreate = "products/create",
    ProductsUpdate = "products/update",
    ProductsDelete = "products/delete",
    LevelsUpdate = "inventory_levels/update",
    LevelsConnect = "inventory_levels/connect",
    LevelsDisconnect = "inventory_levels/disconnect",
    ItemsUpdate = "inventory_items/update",
    TransfersReadyToShip = "inventory_transfers/ready_to_ship",
    TransfersUpdated = "inventory_transfers/updated",
    TransfersComplete = "inventory_transfers/complete",
    TransfersCancel = "inventory_transfers/cancel",
    // Stored now, folded later.
    ItemsCreate = "inventory_items/create",
    ItemsDelete = "inventory_items/delete",
    VariantsInStock = "variants/in_stock",
    VariantsOutOfStock = "variants/out_of_stock",
    OrdersCreate = "orders/create",
    OrdersCancelled = "orders/cancelled",
    RefundsCreate = "refunds/create",
    LocationsCreate = "locations/create",
    LocationsUpdate = "locations/update",
    LocationsDelete = "locations/delete",
    LocationsActivate = "locations/activate",
    LocationsDeactivate = "locations/deactivate",
    TransfersAddItems = "inventory_transfers/add_items",
    TransfersRemoveItems = "inventory_transfers/remove_items",
    TransfersUpdateItemQuantities = "inventory_transfers/update_item_quantities",
    BulkOperationsFinish = "bulk_operations/finish",
    AppUninstalled = "app/uninstalled",
    CustomersDataRequest = "customers/data_request",
    CustomersRedact = "customers/redact",
    ShopRedact = "shop/redact",
    // Our own.
    ShopRegistered = "shop/registered",
    ShopRemoved = "shop/removed",
    RulesApplied = "rules/applied",
    ShopRulesApplied = "rules/shop_applied",
    Tick = "clock/tick",
    EffectSettled = "effect/settled",
    ProposalMoved = "proposal/moved",
}

impl FactType {
    /// Whether it comes from outside, as a webhook.
    pub fn is_webhook(self) -> bool {
        !matches!(
            self,
            FactType::ShopRegistered
                | FactType::ShopRemoved
                | FactType::RulesApplied
                | FactType::ShopRulesApplied
                | FactType::Tick
                | FactType::EffectSettled
                | FactType::ProposalMoved
        )
    }
}

/// Topics whose bodies hold data of buyers; an unknown topic may.
pub fn may_hold_personal_data(topic: &str) -> bool {
    match FactType::parse(topic) {
        Some(t) => matches!(
            t,
            FactType::OrdersCreate
                | FactType::OrdersCancelled
                | FactType::RefundsCreate
                | FactType::CustomersDataRequest
                | FactType::CustomersRedact
                | FactType::AppUninstalled
        ),
        None => true,
    }
}

/// Orders observations of one thing: newest `updated_at` wins, ties by triggered-at, then by offset (DESIGN §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Unix milliseconds.
    pub updated_at: Millis,
    /// Unix nanoseconds; 0 if the source did not say.
    pub triggered_at: i64,
    pub offset: Offset,
}

impl Stamp {
    /// Older than everything.
    pub const NEVER: Stamp = Stamp { updated_at: i64::MIN, triggered_at: 0, offset: -1 };

    /// The same delivery again, or another copy of it.
    pub fn same_event(&self, other: &Stamp) -> bool {
        self.updated_at == other.updated_at && self.triggered_at == other.triggered_at
    }
}

/// A fact's place and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub offset: Offset,
    /// When it happened: triggered-at, else updated_at, else append time, at most append time + 5 min (DESIGN §10).
    pub event_time: Millis,
    /// Domain time: the running maximum of event times in the partition, this fact included.
    pub now: Millis,
}

/// A level as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelObserved {
    pub item: ItemId,
    pub location: LocationId,
    /// Null: not tracked.
    pub available: Option<i64>,
    pub stamp: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantListed {
    pub id: VariantId,
    pub item: Option<ItemId>,
    pub sku: Option<Box<str>>,
    pub title: Option<Box<str>>,
    /// May sell below zero.
    pub continue_selling: Option<bool>,
    pub quantity: Option<i64>,
}

/// A product as observed. Everything but the id may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductObserved {
    pub id: ProductId,
    pub title: Option<Box<str>>,
    pub vendor: Option<Box<str>>,
    pub product_type: Option<Box<str>>,
    pub tags: Option<Vec<Box<str>>>,
    /// The variants that the payload describes, the first 100 at most.
    pub variants: Option<Vec<VariantListed>>,
    /// Ids of all variants, where the payload names them.
    pub all_variants: Option<Vec<VariantId>>,
    /// A payload cut to its id: something changed, nobody says what.
    pub stub: bool,
    pub stamp: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemObserved {
    pub item: ItemId,
    pub sku: Option<Box<str>>,
    pub tracked: Option<bool>,
    pub stamp: Stamp,
}

/// How an effect ended, written back by the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectSettled {
    pub decision_id: Uuid,
    pub proposal_id: Uuid,
    #[serde(with = "ids::text")]
    pub variant_id: VariantId,
    pub route_id: String,
    pub handler: String,
    /// done | ambiguous | failed
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default)]
    pub possible_duplicate: bool,
}

impl EffectSettled {
    /// The Shopify transfer that it made.
    pub fn transfer(&self) -> Option<TransferId> {
        self.reference.as_deref().filter(|_| self.state == "done").and_then(TransferId::from_gid)
    }
}

/// How far a Shopify transfer has come. Drafts and what is edited in them say nothing to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TransferStage {
    ReadyToShip,
    InProgress,
    Complete,
    Cancelled,
}

impl TransferStage {
    pub const fn is_last(self) -> bool {
        matches!(self, TransferStage::Complete | TransferStage::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferObserved {
    pub transfer: TransferId,
    pub stage: TransferStage,
    /// Units by item, where the payload names them.
    pub lines: Vec<(ItemId, i64)>,
}

/// A move of a proposal by a person or a system (DESIGN §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Move {
    Acknowledge,
    Assign,
    Snooze,
    Ordered,
    InTransit,
    Received,
    Cancel,
}

impl Move {
    pub const ALL: [Move; 7] =
        [Move::Acknowledge, Move::Assign, Move::Snooze, Move::Ordered, Move::InTransit, Move::Received, Move::Cancel];

    /// As in the paths of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Move::Acknowledge => "acknowledge",
            Move::Assign => "assign",
            Move::Snooze => "snooze",
            Move::Ordered => "ordered",
            Move::InTransit => "in-transit",
            Move::Received => "received",
            Move::Cancel => "cancel",
        }
    }

    pub fn parse(text: &str) -> Option<Move> {
        Move::ALL.into_iter().find(|m| m.as_str() == text)
    }
}

/// What a move says besides its name; each move uses some of it (DESIGN §10).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveDetails {
    /// Units ordered, or received now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<i64>,
    /// When what is ordered is expected.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::text::option")]
    pub eta: Option<Millis>,
    /// The order's name elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Snoozed until this time, or until `available` is at or below `level`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::text::option")]
    pub until: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i64>,
    /// Who is to see to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Names the act that told of a receipt: units that came with it are counted once, however often and through whichever node it
    /// was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalMoved {
    pub proposal_id: Uuid,
    #[serde(with = "ids::text")]
    pub variant_id: VariantId,
    #[serde(rename = "move")]
    pub moved: Move,
    /// Who, as the channel knows them: a token's id, a user of Slack, an account of Jira.
    pub by: String,
    /// Where it was done: `api`, or the handler's name. Channels do not tell themselves what they said.
    #[serde(default)]
    pub via: String,
    #[serde(flatten)]
    pub details: MoveDetails,
}

/// A shop's registration, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShopRegistered {
    pub shop: String,
    pub organisation: String,
    pub kind: String,
}

/// An organisation's whole rule set, or a shop's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RulesApplied {
    pub organisation: String,
    pub rule_version: i64,
    /// Rules as JSON, in the form of the rules file.
    pub rules: Vec<serde_json::Value>,
}

/// A fact, owned, ready for the fold.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    Level(LevelObserved),
    LevelGone {
        item: ItemId,
        location: LocationId,
        stamp: Stamp,
    },
    Product(Box<ProductObserved>),
    ProductGone {
        product: ProductId,
        stamp: Stamp,
    },
    Item(Box<ItemObserved>),
    EffectSettled(Box<EffectSettled>),
    ProposalMoved(Box<ProposalMoved>),
    Transfer(Box<TransferObserved>),
    ShopRegistered(Box<ShopRegistered>),
    ShopRemoved,
    Rules(Box<RulesApplied>),
    ShopRules(Box<RulesApplied>),
    Tick,
    /// Kept in the log; this version folds nothing of it.
    Stored,
}
