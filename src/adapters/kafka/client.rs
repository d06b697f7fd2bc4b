//! The context of clients that have no callbacks of their own: librdkafka's log lines go to `tracing`.

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;

pub(super) type QuietConsumer = BaseConsumer<Quiet>;

pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", %error, reason, "client error");
    }
}

impl ConsumerContext for Quiet {}

pub(super) fn log(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        // Which properties a kind of client does not use is no news: all get the same table. And each client tells of each
        // attempt to reach a broker that is away, many times a second; the port's errors say the same once.
        _ if matches!(fac, "CONFWARN" | "FAIL") => tracing::debug!(target: "kafka", fac, "{message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "kafka", fac, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(target: "kafka", fac, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "kafka", fac, "{message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", fac, "{message}"),
    }
}
