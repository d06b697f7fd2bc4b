//! Three nodes, each behind proxies of its own, with topics, group and database of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use stockwarden::adapters::kafka::{KafkaSettings, TopicNames};

use super::proxy::{Protocol, Proxy};
use super::services::Services;
use super::target::Target;
use crate::system::node::{BINARY, MASTER_KEY, Node};

pub const NODES: usize = 3;
pub const PARTITIONS: i32 = 6;
pub const SECRET: &str = "shpss_0123456789abcdef0123456789abcdef";
const TARGET_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// To start again, or to end on SIGTERM.
const PATIENCE: Duration = Duration::from_secs(60);

/// Proxies of a node; they outlive installations, because Kafka's listeners are made for them.
pub struct Ways {
    pub kafka: Proxy,
    pub postgres: Proxy,
}

impl Ways {
    pub async fn start() -> Ways {
        Ways { kafka: Proxy::start(Protocol::Kafka).await, postgres: Proxy::start(Protocol::Other).await }
    }
}

struct Place {
    name: &'static str,
    folder: PathBuf,
    node: Mutex<Option<Node>>,
}

pub struct Installation {
    pub settings: KafkaSettings,
    pub token: String,
    database: PgConnectOptions,
    places: Vec<Place>,
}

impl Installation {
    /// Rules and shops are there and all nodes serve when it returns.
    pub async fn start(
        services: &Services,
        ways: &[Ways],
        target: &Target,
        folder: &Path,
        rules: &str,
        shops: &[String],
    ) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut settings = KafkaSettings::new(&services.broker, format!("group-{id}"), "load");
        settings.topics = TopicNames {
            facts: format!("facts-{id}"),
            decisions: format!("decisions-{id}"),
            dead_letters: format!("dead-letters-{id}"),
        };
        settings.partitions = PARTITIONS;
        let server = PgConnectOptions::from_str(&services.postgres_url).expect("the URL of the server");
        let mut admin = server.connect().await.expect("Postgres answers");
        admin.execute(AssertSqlSafe(format!("create database faults_{id}"))).await.expect("create database");
        admin.close().await.expect("close");
        let database = server.database(&format!("faults_{id}"));
        let mut places = Vec::new();
        for (name, way) in ["node-a", "node-b", "node-c"].into_iter().zip(ways) {
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            let url = database.clone().port(way.postgres.port).to_url_lossy().to_string();
            let config = config(&settings, &format!("127.0.0.1:{}", way.kafka.port), &url, name, &target.base);
            std::fs::write(folder.join("stockwarden.toml"), config).expect("the configuration");
            std::fs::write(folder.join("rules.toml"), rules).expect("the rules");
            places.push(Place { name, folder, node: Mutex::default() });
        }
        let mut installation = Installation { settings, token: String::new(), database, places };
        tokio::task::block_in_place(|| {
            installation.run(&["rules", "apply", "rules.toml"]);
            for shop in shops {
                installation.run(&["shop", "add", shop, "--webhook-secret-env", "SHOP_SECRET"]);
            }
            let token = installation.run(&["token", "create", "--role", "reader"]);
            installation.token = token["token"].as_str().expect("a token").to_owned();
        });
        for node in 0..NODES {
            installation.start_node(node).await.expect("a node starts");
        }
        installation
    }

    fn command(place: &Place, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(&place.folder).env_remove("RUST_LOG");
        command.env("STOCKWARDEN_MASTER_KEY", MASTER_KEY).env("SHOP_SECRET", SECRET).env("TARGET_SECRET", TARGET_SECRET);
        command
    }

    fn run(&self, args: &[&str]) -> Value {
        let output = Self::command(&self.places[0], &[args, &["--json"]].concat()).output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
    }

    fn node(&self, node: usize) -> std::sync::MutexGuard<'_, Option<Node>> {
        self.places[node].node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self, node: usize) -> &'static str {
        self.places[node].name
    }

    pub fn base(&self, node: usize) -> Option<String> {
        self.node(node).as_ref().map(|n| n.base.clone())
    }

    /// Starts it as a supervisor of services would: again and again, because what it needs may be away.
    pub async fn start_node(&self, node: usize) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let started = tokio::task::block_in_place(|| {
                let place = &self.places[node];
                Node::try_start(Self::command(place, &["serve"]), place.folder.join("node.log"))
            });
            match started {
                Ok(started) => {
                    *self.node(node) = Some(started);
                    return Ok(());
                }
                Err(told) if Instant::now() > deadline => {
                    return Err(format!("{} does not start within {PATIENCE:?}: {told}", self.name(node)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    pub fn kill(&self, node: usize) {
        let running = self.node(node).take();
        if let Some(running) = running {
            tokio::task::block_in_place(|| running.kill());
        }
    }

    pub fn signal(&self, node: usize, signal: &str) {
        if let Some(running) = &*self.node(node) {
            running.signal(signal);
        }
    }

    /// SIGTERM. It has to end, and well.
    pub async fn terminate(&self, node: usize) -> Result<(), String> {
        self.signal(node, "-TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended(node) {
                self.node(node).take();
                return match status.success() {
                    true => Ok(()),
                    false => Err(format!("{} ended with {status} on SIGTERM", self.name(node))),
                };
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not end within {PATIENCE:?} of SIGTERM", self.name(node)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn ended(&self, node: usize) -> Option<std::process::ExitStatus> {
        self.node(node).as_mut().and_then(Node::ended)
    }

    /// Nodes that ended although nobody had asked them to; they are started again, as anywhere.
    pub async fn revive(&self) -> Result<Vec<String>, String> {
        let mut fallen = Vec::new();
        for node in 0..NODES {
            if let Some(status) = self.ended(node) {
                self.node(node).take();
                fallen.push(format!("{} ended by itself: {status}", self.name(node)));
                self.start_node(node).await?;
            }
        }
        Ok(fallen)
    }

    /// Past the proxies.
    pub async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        self.database.connect().await
    }
}

fn config(settings: &KafkaSettings, broker: &str, store: &str, name: &str, target: &str) -> String {
    let TopicNames { facts, decisions, dead_letters } = &settings.topics;
    format!(
        r#"
[log]
kind = "kafka"
bootstrap_servers = "{broker}"
group_id = "{}"
partitions = {PARTITIONS}
topics = {{ facts = "{facts}", decisions = "{decisions}", dead_letters = "{dead_letters}" }}
[log.properties]
"session.timeout.ms" = "4000"
[store]
url = "{store}"
[http]
listen = "127.0.0.1:0"
[node]
name = "{name}"
[shards]
snapshot_interval = "500ms"
[handlers.erp]
kind = "target"
url = "{target}/orders"
secret = {{ env = "TARGET_SECRET" }}
timeout = "3s"
allow_private_addresses = true
[handlers.audit]
kind = "target"
url = "{target}/audit"
timeout = "3s"
allow_private_addresses = true
"#,
        settings.group_id
    )
}
