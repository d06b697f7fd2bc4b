//! Who is asked: the shard here, the owner elsewhere, or what is stored.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;

use super::hedge::{either, is_passing};
use super::owners::OwnersCache;
use super::standby::Standby;
use super::{Parts, not_ready};
use crate::actors::queries::{EngineQueries, applied, ask, candidates, check, list};
use crate::actors::settings::WallClock;
use crate::actors::table::ShardRef;
use crate::domain::views::ShopView;
use crate::events::record::{Partition, Position};
use crate::events::time::Millis;
use crate::ports::Peers;
use crate::ports::owners::Owner;
use crate::ports::peers::{Call, PeerError};
use crate::ports::queries::{Answer, Asker, Queries as _, QueryError, Question, Token};

/// How old the knowledge of owners may be: a node that was frozen must not answer as the owner that it was (PITFALLS 9).
const LEASE: Millis = 2_000;
/// An owner that has not answered by then is helped out by what is stored.
const HEDGE: Duration = Duration::from_millis(250);
/// The same where the owner may be waiting for a position.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// For a whole call to another node.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// Added where the other node waits itself.
pub(super) const ON_THE_WAY: Duration = Duration::from_millis(500);
/// A node that did not answer is not asked for that long.
const LEFT_ALONE: Millis = 500;
pub(super) struct Cluster {
    engine: Option<Arc<EngineQueries>>,
    owners: OwnersCache,
    peers: Arc<dyn Peers>,
    standby: Arc<Standby>,
    node: String,
    partitions: i32,
    clock: WallClock,
    /// Nodes that did not answer, and when.
    silent: Mutex<HashMap<String, Millis>>,
}

impl Cluster {
    pub fn new(parts: Parts) -> Cluster {
        let Parts { engine, log, snapshots, owners, peers, node, clock, runtime } = parts;
        let partitions = log.partitions();
        let standby = Standby::new(log, snapshots, owners.clone(), node.clone(), clock.clone(), runtime.clone());
        Cluster {
            engine,
            owners: OwnersCache::new(owners, clock.clone(), runtime),
            peers,
            standby: Arc::new(standby),
            node,
            partitions,
            clock,
            silent: Mutex::default(),
        }
    }

    pub fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        self.engine.as_ref().map(|e| e.readiness()).unwrap_or_default()
    }

    /// The shard, if it lives here and nobody has taken it since.
    async fn here(&self, partition: Partition) -> Option<Arc<ShardRef>> {
        let shard = self.engine.as_ref()?.live_now(partition)?;
        for at_most in [LEASE, 0] {
            let owners = self.owners.not_older(at_most).await;
            if owners.is_none_or(|o| o.get(&partition).is_none_or(|o| o.node == self.node)) {
                return Some(shard);
            }
            // It may have become ours just now.
        }
        None
    }

    async fn owner(&self, partition: Partition) -> Option<Owner> {
        self.owners.not_older(LEASE).await?.get(&partition).cloned()
    }

    /// The owner's address, if it is another node that can be asked now.
    fn address(&self, owner: &Owner) -> Option<String> {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner).get(&owner.node).copied();
        let left_alone = silent.is_some_and(|at| (0..LEFT_ALONE).contains(&((self.clock)() - at)));
        owner.address.clone().filter(|_| owner.node != self.node && !left_alone)
    }

    fn note_silence(&self, node: &str) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), (self.clock)());
    }

    /// The answer to another node.
    pub async fn answer_here(
        &self,
        partitions: &[Partition],
        shop: &str,
        question: &Question,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Answer, QueryError> {
        let mut shards = Vec::with_capacity(partitions.len());
        for partition in partitions {
            shards.push(self.here(*partition).await.ok_or(QueryError::Elsewhere(*partition))?);
        }
        let given_up = |e: QueryError, partition| if is_passing(&e) { QueryError::Elsewhere(partition) } else { e };
        if let Some(after) = after {
            let shard = shards.iter().find(|s| s.partition == after.partition).ok_or(QueryError::Elsewhere(after.partition))?;
            applied(shard, after, wait).await.map_err(|e| given_up(e, after.partition))?;
        }
        for shard in shards {
            if let Some(answer) = ask(&shard, shop, question).await.map_err(|e| given_up(e, shard.partition))? {
                return Ok(answer);
            }
        }
        Err(QueryError::NoShop(shop.to_owned()))
    }

    /// The answer to a caller.
    pub async fn find(
        &self,
        token: Option<&Token>,
        shop: &str,
        question: &Question,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Answer, QueryError> {
        if let Some(after) = after {
            check(after, self.partitions)?;
        }
        let mut candidates = candidates(shop, self.partitions);
        let home = candidates.next().unwrap_or(0);
        if let Some(after) = after.filter(|a| a.partition != home) {
            // Whether the shop is there does not matter; when the position is, does.
            self.look(token, after.partition, shop, &Question::Shop, Some(after), wait).await?;
        }
        let after = after.filter(|a| a.partition == home);
        if let Some(answer) = self.look(token, home, shop, question, after, wait).await? {
            return Ok(answer);
        }
        let others: Vec<_> = candidates.collect();
        self.look_everywhere(token, &others, shop, question, wait).await?.ok_or_else(|| QueryError::NoShop(shop.to_owned()))
    }

    /// Looks in one partition: here, at its owner, in what is stored.
    async fn look(
        &self,
        token: Option<&Token>,
        partition: Partition,
        shop: &str,
        question: &Question,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Option<Answer>, QueryError> {
        if let Some(shard) = self.here(partition).await {
            match self.ask_here(&shard, shop, question, after, wait).await {
                // It has just been given up or is being rebuilt.
                Err(e) if is_passing(&e) => {}
                other => return other,
            }
        }
        let owner = self.owner(partition).await;
        let stored = self.standby.clone().answer(partition, owner.clone(), shop.to_owned(), question.clone(), after);
        let address = owner.as_ref().and_then(|o| self.address(o));
        let (Some(token), Some(owner), Some(address)) = (token, owner, address) else {
            // It recovers, maybe here: whichever is first.
            let live = async {
                let engine = self.engine.as_ref().ok_or_else(|| not_ready(format!("partition {partition} has no owner")))?;
                let shard = engine.live(partition, wait).await?;
                self.ask_here(&shard, shop, question, after, wait).await
            };
            return either(live, Duration::ZERO, stored).await.0;
        };
        let theirs = self.ask_owner(token, partition, owner.clone(), address, shop, question, after, wait);
        let hedge = if after.is_some() { HEDGE_AFTER } else { HEDGE };
        let (answer, first) = either(theirs, hedge, stored).await;
        if !first && after.is_none() && answer.is_ok() {
            self.note_silence(&owner.node);
        }
        answer
    }

    async fn ask_here(
        &self,
        shard: &ShardRef,
        shop: &str,
        question: &Question,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Option<Answer>, QueryError> {
        if let Some(after) = after {
            applied(shard, after, wait).await?;
        }
        ask(shard, shop, question).await
    }

    #[expect(clippy::too_many_arguments, reason = "whom, what, and until when")]
    async fn ask_owner(
        &self,
        token: &Token,
        partition: Partition,
        owner: Owner,
        address: String,
        shop: &str,
        question: &Question,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Option<Answer>, QueryError> {
        let first = self.forward(token, &owner.node, address, vec![partition], shop, question, after, wait).await;
        let error = match first {
            Ok(answer) => return Ok(answer),
            Err(PeerError::Query(e)) => return Err(e),
            Err(e) => e,
        };
        // It may have gone to another node meanwhile.
        let now = self.owners.not_older(0).await.and_then(|o| o.get(&partition).cloned());
        let changed = now.filter(|o| (o.epoch, &o.node) != (owner.epoch, &owner.node) || o.address != owner.address);
        let Some((owner, address)) = changed.and_then(|o| self.address(&o).map(|address| (o, address))) else {
            return Err(not_ready(error.to_string()));
        };
        match self.forward(token, &owner.node, address, vec![partition], shop, question, after, wait).await {
            Ok(answer) => Ok(answer),
            Err(PeerError::Query(e)) => Err(e),
            Err(e) => Err(not_ready(e.to_string())),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "whom, what, and until when")]
    async fn forward(
        &self,
        token: &Token,
        node: &str,
        address: String,
        partitions: Vec<Partition>,
        shop: &str,
        question: &Question,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Option<Answer>, PeerError> {
        let within = if after.is_some() { wait + ON_THE_WAY } else { CALL_WITHIN };
        let call = Call { address, token: token.clone(), partitions, within };
        match self.peers.find(call, shop, question, after).await {
            Ok(answer) => Ok(Some(answer)),
            Err(PeerError::Query(QueryError::NoShop(_))) => Ok(None),
            Err(e) => {
                if let PeerError::Away { .. } = e {
                    tracing::debug!(node, error = %e, "a query was not answered by the owner");
                    self.note_silence(node);
                }
                Err(e)
            }
        }
    }

    /// Looks in many partitions at once, each other node asked once: where foreign producers may have put a shop.
    async fn look_everywhere(
        &self,
        token: Option<&Token>,
        partitions: &[Partition],
        shop: &str,
        question: &Question,
        wait: Duration,
    ) -> Result<Option<Answer>, QueryError> {
        let split = self.split(token, partitions).await;
        for shard in &split.here {
            if let Some(answer) = ask(shard, shop, question).await? {
                return Ok(Some(answer));
            }
        }
        let theirs = split.theirs.into_iter().filter_map(|(node, (address, partitions))| {
            let token = token?;
            Some(async move {
                let call = self.forward(token, &node, address, partitions.clone(), shop, question, None, wait);
                match tokio::time::timeout(HEDGE, call).await {
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(PeerError::Query(e))) if !is_passing(&e) => Err(Ok(e)),
                    _ => Err(Err(partitions)),
                }
            })
        });
        let mut stored = split.stored;
        for answer in join_all(theirs).await {
            match answer {
                Ok(None) => {}
                Ok(Some(answer)) => return Ok(Some(answer)),
                Err(Ok(refused)) => return Err(refused),
                Err(Err(silent)) => stored.extend(silent),
            }
        }
        let looked = stored.into_iter().map(|partition| async move {
            let owner = self.owner(partition).await;
            self.standby.clone().answer(partition, owner, shop.to_owned(), question.clone(), None).await
        });
        for answer in join_all(looked).await {
            if let Some(answer) = answer? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    async fn split(&self, token: Option<&Token>, partitions: &[Partition]) -> Split {
        let mut split = Split::default();
        for partition in partitions {
            if let Some(shard) = self.here(*partition).await {
                split.here.push(shard);
                continue;
            }
            let owner = self.owner(*partition).await;
            match owner.and_then(|o| self.address(&o).map(|address| (o.node, address))).filter(|_| token.is_some()) {
                Some((node, address)) => {
                    split.theirs.entry(node).or_insert_with(|| (address, Vec::new())).1.push(*partition);
                }
                None => split.stored.push(*partition),
            }
        }
        split
    }

    /// Every shop of the installation that the caller sees, or of the partitions that another node asks for.
    pub async fn shops(&self, asker: &Asker) -> Result<Vec<ShopView>, QueryError> {
        let mut views = Vec::new();
        let token = match asker {
            Asker::Node(partitions) => {
                for partition in partitions {
                    let shard = self.here(*partition).await.ok_or(QueryError::Elsewhere(*partition))?;
                    views.extend(list(&shard).await.map_err(|_| QueryError::Elsewhere(*partition))?);
                }
                return Ok(views);
            }
            Asker::Own => None,
            Asker::Caller(token) => Some(token),
        };
        let all: Vec<_> = (0..self.partitions).collect();
        let split = self.split(token, &all).await;
        let mut stored = split.stored;
        for shard in split.here {
            match list(&shard).await {
                Ok(found) => views.extend(found),
                Err(_) => stored.push(shard.partition),
            }
        }
        let theirs = split.theirs.into_iter().filter_map(|(node, (address, partitions))| {
            let call = Call { address, token: token?.clone(), partitions: partitions.clone(), within: CALL_WITHIN };
            Some(async move {
                match self.peers.shops(call).await {
                    Ok(found) => Ok(found),
                    Err(error) => {
                        tracing::debug!(node, %error, "a list of shops was not answered by the owner");
                        Err(partitions)
                    }
                }
            })
        });
        for found in join_all(theirs).await {
            match found {
                Ok(found) => views.extend(found),
                Err(silent) => stored.extend(silent),
            }
        }
        let looked = stored.into_iter().map(|partition| async move {
            let owner = self.owner(partition).await;
            self.standby.clone().shops(partition, owner).await
        });
        for found in join_all(looked).await {
            views.extend(found?);
        }
        Ok(views)
    }
}

/// Partitions by who is asked for them.
#[derive(Default)]
struct Split {
    here: Vec<Arc<ShardRef>>,
    /// Node → address and partitions.
    theirs: BTreeMap<String, (String, Vec<Partition>)>,
    stored: Vec<Partition>,
}
