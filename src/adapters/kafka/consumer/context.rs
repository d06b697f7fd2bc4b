//! Takes what librdkafka reports during a poll and lays it by for the member's thread, which acts on it after the
//! poll: so the state of the partitions needs no lock on the way of every record.

use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::super::client;

pub(super) enum Report {
    Assigned(TopicPartitionList),
    Revoked(TopicPartitionList),
    Error { code: Code, reason: String },
}

#[derive(Default)]
pub(super) struct MemberContext {
    reports: Mutex<Vec<Report>>,
}

impl MemberContext {
    pub(super) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, report: Report) {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        self.push(Report::Error { code, reason: reason.to_owned() });
    }
}

impl ConsumerContext for MemberContext {
    /// Instead of the default, which drops the return codes of its calls (PITFALLS 3). librdkafka waits for our
    /// assign or unassign and begins no other rebalance before.
    fn rebalance(&self, _: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.push(Report::Assigned(list.clone())),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.push(Report::Revoked(list.clone())),
            other => {
                let code = Code::from(other);
                self.push(Report::Error { code, reason: format!("rebalance failed: {code}") });
            }
        }
    }
}
