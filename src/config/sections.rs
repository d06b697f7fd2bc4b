//! The sections of the file: names of keys, defaults, bounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::error::ConfigError;
use super::reader::{Reader, Section};
use super::secret::{self, Secret, SecretRef};
use super::source::Source;
use super::values;
use super::{
    Config, HandlerConfig, HttpConfig, LogConfig, LogKind, NodeConfig, NodeRole, Property, SOCKET_PATH_MAX, ShardsConfig,
    StoreConfig, StoreUrl, TopicsConfig,
};
use crate::events::record::Topic;

const DEFAULT_PARTITIONS: i64 = 12;
const DEFAULT_BODY_LIMIT: u64 = 2 << 20;
/// Larger bodies would not fit into a record of the log.
const MAX_BODY_LIMIT: u64 = 64 << 20;

pub fn read(source: &Source) -> Result<Config, ConfigError> {
    let reader = Reader::new(source);
    let root = reader.root();
    let data_dir = PathBuf::from(root.text("data_dir").unwrap_or("data"));
    let http = http(&root.section("http"));
    let config = Config {
        log: log(&root.section("log")),
        store: store(&root.section("store"), &data_dir),
        node: node(&root.section("node")),
        shards: shards(&root.section("shards")),
        handlers: handlers(&root.section("handlers")),
        http,
        data_dir,
    };
    let socket = config.control_socket();
    let length = socket.as_os_str().len();
    if config.is_local() && length > SOCKET_PATH_MAX {
        root.problem(
            "data_dir",
            format!(
                "the path of its control socket would be {length} bytes long and may be {SOCKET_PATH_MAX}; choose a shorter one"
            ),
        );
    }
    root.finish();
    drop(root);
    match reader.into_problems() {
        none if none.is_empty() => Ok(config),
        problems => Err(ConfigError::Invalid(problems)),
    }
}

fn log(s: &Section<'_>) -> LogConfig {
    let servers = s.parsed(
        "bootstrap_servers",
        "it must be host:port, or several with commas between them, such as \"127.0.0.1:9092\"",
        |t| t.split(',').all(|one| values::is_host_port(one.trim())).then(|| t.replace(' ', "")),
    );
    let named = s.one_of("kind", &[("embedded", LogKind::Embedded), ("kafka", LogKind::Kafka)]);
    // Who names brokers and no kind means Kafka.
    let kind = named.unwrap_or(if servers.is_some() { LogKind::Kafka } else { LogKind::Embedded });
    if kind == LogKind::Kafka && servers.is_none() && s.entries().all(|(k, _)| k != "bootstrap_servers") {
        s.problem_unshown(
            "bootstrap_servers",
            "it is missing; with log.kind = \"kafka\" it names the brokers, such as \"127.0.0.1:9092\"",
        );
    }
    let config = LogConfig {
        kind,
        bootstrap_servers: servers.unwrap_or_default(),
        group_id: s.parsed("group_id", NAME, kafka_name).unwrap_or_else(|| "stockwarden".to_owned()),
        topics: topics(&s.section("topics")),
        partitions: s.integer("partitions", 1..=10_000).unwrap_or(DEFAULT_PARTITIONS) as i32,
        replication: s.integer("replication", 1..=100).unwrap_or(1) as i32,
        properties: properties(&s.section("properties")),
    };
    s.finish();
    config
}

const NAME: &str = "it must be 1 to 200 letters, digits and . _ -";

fn kafka_name(text: &str) -> Option<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    ((1..=200).contains(&text.len()) && text.bytes().all(legal) && text != "." && text != "..").then(|| text.to_owned())
}

fn topics(s: &Section<'_>) -> TopicsConfig {
    let name = |key, default: &str| s.parsed(key, NAME, kafka_name).unwrap_or_else(|| default.to_owned());
    let topics = TopicsConfig {
        facts: name("facts", Topic::Facts.default_name()),
        decisions: name("decisions", Topic::Decisions.default_name()),
        dead_letters: name("dead_letters", Topic::DeadLetters.default_name()),
        features: name("features", "variant-features"),
    };
    let mut seen = BTreeMap::new();
    for (key, name) in [
        ("facts", &topics.facts),
        ("decisions", &topics.decisions),
        ("dead_letters", &topics.dead_letters),
        ("features", &topics.features),
    ] {
        if let Some(first) = seen.insert(name, key) {
            s.problem(key, format!("it is the same topic as log.topics.{first}; each needs its own"));
        }
    }
    s.finish();
    topics
}

fn properties(s: &Section<'_>) -> BTreeMap<String, Property> {
    let mut properties = BTreeMap::new();
    for (name, value) in s.entries() {
        // The environment is where secrets belong; the file is not.
        let secret = is_secret_property(name);
        let property = match (value, s.env_text(name)) {
            (Value::Table(_), _) => match SecretRef::from_toml(value) {
                Ok(reference) => Property::Secret(reference),
                Err(told) => {
                    s.problem_unshown(name, format!("{told}; quote a name with dots: \"ssl.ca.location\" = …"));
                    continue;
                }
            },
            (_, Some(raw)) if secret => Property::Given(Secret::new(value.as_str().unwrap_or(raw))),
            (_, None) if secret => {
                s.problem_unshown(name, format!("{}; the secret itself is never written here", secret::FORMS));
                continue;
            }
            (Value::String(text), _) => Property::Plain(text.clone()),
            (Value::Integer(_) | Value::Float(_) | Value::Boolean(_), _) => Property::Plain(value.to_string()),
            _ => {
                s.problem(name, "a property of librdkafka is text, a number, true or false");
                continue;
            }
        };
        if OURS.contains(&name.as_str()) {
            s.problem_unshown(name, "this property has a key of its own: log.bootstrap_servers, log.group_id");
            continue;
        }
        properties.insert(name.clone(), property);
    }
    properties
}

const OURS: [&str; 4] = ["bootstrap.servers", "metadata.broker.list", "group.id", "transactional.id"];

fn is_secret_property(name: &str) -> bool {
    ["password", "secret", "key.pem", "oauthbearer.config"].iter().any(|part| name.contains(part))
}

fn store(s: &Section<'_>, data_dir: &std::path::Path) -> StoreConfig {
    const ALLOWED: &str = "it must be sqlite://PATH or postgres://USER@HOST:PORT/DATABASE";
    let url = s.text("url").and_then(|text| {
        let url = if let Some(path) = text.strip_prefix("sqlite://") {
            (!path.is_empty()).then(|| StoreUrl::Sqlite(PathBuf::from(path)))
        } else if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            (!rest.is_empty()).then(|| StoreUrl::Postgres(text.to_owned()))
        } else {
            None
        };
        if url.is_none() {
            let shown = format!("\"{}\"", values::without_password(text));
            // Without a scheme nothing tells where a password would stand.
            s.problem_shown("url", text.contains("://").then_some(shown), ALLOWED);
        }
        url
    });
    s.finish();
    StoreConfig { url: url.unwrap_or_else(|| StoreUrl::Sqlite(data_dir.join("stockwarden.db"))) }
}

fn http(s: &Section<'_>) -> HttpConfig {
    const SIZE: &str = "it must be a number of bytes or a size such as \"2MiB\", from 1KiB to 64MiB";
    let listen =
        s.parsed("listen", "it must be host:port, such as \"127.0.0.1:8080\"", |t| values::is_host_port(t).then(|| t.to_owned()));
    let body_limit = s.scalar("body_limit").and_then(|text| {
        let size = values::bytes(&text).filter(|n| (1024..=MAX_BODY_LIMIT).contains(n));
        if size.is_none() {
            s.problem("body_limit", SIZE);
        }
        size
    });
    let http = HttpConfig {
        listen: listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned()),
        public_url: url(s, "public_url"),
        body_limit: body_limit.unwrap_or(DEFAULT_BODY_LIMIT) as usize,
    };
    s.finish();
    http
}

fn url(s: &Section<'_>, name: &'static str) -> Option<String> {
    s.parsed(name, "it must be a URL such as \"https://stockwarden.example.com\"", |t| {
        values::is_http_url(t).then(|| t.trim_end_matches('/').to_owned())
    })
}

fn node(s: &Section<'_>) -> NodeConfig {
    let roles = s.some_of("roles", &NodeRole::ALL.map(|r| (r.as_str(), r)));
    let node = NodeConfig {
        name: s.parsed("name", NAME, kafka_name).unwrap_or_else(host_name),
        advertise: url(s, "advertise"),
        roles: sorted(roles.unwrap_or_else(|| NodeRole::ALL.to_vec())),
    };
    s.finish();
    node
}

pub(super) fn sorted(mut roles: Vec<NodeRole>) -> Vec<NodeRole> {
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn host_name() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    named.ok().and_then(|n| kafka_name(n.trim())).unwrap_or_else(|| "node".to_owned())
}

fn shards(s: &Section<'_>) -> ShardsConfig {
    let duration = |name, default: u64, from: u64, to: u64| {
        let (default, from, to) = (Duration::from_millis(default), Duration::from_millis(from), Duration::from_millis(to));
        let allowed = format!(
            "it must be a duration such as \"{}\", from {} to {}",
            values::show_duration(default),
            values::show_duration(from),
            values::show_duration(to)
        );
        s.parsed(name, &allowed, |t| values::duration(t).filter(|d| (from..=to).contains(d))).unwrap_or(default)
    };
    let shards = ShardsConfig {
        max_resident_variants: s.integer("max_resident_variants", 1_000..=1_000_000_000).unwrap_or(2_000_000) as usize,
        snapshot_interval: duration("snapshot_interval", 5_000, 100, 3_600_000),
        commit_interval: duration("commit_interval", 20, 1, 5_000),
    };
    s.finish();
    shards
}

fn handlers(s: &Section<'_>) -> BTreeMap<String, HandlerConfig> {
    let mut handlers = BTreeMap::new();
    for (name, table) in s.named_sections() {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        if !name.bytes().all(legal) || !(1..=64).contains(&name.len()) {
            s.problem_unshown(name, "a handler's name is 1 to 64 lower-case letters, digits, _ and -");
            continue;
        }
        let Some(table) = table else {
            s.problem_unshown(name, format!("this is a section; write [{}] and its keys below it", s.key(name)));
            continue;
        };
        let mut table = table.clone();
        match table.remove("kind") {
            Some(Value::String(kind)) if !kind.is_empty() => {
                handlers.insert(name.to_owned(), HandlerConfig { kind, table });
            }
            Some(_) => s.problem_unshown(&format!("{name}.kind"), "it must be text, in quotes"),
            None => s.problem_unshown(name, "it has no kind; every handler needs one, such as kind = \"target\""),
        }
    }
    handlers
}
