//! Slack's Web API: HTTP 200 also for errors (`ok: false`), a code for each.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use crate::handlers::{Blame, Verdict, http};

/// Most of an answer that is read; a page of history holds blocks of others.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;

pub(super) struct Api {
    pub client: Client,
    /// Ends without a slash.
    pub base: Url,
    /// With `Bearer`.
    pub token: HeaderValue,
}

/// An answer that is not `ok: true`.
pub(super) enum Failure {
    /// None came, or none that has to do with Slack's API; what that means for a send.
    Other(Verdict),
    Limited {
        after: Option<Duration>,
    },
    /// `ok: false`.
    Refused(Refused),
}

#[derive(Debug, Deserialize)]
pub(super) struct Refused {
    #[serde(rename = "error", default)]
    pub code: String,
    /// The scope that is missing.
    pub needed: Option<String>,
    #[serde(default)]
    pub response_metadata: Details,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Details {
    #[serde(default)]
    pub messages: Vec<String>,
}

impl Api {
    pub async fn post(&self, method: &str, body: &[u8], now: DateTime<Utc>) -> Result<Value, Failure> {
        let call = self.client.post(self.url(method, &[])).header("content-type", "application/json; charset=utf-8");
        self.call(call.body(body.to_vec()), now).await
    }

    /// Methods that only read.
    pub async fn get(&self, method: &str, query: &[(&str, &str)], now: DateTime<Utc>) -> Result<Value, Failure> {
        self.call(self.client.get(self.url(method, query)), now).await
    }

    /// Who the token is, and its scopes where Slack says them.
    pub async fn auth_test(&self, now: DateTime<Utc>) -> Result<(Value, Option<String>), Failure> {
        let call = self.client.post(self.url("auth.test", &[])).header(AUTHORIZATION, self.token.clone());
        let answer = call.send().await.map_err(|e| Failure::Other(http::judge_error(e)))?;
        let scopes = answer.headers().get("x-oauth-scopes").and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok((read(answer, now).await?, scopes))
    }

    fn url(&self, method: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{method}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn call(&self, call: reqwest::RequestBuilder, now: DateTime<Utc>) -> Result<Value, Failure> {
        match call.header(AUTHORIZATION, self.token.clone()).send().await {
            Ok(answer) => read(answer, now).await,
            Err(e) => Err(Failure::Other(http::judge_error(e))),
        }
    }
}

async fn read(answer: Response, now: DateTime<Utc>) -> Result<Value, Failure> {
    let (status, after) = (answer.status(), http::retry_after(answer.headers(), now));
    let body = http::read_body(answer, ANSWER_LIMIT).await;
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Failure::Limited { after });
    }
    let said = || format!("{status}: {}", String::from_utf8_lossy(&body));
    if !status.is_success() {
        return Err(Failure::Other(match status {
            StatusCode::REQUEST_TIMEOUT => Verdict::Ambiguous { reason: said() },
            s if s.is_server_error() => Verdict::Ambiguous { reason: said() },
            s if s.is_redirection() => {
                Verdict::Permanent { reason: format!("{status}: redirects are not followed; set api_url to the final address") }
            }
            _ => Verdict::Permanent { reason: format!("this is not Slack's API, or it refuses: {}; check api_url", said()) },
        }));
    }
    let ambiguous = |why: &str| Failure::Other(Verdict::Ambiguous { reason: format!("{why}: {}", said()) });
    let Ok(read) = serde_json::from_slice::<Value>(&body) else {
        return Err(ambiguous("an answer that cannot be read"));
    };
    match read["ok"].as_bool() {
        Some(true) => Ok(read),
        Some(false) => match serde_json::from_value::<Refused>(read) {
            Ok(r) if matches!(r.code.as_str(), "ratelimited" | "rate_limited") => Err(Failure::Limited { after }),
            Ok(refused) => Err(Failure::Refused(refused)),
            Err(_) => Err(ambiguous("a refusal that cannot be read")),
        },
        None => Err(ambiguous("an answer that does not say whether it was done")),
    }
}

impl Failure {
    /// What it means for a send to `channel`.
    pub fn verdict(self, channel: &str) -> Verdict {
        match self {
            Failure::Other(verdict) => verdict,
            Failure::Limited { after } => {
                Verdict::Retry { reason: "Slack asks to slow down".to_owned(), after, blame: Blame::Target }
            }
            Failure::Refused(refused) => refused.verdict(channel),
        }
    }
}

impl Refused {
    pub fn verdict(self, channel: &str) -> Verdict {
        let code = self.code.as_str();
        let mend = match code {
            // Slack: "It's possible some aspect of the operation succeeded before the error was raised."
            "internal_error" | "fatal_error" | "service_unavailable" | "request_timeout" => {
                return Verdict::Ambiguous { reason: format!("Slack answered {code}") };
            }
            // The client_msg_id has been used.
            "duplicate_message_not_found" | "duplicate_channel_not_found" => {
                return Verdict::AlreadyDone { response: Some(code.to_owned()) };
            }
            "team_added_to_org" => {
                return Verdict::Retry { reason: "the workspace is being moved".to_owned(), after: None, blame: Blame::Target };
            }
            "invalid_auth"
            | "not_authed"
            | "account_inactive"
            | "token_revoked"
            | "token_expired"
            | "not_allowed_token_type"
            | "org_login_required" => {
                "the token is not or no longer valid: install the app again and give its bot token (xoxb-…) as token".to_owned()
            }
            "missing_scope" | "no_permission" => {
                format!("give the app the scope {} and install it again", self.needed.as_deref().unwrap_or("chat:write"))
            }
            "channel_not_found" => format!(
                "the app sees no channel {channel}: correct channel in the route or the handler, or invite the app to it if it is private"
            ),
            "not_in_channel" => format!("invite the app to {channel}"),
            "is_archived" => format!("{channel} is archived: unarchive it, or name another channel"),
            "msg_blocks_too_long"
            | "msg_too_long"
            | "invalid_blocks"
            | "invalid_blocks_format"
            | "metadata_too_large"
            | "invalid_metadata_format"
            | "no_text" => {
                format!("Slack refuses the message's form ({}); please report it", self.response_metadata.messages.join("; "))
            }
            restricted if restricted.starts_with("restricted_action") => {
                format!("the workspace does not let the app post in {channel}: ask its administrators, or name another channel")
            }
            _ => "see docs.slack.dev/reference/methods/chat.postMessage".to_owned(),
        };
        Verdict::Permanent { reason: format!("{code}: {mend}") }
    }
}
