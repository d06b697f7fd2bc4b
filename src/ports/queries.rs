//! Reading live state. The engine (actors) implements it; the API asks.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::domain::views::{ShopView, VariantView};
use crate::events::ids::VariantId;
use crate::events::record::Position;

#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    #[error("there is no shop \"{0}\"")]
    NoShop(String),
    #[error("the shop \"{shop}\" has no variant {variant}")]
    NoVariant { shop: String, variant: VariantId },
    /// Not readable now; worth a retry after the given time.
    #[error("{reason}")]
    NotReady { reason: String, retry_after: Duration },
    /// `after` was not reached before the deadline.
    #[error("position {after} is not applied yet")]
    Behind { after: Position, retry_after: Duration },
    #[error("{0}")]
    BadRequest(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct VariantFilter {
    pub at_risk: Option<bool>,
    /// Exact vendor.
    pub vendor: Option<String>,
    /// Exact SKU.
    pub sku: Option<String>,
    /// Only ids greater than this one.
    pub cursor: Option<VariantId>,
    /// 1 to 1000.
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VariantPage {
    pub variants: Vec<VariantView>,
    /// Pass as cursor for the next page; none at the end.
    pub next: Option<VariantId>,
}

pub trait Queries: Send + Sync + 'static {
    /// All known shops, sorted by name.
    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopView>, QueryError>>;
    /// With `after`, waits until that position is applied, at most `wait`.
    fn shop<'a>(&'a self, shop: &'a str, after: Option<Position>, wait: Duration) -> BoxFuture<'a, Result<ShopView, QueryError>>;
    /// Sorted by id, without deleted variants.
    fn variants<'a>(
        &'a self,
        shop: &'a str,
        filter: VariantFilter,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<VariantPage, QueryError>>;
    fn variant<'a>(
        &'a self,
        shop: &'a str,
        variant: VariantId,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<VariantView, QueryError>>;
    /// Named conditions for readiness: (name, problem or none). Answers at once.
    fn readiness(&self) -> Vec<(&'static str, Option<String>)>;
}
