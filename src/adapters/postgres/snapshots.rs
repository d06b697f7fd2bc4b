//! Snapshots and checkpoints (DESIGN §3).
//!
//! The partition's row in `partition_owner` is the fence: a save locks it and compares its epoch before it writes, and
//! taking ownership updates it. So a save of the old owner is either whole before the new epoch, or refused.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use rustc_hash::FxHashSet;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use uuid::Uuid;

use super::bulk_read::Source;
use super::copy::Tuple;
use super::{PATIENCE, PostgresStore};
use crate::adapters::sql::{Fault, entity_columns, entity_of, fenced, printable};
use crate::events::record::Partition;
use crate::ports::snapshot_store::{Checkpoint, Columns, Entity, Epoch, Snapshot, SnapshotStore, StoreError};

/// Rows, and bytes of state, that go into one statement at most.
const CHUNK_ROWS: usize = 5_000;
const CHUNK_BYTES: usize = 8 << 20;
/// Added to the patience for a save; the slowest speed that is waited for is a thousand rows a second.
const PATIENCE_PER_ROW: Duration = Duration::from_millis(1);
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

const UPSERT: &str = "\
insert into snapshot as s (partition, shop, entity, variant_id, fact_offset, epoch, version, checksum, state,
                           sku, vendor, available, risk, open_proposal)
select $1, * from unnest($2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[], $8::bigint[],
                         $9::bytea[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::uuid[])
on conflict (partition, shop, entity, variant_id) do update
set fact_offset = excluded.fact_offset, epoch = excluded.epoch, version = excluded.version, checksum = excluded.checksum,
    state = excluded.state, sku = excluded.sku, vendor = excluded.vendor, available = excluded.available,
    risk = excluded.risk, open_proposal = excluded.open_proposal
where excluded.fact_offset > s.fact_offset and excluded.epoch >= s.epoch";

/// Each part of a checkpoint is a bound that stays true when the other one grows, so each keeps its greatest value.
/// (`greatest` passes over nulls.)
const CHECKPOINT: &str = "\
update partition_owner
set facts_offset = greatest(facts_offset, $2), decisions_offset = greatest(decisions_offset, $3),
    saved_at = clock_timestamp()
where partition = $1";

impl SnapshotStore for PostgresStore {
    fn acquire_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        Box::pin(self.run("taking ownership of a partition", PATIENCE, async move |c| acquire(c, partition, node).await))
    }

    fn checkpoint(&self, partition: Partition) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(self.run("reading a checkpoint", PATIENCE, async move |c| checkpoint(c, partition).await))
    }

    fn load(&self, partition: Partition) -> BoxStream<'_, Result<Snapshot, StoreError>> {
        let statement = format!(
            "copy (select shop, entity, variant_id, fact_offset, epoch, version, checksum, state from snapshot \
             where partition = {partition}) to stdout (format binary)"
        );
        let source = Source::Copy(statement, read_copied);
        let permit = async move {
            // Waits for as long as other bulk reads take: those end, or give up, by themselves.
            let permit = self.bulk_reads.acquire().await;
            self.stream("reading the snapshots of a partition", source).inspect(move |_| {
                let _held = &permit;
            })
        };
        stream::once(permit).flatten().boxed()
    }

    fn load_shop<'a>(&'a self, partition: Partition, shop: &'a str) -> BoxStream<'a, Result<Snapshot, StoreError>> {
        let statement = sqlx::query(
            "select shop, entity, variant_id, fact_offset, epoch, version, checksum, state from snapshot \
             where partition = $1 and shop = $2",
        )
        .bind(partition)
        .bind(shop.to_owned());
        self.stream("reading the snapshots of a shop", Source::Statement(statement, read))
    }

    fn load_some<'a>(
        &'a self,
        partition: Partition,
        wanted: &'a [(Arc<str>, Vec<u64>)],
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, StoreError>> {
        Box::pin(self.run("reading snapshots of variants", PATIENCE, async move |c| load_some(c, partition, wanted).await))
    }

    fn save<'a>(
        &'a self,
        partition: Partition,
        epoch: Epoch,
        checkpoint: Checkpoint,
        snapshots: &'a [Snapshot],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let patience = PATIENCE + PATIENCE_PER_ROW * u32::try_from(snapshots.len()).unwrap_or(u32::MAX);
        Box::pin(self.run("saving snapshots", patience, async move |c| save(c, partition, epoch, checkpoint, snapshots).await))
    }

    fn clear(&self, partition: Partition, epoch: Epoch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.run("removing snapshots", PATIENCE * 10, async move |c| clear(c, partition, epoch).await))
    }

    fn store_id(&self) -> BoxFuture<'_, Result<Uuid, StoreError>> {
        Box::pin(self.run("reading the store's id", PATIENCE, async |c| {
            Ok(sqlx::query_scalar("select store_id from store_identity").fetch_one(c).await?)
        }))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.run("probing the store", PROBE_PATIENCE, async |c| {
            let standby: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(c).await?;
            if !standby {
                return Ok(());
            }
            let reason = "the server is a standby and takes no writes; [store] url must name the primary".to_owned();
            Err(StoreError::Unavailable { during: "probing the store".into(), reason }.into())
        }))
    }
}

async fn acquire(c: &mut PgConnection, partition: Partition, node: &str) -> Result<Epoch, Fault> {
    let epoch = sqlx::query_scalar(
        "insert into partition_owner as o (partition, epoch, node) values ($1, 1, $2) \
         on conflict (partition) do update set epoch = o.epoch + 1, node = excluded.node, acquired_at = now() returning epoch",
    )
    .bind(partition)
    .bind(printable(node))
    .fetch_one(c)
    .await?;
    Ok(epoch)
}

async fn checkpoint(c: &mut PgConnection, partition: Partition) -> Result<Option<Checkpoint>, Fault> {
    let row: Option<(i64, i64)> = sqlx::query_as(
        "select facts_offset, decisions_offset from partition_owner where partition = $1 and facts_offset is not null",
    )
    .bind(partition)
    .fetch_optional(c)
    .await?;
    Ok(row.map(|(facts, decisions)| Checkpoint { facts, decisions }))
}

async fn load_some(c: &mut PgConnection, partition: Partition, wanted: &[(Arc<str>, Vec<u64>)]) -> Result<Vec<Snapshot>, Fault> {
    let count = wanted.iter().map(|(_, ids)| ids.len()).sum();
    let (mut shops, mut ids) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (shop, variants) in wanted {
        for id in variants {
            shops.push(&**shop);
            ids.push(entity_columns(&Entity::Variant(*id)).1);
        }
    }
    // The offset keeps the planner from turning the look-ups into one scan of the table, which it likes without statistics.
    let rows = sqlx::query(
        "select s.* from unnest($2::text[], $3::bigint[]) as w (shop, variant_id) cross join lateral \
         (select shop, entity, variant_id, fact_offset, epoch, version, checksum, state from snapshot \
          where partition = $1 and shop = w.shop and entity = 2 and variant_id = w.variant_id offset 0) as s",
    )
    .bind(partition)
    .bind(shops)
    .bind(ids)
    .fetch_all(c)
    .await?;
    rows.iter().map(read).collect()
}

/// Goes on only as the present owner, which it stays until the transaction ends (DESIGN §7.5).
async fn hold(c: &mut PgConnection, partition: Partition, epoch: Epoch) -> Result<(), Fault> {
    let current: Option<Epoch> = sqlx::query_scalar("select epoch from partition_owner where partition = $1 for no key update")
        .bind(partition)
        .fetch_optional(c)
        .await?;
    if current == Some(epoch) { Ok(()) } else { Err(fenced(partition, epoch, current).into()) }
}

async fn save(
    c: &mut PgConnection,
    partition: Partition,
    epoch: Epoch,
    checkpoint: Checkpoint,
    snapshots: &[Snapshot],
) -> Result<(), Fault> {
    let mut tx = c.begin().await?;
    hold(&mut tx, partition, epoch).await?;
    let mut rest = snapshots;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunk_len(rest));
        upsert(&mut tx, partition, chunk).await?;
        rest = after;
    }
    sqlx::query(CHECKPOINT).bind(partition).bind(checkpoint.facts).bind(checkpoint.decisions).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// How many of `rest` go into one statement: bounded, and each entity once, for Postgres refuses to update a row twice.
/// The second one of an entity begins the next statement and meets the first under the same rule as any other.
fn chunk_len(rest: &[Snapshot]) -> usize {
    let mut seen = FxHashSet::with_capacity_and_hasher(rest.len().min(CHUNK_ROWS), Default::default());
    let mut bytes = 0;
    for (i, s) in rest.iter().enumerate().take(CHUNK_ROWS) {
        bytes += s.state.len();
        let full = i > 0 && bytes > CHUNK_BYTES;
        if full || !seen.insert((s.shop.as_str(), entity_columns(&s.entity))) {
            return i;
        }
    }
    rest.len().min(CHUNK_ROWS)
}

async fn upsert(c: &mut PgConnection, partition: Partition, chunk: &[Snapshot]) -> Result<(), Fault> {
    fn column<'a, T>(chunk: &'a [Snapshot], of: impl Fn(&'a Snapshot) -> T) -> Vec<T> {
        chunk.iter().map(of).collect()
    }
    sqlx::query(UPSERT)
        .bind(partition)
        .bind(column(chunk, |s| s.shop.as_str()))
        .bind(column(chunk, |s| entity_columns(&s.entity).0))
        .bind(column(chunk, |s| entity_columns(&s.entity).1))
        .bind(column(chunk, |s| s.offset))
        .bind(column(chunk, |s| s.epoch))
        .bind(column(chunk, |s| s.version))
        .bind(column(chunk, |s| s.checksum))
        .bind(column(chunk, |s| s.state.as_slice()))
        .bind(column(chunk, |s| s.columns.sku.as_deref().map(printable)))
        .bind(column(chunk, |s| s.columns.vendor.as_deref().map(printable)))
        .bind(column(chunk, |s| s.columns.available))
        .bind(column(chunk, |s| s.columns.risk))
        .bind(column(chunk, |s| s.columns.open_proposal))
        .execute(c)
        .await?;
    Ok(())
}

async fn clear(c: &mut PgConnection, partition: Partition, epoch: Epoch) -> Result<(), Fault> {
    let mut tx = c.begin().await?;
    hold(&mut tx, partition, epoch).await?;
    // The epoch stays.
    sqlx::query("update partition_owner set facts_offset = null, decisions_offset = null where partition = $1")
        .bind(partition)
        .execute(&mut *tx)
        .await?;
    sqlx::query("delete from snapshot where partition = $1").bind(partition).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

fn read(row: &PgRow) -> Result<Snapshot, Fault> {
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

fn read_copied(row: &mut Tuple<'_>) -> Result<Snapshot, Fault> {
    Ok(Snapshot {
        shop: row.text()?.to_owned(),
        entity: entity_of(row.i16()?, row.i64()?)?,
        offset: row.i64()?,
        epoch: row.i64()?,
        version: row.i16()?,
        checksum: row.i64()?,
        state: row.bytes()?.to_owned(),
        columns: Columns::default(),
    })
}
