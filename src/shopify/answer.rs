//! What an answer of the Admin API means: above all, whether the request may have been carried out.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Points come back every second, in portions.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait that an answer may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Why there are no data. The texts are for people, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing happened, and nothing will until someone mends what the text says.
    #[error("{0}")]
    Refused(String),
    /// This shop has no room now; others may. Nothing happened.
    #[error("{reason}")]
    Throttled { reason: String, after: Duration },
    /// Shopify, or what a call needs besides, is away. Nothing happened.
    #[error("{reason}")]
    Away { reason: String, after: Option<Duration> },
    /// The access token is not accepted. Nothing happened.
    #[error("{0}")]
    Unauthorized(String),
    /// The request may have been carried out.
    #[error("{0}")]
    Unknown(String),
}

/// An answer's body.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    #[serde(default)]
    data: Option<Value>,
    /// A list; but where a request does not even reach GraphQL, Shopify has been seen to put text here.
    #[serde(default)]
    errors: Option<Value>,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Debug, Default, Deserialize)]
struct Extensions {
    #[serde(default)]
    cost: Option<Cost>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    requested_query_cost: Option<f64>,
    throttle_status: Option<ThrottleStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThrottleStatus {
    currently_available: f64,
    restore_rate: f64,
}

impl Body {
    /// The data; top-level errors by their code (contracts §3, §4).
    pub(super) fn data(self) -> Result<Value, CallError> {
        let Some(errors) = self.errors.filter(|e| e.as_array().is_none_or(|list| !list.is_empty())) else {
            return self.data.ok_or_else(|| CallError::Unknown("Shopify answered neither data nor errors".to_owned()));
        };
        let said = texts(&errors);
        let first = errors.get(0);
        let code = first.and_then(|e| e.pointer("/extensions/code")).and_then(Value::as_str).unwrap_or_default();
        match code {
            "THROTTLED" => {
                let after = wait_for_points(self.extensions.cost.as_ref());
                Err(CallError::Throttled { reason: format!("Shopify throttles this shop: {said}"), after })
            }
            "ACCESS_DENIED" => {
                let required = first.and_then(|e| e.pointer("/extensions/requiredAccess")).and_then(Value::as_str);
                let mend = required.map_or_else(String::new, |r| format!(" (required: {r})"));
                Err(CallError::Refused(format!(
                    "Shopify denies access{mend}: {said}; give the app that access, have the shop approve it, then retry"
                )))
            }
            "SHOP_INACTIVE" => Err(CallError::Refused(format!("the shop is not active at Shopify: {said}"))),
            "MAX_COST_EXCEEDED" => Err(CallError::Refused(format!("Shopify takes no query of that cost: {said}"))),
            "INTERNAL_SERVER_ERROR" | "TIMEOUT" => Err(CallError::Unknown(format!("Shopify failed on the way: {said}"))),
            // Without `data`, execution never began (GraphQL, section 7.1): the document or its variables are wrong.
            _ if self.data.is_none() => Err(CallError::Refused(format!("Shopify refuses the request: {said}"))),
            // An error beside data: the caller sees whether what it wanted is among them.
            _ => match self.data {
                Some(data) if data.as_object().is_some_and(|o| o.values().any(|v| !v.is_null())) => Ok(data),
                _ => Err(CallError::Unknown(format!("Shopify answered with an error: {said}"))),
            },
        }
    }
}

fn texts(errors: &Value) -> String {
    let one = |e: &Value| e.get("message").unwrap_or(e).as_str().map_or_else(|| e.to_string(), str::to_owned);
    match errors {
        Value::Array(list) => list.iter().take(3).map(one).collect::<Vec<_>>().join("; "),
        other => one(other),
    }
}

/// Until the bucket holds what the query asks for: (requested − available) / restore rate.
fn wait_for_points(cost: Option<&Cost>) -> Duration {
    let Some(Cost { requested_query_cost: Some(requested), throttle_status: Some(status) }) = cost else {
        return Duration::from_secs(1);
    };
    let missing = (requested - status.currently_available).max(0.0);
    let seconds = if status.restore_rate > 0.0 { missing / status.restore_rate } else { 1.0 };
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WAIT).clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

/// `Retry-After` in seconds; Shopify writes them with a fraction.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let seconds: f64 = value.trim().parse().ok()?;
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(body: Value) -> Result<Value, CallError> {
        serde_json::from_value::<Body>(body).expect("body").data()
    }

    #[test]
    fn a_throttled_query_waits_until_its_points_are_back() {
        let throttled = json!({
            "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
            "extensions": {"cost": {"requestedQueryCost": 752, "actualQueryCost": null,
                "throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": 666, "restoreRate": 100.0}}},
        });
        assert!(matches!(data(throttled), Err(CallError::Throttled { after, .. }) if after == Duration::from_millis(860)));
        // Bare, or with numbers that make no sense: some wait, never none and never a panic.
        for cost in
            [json!(null), json!({"requestedQueryCost": 1e300, "throttleStatus": {"currentlyAvailable": 0, "restoreRate": 0}})]
        {
            let body = json!({"errors": [{"extensions": {"code": "THROTTLED"}}], "extensions": {"cost": cost}});
            assert!(matches!(data(body), Err(CallError::Throttled { after, .. }) if after >= SHORTEST_WAIT));
        }
    }

    #[test]
    fn an_error_says_whether_anything_may_have_happened() {
        let with = |code: &str, data: Value| json!({"errors": [{"message": "m", "extensions": {"code": code}}], "data": data});
        let denied = json!({"errors": [{"message": "Access denied", "extensions":
            {"code": "ACCESS_DENIED", "requiredAccess": "`write_inventory_transfers` access scope."}}], "data": {"x": null}});
        assert!(
            matches!(data(denied), Err(CallError::Refused(m)) if m.contains("write_inventory_transfers") && m.contains("retry"))
        );
        assert!(matches!(data(json!({"errors": [{"message": "no such field"}]})), Err(CallError::Refused(_))));
        assert!(matches!(data(json!({"errors": "Not Found"})), Err(CallError::Refused(m)) if m.contains("Not Found")));
        assert!(matches!(data(with("INTERNAL_SERVER_ERROR", json!(null))), Err(CallError::Unknown(_))));
        assert!(matches!(data(with("SOMETHING_NEW", json!({"x": null}))), Err(CallError::Unknown(_))));
        assert!(matches!(data(json!({})), Err(CallError::Unknown(_))));
        assert_eq!(data(with("SOMETHING_NEW", json!({"x": {"id": 1}}))), Ok(json!({"x": {"id": 1}})));
    }

    #[test]
    fn a_wait_is_read_with_its_fraction_and_bounded() {
        assert_eq!(retry_after("2.5"), Some(Duration::from_millis(2500)));
        assert_eq!(retry_after("1e300"), Some(LONGEST_WAIT));
        for bad in ["", "-1", "soon", "NaN"] {
            assert_eq!(retry_after(bad), None, "{bad}");
        }
    }
}
