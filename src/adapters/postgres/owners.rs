//! Who owns which partition (DESIGN §2, Cluster).

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PATIENCE, PostgresStore};
use crate::adapters::sql::{Fault, entity_columns, printable};
use crate::events::record::Partition;
use crate::ports::owners::{Owner, Owners};
use crate::ports::snapshot_store::{Entity, StoreError};

const OWNERS: &str = "\
select o.partition, o.epoch, o.node, n.address,
       (extract(epoch from clock_timestamp() - o.saved_at) * 1000)::bigint
from partition_owner o left join node n on n.name = o.node order by o.partition";

impl Owners for PostgresStore {
    fn announce<'a>(&'a self, node: &'a str, address: Option<&'a str>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.run("announcing the node", PATIENCE, async move |c| {
            sqlx::query(
                "insert into node (name, address) values ($1, $2) on conflict (name) do update \
                 set address = excluded.address, announced_at = now()",
            )
            // As ownership names it.
            .bind(printable(node))
            .bind(address.map(printable))
            .execute(c)
            .await?;
            Ok(())
        }))
    }

    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>, StoreError>> {
        Box::pin(self.run("asking who owns the partitions", PATIENCE, async |c| {
            sqlx::query(OWNERS).fetch_all(c).await?.iter().map(read).collect()
        }))
    }

    fn shops_of(&self, partition: Partition) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(self.run("listing the shops of a partition", PATIENCE, async move |c| {
            let found = sqlx::query_scalar("select shop from snapshot where partition = $1 and entity = $2")
                .bind(partition)
                .bind(entity_columns(&Entity::Shop).0)
                .fetch_all(c)
                .await?;
            Ok(sorted(found))
        }))
    }
}

/// By bytes, as everywhere else; the database's own order depends on its locale.
fn sorted(mut shops: Vec<String>) -> Vec<String> {
    shops.sort_unstable();
    shops
}

fn read(row: &PgRow) -> Result<Owner, Fault> {
    let saved: Option<i64> = row.try_get(4)?;
    Ok(Owner {
        partition: row.try_get(0)?,
        epoch: row.try_get(1)?,
        node: row.try_get(2)?,
        address: row.try_get(3)?,
        saved_ago: saved.map(|ms| Duration::from_millis(ms.max(0).cast_unsigned())),
    })
}
