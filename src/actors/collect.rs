//! Collecting states for a snapshot: the same idea as [`super::batch`], ended by whoever lets go last.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use super::shard::{Collected, Shard};
use crate::domain::snapshot::{self, Seal};
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition};
use crate::events::time::Millis;
use crate::ports::snapshot_store::{Columns, Entity, Epoch, Snapshot};

/// Name of an entity under the checksum.
pub fn entity_name(entity: &Entity) -> String {
    match entity {
        Entity::Shard => "shard".to_owned(),
        Entity::Shop => "shop".to_owned(),
        Entity::Variant(id) => id.to_string(),
    }
}

pub struct Collection {
    partition: Partition,
    epoch: Epoch,
    /// Domain time at the batch boundary.
    pub now: Millis,
    shard: Addr<Shard>,
    snapshots: Mutex<Vec<Snapshot>>,
}

impl Collection {
    pub fn new(partition: Partition, epoch: Epoch, now: Millis, shard: Addr<Shard>) -> Arc<Collection> {
        Arc::new(Collection { partition, epoch, now, shard, snapshots: Mutex::default() })
    }

    pub fn add_variant(&self, shop: &str, id: VariantId, offset: Offset, state: Vec<u8>, columns: Columns) {
        self.add(shop, Entity::Variant(id.0), offset, state, columns);
    }

    pub fn add(&self, shop: &str, entity: Entity, offset: Offset, state: Vec<u8>, columns: Columns) {
        let name = entity_name(&entity);
        let seal = Seal { partition: self.partition, shop, entity: &name, offset, epoch: self.epoch, version: snapshot::VERSION };
        let snapshot = Snapshot {
            shop: shop.to_owned(),
            offset,
            epoch: self.epoch,
            version: snapshot::VERSION,
            checksum: seal.checksum(&state),
            state,
            columns,
            entity,
        };
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).push(snapshot);
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        let snapshots = std::mem::take(self.snapshots.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.shard.do_send(Collected(snapshots));
    }
}
