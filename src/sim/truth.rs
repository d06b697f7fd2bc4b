//! What really happened behind the deliveries: the demand that nobody sees once the shelf is empty.

use serde::Serialize;

use crate::events::ids::{self, LocationId, VariantId};
use crate::events::time::{self, Millis};

/// Why stock was to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first products and levels of a shop.
    Catalogue,
    Sale,
    Return,
    Restock,
    /// A product was sent, with the sums over its levels.
    Product,
}

/// What became of the delivery that should tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Delivered,
    /// The second copy of a delivery.
    Duplicate,
    Late,
    Lost,
    /// Told together with the next change of the level.
    Merged,
    /// Cut to its id.
    Thin,
    /// Nothing changed, because there was nothing left to sell.
    Unseen,
}

/// One event of the hidden world. `asked` is the latent demand, `met` what the shelf could give; stock after it is
/// `available`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TruthRow {
    #[serde(with = "time::text")]
    pub at: Millis,
    pub shop: std::sync::Arc<str>,
    #[serde(with = "ids::text")]
    pub variant_id: VariantId,
    #[serde(with = "ids::text")]
    pub location_id: LocationId,
    pub cause: Cause,
    pub asked: i64,
    pub met: i64,
    pub available: i64,
    pub fate: Fate,
}
