//! A log on the test run's Kafka, with topics and groups that no other test has.

use std::sync::Arc;
use std::time::Duration;

use stockwarden::adapters::kafka::{KafkaLog, KafkaSettings, TopicNames};
use stockwarden::ports::event_log::EventLog;

/// Where the broker listens, `host:port`.
pub fn broker() -> String {
    std::env::var("STOCKWARDEN_TEST_KAFKA")
        .expect("STOCKWARDEN_TEST_KAFKA (host:port of a Kafka for tests) is not set: run ./test, which starts one and sets it")
}

/// Settings with names of their own and `partitions` partitions; node name `node-1`.
pub fn fresh_settings(partitions: i32) -> KafkaSettings {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut settings = KafkaSettings::new(broker(), format!("group-{id}"), "node-1");
    settings.topics = TopicNames {
        facts: format!("facts-{id}"),
        decisions: format!("decisions-{id}"),
        dead_letters: format!("dead-letters-{id}"),
    };
    settings.partitions = partitions;
    settings
}

/// A log whose topics exist.
pub fn open(settings: &KafkaSettings) -> Arc<KafkaLog> {
    let log = KafkaLog::connect(settings.clone()).expect("settings are in order");
    log.prepare(Duration::from_secs(30)).expect("topics can be made");
    log
}

/// A fresh log for a contract suite.
pub fn fresh_log(partitions: i32) -> Arc<KafkaLog> {
    open(&fresh_settings(partitions))
}
