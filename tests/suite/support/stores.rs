//! The contracts of the ports that a store implements, run over each adapter: [`over_every_store!`].

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sqlx::{ConnectOptions, Executor, SqlSafeStr};
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::adapters::postgres::PostgresStore;
use stockwarden::ports::{Ledger, Owners, Registry, Reorders, SnapshotStore, StoreError};

use super::postgres::Database;

pub trait Store: SnapshotStore + Ledger + Owners + Registry + Reorders {}
impl<T: SnapshotStore + Ledger + Owners + Registry + Reorders> Store for T {}

const PATIENCE: Duration = Duration::from_secs(20);

enum Kind {
    Postgres(Box<Database>),
    Sqlite(tempfile::TempDir),
}

/// One store, empty at the start, which several nodes may open.
pub struct Site {
    kind: Kind,
}

impl Site {
    /// One more node on this store, with connections of its own.
    pub async fn node(&self) -> Arc<dyn Store> {
        self.try_node().await.unwrap_or_else(|e| panic!("open the store: {e}"))
    }

    pub async fn try_node(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match &self.kind {
            Kind::Postgres(database) => Arc::new(PostgresStore::connect(&database.url, PATIENCE).await?),
            Kind::Sqlite(_) => Arc::new(SqliteStore::connect(&self.file(), PATIENCE).await?),
        })
    }

    /// Statements of another program, or of a person.
    pub async fn sql(&self, statement: impl SqlSafeStr + Send) {
        let statement = statement.into_sql_str();
        match &self.kind {
            Kind::Postgres(database) => drop(database.connection().await.execute(statement).await.expect("statement")),
            Kind::Sqlite(_) => drop(self.sqlite().await.execute(statement).await.expect("statement")),
        }
    }

    /// What a person's query of one text column and row answers.
    pub async fn ask(&self, query: &'static str) -> Option<String> {
        match &self.kind {
            Kind::Postgres(database) => {
                sqlx::query_scalar(query).fetch_one(&mut database.connection().await).await.expect("query")
            }
            Kind::Sqlite(_) => sqlx::query_scalar(query).fetch_one(&mut self.sqlite().await).await.expect("query"),
        }
    }

    fn file(&self) -> String {
        match &self.kind {
            Kind::Sqlite(folder) => folder.path().join("data/store.db").display().to_string(),
            Kind::Postgres(_) => unreachable!("only a SQLite store is a file"),
        }
    }

    async fn sqlite(&self) -> sqlx::SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.file());
        options.connect().await.expect("open the file")
    }
}

type Test = for<'a> fn(&'a Site) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub fn on_postgres(test: Test) {
    run(async {
        let site = Site { kind: Kind::Postgres(Box::new(Database::create().await)) };
        let outcome = AssertUnwindSafe(test(&site)).catch_unwind().await;
        if let Kind::Postgres(database) = site.kind {
            database.remove().await;
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

pub fn on_sqlite(test: Test) {
    run(async {
        let site = Site { kind: Kind::Sqlite(tempfile::tempdir().expect("folder")) };
        test(&site).await;
    });
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime").block_on(test);
}

/// Makes of each named `async fn(&Site)` a test a store.
macro_rules! over_every_store {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(#[test]
            fn $name() {
                crate::support::stores::on_postgres(|site| Box::pin(super::$name(site)));
            })*
        }
        mod sqlite {
            $(#[test]
            fn $name() {
                crate::support::stores::on_sqlite(|site| Box::pin(super::$name(site)));
            })*
        }
    };
}
pub(crate) use over_every_store;
