//! Which shops live in the shard, for queries.

use std::sync::Arc;

use actix::prelude::*;

use super::Shard;
use crate::actors::shop::Shop;
use crate::domain::views::{Provenance, Source};
use crate::events::time::Millis;

/// Where a shop lives, and what an answer has to say about itself.
#[derive(Message)]
#[rtype(result = "Option<Located>")]
pub struct Locate(pub Arc<str>);

pub struct Located {
    pub shop: Addr<Shop>,
    pub now: Millis,
    pub provenance: Provenance,
}

#[derive(Message)]
#[rtype(result = "Vec<Arc<str>>")]
pub struct ListShops;

impl Handler<Locate> for Shard {
    type Result = MessageResult<Locate>;

    fn handle(&mut self, Locate(shop): Locate, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shops.get(&shop).map(|entry| Located {
            shop: entry.addr.clone(),
            now: self.fold.now().unwrap_or(0),
            provenance: Provenance {
                partition: self.partition,
                offset: self.progress.applied() - 1,
                epoch: self.epoch,
                node: self.deps.settings.node.clone(),
                source: Source::Owner,
                staleness_ms: 0,
            },
        }))
    }
}

impl Handler<ListShops> for Shard {
    type Result = MessageResult<ListShops>;

    fn handle(&mut self, _: ListShops, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shops.keys().cloned().collect())
    }
}
