//! The kind `target`: the decision as a signed JSON request to any API of the customer's (Standard Webhooks).
//!
//! ```toml
//! [handlers.erp]
//! kind = "target"
//! url = "https://erp.example.com/orders"
//! secret = { env = "ERP_SECRET" }               # whsec_…; without it requests are not signed
//! headers = { "X-Client" = "7", Authorization = { env = "ERP_TOKEN" } }
//! body = { article = "{{sku}}", amount = "{{quantity}}" }   # default: the decision with its route
//! timeout = "10s"
//! allow_private_addresses = false
//! ```
//!
//! Frozen is the body. `webhook-id` and `Idempotency-Key` are the effect's key, the same at every send; `webhook-timestamp` and
//! the signature over it are made anew each time, because receivers refuse old timestamps, and secrets stay out of the ledger.

mod address;
mod body;
mod sign;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

pub(super) use address::{Guarded, check as check_address};
pub use address::{Lookup, RefusedAddress, SystemLookup, not_public};
pub(super) use body::Template;

use self::sign::SigningKey;
use super::registry::{duration_text, read_config};
use super::{Blame, Context, Guarantee, Handler, Job, Verdict, http, placeholders};
use crate::config::SecretRef;
use crate::ports::targets::{Finding, Scope};

/// Once, if the receiver heeds the key; whether it does cannot be seen from here.
pub(super) const GUARANTEE: Guarantee = Guarantee::BestEffort;
/// Most of an answer that is read.
const ANSWER_LIMIT: usize = 4096;
/// How long nothing is sent to a target that said it has gone for good (410). Then one send may find that it was mended.
const GONE_FOR: TimeDelta = TimeDelta::hours(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
    secret: Option<SecretRef>,
    #[serde(default)]
    headers: BTreeMap<String, HeaderText>,
    body: Option<Value>,
    #[serde(default = "default_timeout", deserialize_with = "duration_text")]
    timeout: Duration,
    #[serde(default)]
    allow_private_addresses: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum HeaderText {
    Plain(String),
    Secret(SecretRef),
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

pub struct Target {
    /// Name of the instance.
    name: String,
    client: Client,
    /// For `check`.
    connector: http::Connector,
    url: Url,
    key: Option<SigningKey>,
    headers: HeaderMap,
    template: Option<Template>,
    secrets: Vec<String>,
    /// When it last said that it has gone, unless it has said something else since.
    gone: Mutex<Option<DateTime<Utc>>>,
}

pub(super) fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    let url = http::checked_url("url", &config.url, config.allow_private_addresses)?;
    let mut secrets = Vec::new();
    let key = match &config.secret {
        None => None,
        Some(secret) => {
            let secret = context.secret("secret", secret)?;
            let key = SigningKey::parse(&secret)?;
            secrets.push(secret);
            Some(key)
        }
    };
    let headers = checked_headers(&config.headers, context, &mut secrets)?;
    let template = config.body.map(Template::new).transpose()?;
    let client = http::client(config.timeout, config.allow_private_addresses, context)?;
    let connector = http::Connector::new(config.timeout, config.allow_private_addresses, context);
    let name = context.name.clone();
    Ok(Arc::new(Target { name, client, connector, url, key, headers, template, secrets, gone: Mutex::default() }))
}

fn checked_headers(
    config: &BTreeMap<String, HeaderText>,
    context: &Context,
    secrets: &mut Vec<String>,
) -> Result<HeaderMap, String> {
    const OURS: [&str; 6] =
        ["webhook-id", "webhook-timestamp", "webhook-signature", "idempotency-key", "content-type", "content-length"];
    let mut headers = HeaderMap::new();
    for (name, value) in config {
        let at = || format!("headers.{name}");
        let header: HeaderName = name.parse().map_err(|_| format!("{} is not a header's name", at()))?;
        if OURS.contains(&header.as_str()) || header == reqwest::header::HOST {
            return Err(format!("{} is set by Stockwarden itself", at()));
        }
        let text = match value {
            HeaderText::Plain(text) => text.clone(),
            HeaderText::Secret(secret) => {
                let text = context.secret(&at(), secret)?;
                secrets.push(text.clone());
                text
            }
        };
        let mut value_of = HeaderValue::from_str(&text).map_err(|_| format!("{} has characters no header may have", at()))?;
        value_of.set_sensitive(true);
        headers.insert(header, value_of);
    }
    Ok(headers)
}

impl Handler for Target {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    /// No request: what a foreign API makes of one is not known here. Only that it can be reached, by an address that is allowed.
    fn probe<'a>(&'a self, _scope: &'a Scope, _now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async move {
            let about = format!("connection to {}", self.url.host_str().unwrap_or_default());
            vec![match self.connector.connects(&self.url).await {
                Ok(()) => Finding::fine(about, "it connects; whether it takes a request only a decision tells: nothing was sent"),
                Err(said) => Finding::problem(about, said, format!("see url of [handlers.{}]", self.name)),
            }]
        })
    }

    fn prepare(&self, job: &Job, _now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let document = placeholders::document(job);
        let body = match &self.template {
            None => Value::Object(document),
            Some(template) => template.fill(&document),
        };
        serde_json::to_vec(&body).map_err(|e| format!("the body cannot be written: {e}"))
    }

    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            if let Some(reason) = self.gone(now) {
                return Verdict::Permanent { reason };
            }
            let (key, timestamp) = (job.key(), now.timestamp());
            let mut call = self
                .client
                .post(self.url.clone())
                .headers(self.headers.clone())
                .header("content-type", "application/json")
                .header("webhook-id", &key)
                .header("webhook-timestamp", timestamp.to_string())
                .header("idempotency-key", &key);
            if let Some(signing) = &self.key {
                call = call.header("webhook-signature", signing.sign(&key, timestamp, request));
            }
            match call.body(request.to_vec()).send().await {
                Ok(answer) => {
                    *self.gone_since() = (answer.status() == StatusCode::GONE).then_some(now);
                    judge_answer(answer, now).await
                }
                Err(e) => http::judge_error(e),
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}

impl Target {
    /// Why nothing is sent now.
    fn gone(&self, now: DateTime<Utc>) -> Option<String> {
        let until = (*self.gone_since())? + GONE_FOR;
        (now < until).then(|| {
            format!(
                "not sent: the target said that it has gone for good (410), and is left alone until {}; set url to where it is now, or \
                 take it out of the rules, then retry",
                until.format("%H:%M UTC")
            )
        })
    }

    fn gone_since(&self) -> std::sync::MutexGuard<'_, Option<DateTime<Utc>>> {
        self.gone.lock().expect("no code panics while holding this lock")
    }
}

async fn judge_answer(answer: reqwest::Response, now: DateTime<Utc>) -> Verdict {
    let status = answer.status();
    let after = http::retry_after(answer.headers(), now);
    let location = answer.headers().get(reqwest::header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    // The status decides; a text that breaks off changes nothing.
    let text = String::from_utf8_lossy(&http::read_body(answer, ANSWER_LIMIT).await).into_owned();
    let said = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
    match status {
        s if s.is_success() => Verdict::Done { response: Some(said), reference: None },
        StatusCode::CONFLICT => Verdict::AlreadyDone { response: Some(said) },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Retry { reason: said, after, blame: Blame::Target }
        }
        // It broke while it worked on the request, or a gateway lost it there: it may have done it all the same.
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            Verdict::Ambiguous { reason: said }
        }
        s if s.is_server_error() => Verdict::Retry { reason: said, after, blame: Blame::Target },
        StatusCode::GONE => {
            Verdict::Permanent { reason: format!("the target has gone for good ({said}); take it out of the rules") }
        }
        s if s.is_redirection() => Verdict::Permanent {
            reason: format!(
                "{status} to {}: redirects are not followed; set url to the final address",
                location.unwrap_or_default()
            ),
        },
        _ => Verdict::Permanent { reason: format!("the target refused the request: {said}") },
    }
}
