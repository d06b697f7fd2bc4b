//! When a route's effect is due, and with which others it goes out: at once, or with the digest of its window.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::events::decision::{Decision, RiskLevel, Route};
use crate::handlers::{Handlers, registry};

#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub due_at: DateTime<Utc>,
    /// What rows of the same handler must have in common to go out together.
    pub digest: Option<String>,
}

/// With `digest = "1h"` on its route, a decision waits for the end of its hour and goes out with what else there is for the same
/// organisation, vendor and address, unless less than six hours are left (RULES). Handlers that take no digests get it at once.
///
/// Windows begin at whole multiples of their length, so that all partitions and nodes have the same ones.
pub fn delivery(decision: &Decision, route: &Route, handlers: &Handlers, now: DateTime<Utc>) -> Delivery {
    let at_once = Delivery { due_at: now, digest: None };
    let Some(asked) = route.settings.get("digest") else { return at_once };
    let Some(window) = asked.as_str().and_then(registry::duration) else {
        tracing::warn!(to = route.to, %asked, "the route's digest is not a duration such as \"1h\"; it is sent at once");
        return at_once;
    };
    let urgent = matches!(decision.severity, RiskLevel::Critical | RiskLevel::Out);
    let takes = handlers.get(&route.to).is_some_and(|instance| instance.handler.digests());
    if urgent || !takes {
        return at_once;
    }
    let Some(due_at) = end_of_window(now, window) else { return at_once };
    let address = route.settings.get("address").unwrap_or(&Value::Null);
    let together = serde_json::json!([decision.organisation, decision.vendor, address, asked]);
    Delivery { due_at, digest: Some(together.to_string()) }
}

fn end_of_window(now: DateTime<Utc>, window: Duration) -> Option<DateTime<Utc>> {
    let length = i64::try_from(window.as_millis()).ok().filter(|ms| *ms > 0)?;
    let end = now.timestamp_millis().div_euclid(length).checked_add(1)?.checked_mul(length)?;
    DateTime::from_timestamp_millis(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_at_the_next_whole_multiple_of_its_length() {
        let end = |now: &str, window: u64| {
            let now: DateTime<Utc> = now.parse().expect("time");
            end_of_window(now, Duration::from_secs(window)).expect("end").to_rfc3339()
        };
        assert_eq!(end("2026-11-20T10:20:00Z", 3600), "2026-11-20T11:00:00+00:00");
        assert_eq!(end("2026-11-20T11:00:00Z", 3600), "2026-11-20T12:00:00+00:00");
        assert_eq!(end("2026-11-20T10:59:59.999Z", 86_400), "2026-11-21T00:00:00+00:00");
        assert_eq!(end_of_window(Utc::now(), Duration::MAX), None);
    }
}
