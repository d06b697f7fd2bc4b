//! The store on SQLite, through sqlx: snapshots, ledger and registry in one file.
//!
//! SQLite has one writer at a time. All writes go through one connection, each as a transaction that takes the write lock
//! when it begins, so that nothing read in it can have changed under it; reads have connections of their own and, with the
//! write-ahead log, wait for nobody. Every commit is on disk when it returns: the ledger lives here.
//!
//! To add an operation: see `adapters/postgres`, which is laid out alike.

mod connect;
mod digest;
mod ledger;
mod owners;
mod registry;
mod reorders;
mod snapshots;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqlitePool;

use crate::adapters::sql::Fault;
use crate::ports::snapshot_store::StoreError;

#[cfg(test)]
pub(in crate::adapters) use connect::schema;

/// The store; cheap to clone, all clones share the file's connections.
#[derive(Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, creates it if missing, and brings its schema up to date. Takes a path or a `sqlite://` URL. Another
    /// process that holds the file is waited for until `timeout`.
    pub async fn connect(url_or_path: &str, timeout: Duration) -> Result<SqliteStore, StoreError> {
        connect::connect(url_or_path, timeout).await
    }

    /// Runs `operation` in a transaction that no other writer can enter.
    async fn write<T, O>(&self, during: &'static str, operation: O) -> Result<T, StoreError>
    where
        O: AsyncFnOnce(&mut SqliteConnection) -> Result<T, Fault>,
    {
        let work = async {
            let mut tx = self.writer.begin_with("begin immediate").await?;
            let outcome = operation(&mut tx).await?;
            tx.commit().await?;
            Ok(outcome)
        };
        work.await.map_err(|f: Fault| f.during(during))
    }

    async fn read<T, O>(&self, during: &'static str, operation: O) -> Result<T, StoreError>
    where
        O: AsyncFnOnce(&mut SqliteConnection) -> Result<T, Fault>,
    {
        let work = async { operation(&mut *self.readers.acquire().await?).await };
        work.await.map_err(|f: Fault| f.during(during))
    }
}

/// Times are stored as Unix microseconds, which compare as numbers.
fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

fn time_of(micros: i64) -> Result<DateTime<Utc>, Fault> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| Fault::Other(format!("the stored time {micros} is out of range")))
}

/// A list as one parameter, for `json_each`.
fn json<T: serde::Serialize>(list: &T) -> Result<String, Fault> {
    serde_json::to_string(list).map_err(|e| Fault::Other(format!("a list could not be written as JSON: {e}")))
}
