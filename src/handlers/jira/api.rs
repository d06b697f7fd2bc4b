//! Jira's REST API: authentication, bounds, and what its answers mean.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::handlers::{Blame, Verdict, http};

/// Most of an answer that is read. A page of search results fits.
const ANSWER_LIMIT: usize = 1 << 20;
/// Most of an answer's text that is shown.
const SHOWN: usize = 1000;

/// No answer, or one that says no.
#[derive(Debug)]
pub struct Failure {
    /// None: no answer came.
    pub status: Option<StatusCode>,
    /// Never [`Verdict::Done`].
    pub verdict: Verdict,
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Verdict {
        failure.verdict
    }
}

impl Failure {
    /// What failed can be done again without harm.
    fn harmless(self) -> Failure {
        match self.verdict {
            Verdict::Ambiguous { reason } => {
                Failure { verdict: Verdict::Retry { reason, after: None, blame: Blame::Target }, ..self }
            }
            _ => self,
        }
    }
}

/// An answer that says yes.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read<T: for<'de> Deserialize<'de>>(&self) -> Result<T, Verdict> {
        serde_json::from_slice(&self.body).map_err(|e| Verdict::Retry {
            reason: format!("Jira's answer ({}) cannot be read: {e}", self.status),
            after: None,
            blame: Blame::Target,
        })
    }
}

pub struct Api {
    client: Client,
    /// Without a slash at the end.
    base: String,
    email: String,
    token: String,
}

impl Api {
    pub fn new(client: Client, base: &str, email: String, token: String) -> Api {
        Api { client, base: base.trim_end_matches('/').to_owned(), email, token }
    }

    /// A POST that has an effect.
    pub async fn write(&self, path: &str, body: &[u8], now: DateTime<Utc>) -> Result<Answer, Failure> {
        self.call(Method::POST, path, Some(body), None, now).await
    }

    /// A PUT: the same again has no other effect, so nothing about it is ambiguous.
    pub async fn put(&self, path: &str, body: &Value, now: DateTime<Utc>) -> Result<Answer, Failure> {
        let body = body.to_string();
        self.call(Method::PUT, path, Some(body.as_bytes()), None, now).await.map_err(Failure::harmless)
    }

    /// A GET, ended after `within` if that is shorter than the instance's timeout.
    pub async fn get(&self, path: &str, within: Option<Duration>, now: DateTime<Utc>) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None, within, now).await.map_err(Failure::harmless)
    }

    /// A POST that only asks.
    pub async fn ask(&self, path: &str, body: &Value, now: DateTime<Utc>) -> Result<Answer, Failure> {
        let body = body.to_string();
        self.call(Method::POST, path, Some(body.as_bytes()), None, now).await.map_err(Failure::harmless)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        within: Option<Duration>,
        now: DateTime<Utc>,
    ) -> Result<Answer, Failure> {
        let mut call = self
            .client
            .request(method, format!("{}{path}", self.base))
            .basic_auth(&self.email, Some(&self.token))
            .header("accept", "application/json");
        if let Some(body) = body {
            call = call.header("content-type", "application/json").body(body.to_vec());
        }
        if let Some(within) = within {
            call = call.timeout(within);
        }
        let sent = call.send().await;
        let answer = sent.map_err(|e| Failure { status: None, verdict: http::judge_error(e) })?;
        let status = answer.status();
        let after = http::retry_after(answer.headers(), now);
        let location = answer.headers().get(reqwest::header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        // The status decides; a text that breaks off changes nothing.
        let body = http::read_body(answer, ANSWER_LIMIT).await;
        if status.is_success() {
            return Ok(Answer { status, body });
        }
        Err(Failure { status: Some(status), verdict: refused(status, after, location.as_deref(), &body) })
    }
}

fn refused(status: StatusCode, after: Option<Duration>, location: Option<&str>, body: &[u8]) -> Verdict {
    let said = said(status, body);
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            Verdict::Retry { reason: said, after, blame: Blame::Target }
        }
        // Jira or a gateway before it broke down somewhere on the way.
        s if s.is_server_error() => Verdict::Ambiguous { reason: said },
        s if s.is_redirection() => Verdict::Permanent {
            reason: format!(
                "{status} to {}: redirects are not followed; set base_url to the final address",
                location.unwrap_or("nowhere")
            ),
        },
        StatusCode::UNAUTHORIZED => Verdict::Permanent {
            reason: format!("Jira does not know email and token any more ({said}); make a new API token for that account"),
        },
        StatusCode::FORBIDDEN => Verdict::Permanent {
            reason: format!("Jira does not let this account do that ({said}); give it the right in the project"),
        },
        StatusCode::NOT_FOUND => Verdict::Permanent {
            reason: format!(
                "Jira has no such thing, or hides it from this account ({said}); check base_url and the account's rights"
            ),
        },
        _ => Verdict::Permanent { reason: format!("Jira refused it: {said}") },
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Errors {
    error_messages: Vec<String>,
    errors: std::collections::BTreeMap<String, Value>,
}

/// Status and Jira's own words.
fn said(status: StatusCode, body: &[u8]) -> String {
    let errors: Errors = serde_json::from_slice(body).unwrap_or_default();
    let of_fields = errors.errors.iter().map(|(field, text)| match text {
        Value::String(text) => format!("{field}: {text}"),
        other => format!("{field}: {other}"),
    });
    let mut text = errors.error_messages.iter().cloned().chain(of_fields).collect::<Vec<_>>().join("; ");
    if text.is_empty() {
        text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim().to_owned();
    }
    if text.is_empty() { status.to_string() } else { format!("{status}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiras_errors_are_shown_with_their_fields_and_other_texts_as_they_are() {
        let body = br#"{"errorMessages":["No."],"errors":{"priority":"Field 'priority' cannot be set."}}"#;
        assert_eq!(said(StatusCode::BAD_REQUEST, body), "400 Bad Request: No.; priority: Field 'priority' cannot be set.");
        assert_eq!(said(StatusCode::BAD_GATEWAY, b"<html>oops"), "502 Bad Gateway: <html>oops");
        assert_eq!(said(StatusCode::UNAUTHORIZED, b""), "401 Unauthorized");
    }
}
