//! The Kafka adapter against a real broker: what the port's contract suite cannot ask of every adapter.

mod figures;
mod groups;
mod logs;
mod node;
mod transactions;
mod wire;

use std::future::Future;
use std::time::{Duration, Instant};

use stockwarden::events::record::{NewRecord, Partition, Topic};
use stockwarden::ports::event_log::EventLog;

/// Of every wait for a condition; only a broken implementation gets near it.
const PATIENCE: Duration = Duration::from_secs(40);

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

fn fact(partition: Partition, value: impl Into<Vec<u8>>) -> NewRecord {
    record(Topic::Facts, partition, value)
}

fn record(topic: Topic, partition: Partition, value: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord {
        topic,
        partition: Some(partition),
        key: Some(b"shop.example".to_vec()),
        headers: vec![("fact", b"test".to_vec())],
        value: Some(value.into()),
    }
}

/// Values of all committed records of a partition, up to its high watermark.
fn values(log: &dyn EventLog, topic: Topic, partition: Partition) -> Vec<String> {
    let (low, high) = log.watermarks(topic, partition).expect("watermarks");
    let mut reader = log.reader(topic, partition, low).expect("reader");
    let (mut found, end) = (Vec::new(), Instant::now() + PATIENCE);
    while let Some(batch) = reader.next(high, Duration::from_secs(1)).expect("read") {
        found.extend(batch.iter().map(|r| String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned()));
        assert!(Instant::now() < end, "reader stands at {} of {high}", reader.position());
    }
    assert!(reader.position() >= high);
    found
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
