//! The topics as any consumer sees them: an own `read_committed` reader, without the adapter.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::installation::PARTITIONS;
use crate::reference::Record;

const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(5);

fn consumer(broker: &str, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", "faults-checker")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .create()
        .expect("settings in order")
}

/// Ends of a topic's partitions, open transactions included.
pub fn ends(broker: &str, topic: &str) -> Result<Vec<i64>, String> {
    watermarks(&consumer(broker, "read_uncommitted"), topic)
}

fn watermarks(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i64>, String> {
    let end = |p| consumer.fetch_watermarks(topic, p, CALL).map(|w| w.1).map_err(|e| format!("the end of {topic}/{p}: {e}"));
    (0..PARTITIONS).map(end).collect()
}

/// Offsets that the group has committed.
pub fn committed(broker: &str, group: &str, topic: &str) -> Result<Vec<Option<i64>>, String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .expect("settings in order");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition(topic, partition);
    }
    let list = consumer.committed_offsets(list, CALL).map_err(|e| format!("the offsets of {group}: {e}"))?;
    let of = |p| match list.find_partition(topic, p).map(|e| e.offset()) {
        Some(Offset::Offset(at)) => Some(at),
        _ => None,
    };
    Ok((0..PARTITIONS).map(of).collect())
}

/// Everything committed, partition by partition in order. Nothing is being written meanwhile.
pub fn read(broker: &str, topic: &str) -> Result<Vec<Record>, String> {
    let deadline = Instant::now() + PATIENCE;
    let consumer = consumer(broker, "read_committed");
    // A transaction that nobody ends would hold readers for ever.
    loop {
        let (stable, all) = (watermarks(&consumer, topic)?, ends(broker, topic)?);
        if stable == all {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("a transaction hangs in {topic}: the stable ends are {stable:?}, the ends {all:?}"));
        }
    }
    let mut list = TopicPartitionList::new();
    (0..PARTITIONS).for_each(|p| list.add_partition_offset(topic, p, Offset::Beginning).expect("a place"));
    consumer.assign(&list).map_err(|e| e.to_string())?;
    let mut records = Vec::new();
    let mut open: std::collections::BTreeSet<i32> = (0..PARTITIONS).collect();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(m)) => {
                let headers = m.headers().into_iter().flat_map(|h| h.iter());
                records.push(Record {
                    partition: m.partition(),
                    offset: m.offset(),
                    append_time_ms: m.timestamp().to_millis().unwrap_or_default(),
                    key: m.key().map(|k| String::from_utf8_lossy(k).into_owned()),
                    headers: headers
                        .map(|h| (h.key.to_lowercase(), String::from_utf8_lossy(h.value.unwrap_or_default()).into_owned()))
                        .collect(),
                    value: m.payload().unwrap_or_default().to_vec(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(p))) => drop(open.remove(&p)),
            Some(Err(e)) if Instant::now() > deadline => return Err(format!("reading {topic}: {e}")),
            _ if Instant::now() > deadline => return Err(format!("{topic} is not read within {PATIENCE:?}")),
            _ => {}
        }
    }
    records.sort_by_key(|r| (r.partition, r.offset));
    Ok(records)
}
