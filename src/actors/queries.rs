//! Answers queries from the live actors of this process. What lives elsewhere is [`super::cluster`]'s business.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::shard::{ListShops, Locate};
use super::shop::{GetShop, GetVariant, ListVariants};
use super::stats::EngineStats;
use super::table::{Phase, ShardRef, ShardTable};
use crate::domain::views::ShopView;
use crate::events::record::{Partition, Position, partition_of};
use crate::ports::Queries;
use crate::ports::queries::{Answer, QueryError, Question};

pub struct EngineQueries {
    pub table: Arc<ShardTable>,
    pub stats: Arc<EngineStats>,
    pub partitions: i32,
}

pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl EngineQueries {
    /// The shard, once it is live; waits at most so long.
    pub(super) async fn live(&self, partition: Partition, wait: Duration) -> Result<Arc<ShardRef>, QueryError> {
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

    /// The shard, if it is live now.
    pub(super) fn live_now(&self, partition: Partition) -> Option<Arc<ShardRef>> {
        self.table.get(partition).filter(|s| *s.phase.borrow() == Phase::Live)
    }

    async fn wait_for(&self, after: Option<Position>, wait: Duration) -> Result<(), QueryError> {
        let Some(after) = after else { return Ok(()) };
        check(after, self.partitions)?;
        let shard = self.live(after.partition, wait).await?;
        applied(&shard, after, wait).await
    }
}

/// The partitions in which a shop may be, the likeliest first.
pub(super) fn candidates(shop: &str, partitions: i32) -> impl Iterator<Item = Partition> + use<> {
    let home = partition_of(shop.as_bytes(), partitions);
    std::iter::once(home).chain((0..partitions).filter(move |p| *p != home))
}

/// Whether the position can exist.
pub(super) fn check(after: Position, partitions: i32) -> Result<(), QueryError> {
    if after.partition < partitions {
        return Ok(());
    }
    let there_is = format!("there is no partition {}; there are {partitions}", after.partition);
    Err(QueryError::BadRequest(format!("after={after}: {there_is}")))
}

/// Waits until the shard has applied the position.
pub(super) async fn applied(shard: &ShardRef, after: Position, wait: Duration) -> Result<(), QueryError> {
    let mut applied = shard.applied.clone();
    let reached = async { applied.wait_for(|next| *next > after.offset).await.map(|_| ()) };
    match tokio::time::timeout(wait, reached).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(restarting()),
        Err(_) => Err(QueryError::Behind { after, retry_after: RETRY_AFTER }),
    }
}

/// Asks a live shard; none if it does not have the shop.
pub(super) async fn ask(shard: &ShardRef, shop: &str, question: &Question) -> Result<Option<Answer>, QueryError> {
    let Some(at) = shard.addr.send(Locate(shop.into())).await.map_err(|_| restarting())? else { return Ok(None) };
    let (now, provenance) = (at.now, at.provenance);
    match question {
        Question::Shop => {
            let view = at.shop.send(GetShop { now, provenance }).await.map_err(|_| restarting())?;
            Ok(view.map(Answer::Shop))
        }
        Question::Variants(filter) => {
            let list = ListVariants { filter: filter.clone(), now, provenance };
            at.shop.send(list).await.map(|page| Some(Answer::Variants(page))).map_err(|_| restarting())
        }
        Question::Variant(variant) => {
            let get = GetVariant { variant: *variant, now, provenance };
            match at.shop.send(get).await.map_err(|_| restarting())? {
                Some(view) => Ok(Some(Answer::Variant(Box::new(view)))),
                None => Err(QueryError::NoVariant { shop: shop.to_owned(), variant: *variant }),
            }
        }
    }
}

/// Every shop of a live shard.
pub(super) async fn list(shard: &ShardRef) -> Result<Vec<ShopView>, QueryError> {
    let mut views = Vec::new();
    for shop in shard.addr.send(ListShops).await.map_err(|_| restarting())? {
        if let Some(Answer::Shop(view)) = ask(shard, &shop, &Question::Shop).await? {
            views.push(view);
        }
    }
    Ok(views)
}

fn restarting() -> QueryError {
    QueryError::NotReady { reason: "the shard is being rebuilt".to_owned(), retry_after: RETRY_AFTER }
}

impl Queries for EngineQueries {
    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopView>, QueryError>> {
        Box::pin(async move {
            let mut views = Vec::new();
            for partition in 0..self.partitions {
                views.extend(list(&*self.live(partition, RETRY_AFTER).await?).await?);
            }
            views.sort_by(|a, b| a.shop.cmp(&b.shop));
            Ok(views)
        })
    }

    /// Where the shop lives: in the partition of its key, or the one that a foreign producer chose otherwise.
    fn find<'a>(
        &'a self,
        shop: &'a str,
        question: Question,
        after: Option<Position>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Answer, QueryError>> {
        Box::pin(async move {
            self.wait_for(after, wait).await?;
            for partition in candidates(shop, self.partitions) {
                let shard = self.live(partition, wait).await?;
                if let Some(answer) = ask(&shard, shop, &question).await? {
                    return Ok(answer);
                }
            }
            Err(QueryError::NoShop(shop.to_owned()))
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
