//! Creates the topics and checks those that exist.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;

use super::client::{Quiet, QuietConsumer};
use super::settings::{KafkaSettings, Role};
use super::{errors, observer};
use crate::events::record::Topic;
use crate::ports::event_log::LogError;

/// Longest single request; the whole is bounded by the caller's timeout.
const REQUEST: Duration = Duration::from_secs(5);

pub(super) fn prepare(settings: &KafkaSettings, timeout: Duration) -> Result<(), LogError> {
    let deadline = Instant::now() + timeout;
    let clients = Clients::open(settings)?;
    let missing = clients.check(settings, deadline)?;
    if missing.is_empty() {
        return Ok(());
    }
    create(settings, &clients.admin, &missing, deadline)?;
    for topic in missing {
        await_leaders(settings, &clients.observer, topic, deadline)?;
    }
    Ok(())
}

/// The topics that [`prepare`] would create, if it refused nothing.
pub(super) fn inspect(settings: &KafkaSettings, timeout: Duration) -> Result<Vec<Topic>, LogError> {
    Clients::open(settings)?.check(settings, Instant::now() + timeout)
}

struct Clients {
    observer: QuietConsumer,
    admin: AdminClient<Quiet>,
}

impl Clients {
    fn open(settings: &KafkaSettings) -> Result<Clients, LogError> {
        Ok(Clients {
            observer: settings.create(&Role::Watermarks, |c| c.create_with_context(Quiet))?,
            admin: settings.create(&Role::Admin, |c| c.create_with_context(Quiet))?,
        })
    }

    /// Refuses topics that break a promise; gives those that are missing.
    fn check(&self, settings: &KafkaSettings, deadline: Instant) -> Result<Vec<Topic>, LogError> {
        let (mut missing, mut present) = (Vec::new(), Vec::new());
        for topic in Topic::ALL {
            match partition_count(settings, &self.observer, topic, deadline)? {
                Some(found) => {
                    same_partitions(settings, topic, found)?;
                    present.push(topic);
                }
                None => missing.push(topic),
            }
        }
        check_settings(settings, &self.admin, &present, deadline)?;
        Ok(missing)
    }
}

/// Whether every partition of `topic` has a leader now.
pub(super) fn answers(
    settings: &KafkaSettings,
    observer: &QuietConsumer,
    topic: Topic,
    timeout: Duration,
) -> Result<(), LogError> {
    let during = format!("asking Kafka at {} for {}", settings.bootstrap_servers, settings.topics.of(topic));
    let metadata = observer.fetch_metadata(Some(settings.topics.of(topic)), timeout).map_err(|e| errors::map(&during, &e))?;
    let Some(found) = metadata.topics().first().filter(|t| t.error().is_none()) else {
        let name = settings.topics.of(topic);
        return Err(LogError::Misconfigured(format!(
            "the topic {name} does not exist; a node makes it when it starts: stockwarden serve"
        )));
    };
    same_partitions(settings, topic, found.partitions().len())?;
    match found.partitions().iter().find(|p| p.leader() < 0) {
        Some(p) => Err(errors::unavailable(&during, format!("partition {} has no leader", p.id()))),
        None => Ok(()),
    }
}

fn partition_count(
    settings: &KafkaSettings,
    observer: &QuietConsumer,
    topic: Topic,
    deadline: Instant,
) -> Result<Option<usize>, LogError> {
    let during = format!("reaching Kafka at {}", settings.bootstrap_servers);
    let mut last = None;
    while let Some(left) = left(deadline) {
        match observer.fetch_metadata(Some(settings.topics.of(topic)), left.min(REQUEST)) {
            Ok(metadata) => {
                let found = metadata.topics().first();
                match found.map(|t| (t.error(), t.partitions().len())) {
                    Some((None, n)) if n > 0 => return Ok(Some(n)),
                    Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) => return Ok(None),
                    Some((Some(e), _)) => match errors::from_code(&during, e.into(), &Code::from(e).to_string()) {
                        LogError::Unavailable { reason, .. } => last = Some(reason),
                        other => return Err(other),
                    },
                    _ => last = Some("its answer names no topic".to_owned()),
                }
                pause(deadline);
            }
            Err(e) => match errors::map(&during, &e) {
                // Fails at once while no broker can be reached.
                LogError::Unavailable { reason, .. } => {
                    last = Some(reason);
                    pause(deadline);
                }
                other => return Err(other),
            },
        }
    }
    let hint = "is it running, and is bootstrap_servers right?";
    Err(errors::unavailable(&during, format!("{}; {hint}", last.unwrap_or_else(|| "no time was left".into()))))
}

fn same_partitions(settings: &KafkaSettings, topic: Topic, found: usize) -> Result<(), LogError> {
    if found == settings.partitions as usize {
        return Ok(());
    }
    let (name, want) = (settings.topics.of(topic), settings.partitions);
    Err(LogError::Misconfigured(format!(
        "the topic {name} has {found} partitions and the configuration says {want}: set partitions = {found}, or name another \
         topic. The number is fixed when a topic is created, because another one sends a shop's facts to another partition"
    )))
}

/// The settings that the port's promises rest on, of a topic that somebody may have created by hand.
fn check_settings(
    settings: &KafkaSettings,
    admin: &AdminClient<Quiet>,
    topics: &[Topic],
    deadline: Instant,
) -> Result<(), LogError> {
    if topics.is_empty() {
        return Ok(());
    }
    let asked: Vec<_> = topics.iter().map(|t| ResourceSpecifier::Topic(settings.topics.of(*t))).collect();
    let found = match wait(deadline, admin.describe_configs(&asked, &options(deadline))) {
        Some(Ok(found)) => found,
        Some(Err(e)) => return Err(errors::map("reading the topics' settings", &e)),
        None => return Err(errors::unavailable("reading the topics' settings", "no answer in time")),
    };
    for (topic, resource) in topics.iter().zip(found) {
        let name = settings.topics.of(*topic);
        let resource = match resource {
            Ok(r) => r,
            // A principal may write to a topic without the right to read its settings.
            Err(code) => {
                tracing::warn!(topic = name, error = %code, "the topic's settings cannot be read and were not checked");
                continue;
            }
        };
        let of: HashMap<&str, &str> =
            resource.entries.iter().filter_map(|e| e.value.as_deref().map(|v| (e.name.as_str(), v))).collect();
        check_one(settings, *topic, name, &of)?;
    }
    Ok(())
}

fn check_one(settings: &KafkaSettings, topic: Topic, name: &str, of: &HashMap<&str, &str>) -> Result<(), LogError> {
    let (mut told, mut needed) = (Vec::new(), Vec::new());
    let mut wrong = |key: &str, is: &str, want: String, why: &str| {
        told.push(format!("{key}={is}, but {why}"));
        needed.push(format!("{key}={want}"));
    };
    if let Some(policy) = of.get("cleanup.policy").filter(|p| p.contains("compact")) {
        wrong("cleanup.policy", policy, "delete".into(), "compaction erases history");
    }
    let want = settings.max_message_bytes();
    if let Some(bytes) = of.get("max.message.bytes").filter(|b| b.parse::<usize>().is_ok_and(|b| b < want)) {
        wrong("max.message.bytes", bytes, want.to_string(), "a smaller limit refuses records of max_record_bytes");
    }
    if topic == Topic::Facts
        && let Some(kind) = of.get("message.timestamp.type").filter(|k| **k != "LogAppendTime")
    {
        wrong("message.timestamp.type", kind, "LogAppendTime".into(), "a fact's time must not lie in its sender's hands");
    }
    if !told.is_empty() {
        return Err(LogError::Misconfigured(format!(
            "the topic {name} has {}; mend it with: kafka-configs.sh --bootstrap-server {} --alter --entity-type topics \
             --entity-name {name} --add-config {}",
            told.join(", and "),
            settings.bootstrap_servers,
            needed.join(",")
        )));
    }
    if let Some(ms) = of.get("retention.ms").filter(|v| **v != "-1") {
        // Legitimate with an archive, so no error (DESIGN §1).
        tracing::warn!(topic = name, retention_ms = ms, "history older than the topic's retention is gone unless archived");
    }
    Ok(())
}

fn create(settings: &KafkaSettings, admin: &AdminClient<Quiet>, missing: &[Topic], deadline: Instant) -> Result<(), LogError> {
    let bytes = settings.max_message_bytes().to_string();
    let new: Vec<_> = missing
        .iter()
        .map(|t| {
            let replication = TopicReplication::Fixed(settings.replication);
            let mut topic = NewTopic::new(settings.topics.of(*t), settings.partitions, replication)
                .set("cleanup.policy", "delete")
                .set("retention.ms", "-1")
                .set("max.message.bytes", &bytes);
            if *t == Topic::Facts {
                topic = topic.set("message.timestamp.type", "LogAppendTime");
            }
            if settings.replication >= 3 {
                // Or acks=all would be content with one copy.
                topic = topic.set("min.insync.replicas", "2");
            }
            topic
        })
        .collect();
    let results = match wait(deadline, admin.create_topics(&new, &options(deadline))) {
        Some(results) => results.map_err(|e| errors::map("creating topics", &e))?,
        None => return Err(errors::unavailable("creating topics", "no answer in time")),
    };
    for result in results {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(errors::map(&format!("creating the topic {name}"), &KafkaError::Global(code)));
            }
        }
    }
    Ok(())
}

fn await_leaders(settings: &KafkaSettings, client: &QuietConsumer, topic: Topic, deadline: Instant) -> Result<(), LogError> {
    loop {
        let Some(left) = left(deadline) else {
            return Err(errors::unavailable(&format!("creating the topic {}", settings.topics.of(topic)), "no leader in time"));
        };
        match answers(settings, client, topic, left.min(REQUEST)) {
            // A leader that the metadata names may itself not know of its office yet; an answer proves that it does.
            Ok(()) => {
                let ready = |p| observer::watermarks(client, settings.topics.of(topic), p, deadline).map(drop);
                return (0..settings.partitions).try_for_each(ready);
            }
            // Another node may have created it at the same moment with another number.
            Err(LogError::Misconfigured(text)) if text.contains("partitions and the configuration") => {
                return Err(LogError::Misconfigured(text));
            }
            Err(_) => pause(deadline),
        }
    }
}

fn options(deadline: Instant) -> AdminOptions {
    let left = left(deadline).unwrap_or(Duration::from_millis(1));
    AdminOptions::new().request_timeout(Some(left)).operation_timeout(Some(left))
}

fn left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (left >= Duration::from_millis(1)).then_some(left)
}

fn pause(deadline: Instant) {
    std::thread::sleep(Duration::from_millis(50).min(deadline.saturating_duration_since(Instant::now())));
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future of the admin client, which needs no runtime, on this thread until the deadline.
fn wait<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return Some(done);
        }
        std::thread::park_timeout(left(deadline)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_made_by_hand_is_refused_where_it_would_break_a_promise() {
        let s = KafkaSettings::new("localhost:1", "g", "n");
        let check = |topic, pairs: &[(&'static str, &'static str)]| {
            check_one(&s, topic, "t", &pairs.iter().copied().collect()).map_err(|e| e.to_string())
        };
        assert!(check(Topic::Decisions, &[("cleanup.policy", "compact,delete")]).unwrap_err().contains("compaction"));
        assert!(check(Topic::DeadLetters, &[("max.message.bytes", "1048588")]).unwrap_err().contains("max.message.bytes"));
        let both = [("message.timestamp.type", "CreateTime"), ("max.message.bytes", "1048588")];
        let told = check(Topic::Facts, &both).unwrap_err();
        let add = format!(
            "--entity-name t --add-config max.message.bytes={},message.timestamp.type=LogAppendTime",
            s.max_message_bytes()
        );
        assert!(told.contains("--bootstrap-server localhost:1 ") && told.ends_with(&add), "{told}");
        check(Topic::Decisions, &[("message.timestamp.type", "CreateTime"), ("retention.ms", "60000")]).expect("fine");
    }
}
