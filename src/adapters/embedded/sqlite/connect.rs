//! Opening the file and bringing its schema up to date.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use super::SqliteStore;
use crate::adapters::sql::{is_transient, migrator, schema_is_behind};
use crate::ports::snapshot_store::StoreError;

const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// How long a write waits for another process to finish its own.
const BUSY: Duration = Duration::from_secs(10);
const ACQUIRE_PATIENCE: Duration = Duration::from_secs(30);
const READERS: u32 = 8;
/// Rows that the database's thread reads ahead of their consumer.
const READ_AHEAD: usize = 512;

pub(in crate::adapters) fn schema() -> Migrator {
    migrator(&[
        (1, "first", include_str!("../../../../migrations/sqlite/0001_first.sql")),
        (2, "nodes", include_str!("../../../../migrations/sqlite/0002_nodes.sql")),
        (5, "threads", include_str!("../../../../migrations/sqlite/0005_threads.sql")),
    ])
}

pub(super) async fn connect(url_or_path: &str, timeout: Duration) -> Result<SqliteStore, StoreError> {
    let options = parse(url_or_path)?;
    let file = options.get_filename().to_owned();
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| cannot_open(&file, &e))?;
    }
    let late = |_| StoreError::Unavailable {
        during: format!("opening {}", file.display()),
        reason: format!("another process holds it (waited {:.1} s); end that process", timeout.as_secs_f64()),
    };
    let impatient = options.clone().busy_timeout(timeout);
    tokio::time::timeout(timeout, upgrade(&impatient, &file)).await.map_err(late)??;

    // Connections are kept for ever: closing the last one would make SQLite tidy up and delete its log each time.
    let pool = |connections: u32| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let reading = options.clone().pragma("query_only", "on").row_buffer_size(READ_AHEAD);
    Ok(SqliteStore { writer: pool(1).connect_lazy_with(options), readers: pool(READERS).connect_lazy_with(reading) })
}

fn parse(url_or_path: &str) -> Result<SqliteConnectOptions, StoreError> {
    let options = if url_or_path.starts_with("sqlite:") {
        SqliteConnectOptions::from_str(url_or_path).map_err(|e| {
            StoreError::Misconfigured(format!(
                "\"{url_or_path}\" is not the address of a SQLite file ({e}); it looks like sqlite://folder/store.db"
            ))
        })?
    } else {
        SqliteConnectOptions::new().filename(url_or_path)
    };
    let name = options.get_filename().to_string_lossy();
    if name.is_empty() || name == ":memory:" || name.contains("sqlx-in-memory") {
        return Err(StoreError::Misconfigured(
            "the store must be a file, for it has to outlive the process: sqlite://folder/store.db".into(),
        ));
    }
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY))
}

async fn upgrade(options: &SqliteConnectOptions, file: &Path) -> Result<(), StoreError> {
    let place = file.display().to_string();
    let mut connection = options.connect().await.map_err(|e| opening_error(file, e))?;
    let applied = applied(&mut connection).await.map_err(|e| migration_error(e, file))?;
    if schema_is_behind(&place, &applied, &schema())? {
        // sqlx takes no lock on SQLite; this one lets the second of two processes find the tables made.
        let mut tx = connection.begin_with("begin immediate").await.map_err(|e| opening_error(file, e))?;
        schema().run_direct(None, &mut *tx, false).await.map_err(|e| migration_error(e, file))?;
        tx.commit().await.map_err(|e| opening_error(file, e))?;
    }
    // An error while saying goodbye changes nothing.
    let _ = connection.close().await;
    Ok(())
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<sqlx::migrate::AppliedMigration>, MigrateError> {
    let exists: bool = sqlx::query_scalar("select exists (select 1 from sqlite_master where type = 'table' and name = $1)")
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await?;
    if exists { connection.list_applied_migrations(MIGRATIONS_TABLE).await } else { Ok(Vec::new()) }
}

fn migration_error(e: MigrateError, file: &Path) -> StoreError {
    match e {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => opening_error(file, cause),
        other => StoreError::Failed { during: format!("upgrading the schema of {}", file.display()), reason: other.to_string() },
    }
}

fn opening_error(file: &Path, e: sqlx::Error) -> StoreError {
    if is_transient(&e) {
        return StoreError::Unavailable { during: format!("opening {}", file.display()), reason: e.to_string() };
    }
    cannot_open(file, &e)
}

fn cannot_open(file: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Misconfigured(format!(
        "cannot open the store {}: {why}; check that it is a SQLite file of ours, and that file and folder may be written",
        file.display()
    ))
}
