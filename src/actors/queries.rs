//! Answers queries from the live actors.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::shard::{ListShops, Locate, Located};
use super::shop::{GetShop, GetVariant, ListVariants};
use super::stats::EngineStats;
use super::table::{Phase, ShardRef, ShardTable};
use crate::domain::views::{ShopView, VariantView};
use crate::events::ids::VariantId;
use crate::events::record::{Partition, Position, partition_of};
use crate::ports::Queries;
use crate::ports::queries::{QueryError, VariantFilter, VariantPage};

pub struct EngineQueries {
    pub table: Arc<ShardTable>,
    pub stats: Arc<EngineStats>,
    pub partitions: i32,
}

const RETRY_AFTER: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl EngineQueries {
    /// The shard, once it is live; waits at most so long.
    async fn live(&self, partition: Partition, wait: Duration) -> Result<Arc<ShardRef>, QueryError> {
        let not_ready = |why: String| QueryError::NotReady {
            reason: format!("partition {partition} cannot be read here: {why}"),
            retry_after: RETRY_AFTER,
        };
        match tokio::time::timeout(wait, self.until_live(partition)).await {
            Ok(Ok(shard)) => Ok(shard),
            Ok(Err(read_only)) => Err(not_ready(read_only)),
            Err(_) => Err(not_ready(self.table.problem(partition).unwrap_or_else(|| match self.table.get(partition) {
                Some(_) => "it is recovering".to_owned(),
                None => "this node does not own it".to_owned(),
            }))),
        }
    }

    /// The error says why it stays read-only.
    async fn until_live(&self, partition: Partition) -> Result<Arc<ShardRef>, String> {
        loop {
            let Some(shard) = self.table.get(partition) else {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            };
            let mut phase = shard.phase.clone();
            // A shard that is discarded meanwhile closes its channel; the next one is asked.
            let settled = phase.wait_for(|p| matches!(p, Phase::Live | Phase::ReadOnly(_))).await.map(|p| p.clone());
            match settled {
                Ok(Phase::Live) => return Ok(shard),
                Ok(Phase::ReadOnly(why)) => return Err(why),
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn wait_for(&self, after: Option<Position>, wait: Duration) -> Result<(), QueryError> {
        let Some(after) = after else { return Ok(()) };
        if after.partition >= self.partitions {
            return Err(QueryError::BadRequest(format!(
                "after={after}: there is no partition {}; there are {}",
                after.partition, self.partitions
            )));
        }
        let shard = self.live(after.partition, wait).await?;
        let mut applied = shard.applied.clone();
        let reached = async { applied.wait_for(|next| *next > after.offset).await.map(|_| ()) };
        match tokio::time::timeout(wait, reached).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(QueryError::Behind { after, retry_after: RETRY_AFTER }),
        }
    }

    /// Where the shop lives: the partition of its key, or the one that a foreign producer chose otherwise.
    async fn locate(&self, shop: &str, wait: Duration) -> Result<Located, QueryError> {
        let name: Arc<str> = shop.into();
        let home = partition_of(shop.as_bytes(), self.partitions);
        let others = (0..self.partitions).filter(|p| *p != home);
        for partition in std::iter::once(home).chain(others) {
            let shard = self.live(partition, wait).await?;
            let located = shard.addr.send(Locate(name.clone())).await.map_err(|_| restarting())?;
            if let Some(located) = located {
                return Ok(located);
            }
        }
        Err(QueryError::NoShop(shop.to_owned()))
    }
}

fn restarting() -> QueryError {
    QueryError::NotReady { reason: "the shard is being rebuilt".to_owned(), retry_after: RETRY_AFTER }
}

impl Queries for EngineQueries {
    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopView>, QueryError>> {
        Box::pin(async move {
            let mut views = Vec::new();
            for partition in 0..self.partitions {
                let shard = self.live(partition, RETRY_AFTER).await?;
                for shop in shard.addr.send(ListShops).await.map_err(|_| restarting())? {
                    let Some(at) = shard.addr.send(Locate(shop)).await.map_err(|_| restarting())? else { continue };
                    let view =
                        at.shop.send(GetShop { now: at.now, provenance: at.provenance }).await.map_err(|_| restarting())?;
                    views.extend(view);
                }
            }
            views.sort_by(|a, b| a.shop.cmp(&b.shop));
            Ok(views)
        })
    }

    fn shop<'a>(&'a self, shop: &'a str, after: Option<Position>, wait: Duration) -> BoxFuture<'a, Result<ShopView, QueryError>> {
        Box::pin(async move {
            self.wait_for(after, wait).await?;
            let at = self.locate(shop, wait).await?;
            let view = at.shop.send(GetShop { now: at.now, provenance: at.provenance }).await.map_err(|_| restarting())?;
            view.ok_or_else(|| QueryError::NoShop(shop.to_owned()))
        })
    }

    fn variants<'a>(
        &'a self,
        shop: &'a str,
        filter: VariantFilter,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<VariantPage, QueryError>> {
        Box::pin(async move {
            self.wait_for(after, wait).await?;
            let at = self.locate(shop, wait).await?;
            let list = ListVariants { filter, now: at.now, provenance: at.provenance };
            at.shop.send(list).await.map_err(|_| restarting())
        })
    }

    fn variant<'a>(
        &'a self,
        shop: &'a str,
        variant: VariantId,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<VariantView, QueryError>> {
        Box::pin(async move {
            self.wait_for(after, wait).await?;
            let at = self.locate(shop, wait).await?;
            let get = GetVariant { variant, now: at.now, provenance: at.provenance };
            let view = at.shop.send(get).await.map_err(|_| restarting())?;
            view.ok_or_else(|| QueryError::NoVariant { shop: shop.to_owned(), variant })
        })
    }

    fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        let mut problems: Vec<String> = Vec::new();
        for (partition, problem) in self.table.problems() {
            problems.push(format!("partition {partition}: {problem}"));
        }
        let shards = self.table.all();
        for shard in &shards {
            match &*shard.phase.borrow() {
                Phase::Live => {}
                Phase::Recovering => problems.push(format!("partition {}: it is recovering", shard.partition)),
                Phase::ReadOnly(why) => problems.push(format!("partition {}: {why}", shard.partition)),
                Phase::Stopped => problems.push(format!("partition {}: it is stopping", shard.partition)),
            }
        }
        if shards.is_empty() && problems.is_empty() {
            problems.push("no partition is assigned to this node yet".to_owned());
        }
        let shards = (!problems.is_empty()).then(|| problems.join("; "));
        let failing = |flag: bool, what: &str| flag.then(|| what.to_owned());
        vec![
            ("shards", shards),
            (
                "commits",
                failing(self.stats.commit_failing.get(), "transactions do not commit; decisions wait in memory until they do"),
            ),
            (
                "snapshots",
                failing(self.stats.snapshots_failing.get(), "snapshots are not saved; the log holds everything meanwhile"),
            ),
        ]
    }
}
