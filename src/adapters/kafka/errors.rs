//! Maps the driver's errors to the port's, once, here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::ports::event_log::LogError;

/// What `error`, met while `during`, means to a caller.
pub(super) fn map(during: &str, error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(code) => from_code(during, code, &error.to_string()),
        None => unavailable(during, error.to_string()),
    }
}

pub(super) fn from_code(during: &str, code: Code, reason: &str) -> LogError {
    match code {
        Code::QueueFull => LogError::QueueFull,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::InvalidTopic
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::FencedInstanceId
        | Code::UnreleasedInstanceId
        | Code::UnsupportedAssignor
        | Code::InconsistentGroupProtocol
        | Code::InvalidSessionTimeout
        | Code::InvalidTransactionTimeout => LogError::Misconfigured(format!("while {during}: {reason}")),
        Code::AutoOffsetReset
        | Code::OffsetOutOfRange
        | Code::LogTruncation
        | Code::BadMessage
        | Code::InvalidMessage
        | Code::BadCompression => LogError::Damaged(format!("while {during}: {reason}")),
        _ => unavailable(during, reason),
    }
}

/// As [`map`], of a topic and partition that were there before: a broker that has just started does not know of them yet.
pub(super) fn map_known(during: &str, error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition) => {
            unavailable(during, error.to_string())
        }
        _ => map(during, error),
    }
}

pub(super) fn unavailable(during: &str, reason: impl Into<String>) -> LogError {
    LogError::Unavailable { during: during.to_owned(), reason: reason.into() }
}

/// Whether a consumer can only be replaced after this error.
pub(super) fn ends_consumer(code: Code) -> bool {
    matches!(code, Code::PollExceeded | Code::Fatal | Code::FencedInstanceId | Code::UnreleasedInstanceId)
}

/// Lets an error of each kind through once in a while: librdkafka repeats some at every reconnect.
#[derive(Default)]
pub(super) struct Throttle {
    last: HashMap<i32, Instant>,
}

impl Throttle {
    const EVERY: Duration = Duration::from_secs(5);

    pub(super) fn lets_through(&mut self, code: Code, now: Instant) -> bool {
        match self.last.get(&(code as i32)) {
            Some(at) if now.duration_since(*at) < Self::EVERY => false,
            _ => {
                self.last.insert(code as i32, now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_one_kind_passes_once_in_five_seconds() {
        let (mut t, now) = (Throttle::default(), Instant::now());
        assert!(t.lets_through(Code::BrokerTransportFailure, now));
        assert!(!t.lets_through(Code::BrokerTransportFailure, now + Duration::from_secs(4)));
        assert!(t.lets_through(Code::AllBrokersDown, now + Duration::from_secs(4)));
        assert!(t.lets_through(Code::BrokerTransportFailure, now + Duration::from_secs(5)));
    }

    #[test]
    fn errors_say_who_has_to_act() {
        let of = |code| from_code("reading", code, "because");
        assert!(matches!(of(Code::BrokerTransportFailure), LogError::Unavailable { .. }));
        assert!(matches!(of(Code::QueueFull), LogError::QueueFull));
        assert!(matches!(of(Code::TopicAuthorizationFailed), LogError::Misconfigured(_)));
        assert!(matches!(of(Code::OffsetOutOfRange), LogError::Damaged(_)));
    }
}
