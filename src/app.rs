//! The one place where adapters are chosen and the tree is started and stopped in order.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::adapters::embedded::log::{EmbeddedLog, Options};
use crate::adapters::embedded::sqlite::SqliteStore;
use crate::adapters::kafka::{KafkaLog, KafkaSettings, TopicNames};
use crate::adapters::postgres::PostgresStore;
use crate::admin::{RuleChecker, RuleProblem};
use crate::cli::{Fault, Ports, World};
use crate::config::{Config, Env, LogKind, StoreUrl};
use crate::domain::rules;
use crate::ports::{EventLog, Registry};

const PATIENCE: Duration = Duration::from_secs(10);
const SEGMENT_BYTES: u64 = 64 << 20;
const MAX_RECORD_BYTES: usize = 4 << 20;

pub struct App;

impl World for App {
    fn open<'a>(&'a self, config: &'a Config, env: &'a Env) -> BoxFuture<'a, Result<Ports, Fault>> {
        Box::pin(async move {
            let away =
                |what: &str, e: &dyn std::fmt::Display| Fault::new(format!("cannot open the {what}")).because(e.to_string());
            let log: Arc<dyn EventLog> = match config.log.kind {
                LogKind::Embedded => {
                    let options = Options {
                        partitions: config.log.partitions,
                        segment_bytes: SEGMENT_BYTES,
                        max_record_bytes: MAX_RECORD_BYTES,
                        clock: Arc::new(|| Utc::now().timestamp_millis()),
                    };
                    EmbeddedLog::open(&config.log_dir(), options).map_err(|e| away("log", &e))?
                }
                LogKind::Kafka => {
                    let l = &config.log;
                    let properties = l.resolved_properties(env).map_err(|e| away("log", &e))?;
                    // A name of its own: under the node's name a command would fence the node's transactions.
                    let name = format!("{}-cli", config.node.name);
                    let mut settings = KafkaSettings::new(&l.bootstrap_servers, &l.group_id, name);
                    settings.topics = TopicNames {
                        facts: l.topics.facts.clone(),
                        decisions: l.topics.decisions.clone(),
                        dead_letters: l.topics.dead_letters.clone(),
                    };
                    (settings.partitions, settings.replication, settings.properties) = (l.partitions, l.replication, properties);
                    KafkaLog::connect(settings).map_err(|e| away("log", &e))?
                }
            };
            let registry: Arc<dyn Registry> = match &config.store.url {
                url @ StoreUrl::Sqlite(_) => {
                    Arc::new(SqliteStore::connect(&url.expose(), PATIENCE).await.map_err(|e| away("store", &e))?)
                }
                url @ StoreUrl::Postgres(_) => {
                    Arc::new(PostgresStore::connect(&url.expose(), PATIENCE).await.map_err(|e| away("store", &e))?)
                }
            };
            Ok(Ports { log, registry })
        })
    }

    fn rules(&self) -> Arc<dyn RuleChecker> {
        Arc::new(Rules)
    }

    fn handler_problems(&self, _config: &Config, _env: &Env) -> Vec<(String, String)> {
        Vec::new()
    }

    fn serve(&self, _config: Config, _env: Env) -> Result<(), Fault> {
        Err(Fault::new("this build has no node"))
    }
}

struct Rules;

impl RuleChecker for Rules {
    fn check(&self, text: &str) -> Result<Vec<Value>, Vec<RuleProblem>> {
        let problem = |place: String, message: String| RuleProblem { place, message };
        let read = rules::from_toml(text).map_err(|problems| {
            let named = |p: rules::Problem| {
                problem(if p.rule.is_empty() { String::new() } else { format!("rule {}", p.rule) }, p.message)
            };
            problems.into_iter().map(named).collect::<Vec<_>>()
        })?;
        let json = |rule| serde_json::to_value(rule).map_err(|e| vec![problem(String::new(), e.to_string())]);
        read.iter().map(json).collect()
    }
}
