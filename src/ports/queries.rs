//! Reading live state. The engine and the cluster round it (actors) implement it; the API asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::domain::views::{ShopView, VariantView};
use crate::events::decision::RiskLevel;
use crate::events::ids::VariantId;
use crate::events::record::{Partition, Position};

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
    /// Asked of this node by another one, and not its own: that one has to look again who owns it.
    #[error("partition {0} is not owned by this node")]
    Elsewhere(Partition),
    #[error("{0}")]
    BadRequest(String),
}

/// A caller's bearer token, which another node may have to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(text: &str) -> Token {
        Token(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Who asks. It decides whether a query may go on to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// This process itself: answered from here, or from what is stored.
    Own,
    /// A caller with this token, already checked: what lives elsewhere is asked there with the same token.
    Caller(Token),
    /// Another node, for one of its callers: answered from these partitions if all of them live here, else refused. So a
    /// query makes one step between nodes at most.
    Node(Vec<Partition>),
}

/// How a query between nodes says what status codes cannot.
pub mod wire {
    /// On the request: it was forwarded; the partitions to look in, with commas between them.
    pub const FORWARDED: &str = "x-stockwarden-forwarded";
    /// On a refusal: which one.
    pub const REASON: &str = "x-stockwarden-reason";
    pub const NO_SHOP: &str = "no-shop";
    pub const NO_VARIANT: &str = "no-variant";
    pub const BEHIND: &str = "behind";
    pub const NOT_READY: &str = "not-ready";
    pub const ELSEWHERE: &str = "elsewhere";
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

#[derive(Debug, Clone, Default, PartialEq)]
pub struct VariantPage {
    pub variants: Vec<VariantView>,
    /// Pass as cursor for the next page; none at the end.
    pub next: Option<VariantId>,
}

impl VariantFilter {
    pub fn takes(&self, view: &VariantView) -> bool {
        self.at_risk.is_none_or(|want| want == (view.risk.level != RiskLevel::None))
            && self.vendor.as_ref().is_none_or(|v| view.vendor.as_ref() == Some(v))
            && self.sku.as_ref().is_none_or(|s| view.sku.as_ref() == Some(s))
    }
}

impl VariantPage {
    /// Adds a view that the filter takes; they come sorted by id. False once the page is full and there is a next one.
    pub fn add(&mut self, filter: &VariantFilter, view: VariantView) -> bool {
        if !filter.takes(&view) {
            return true;
        }
        if self.variants.len() == filter.limit {
            self.next = self.variants.last().map(|v| v.variant_id);
            return false;
        }
        self.variants.push(view);
        true
    }
}

/// What is asked of a shop.
#[derive(Debug, Clone)]
pub enum Question {
    Shop,
    /// Sorted by id, without deleted variants.
    Variants(VariantFilter),
    Variant(VariantId),
}

/// Of the question's kind.
#[derive(Debug)]
pub enum Answer {
    Shop(ShopView),
    Variants(VariantPage),
    Variant(Box<VariantView>),
}

impl Answer {
    pub fn shop(self) -> ShopView {
        match self {
            Answer::Shop(view) => view,
            _ => unreachable!("the answer is of the question's kind"),
        }
    }

    pub fn variants(self) -> VariantPage {
        match self {
            Answer::Variants(page) => page,
            _ => unreachable!("the answer is of the question's kind"),
        }
    }

    pub fn variant(self) -> VariantView {
        match self {
            Answer::Variant(view) => *view,
            _ => unreachable!("the answer is of the question's kind"),
        }
    }
}

pub trait Queries: Send + Sync + 'static {
    /// The same queries asked by somebody; none where it makes no difference who asks.
    fn asked_by(&self, _: Asker) -> Option<Box<dyn Queries>> {
        None
    }
    /// All known shops, sorted by name.
    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopView>, QueryError>>;
    /// With `after`, waits until that position is applied, at most `wait`.
    fn find<'a>(
        &'a self,
        shop: &'a str,
        question: Question,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Answer, QueryError>>;

    fn shop<'a>(&'a self, shop: &'a str, after: Option<Position>, wait: Duration) -> BoxFuture<'a, Result<ShopView, QueryError>> {
        Box::pin(async move { Ok(self.find(shop, Question::Shop, after, wait).await?.shop()) })
    }

    fn variants<'a>(
        &'a self,
        shop: &'a str,
        filter: VariantFilter,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<VariantPage, QueryError>> {
        Box::pin(async move { Ok(self.find(shop, Question::Variants(filter), after, wait).await?.variants()) })
    }

    fn variant<'a>(
        &'a self,
        shop: &'a str,
        variant: VariantId,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<VariantView, QueryError>> {
        Box::pin(async move { Ok(self.find(shop, Question::Variant(variant), after, wait).await?.variant()) })
    }

    /// Named conditions for readiness: (name, problem or none). Answers at once.
    fn readiness(&self) -> Vec<(&'static str, Option<String>)>;
}
