//! Snapshots and checkpoints (DESIGN §3).

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::{SqliteStore, json};
use crate::adapters::sql::{Fault, entity_columns, entity_of, fenced, printable};
use crate::events::record::Partition;
use crate::ports::snapshot_store::{Checkpoint, Columns, Entity, Epoch, Snapshot, SnapshotStore, StoreError};

/// Rows of one statement; each has 14 parameters, and the statement is prepared once.
const CHUNK_ROWS: usize = 128;
const LOADING: &str = "reading the snapshots of a partition";

impl SnapshotStore for SqliteStore {
    fn acquire_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        Box::pin(self.write("taking ownership of a partition", async move |c| {
            Ok(sqlx::query_scalar(
                "insert into partition_owner (partition, epoch, node, acquired_at) \
                 values ($1, 1, $2, cast(unixepoch('subsec') * 1000000 as integer)) on conflict (partition) do update \
                 set epoch = epoch + 1, node = excluded.node, acquired_at = excluded.acquired_at returning epoch",
            )
            .bind(partition)
            .bind(node)
            .fetch_one(c)
            .await?)
        }))
    }

    fn checkpoint(&self, partition: Partition) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(self.read("reading a checkpoint", async move |c| {
            let row: Option<(i64, i64)> = sqlx::query_as(
                "select facts_offset, decisions_offset from partition_owner where partition = $1 and facts_offset is not null",
            )
            .bind(partition)
            .fetch_optional(c)
            .await?;
            Ok(row.map(|(facts, decisions)| Checkpoint { facts, decisions }))
        }))
    }

    fn load(&self, partition: Partition) -> BoxStream<'_, Result<Snapshot, StoreError>> {
        sqlx::query(
            "select shop, entity, variant_id, fact_offset, epoch, version, checksum, state from snapshot where partition = $1",
        )
        .bind(partition)
        .fetch(&self.readers)
        .map(|row| row.map_err(Fault::from).and_then(|row| read(&row)).map_err(|f| f.during(LOADING)))
        .boxed()
    }

    fn load_shop<'a>(&'a self, partition: Partition, shop: &'a str) -> BoxStream<'a, Result<Snapshot, StoreError>> {
        sqlx::query(
            "select shop, entity, variant_id, fact_offset, epoch, version, checksum, state from snapshot \
             where partition = $1 and shop = $2",
        )
        .bind(partition)
        .bind(shop)
        .fetch(&self.readers)
        .map(|row| row.map_err(Fault::from).and_then(|row| read(&row)).map_err(|f| f.during(LOADING)))
        .boxed()
    }

    fn load_some<'a>(
        &'a self,
        partition: Partition,
        wanted: &'a [(Arc<str>, Vec<u64>)],
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, StoreError>> {
        Box::pin(self.read("reading snapshots of variants", async move |c| {
            let column = |id: &u64| entity_columns(&Entity::Variant(*id)).1;
            let pairs: Vec<(&str, i64)> =
                wanted.iter().flat_map(|(shop, ids)| ids.iter().map(move |id| (&**shop, column(id)))).collect();
            // The list is walked and the table looked up, not the other way round.
            let rows = sqlx::query(
                "select s.shop, s.entity, s.variant_id, s.fact_offset, s.epoch, s.version, s.checksum, s.state \
                 from json_each($2) w cross join snapshot s on s.partition = $1 and s.shop = w.value ->> 0 and s.entity = 2 \
                 and s.variant_id = w.value ->> 1",
            )
            .bind(partition)
            .bind(json(&pairs)?)
            .fetch_all(c)
            .await?;
            rows.iter().map(read).collect()
        }))
    }

    fn save<'a>(
        &'a self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &'a [Snapshot],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("saving snapshots", async move |c| save(c, partition, epoch, checkpoint, snapshots).await))
    }

    fn clear(&self, partition: Partition, epoch: Epoch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("removing snapshots", async move |c| {
            hold(c, partition, epoch).await?;
            // The epoch stays.
            sqlx::query("update partition_owner set facts_offset = null, decisions_offset = null where partition = $1")
                .bind(partition)
                .execute(&mut *c)
                .await?;
            sqlx::query("delete from snapshot where partition = $1").bind(partition).execute(&mut *c).await?;
            Ok(())
        }))
    }

    fn store_id(&self) -> BoxFuture<'_, Result<Uuid, StoreError>> {
        Box::pin(self.read("reading the store's id", async |c| {
            Ok(sqlx::query_scalar("select store_id from store_identity").fetch_one(c).await?)
        }))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.read("probing the store", async |c| {
            sqlx::query("select 1 from store_identity").fetch_one(c).await?;
            Ok(())
        }))
    }
}

/// Goes on only as the present owner (DESIGN §7.5); the database has one writer at a time.
async fn hold(c: &mut SqliteConnection, partition: Partition, epoch: Epoch) -> Result<(), Fault> {
    let current: Option<Epoch> =
        sqlx::query_scalar("select epoch from partition_owner where partition = $1").bind(partition).fetch_optional(c).await?;
    if current == Some(epoch) { Ok(()) } else { Err(fenced(partition, epoch, current).into()) }
}

async fn save(
    c: &mut SqliteConnection,
    partition: Partition,
    epoch: Epoch,
    checkpoint: Checkpoint,
    snapshots: &[Snapshot],
) -> Result<(), Fault> {
    hold(c, partition, epoch).await?;
    for chunk in snapshots.chunks(CHUNK_ROWS) {
        upsert(c, partition, chunk).await?;
    }
    // Each part of a checkpoint is a bound that stays true when the other one grows, so each keeps its greatest value.
    sqlx::query(
        "update partition_owner set facts_offset = max(ifnull(facts_offset, $2), $2), \
         decisions_offset = max(ifnull(decisions_offset, $3), $3), \
         saved_at = cast(unixepoch('subsec') * 1000000 as integer) where partition = $1",
    )
    .bind(partition)
    .bind(checkpoint.facts)
    .bind(checkpoint.decisions)
    .execute(&mut *c)
    .await?;
    Ok(())
}

/// Rows are applied one after the other, so an entity that comes twice meets its first row under the same rule.
async fn upsert(c: &mut SqliteConnection, partition: Partition, chunk: &[Snapshot]) -> Result<(), Fault> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "insert into snapshot (partition, shop, entity, variant_id, fact_offset, epoch, version, checksum, state, \
         sku, vendor, available, risk, open_proposal) ",
    );
    query.push_values(chunk, |mut row, s| {
        let (kind, variant) = entity_columns(&s.entity);
        row.push_bind(partition)
            .push_bind(&s.shop)
            .push_bind(kind)
            .push_bind(variant)
            .push_bind(s.offset)
            .push_bind(s.epoch)
            .push_bind(s.version)
            .push_bind(s.checksum)
            .push_bind(&s.state)
            .push_bind(s.columns.sku.as_deref().map(printable))
            .push_bind(s.columns.vendor.as_deref().map(printable))
            .push_bind(s.columns.available)
            .push_bind(s.columns.risk)
            .push_bind(s.columns.open_proposal.map(|id| id.to_string()));
    });
    query.push(
        " on conflict (partition, shop, entity, variant_id) do update set fact_offset = excluded.fact_offset, \
         epoch = excluded.epoch, version = excluded.version, checksum = excluded.checksum, state = excluded.state, \
         sku = excluded.sku, vendor = excluded.vendor, available = excluded.available, risk = excluded.risk, \
         open_proposal = excluded.open_proposal \
         where excluded.fact_offset > fact_offset and excluded.epoch >= epoch",
    );
    // Only the full size is worth keeping prepared.
    query.build().persistent(chunk.len() == CHUNK_ROWS).execute(c).await?;
    Ok(())
}

fn read(row: &SqliteRow) -> Result<Snapshot, Fault> {
    Ok(Snapshot {
        shop: row.try_get(0)?,
        entity: entity_of(row.try_get(1)?, row.try_get(2)?)?,
        offset: row.try_get(3)?,
        epoch: row.try_get(4)?,
        version: row.try_get(5)?,
        checksum: row.try_get(6)?,
        state: row.try_get(7)?,
        columns: Columns::default(),
    })
}
