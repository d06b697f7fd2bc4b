//! A shop as version 1 of the snapshots has it. Frozen, see [`crate::domain::variant`]'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Product, ShopState, Waiting};
use crate::domain::rules::ActiveRule;
use crate::domain::snapshot;
use crate::events::ids::{ItemId, ProductId};

#[derive(Serialize, Deserialize)]
pub struct ShopStateV1 {
    organisation: Box<str>,
    kind: Box<str>,
    removed: bool,
    products: BTreeMap<ProductId, Product>,
    waiting: BTreeMap<ItemId, Waiting>,
    own_version: i64,
    own_rules: Vec<ActiveRule>,
}

impl snapshot::State for ShopState {
    type V1 = ShopStateV1;
    /// Unchanged since.
    type V2 = ShopState;
}

impl From<ShopStateV1> for ShopState {
    fn from(old: ShopStateV1) -> ShopState {
        ShopState {
            organisation: old.organisation,
            kind: old.kind,
            removed: old.removed,
            products: old.products,
            waiting: old.waiting,
            own_version: old.own_version,
            own_rules: old.own_rules,
            transfers: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
        }
    }
}
