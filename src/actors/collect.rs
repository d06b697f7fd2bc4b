//! Collecting states for a snapshot: the same idea as [`super::batch`], ended by whoever lets go last.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use super::residency::Stored;
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
    found: Mutex<Found>,
}

/// States, and what their shops have to know of them once they are in the store.
#[derive(Default)]
pub struct Found {
    pub snapshots: Vec<Snapshot>,
    pub stored: Vec<(Arc<str>, VariantId, Stored)>,
}

impl Collection {
    pub fn new(partition: Partition, epoch: Epoch, now: Millis, shard: Addr<Shard>) -> Arc<Collection> {
        Arc::new(Collection { partition, epoch, now, shard, found: Mutex::default() })
    }

    pub fn add_variant(&self, shop: &Arc<str>, id: VariantId, stored: Stored, state: Vec<u8>, columns: Columns) {
        self.add(shop, Entity::Variant(id.0), stored.offset, state, columns);
        self.found.lock().unwrap_or_else(PoisonError::into_inner).stored.push((shop.clone(), id, stored));
    }

    pub fn add(&self, shop: &str, entity: Entity, offset: Offset, state: Vec<u8>, columns: Columns) {
        let snapshot = sealed(self.partition, self.epoch, shop, entity, offset, state, columns);
        self.found.lock().unwrap_or_else(PoisonError::into_inner).snapshots.push(snapshot);
    }
}

/// A state as it goes to the store, with the checksum that [`super::recovery::decode`] checks.
pub fn sealed(
    partition: Partition,
    epoch: Epoch,
    shop: &str,
    entity: Entity,
    offset: Offset,
    state: Vec<u8>,
    columns: Columns,
) -> Snapshot {
    let (name, version) = (entity_name(&entity), snapshot::VERSION);
    let checksum = Seal { partition, shop, entity: &name, offset, epoch, version }.checksum(&state);
    Snapshot { shop: shop.to_owned(), entity, offset, epoch, version, checksum, state, columns }
}

impl Drop for Collection {
    fn drop(&mut self) {
        let found = std::mem::take(self.found.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.shard.do_send(Collected(found));
    }
}
