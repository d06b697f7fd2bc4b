//! The node as a part of the cluster (DESIGN §2): any node answers for any variant.
//!
//! ```text
//! lives here ──► the shard answers
//! lives elsewhere ──► its owner is asked, with the caller's token ([`Peers`])
//! nobody answers in time ──► what is stored answers, and says how old it is ([`standby`])
//! ```
//! A query makes one step between nodes at most: what was forwarded is answered from here, or refused.

mod hedge;
mod owners;
mod replica;
mod routing;
mod standby;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use self::routing::{Cluster, ON_THE_WAY};
use super::queries::{EngineQueries, RETRY_AFTER};
use super::settings::WallClock;
use crate::domain::views::ShopView;
use crate::events::record::Position;
use crate::ports::queries::{Answer, Asker, Queries, QueryError, Question};
use crate::ports::{EventLog, Owners, Peers, SnapshotStore};

/// For a list of all shops.
const LIST_WITHIN: Duration = Duration::from_secs(3);

/// What the cluster's queries stand on.
pub struct Parts {
    /// None on a node without shards.
    pub engine: Option<Arc<EngineQueries>>,
    pub log: Arc<dyn EventLog>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub owners: Arc<dyn Owners>,
    pub peers: Arc<dyn Peers>,
    pub node: String,
    pub clock: WallClock,
    pub runtime: Handle,
}

/// The queries of one asker.
pub struct ClusterQueries {
    cluster: Arc<Cluster>,
    runtime: Handle,
    asker: Asker,
}

impl ClusterQueries {
    pub fn new(parts: Parts) -> ClusterQueries {
        let runtime = parts.runtime.clone();
        ClusterQueries { cluster: Arc::new(Cluster::new(parts)), runtime, asker: Asker::Own }
    }
}

fn not_ready(reason: String) -> QueryError {
    QueryError::NotReady { reason, retry_after: RETRY_AFTER }
}

fn late(after: Option<Position>) -> QueryError {
    match after {
        Some(after) => QueryError::Behind { after, retry_after: RETRY_AFTER },
        None => not_ready("nobody could answer in time".to_owned()),
    }
}

impl Queries for ClusterQueries {
    fn asked_by(&self, asker: Asker) -> Option<Box<dyn Queries>> {
        Some(Box::new(ClusterQueries { cluster: self.cluster.clone(), runtime: self.runtime.clone(), asker }))
    }

    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopView>, QueryError>> {
        Box::pin(async move {
            let (cluster, asker) = (self.cluster.clone(), self.asker.clone());
            let listing = self.runtime.spawn(async move { cluster.shops(&asker).await });
            let mut views = match tokio::time::timeout(LIST_WITHIN, listing).await {
                Ok(Ok(found)) => found?,
                Ok(Err(e)) => return Err(not_ready(format!("the query died: {e}"))),
                Err(_) => return Err(late(None)),
            };
            views.sort_by(|a, b| a.shop.cmp(&b.shop));
            Ok(views)
        })
    }

    fn find<'a>(
        &'a self,
        shop: &'a str,
        question: Question,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Answer, QueryError>> {
        let (cluster, asker, shop) = (self.cluster.clone(), self.asker.clone(), shop.to_owned());
        let work = async move {
            match asker {
                Asker::Node(partitions) => cluster.answer_here(&partitions, &shop, &question, after, wait).await,
                Asker::Own => cluster.find(None, &shop, &question, after, wait).await,
                Asker::Caller(token) => cluster.find(Some(&token), &shop, &question, after, wait).await,
            }
        };
        Box::pin(async move {
            // On the node's own runtime and to its end: connections live there, and are not dropped halfway (PITFALLS 18).
            match tokio::time::timeout(wait + ON_THE_WAY, self.runtime.spawn(work)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => Err(not_ready(format!("the query died: {e}"))),
                Err(_) => Err(late(after)),
            }
        })
    }

    fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        self.cluster.readiness()
    }
}
