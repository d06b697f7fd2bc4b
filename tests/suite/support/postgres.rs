//! A database of its own for each test, on the real Postgres that `./test` starts.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

const VARIABLE: &str = "STOCKWARDEN_TEST_POSTGRES_URL";

/// A database that exists until [`Database::remove`]; what a failed test leaves goes with the server's folder.
pub struct Database {
    server: PgConnectOptions,
    name: String,
    pub url: String,
}

impl Database {
    pub async fn create() -> Database {
        let Ok(url) = std::env::var(VARIABLE) else {
            panic!("{VARIABLE} is not set: these tests need a real Postgres; run ./test, which starts one");
        };
        let server = PgConnectOptions::from_str(&url).expect("the URL of the test server");
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut admin = connect(&server).await;
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.expect("create database");
        admin.close().await.expect("close");
        let url = server.clone().database(&name).to_url_lossy().to_string();
        Database { server, name, url }
    }

    /// A plain connection, to look at what the store has written or to play another program.
    pub async fn connection(&self) -> PgConnection {
        connect(&self.server.clone().database(&self.name)).await
    }

    pub async fn remove(self) {
        let mut admin = connect(&self.server).await;
        admin.execute(AssertSqlSafe(format!("drop database {} with (force)", self.name))).await.expect("drop database");
        admin.close().await.expect("close");
    }
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    options.connect().await.unwrap_or_else(|e| panic!("{VARIABLE} does not lead to a Postgres ({e}); run ./test"))
}
