//! Chooses and opens the adapters that a configuration names.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use crate::adapters::embedded::log::{EmbeddedLog, Options};
use crate::adapters::embedded::sqlite::SqliteStore;
use crate::adapters::kafka::{KafkaLog, KafkaSettings, TopicNames};
use crate::adapters::postgres::PostgresStore;
use crate::cli::{Fault, store_mend};
use crate::config::{Config, Env, LogKind, StoreUrl};
use crate::events::time::Millis;
use crate::ports::{EventLog, Ledger, Owners, Registry, Reorders, SnapshotStore};

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
    pub reorders: Arc<dyn Reorders>,
}

/// The wall clock, Unix milliseconds: the only one there is; everything else is given it.
pub fn wall_clock() -> Millis {
    Utc::now().timestamp_millis()
}

/// Opens log and store in bounded time. `node` is the name under which transactions run: a second process with the same name
/// would fence the first.
pub async fn open(config: &Config, env: &Env, node: &str) -> Result<Adapters, Fault> {
    // The embedded log's lock guards the embedded store as well; a group on Kafka is bound to its store.
    let embedded = match config.log.kind {
        LogKind::Embedded => Some(open_embedded(config)?),
        LogKind::Kafka => None,
    };
    let away = |e: crate::ports::StoreError| Fault::new("cannot open the store").because(e.to_string()).mend(store_mend(config));
    type Stores = (Arc<dyn SnapshotStore>, Arc<dyn Ledger>, Arc<dyn Registry>, Arc<dyn Owners>, Arc<dyn Reorders>);
    fn all<S: SnapshotStore + Ledger + Registry + Owners + Reorders>(store: S) -> Stores {
        let store = Arc::new(store);
        (store.clone(), store.clone(), store.clone(), store.clone(), store)
    }
    let url = config.store.url.expose();
    let (snapshots, ledger, registry, owners, reorders) = match &config.store.url {
        StoreUrl::Sqlite(_) => all(SqliteStore::connect(&url, PATIENCE).await.map_err(away)?),
        StoreUrl::Postgres(_) => all(PostgresStore::connect(&url, PATIENCE).await.map_err(away)?),
    };
    let log = match embedded {
        Some(log) => log,
        None => open_kafka(config, env, node, snapshots.store_id().await.map_err(away)?)?,
    };
    Ok(Adapters { log, snapshots, ledger, registry, owners, reorders })
}

fn open_embedded(config: &Config) -> Result<Arc<dyn EventLog>, Fault> {
    let options = Options {
        partitions: config.log.partitions,
        segment_bytes: SEGMENT_BYTES,
        max_record_bytes: MAX_RECORD_BYTES,
        clock: Arc::new(wall_clock),
    };
    Ok(EmbeddedLog::open(&config.log_dir(), options).map_err(|e| cannot_open(&e))?)
}

fn open_kafka(config: &Config, env: &Env, node: &str, store: Uuid) -> Result<Arc<dyn EventLog>, Fault> {
    let l = &config.log;
    let mut settings = KafkaSettings::new(&l.bootstrap_servers, &l.group_id, node);
    settings.topics = TopicNames {
        facts: l.topics.facts.clone(),
        decisions: l.topics.decisions.clone(),
        dead_letters: l.topics.dead_letters.clone(),
    };
    settings.partitions = l.partitions;
    settings.replication = l.replication;
    settings.properties = l.resolved_properties(env).map_err(|e| cannot_open(&e))?;
    settings.store = Some(store.to_string());
    Ok(KafkaLog::connect(settings).map_err(|e| cannot_open(&e))?)
}

fn cannot_open(why: &dyn std::fmt::Display) -> Fault {
    Fault::new("cannot open the log").because(why.to_string())
}
