//! Chooses and opens the adapters that a configuration names.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;

use crate::adapters::embedded::log::{EmbeddedLog, Options};
use crate::adapters::embedded::sqlite::SqliteStore;
use crate::adapters::kafka::{KafkaLog, KafkaSettings, TopicNames};
use crate::adapters::postgres::PostgresStore;
use crate::cli::Fault;
use crate::config::{Config, Env, LogKind, StoreUrl};
use crate::events::time::Millis;
use crate::ports::{EventLog, Ledger, Owners, Registry, SnapshotStore};

/// How long a server may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(10);
const SEGMENT_BYTES: u64 = 64 << 20;
/// Bodies are reduced before they are written; the largest product stays far below.
const MAX_RECORD_BYTES: usize = 4 << 20;

pub struct Adapters {
    pub log: Arc<dyn EventLog>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub ledger: Arc<dyn Ledger>,
    pub registry: Arc<dyn Registry>,
    pub owners: Arc<dyn Owners>,
}

/// The wall clock, Unix milliseconds: the only one there is; everything else is given it.
pub fn wall_clock() -> Millis {
    Utc::now().timestamp_millis()
}

/// Opens log and store in bounded time. `node` is the name under which transactions run: a second process with the same name
/// would fence the first.
pub async fn open(config: &Config, env: &Env, node: &str) -> Result<Adapters, Fault> {
    let log = open_log(config, env, node)?;
    let away = |e: crate::ports::StoreError| {
        Fault::new("cannot open the store").because(e.to_string()).mend("stockwarden check says what cannot be reached")
    };
    fn all<S: SnapshotStore + Ledger + Registry + Owners>(log: Arc<dyn EventLog>, store: S) -> Adapters {
        let store = Arc::new(store);
        Adapters { log, snapshots: store.clone(), ledger: store.clone(), registry: store.clone(), owners: store }
    }
    let url = config.store.url.expose();
    match &config.store.url {
        StoreUrl::Sqlite(_) => Ok(all(log, SqliteStore::connect(&url, PATIENCE).await.map_err(away)?)),
        StoreUrl::Postgres(_) => Ok(all(log, PostgresStore::connect(&url, PATIENCE).await.map_err(away)?)),
    }
}

fn open_log(config: &Config, env: &Env, node: &str) -> Result<Arc<dyn EventLog>, Fault> {
    let away = |e: &dyn std::fmt::Display| Fault::new("cannot open the log").because(e.to_string());
    let l = &config.log;
    Ok(match l.kind {
        LogKind::Embedded => {
            let options = Options {
                partitions: l.partitions,
                segment_bytes: SEGMENT_BYTES,
                max_record_bytes: MAX_RECORD_BYTES,
                clock: Arc::new(wall_clock),
            };
            EmbeddedLog::open(&config.log_dir(), options).map_err(|e| away(&e))?
        }
        LogKind::Kafka => {
            let mut settings = KafkaSettings::new(&l.bootstrap_servers, &l.group_id, node);
            settings.topics = TopicNames {
                facts: l.topics.facts.clone(),
                decisions: l.topics.decisions.clone(),
                dead_letters: l.topics.dead_letters.clone(),
            };
            settings.partitions = l.partitions;
            settings.replication = l.replication;
            settings.properties = l.resolved_properties(env).map_err(|e| away(&e))?;
            KafkaLog::connect(settings).map_err(|e| away(&e))?
        }
    })
}
