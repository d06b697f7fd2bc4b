//! The store on Postgres, through sqlx: snapshots, ledger and registry in one database.
//!
//! Each port has its file, which holds its SQL and runs on a connection that it is given; this file lends the connections
//! and puts a bound on every wait. To add an operation: an `async fn` over [`PgConnection`] in the port's file, and a line
//! in its `impl`.

mod bulk_read;
mod connect;
mod copy;
mod digest;
mod ledger;
mod owners;
mod registry;
mod reorders;
mod snapshots;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};
use tokio::sync::Semaphore;

use crate::adapters::sql::Fault;
use crate::ports::snapshot_store::StoreError;

#[cfg(test)]
pub(in crate::adapters) use connect::schema;

/// An operation that takes longer than this is given up as unavailable. A cut network gives no error of itself for many
/// minutes, and a shard must not wait for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// The store; cheap to clone, all clones share one pool.
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    /// Bulk reads that may run at once: they hold a connection for as long as their reader takes, and must leave some for
    /// the ledger.
    bulk_reads: Arc<Semaphore>,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date. An absent server is waited for until `timeout`.
    pub async fn connect(url: &str, timeout: Duration) -> Result<PostgresStore, StoreError> {
        connect::connect(url, timeout).await
    }

    /// Runs `operation` on a connection of its own, within `patience`.
    async fn run<T, O>(&self, during: &'static str, patience: Duration, operation: O) -> Result<T, StoreError>
    where
        O: AsyncFnOnce(&mut PgConnection) -> Result<T, Fault>,
    {
        let mut lease = self.lease(during).await?;
        let outcome = within(during, patience, operation(lease.connection())).await;
        lease.end(outcome)
    }

    async fn lease(&self, during: &str) -> Result<Lease, StoreError> {
        let connection = self.pool.acquire().await.map_err(|e| Fault::from(e).during(during))?;
        Ok(Lease { connection, sound: false })
    }
}

/// Waits for `operation`, but not longer than `patience`.
async fn within<T>(during: &str, patience: Duration, operation: impl Future<Output = Result<T, Fault>>) -> Result<T, StoreError> {
    match tokio::time::timeout(patience, operation).await {
        Ok(outcome) => outcome.map_err(|f| f.during(during)),
        Err(_) => Err(StoreError::Unavailable {
            during: during.to_owned(),
            reason: format!("no answer within {} s", patience.as_secs()),
        }),
    }
}

/// A connection on loan from the pool. Unless its use is known to have ended well it is closed and not given back: the pool
/// would ask it whether it lives, and a half-open one never answers, which costs the pool that place.
struct Lease {
    connection: PoolConnection<Postgres>,
    sound: bool,
}

impl Lease {
    fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    fn end<T>(mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        self.sound = !matches!(outcome, Err(StoreError::Unavailable { .. }));
        outcome
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.sound {
            self.connection.close_on_drop();
        }
    }
}
