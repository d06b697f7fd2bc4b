//! Finding the server, bringing the schema up to date, opening the pool. Messages name where was tried and what to check,
//! never the password.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::Semaphore;

use super::PostgresStore;
use crate::adapters::sql::{is_transient, migrator, schema_is_behind};
use crate::ports::snapshot_store::StoreError;

const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// A migration may rewrite a large table.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(15 * 60);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// Few, for they cost the server memory and a node writes in batches.
const CONNECTIONS: u32 = 8;
const BULK_READS: usize = 4;
const ACQUIRE_PATIENCE: Duration = Duration::from_secs(10);

/// A node that freezes inside a transaction (a paused machine) must not hold its partition's row for ever: the server ends
/// such a session, sooner than the next owner stops waiting for the row. Compiling a claim takes the server longer than
/// running it, hence no jit.
const SESSION: &str = "set idle_in_transaction_session_timeout = '10s'; set lock_timeout = '15s'; set jit = off";

pub(in crate::adapters) fn schema() -> Migrator {
    migrator(&[
        (1, "first", include_str!("../../../migrations/postgres/0001_first.sql")),
        (2, "nodes", include_str!("../../../migrations/postgres/0002_nodes.sql")),
        (5, "threads", include_str!("../../../migrations/postgres/0005_threads.sql")),
    ])
}

pub(super) async fn connect(url: &str, timeout: Duration) -> Result<PostgresStore, StoreError> {
    let options = parse(url)?;
    let place = place(&options);
    let mut first = reach(&options, &place, timeout).await?;
    upgrade(&mut first, &place, timeout).await?;
    // An error while saying goodbye changes nothing.
    let _ = first.close().await;

    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE_PATIENCE)
        .after_connect(|connection, _| Box::pin(async move { connection.execute(SESSION).await.map(drop) }))
        .connect_lazy_with(options);
    Ok(PostgresStore { pool, bulk_reads: Arc::new(Semaphore::new(BULK_READS)) })
}

fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    let wrong = |why: String| {
        StoreError::Misconfigured(format!(
            "the store's address is not a Postgres URL ({why}); it looks like postgres://user:password@host:5432/database"
        ))
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong("it does not begin with postgres://".into()));
    }
    let options = PgConnectOptions::from_str(url).map_err(|e| wrong(e.to_string()))?;
    let named = options.get_application_name().is_some();
    Ok(if named { options } else { options.application_name("stockwarden") })
}

/// Host, port and database, for messages.
fn place(options: &PgConnectOptions) -> String {
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("Postgres at {host}:{}, database \"{database}\"", options.get_port())
}

/// Tries until the server takes the connection, refuses it for good, or `timeout` has passed.
async fn reach(options: &PgConnectOptions, place: &str, timeout: Duration) -> Result<PgConnection, StoreError> {
    let started = Instant::now();
    let mut last = "no answer".to_owned();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(e)) if is_transient(&e) => last = cause(&e),
            Ok(Err(e)) => return Err(StoreError::Misconfigured(refusal(&e, options, place))),
            Err(_) => {}
        }
        if timeout.saturating_sub(started.elapsed()) <= BETWEEN_TRIES {
            return Err(StoreError::Unavailable {
                during: format!("connecting to {place}"),
                reason: format!(
                    "{last} (tried for {:.1} s); check that the server runs, that host and port in [store] url are right, and \
                     that nothing in between blocks the connection",
                    timeout.as_secs_f64()
                ),
            });
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

fn cause(e: &sqlx::Error) -> String {
    match e {
        sqlx::Error::Io(io) => io.to_string(),
        sqlx::Error::Database(d) => d.message().to_owned(),
        other => other.to_string(),
    }
}

/// What a refusal means to the operator.
fn refusal(e: &sqlx::Error, options: &PgConnectOptions, place: &str) -> String {
    let code = e.as_database_error().and_then(|d| d.code()).unwrap_or_default();
    let user = options.get_username();
    let advice = match &*code {
        "3D000" => "create the database (createdb), or correct its name in [store] url".to_owned(),
        "28P01" | "28000" => {
            format!("check user \"{user}\" and its password in [store] url, and that pg_hba.conf admits it from here")
        }
        _ => "check [store] url".to_owned(),
    };
    format!("{place} refused the connection: {}; {advice}", cause(e))
}

/// Brings the schema up to date; refuses a store that a newer program has upgraded.
async fn upgrade(connection: &mut PgConnection, place: &str, timeout: Duration) -> Result<(), StoreError> {
    let during = || format!("upgrading the schema of {place}");
    let late = |_| StoreError::Unavailable { during: during(), reason: "the server does not answer".into() };
    let known = schema();

    let looked = tokio::time::timeout(timeout, applied(connection)).await.map_err(late)?;
    let applied = looked.map_err(|e| migration_error(e, &during(), place))?;
    if !schema_is_behind(place, &applied, &known)? {
        return Ok(());
    }
    // Takes a lock, so that of several nodes one makes the tables and the others find them made.
    let made = tokio::time::timeout(MIGRATION_PATIENCE, known.run_direct(None, connection, false)).await.map_err(late)?;
    made.map_err(|e| migration_error(e, &during(), place))
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<sqlx::migrate::AppliedMigration>, MigrateError> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(MIGRATIONS_TABLE).fetch_one(&mut *connection).await?;
    if exists { connection.list_applied_migrations(MIGRATIONS_TABLE).await } else { Ok(Vec::new()) }
}

fn migration_error(e: MigrateError, during: &str, place: &str) -> StoreError {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = &e else {
        return StoreError::Failed { during: during.to_owned(), reason: e.to_string() };
    };
    if is_transient(cause) {
        return StoreError::Unavailable { during: during.to_owned(), reason: cause.to_string() };
    }
    match cause.as_database_error().and_then(|d| d.code()).as_deref() {
        Some("42501") => StoreError::Misconfigured(format!(
            "{place} does not let us make tables: {cause}; let the user create in the schema (grant create on schema public to …)"
        )),
        _ => StoreError::Failed { during: during.to_owned(), reason: e.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_explained_without_its_password() {
        for url in ["mysql://u:secret@h/db", "postgres://u:secret@h:port/db", "postgres://u:secret@h/db?sslmode=maybe"] {
            let message = parse(url).expect_err(url).to_string();
            assert!(message.contains("postgres://user:password@host:5432/database"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_place_names_host_port_and_database_alone() {
        let options = parse("postgres://u:secret@db.example:6000/stock").expect("url");
        assert_eq!(place(&options), "Postgres at db.example:6000, database \"stock\"");
    }
}
