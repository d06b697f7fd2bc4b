//! Who owns which partition. One process owns a SQLite file, so the answer is mostly its own name.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use crate::adapters::sql::{Fault, entity_columns};
use crate::events::record::Partition;
use crate::ports::owners::{Owner, Owners};
use crate::ports::snapshot_store::{Entity, StoreError};

const OWNERS: &str = "\
select o.partition, o.epoch, o.node, n.address, cast(unixepoch('subsec') * 1000 as integer) - o.saved_at / 1000
from partition_owner o left join node n on n.name = o.node order by o.partition";

impl Owners for SqliteStore {
    fn announce<'a>(&'a self, node: &'a str, address: Option<&'a str>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("announcing the node", async move |c| {
            sqlx::query(
                "insert into node (name, address, announced_at) values ($1, $2, cast(unixepoch('subsec') * 1000000 as integer)) \
                 on conflict (name) do update set address = excluded.address, announced_at = excluded.announced_at",
            )
            .bind(node)
            .bind(address)
            .execute(c)
            .await?;
            Ok(())
        }))
    }

    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>, StoreError>> {
        Box::pin(
            self.read("asking who owns the partitions", async |c| {
                sqlx::query(OWNERS).fetch_all(c).await?.iter().map(read).collect()
            }),
        )
    }

    fn shops_of(&self, partition: Partition) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(self.read("listing the shops of a partition", async move |c| {
            Ok(sqlx::query_scalar("select shop from snapshot where partition = $1 and entity = $2 order by shop")
                .bind(partition)
                .bind(entity_columns(&Entity::Shop).0)
                .fetch_all(c)
                .await?)
        }))
    }
}

fn read(row: &SqliteRow) -> Result<Owner, Fault> {
    let saved: Option<i64> = row.try_get(4)?;
    Ok(Owner {
        partition: row.try_get(0)?,
        epoch: row.try_get(1)?,
        node: row.try_get(2)?,
        address: row.try_get(3)?,
        saved_ago: saved.map(|ms| Duration::from_millis(ms.max(0).cast_unsigned())),
    })
}
