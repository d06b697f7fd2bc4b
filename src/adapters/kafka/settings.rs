//! What a user may say about Kafka, and the librdkafka configuration that each of our clients gets from it.
//!
//! A new kind of client is a new [`Role`]; a property that would break a promise of the port goes to [`refusal`].

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaConfRes;

use super::binding;
use crate::events::record::Topic;
use crate::ports::event_log::{Group, LogError};

/// Room in a message beside key, value and headers: batch and record framing, header names.
const FRAMING: usize = 64 * 1024;
/// A rebalance waits so long for a member, and a member for the answer to its joining, when the other side has gone without a word;
/// librdkafka's default is five minutes. Handing partitions over keeps a member from polling for a fraction of it.
const LONGEST_REBALANCE_MS: u64 = 45_000;
/// Past this an append has failed: a webhook's sender waits 5 s in all (PITFALLS 23).
pub(super) const APPEND_TIMEOUT_MS: u32 = 4_000;
/// A frozen node holds all committed reads for so long at most (PITFALLS 30).
pub(super) const TRANSACTION_TIMEOUT_MS: u32 = 10_000;

/// What the topics are called on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicNames {
    pub facts: String,
    pub decisions: String,
    pub dead_letters: String,
}

impl Default for TopicNames {
    fn default() -> Self {
        let name = |t: Topic| t.default_name().to_owned();
        TopicNames { facts: name(Topic::Facts), decisions: name(Topic::Decisions), dead_letters: name(Topic::DeadLetters) }
    }
}

impl TopicNames {
    pub fn of(&self, topic: Topic) -> &str {
        match topic {
            Topic::Facts => &self.facts,
            Topic::Decisions => &self.decisions,
            Topic::DeadLetters => &self.dead_letters,
        }
    }
}

#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port,host:port`
    pub bootstrap_servers: String,
    /// The group of the shards; the dispatcher's is this with `-dispatcher`.
    pub group_id: String,
    /// Unique among the nodes: two nodes of one name fence each other's transactions.
    pub node_name: String,
    pub topics: TopicNames,
    /// Of every topic, fixed for ever: another number would remap keys (PITFALLS 17).
    pub partitions: i32,
    pub replication: i32,
    /// Handed to librdkafka: TLS, SASL, tuning.
    pub properties: BTreeMap<String, String>,
    /// Largest key + value + headers of a record, bytes.
    pub max_record_bytes: usize,
    /// Id of the store that goes with the groups, written beside their offsets: what a group has decided is in its own store only,
    /// so a second cluster under the same name, with another store, is refused.
    pub store: Option<String>,
}

impl KafkaSettings {
    pub const DEFAULT_MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;

    pub fn new(bootstrap_servers: impl Into<String>, group_id: impl Into<String>, node_name: impl Into<String>) -> Self {
        KafkaSettings {
            bootstrap_servers: bootstrap_servers.into(),
            group_id: group_id.into(),
            node_name: node_name.into(),
            topics: TopicNames::default(),
            partitions: 24,
            replication: 1,
            properties: BTreeMap::new(),
            max_record_bytes: Self::DEFAULT_MAX_RECORD_BYTES,
            store: None,
        }
    }

    pub(super) fn check_binding(&self, group: Group, found: &TopicPartitionList) -> Result<(), LogError> {
        match &self.store {
            Some(store) => binding::check(found, &self.group(group), store),
            None => Ok(()),
        }
    }

    pub(super) fn group(&self, group: Group) -> String {
        match group {
            Group::Shards => self.group_id.clone(),
            Group::Dispatcher => format!("{}-dispatcher", self.group_id),
        }
    }

    /// What a topic's `max.message.bytes` must be at least. Never below librdkafka's own batches of 1 MB.
    pub(super) fn max_message_bytes(&self) -> usize {
        self.max_record_bytes.max(1024 * 1024) + FRAMING
    }

    pub(super) fn kip_848(&self) -> bool {
        self.properties.get("group.protocol").is_some_and(|p| p.eq_ignore_ascii_case("consumer"))
    }

    /// Refuses properties that would break a promise, that librdkafka does not know, or whose value it does not accept.
    pub(super) fn check(&self) -> Result<(), LogError> {
        if self.bootstrap_servers.trim().is_empty() {
            return Err(LogError::Misconfigured("bootstrap_servers is empty: name at least one broker, host:port".into()));
        }
        if self.partitions < 1 || self.replication < 1 {
            let (p, r) = (self.partitions, self.replication);
            return Err(LogError::Misconfigured(format!("partitions = {p} and replication = {r} must both be at least 1")));
        }
        for (key, value) in &self.properties {
            if let Some(why) = refusal(key, value) {
                return Err(LogError::Misconfigured(format!("the log property \"{key}\" cannot be set to this: {why}")));
            }
            let alone = ClientConfig::new().set(key, value).create_native_config().map(drop);
            alone.map_err(|e| refused_by_driver(&e, &self.properties))?;
        }
        Ok(())
    }

    pub(super) fn config(&self, role: &Role) -> ClientConfig {
        let mut c = ClientConfig::new();
        c.set_log_level(RDKafkaLogLevel::Info);
        c.set("client.id", &self.node_name);
        for (key, value) in role.tuning() {
            c.set(*key, *value);
        }
        if matches!(role, Role::Member { .. }) && !self.kip_848() {
            // Members hear of a rebalance with their heartbeat; every handover waits for two. With the new group
            // protocol the broker says how often.
            c.set("heartbeat.interval.ms", "1000");
            // What a killed node held stays dark for so long; librdkafka's own 45 s are too many.
            c.set("session.timeout.ms", "10000");
        }
        for (key, value) in &self.properties {
            c.set(key, value);
        }
        if matches!(role, Role::Member { .. }) && !self.properties.contains_key("max.poll.interval.ms") {
            let session = c.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
            c.set("max.poll.interval.ms", LONGEST_REBALANCE_MS.max(session).to_string());
        }
        // From here on ours wins over the user's.
        c.set("bootstrap.servers", &self.bootstrap_servers);
        c.set("allow.auto.create.topics", "false");
        c.set("message.max.bytes", self.max_message_bytes().to_string());
        match role {
            Role::Append => {
                producer(&mut c);
                c.set("message.timeout.ms", APPEND_TIMEOUT_MS.to_string());
            }
            Role::Transactional { id } => {
                producer(&mut c);
                c.set("transactional.id", id);
                c.set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string());
                c.set("linger.ms", "0");
                // A transaction right after another is answered "concurrent" and waits this long (PITFALLS 26).
                c.set("retry.backoff.ms", "2");
                c.set("retry.backoff.max.ms", "100");
                // Would follow retry.backoff.ms and ask for metadata every 2 ms.
                c.set("topic.metadata.refresh.fast.interval.ms", "100");
            }
            Role::Member { group } => {
                consumer(&mut c, group, "read_committed");
                if !self.kip_848() {
                    c.set("partition.assignment.strategy", "cooperative-sticky");
                }
            }
            // librdkafka assigns nothing without a group id; this group is never joined and commits nothing.
            Role::Reader => consumer(&mut c, &format!("{}-reader", self.group_id), "read_committed"),
            Role::Watermarks => {
                c.set("isolation.level", "read_uncommitted");
            }
            Role::Committed { group } => consumer(&mut c, group, "read_committed"),
            Role::Admin => {}
        }
        c
    }

    /// Creates a client. Properties that this role or the group protocol has no use for are dropped with a warning.
    pub(super) fn create<T>(&self, role: &Role, make: impl Fn(&ClientConfig) -> KafkaResult<T>) -> Result<T, LogError> {
        let mut config = self.config(role);
        loop {
            let error = match make(&config) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let text = error.to_string();
            let named = |key: &&str| config.get(key).is_some() && text.contains(&format!("`{key}`"));
            let Some(key) = DROPPABLE.iter().find(|k| named(k) && self.properties.contains_key(**k)) else {
                return Err(refused_by_driver(&error, &self.properties));
            };
            tracing::warn!(property = key, client = ?role, reason = %text, "log property ignored: this client does not take it");
            config.remove(key);
        }
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: BTreeMap<_, _> = self.properties.iter().map(|(k, v)| (k, if secret(k) { "…" } else { v })).collect();
        f.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("group_id", &self.group_id)
            .field("node_name", &self.node_name)
            .field("topics", &self.topics)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("properties", &shown)
            .field("max_record_bytes", &self.max_record_bytes)
            .finish()
    }
}

/// The clients that the adapter opens.
#[derive(Debug, Clone)]
pub(super) enum Role {
    Append,
    Transactional { id: String },
    Member { group: String },
    Reader,
    Watermarks,
    Committed { group: String },
    Admin,
}

impl Role {
    /// Our defaults, which a user may override.
    fn tuning(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Role::Append => &[("linger.ms", "2"), ("queue.buffering.max.kbytes", "131072")],
            // Each partition's queue is memory of ours and may pass its bound by one fetch; a short back-off, because a full queue
            // is normal while draining. One fetch at a time waits for all partitions of a broker: a partition whose queue has room
            // again is fetched after that.
            Role::Member { .. } => &[
                ("queued.max.messages.kbytes", "1024"),
                ("fetch.queue.backoff.ms", "5"),
                ("fetch.wait.max.ms", "100"),
                ("fetch.error.backoff.ms", "100"),
            ],
            Role::Reader => &[
                ("queued.max.messages.kbytes", "8192"),
                ("fetch.queue.backoff.ms", "2"),
                ("fetch.wait.max.ms", "100"),
                ("fetch.error.backoff.ms", "50"),
            ],
            _ => &[],
        }
    }
}

fn producer(c: &mut ClientConfig) {
    c.set("enable.idempotence", "true");
    c.set("acks", "all");
    // Java's choice; librdkafka's own default is CRC32 (PITFALLS 17).
    c.set("partitioner", "murmur2_random");
}

fn consumer(c: &mut ClientConfig, group: &str, isolation: &str) {
    c.set("group.id", group);
    c.set("enable.auto.commit", "false");
    c.set("enable.auto.offset.store", "false");
    // The default skips silently (PITFALLS 11).
    c.set("auto.offset.reset", "error");
    c.set("isolation.level", isolation);
}

/// Properties that are right for one client or group protocol and an error for another.
const DROPPABLE: [&str; 6] = [
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
    "group.protocol.type",
    "group.remote.assignor",
    "socket.timeout.ms",
];

/// Why a user may not set `key` to `value`; none if they may.
fn refusal(key: &str, value: &str) -> Option<&'static str> {
    let value = value.trim();
    match key {
        "bootstrap.servers" | "metadata.broker.list" => Some("it has a key of its own, bootstrap_servers"),
        "group.id" => Some("it has a key of its own, group_id"),
        "message.max.bytes" => Some("it follows from max_record_bytes"),
        "enable.auto.commit" | "auto.commit.enable" | "enable.auto.offset.store" | "auto.commit.interval.ms" => {
            Some("offsets are committed with the decisions, in one transaction; anything else loses or repeats facts")
        }
        "auto.offset.reset" => Some("a missing offset has to be an error; skipping facts or repeating decisions is worse"),
        "isolation.level" => Some("records of aborted transactions must never be read"),
        "transactional.id" => Some("it is made of group and node name, so that a restarted node fences its old self"),
        "transaction.timeout.ms" => Some("it is 10 s: a frozen node holds all readers for so long"),
        "acks" | "request.required.acks" if !matches!(value, "all" | "-1") => {
            Some("a webhook is acknowledged only when its fact is on all in-sync replicas (acks=all)")
        }
        "enable.idempotence" if value != "true" => Some("retries would write facts twice and out of order"),
        "partitioner" if value != "murmur2_random" => Some("all producers have to agree; ours is murmur2_random, as Java's"),
        "message.timeout.ms" | "delivery.timeout.ms" => Some("it is 4 s: who sends a webhook waits 5 s for its answer"),
        "delivery.report.only.error" => Some("positions come from delivery reports"),
        "allow.auto.create.topics" => Some("topics are created with their settings, by ourselves or by an operator"),
        "enable.partition.eof" => Some("ends of partitions are found in another way"),
        "partition.assignment.strategy" if value != "cooperative-sticky" => {
            Some("partitions are handed over one by one, which only cooperative-sticky or group.protocol=consumer can do")
        }
        _ => None,
    }
}

/// Whether the value of a property is not to be shown anywhere.
fn secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "secret", "key", "token", "jaas", "sasl.oauthbearer.config"].iter().any(|s| key.contains(s))
}

fn refused_by_driver(error: &KafkaError, properties: &BTreeMap<String, String>) -> LogError {
    let (key, mut text) = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, text, key, _) => (key.as_str(), text.clone()),
        KafkaError::ClientConfig(_, text, key, _) => (key.as_str(), text.clone()),
        other => ("", other.to_string()),
    };
    for (k, v) in properties {
        if secret(k) && !v.is_empty() {
            text = text.replace(v.as_str(), "…");
        }
    }
    let hint = if text.contains("not available at build time") || text.contains("not supported in this build") {
        "; TLS and SASL/SCRAM need a build with --features kafka-tls"
    } else {
        ""
    };
    match key {
        "" => LogError::Misconfigured(format!("Kafka client: {text}{hint}")),
        key => LogError::Misconfigured(format!("the log property \"{key}\" is not accepted by librdkafka: {text}{hint}")),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn with(pairs: &[(&str, &str)]) -> KafkaSettings {
        let mut s = KafkaSettings::new("localhost:1", "g", "n");
        s.properties = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        s
    }

    #[test]
    fn a_property_that_would_break_a_promise_is_refused_with_its_reason() {
        for (key, value) in [
            ("enable.auto.commit", "true"),
            ("isolation.level", "read_uncommitted"),
            ("transactional.id", "x"),
            ("acks", "1"),
            ("enable.idempotence", "false"),
            ("auto.offset.reset", "latest"),
            ("partitioner", "consistent_random"),
            ("partition.assignment.strategy", "range"),
        ] {
            let text = with(&[(key, value)]).check().expect_err(key).to_string();
            assert!(text.contains(key) && text.len() > key.len() + 50, "{text}");
        }
        with(&[("acks", "all"), ("enable.idempotence", "true"), ("linger.ms", "7")]).check().expect("harmless ones pass");
    }

    #[test]
    fn an_unknown_property_is_named_and_a_secret_is_not_shown() {
        let text = with(&[("session.timeout", "3")]).check().expect_err("unknown").to_string();
        assert!(text.contains("session.timeout") && text.contains("No such configuration property"), "{text}");

        let bad = with(&[("ssl.key.password", "hunter2"), ("sasl.password", "hunter3")]);
        let shown = format!("{bad:?} {:?}", bad.check().map_err(|e| e.to_string()));
        assert!(!shown.contains("hunter2") && !shown.contains("hunter3"), "{shown}");
    }

    #[test]
    fn a_property_that_the_group_protocol_refuses_is_dropped() {
        let s = with(&[("group.protocol", "consumer"), ("session.timeout.ms", "9000"), ("heartbeat.interval.ms", "900")]);
        s.check().expect("known properties");
        let role = Role::Member { group: "g".into() };
        s.create(&role, |c| c.create::<BaseConsumer>()).expect("dropped, not failed");
    }

    /// DESIGN §3, PITFALLS 30.
    #[test]
    fn a_transaction_is_ended_by_the_broker_within_ten_seconds_whatever_the_user_says() {
        let c = with(&[]).config(&Role::Transactional { id: "t".into() });
        let timeout: u32 = c.get("transaction.timeout.ms").expect("set").parse().expect("a number");
        assert!(timeout <= 10_000, "{timeout}");
        let text = with(&[("transaction.timeout.ms", "60000")]).check().expect_err("refused").to_string();
        assert!(text.contains("transaction.timeout.ms"), "{text}");
    }

    #[test]
    fn a_rebalance_does_not_wait_for_minutes_unless_the_user_says_so() {
        let member = |properties| with(properties).config(&Role::Member { group: "g".into() });
        assert_eq!(member(&[]).get("max.poll.interval.ms"), Some("45000"));
        assert_eq!(member(&[("session.timeout.ms", "60000")]).get("max.poll.interval.ms"), Some("60000"));
        assert_eq!(member(&[("max.poll.interval.ms", "120000")]).get("max.poll.interval.ms"), Some("120000"));
    }

    #[test]
    fn what_the_port_promises_wins_over_the_user() {
        let c = with(&[("linger.ms", "50"), ("retry.backoff.ms", "700")]).config(&Role::Transactional { id: "t".into() });
        assert_eq!((c.get("linger.ms"), c.get("retry.backoff.ms")), (Some("0"), Some("2")));
        let c = with(&[("linger.ms", "50")]).config(&Role::Append);
        assert_eq!((c.get("linger.ms"), c.get("partitioner")), (Some("50"), Some("murmur2_random")));
    }
}
