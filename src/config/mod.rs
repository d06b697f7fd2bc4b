//! Configuration: one TOML file, every key overridable by `STOCKWARDEN__SECTION__KEY`, everything with a default.
//!
//! A new key: a field here, its line in [`sections`], where it is read with its bounds; the reader then knows the name for
//! unknown keys, and the environment reaches it. Problems are collected and told together, never one at a time.

mod error;
mod master_key;
mod reader;
mod secret;
mod sections;
mod source;
#[cfg(test)]
mod tests;
pub mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{ConfigError, Problem};
pub use master_key::{MASTER_KEY, MasterKey, MasterKeyError, master_key, would_make_master_key};
pub use reader::nearest;
pub use secret::{Secret, SecretError, SecretRef};
pub use source::Env;

/// Read when no `--config` names another file.
pub const DEFAULT_FILE: &str = "stockwarden.toml";

/// The longest path that a Unix socket may have.
const SOCKET_PATH_MAX: usize = 107;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The embedded log, the SQLite store and the control socket live here.
    pub data_dir: PathBuf,
    pub log: LogConfig,
    pub store: StoreConfig,
    pub http: HttpConfig,
    pub node: NodeConfig,
    pub shards: ShardsConfig,
    pub handlers: BTreeMap<String, HandlerConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// A durable log in `data_dir`; no server.
    Embedded,
    Kafka,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    pub kind: LogKind,
    /// `host:port,host:port`; set if `kind` is Kafka.
    pub bootstrap_servers: String,
    pub group_id: String,
    pub topics: TopicsConfig,
    /// On creation only.
    pub partitions: i32,
    pub replication: i32,
    /// Handed to librdkafka.
    pub properties: BTreeMap<String, Property>,
}

/// What the topics are called on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsConfig {
    pub facts: String,
    pub decisions: String,
    pub dead_letters: String,
    pub features: String,
}

/// A property of librdkafka: plain, or a reference to a secret.
#[derive(Debug, Clone, PartialEq)]
pub enum Property {
    Plain(String),
    Secret(SecretRef),
    /// A secret that the environment gave directly.
    Given(Secret),
}

#[derive(Clone, PartialEq)]
pub enum StoreUrl {
    Sqlite(PathBuf),
    /// May hold a password.
    Postgres(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    pub url: StoreUrl,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpConfig {
    /// `host:port`
    pub listen: String,
    /// Where people and providers reach this installation; links in messages begin with it.
    pub public_url: Option<String>,
    /// Largest request body, bytes.
    pub body_limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeRole {
    Ingest,
    Shards,
    Handlers,
    Api,
}

impl NodeRole {
    pub const ALL: [NodeRole; 4] = [NodeRole::Ingest, NodeRole::Shards, NodeRole::Handlers, NodeRole::Api];

    pub const fn as_str(self) -> &'static str {
        match self {
            NodeRole::Ingest => "ingest",
            NodeRole::Shards => "shards",
            NodeRole::Handlers => "handlers",
            NodeRole::Api => "api",
        }
    }

    pub fn parse(text: &str) -> Option<NodeRole> {
        NodeRole::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// Unique among the nodes.
    pub name: String,
    /// Where other nodes reach this one; by default the address that it listens at, if that names one machine.
    pub advertise: Option<String>,
    /// Sorted, at least one.
    pub roles: Vec<NodeRole>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShardsConfig {
    pub max_resident_variants: usize,
    pub snapshot_interval: Duration,
    /// Upper bound of the time between the commits of a node that has nothing to decide.
    pub commit_interval: Duration,
}

/// A named handler instance. What its table may hold is its kind's business (`src/handlers`).
#[derive(Clone, PartialEq)]
pub struct HandlerConfig {
    pub kind: String,
    /// Without `kind`.
    pub table: toml::Table,
}

impl fmt::Debug for HandlerConfig {
    /// Keys only: a value may be a secret that somebody wrote there by mistake.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerConfig")
            .field("kind", &self.kind)
            .field("keys", &self.table.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl StoreUrl {
    /// With the password, for the driver.
    pub fn expose(&self) -> String {
        match self {
            StoreUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
            StoreUrl::Postgres(url) => url.clone(),
        }
    }
}

impl fmt::Display for StoreUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&values::without_password(&self.expose()))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl LogConfig {
    /// The properties with their secrets, for librdkafka.
    pub fn resolved_properties(&self, env: &Env) -> Result<BTreeMap<String, String>, SecretError> {
        let resolve = |(name, property): (&String, &Property)| {
            let value = match property {
                Property::Plain(text) => text.clone(),
                Property::Given(secret) => secret.expose().to_owned(),
                Property::Secret(reference) => reference.resolve(&format!("log.properties.\"{name}\""), env)?.expose().to_owned(),
            };
            Ok((name.clone(), value))
        };
        self.properties.iter().map(resolve).collect()
    }
}

impl Config {
    /// Reads `file`, if there is one, and lays the environment over it.
    pub fn load(file: Option<&Path>, env: &Env) -> Result<Config, ConfigError> {
        let source = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| ConfigError::Unreadable { path: path.to_owned(), reason: e.to_string() })?;
                source::Source::parse(&path.display().to_string(), &text)?
            }
            None => source::Source::empty(),
        };
        sections::read(&source.overlaid(env))
    }

    /// As [`Config::load`], from text; for tests and for the demo.
    pub fn from_text(name: &str, text: &str, env: &Env) -> Result<Config, ConfigError> {
        sections::read(&source::Source::parse(name, text)?.overlaid(env))
    }

    pub fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// Where the process that owns `data_dir` is asked.
    pub fn control_socket(&self) -> PathBuf {
        self.data_dir.join("control.sock")
    }

    /// Whether the log or the store lives on this machine alone, so that one process owns it.
    pub fn is_local(&self) -> bool {
        self.log.kind == LogKind::Embedded || matches!(self.store.url, StoreUrl::Sqlite(_))
    }
}
