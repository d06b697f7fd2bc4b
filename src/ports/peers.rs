//! Asking another node what it alone knows: reads of the partitions that it owns.

use std::time::Duration;

use futures::future::BoxFuture;

use super::queries::{Answer, QueryError, Question, Token};
use crate::domain::views::ShopView;
use crate::events::record::{Partition, Position};

/// Whom to ask, for whom, and for how long.
#[derive(Debug, Clone)]
pub struct Call {
    /// Base URL, from the store and from nowhere else: the caller's token goes there.
    pub address: String,
    /// The caller's; the node asked checks it again.
    pub token: Token,
    /// Where to look; the node answers only if it owns all of them.
    pub partitions: Vec<Partition>,
    /// For the whole call.
    pub within: Duration,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// It does not answer, or not as one of us would; somebody else may know.
    #[error("the node at {address} does not answer: {reason}")]
    Away { address: String, reason: String },
    /// It answers, and does not own the partition (any more, or yet).
    #[error("the node at {0} does not own the partition")]
    NotOwner(String),
    /// Its answer.
    #[error(transparent)]
    Query(#[from] QueryError),
}

pub trait Peers: Send + Sync + 'static {
    fn shops(&self, call: Call) -> BoxFuture<'_, Result<Vec<ShopView>, PeerError>>;

    fn find<'a>(
        &'a self,
        call: Call,
        shop: &'a str,
        question: &'a Question,
        after: Option<Position>,
    ) -> BoxFuture<'a, Result<Answer, PeerError>>;
}
