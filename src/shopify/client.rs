//! Sends GraphQL requests to a shop's Admin API.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;

use super::answer::{Body, CallError, retry_after};
use super::tokens::{Credentials, Exchange, TokenError, Tokens};
use crate::causes::chain;
use crate::config::Secret;

/// The oldest version in which mutations can be made idempotent for certain (contracts §3).
const OLDEST: (u32, u32) = (2026, 4);
/// Where Shopify answers; part of the template by which the address of the tokens is known.
const GRAPHQL_PATH: &str = "/admin/api/{version}/graphql.json";
const TOKEN_PATH: &str = "/admin/oauth/access_token";
/// Domain in which every shop has its Admin API.
const SHOPS: &str = ".myshopify.com";
/// Most of an answer that is read; what we ask for is far smaller.
const ANSWER_LIMIT: usize = 1 << 20;
/// Most that a call waits in all for a shop's points to come back; longer waits are the caller's.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the API is reached.
#[derive(Clone)]
pub struct Settings {
    /// `{shop}` and `{version}` are put in.
    pub admin_url: String,
    /// Such as `2026-07`.
    pub version: String,
    /// Of one request.
    pub timeout: Duration,
    pub credentials: Credentials,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub data: Value,
    /// Something that people should know although it worked.
    pub warning: Option<String>,
}

pub struct AdminClient {
    http: Client,
    admin_url: String,
    version: String,
    tokens: Tokens,
    /// Versions that Shopify answered with instead of ours; each is logged once.
    strangers: Mutex<BTreeSet<String>>,
}

impl AdminClient {
    /// The error names the key that is wrong.
    pub fn new(settings: Settings) -> Result<AdminClient, String> {
        let Settings { admin_url, version, timeout, credentials } = settings;
        check_version(&version)?;
        let admin_url = admin_url.replace("{shop}.myshopify.com", "{shop}").replace("{version}", &version);
        check_url(&admin_url)?;
        if matches!(credentials, Credentials::App { .. }) && !admin_url.ends_with(&graphql_path(&version)) {
            return Err(format!(
                "admin_url must end in {GRAPHQL_PATH} where tokens come by client_id, so that their address is known"
            ));
        }
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // A connection that is not up by then cannot have carried a request, which the total timeout could not tell.
            .connect_timeout(timeout / 2)
            .timeout(timeout)
            .user_agent(concat!("stockwarden/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| format!("no HTTP client can be made: {e}"))?;
        Ok(AdminClient { http, admin_url, version, tokens: Tokens::new(credentials), strangers: Mutex::default() })
    }

    /// Sends a request's body, `{"query": …, "variables": …}`. Waits out short throttling and renews a token that has ended, once; neither
    /// can have had an effect. `shop` is its domain.
    pub async fn call(&self, shop: &str, body: &[u8], now: DateTime<Utc>) -> Result<Answer, CallError> {
        let url = self.url_for(shop)?;
        let mut token = self.token(shop, None, now).await?;
        let mut renewed = false;
        let mut patience = PATIENCE;
        loop {
            match self.once(url.clone(), &token, body).await {
                Err(CallError::Throttled { after, .. }) if after <= patience => {
                    patience -= after;
                    tokio::time::sleep(after).await;
                }
                Err(CallError::Unauthorized(_)) if self.tokens.renews() && !renewed => {
                    renewed = true;
                    token = self.token(shop, Some(&token), now).await?;
                }
                Err(CallError::Unauthorized(said)) => {
                    let mend = self.tokens.mend(shop);
                    return Err(CallError::Unauthorized(format!(
                        "Shopify refuses the access token of \"{shop}\" ({said}); {mend}"
                    )));
                }
                other => return other,
            }
        }
    }

    async fn token(&self, shop: &str, refused: Option<&Secret>, now: DateTime<Utc>) -> Result<Secret, CallError> {
        self.tokens.get(shop, refused, self, now).await.map_err(|e| match e {
            TokenError::None(reason) => CallError::Refused(reason),
            TokenError::Away { reason, after } => CallError::Away { reason, after },
        })
    }

    async fn once(&self, url: Url, token: &Secret, body: &[u8]) -> Result<Answer, CallError> {
        let call = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("x-shopify-access-token", token_header(token)?)
            .body(body.to_vec());
        let answer = call.send().await.map_err(|e| not_answered(&e.without_url()))?;
        let spoken = header(&answer, "x-shopify-api-version");
        let (status, after) = (answer.status(), header(&answer, "retry-after").and_then(|v| retry_after(&v)));
        // Whatever is told of the answer: not the token.
        let text = read(answer).await.map(|bytes| String::from_utf8_lossy(&bytes).replace(token.expose(), "***"));
        if !status.is_success() {
            return Err(refused(status, after, beginning(text.as_deref().unwrap_or_default())));
        }
        let text = text.map_err(|e| CallError::Unknown(format!("{status}, but its answer broke off: {e}")))?;
        let body: Body = serde_json::from_str(&text).map_err(|_| {
            CallError::Unknown(format!("{status}, but its answer is not what GraphQL answers: {}", beginning(&text)))
        })?;
        Ok(Answer { data: body.data()?, warning: spoken.and_then(|v| self.notice(&v)) })
    }

    /// An unsupported version falls forward to the oldest supported one, silently but for this header.
    fn notice(&self, spoken: &str) -> Option<String> {
        if spoken == self.version {
            return None;
        }
        let told =
            format!("Shopify answered as API version {spoken}, not {}: set api_version to one that it supports", self.version);
        let mut strangers = self.strangers.lock().expect("no code panics while holding this lock");
        // A handful at most, unless somebody makes them up.
        if strangers.len() < 100 && strangers.insert(spoken.to_owned()) {
            tracing::warn!(asked = self.version, answered = spoken, "{told}");
        }
        Some(told)
    }

    fn url_for(&self, shop: &str) -> Result<Url, CallError> {
        let refuse = |why: &str| CallError::Refused(format!("\"{shop}\" {why}"));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        if shop.is_empty() || !shop.chars().all(plain) {
            return Err(refuse("is not a Shopify shop's domain: only shops at Shopify have an Admin API"));
        }
        // What goes to a host of the shop's name takes our token there; no other domain may get it.
        if host_is_shop(&self.admin_url) && !shop.ends_with(SHOPS) {
            return Err(refuse(&format!("is not a domain under {SHOPS}, where every Shopify shop has its Admin API")));
        }
        self.admin_url.replace("{shop}", shop).parse().map_err(|_| refuse("makes no URL of admin_url"))
    }
}

impl Exchange for AdminClient {
    fn exchange<'a>(&'a self, shop: &'a str, form: String) -> BoxFuture<'a, Result<Vec<u8>, TokenError>> {
        Box::pin(async move {
            let away =
                |reason: String, after| TokenError::Away { reason: format!("no access token could be had: {reason}"), after };
            let mut url = self.url_for(shop).map_err(|e| TokenError::None(e.to_string()))?;
            let path = url.path().strip_suffix(&graphql_path(&self.version)).unwrap_or_default().to_owned();
            url.set_path(&format!("{path}{TOKEN_PATH}"));
            let call = self
                .http
                .post(url)
                .header("content-type", "application/x-www-form-urlencoded")
                .header("accept", "application/json")
                .body(form);
            let answer = call.send().await.map_err(|e| away(chain(&e.without_url()), None))?;
            let (status, after) = (answer.status(), header(&answer, "retry-after").and_then(|v| retry_after(&v)));
            if status.is_success() {
                return read(answer).await.map_err(|e| away(e, after));
            }
            // The text is not told: it may repeat what was sent, and that is the secret.
            if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429 | 430) {
                return Err(away(status.to_string(), after));
            }
            Err(TokenError::None(format!(
                "Shopify gives no access token for \"{shop}\" ({status}): are client_id and client_secret right, and is the app \
                 installed in this shop?"
            )))
        })
    }
}

fn graphql_path(version: &str) -> String {
    GRAPHQL_PATH.replace("{version}", version)
}

fn check_version(version: &str) -> Result<(), String> {
    let parts = version.split_once('-').and_then(|(y, m)| Some((y.parse::<u32>().ok()?, m.parse::<u32>().ok()?)));
    match parts {
        Some((year, month)) if version.len() == 7 && matches!(month, 1 | 4 | 7 | 10) => match (year, month) < OLDEST {
            true => Err(format!("api_version = \"{version}\" is too old: transfers are made once for certain from 2026-04 on")),
            false => Ok(()),
        },
        _ => Err(format!("api_version = \"{version}\" is not a version such as \"2026-07\"")),
    }
}

fn check_url(admin_url: &str) -> Result<(), String> {
    let shown = || format!("admin_url = \"{admin_url}\"");
    if let Some(stray) = admin_url.replace("{shop}", "").split_once('{') {
        let name = stray.1.split('}').next().unwrap_or_default();
        return Err(format!("{} holds {{{name}}}; only {{shop}} and {{version}} are put in", shown()));
    }
    let url: Url =
        admin_url.replace("{shop}", "x.myshopify.com").parse().map_err(|e| format!("{} is not a URL: {e}", shown()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "admin_url holds credentials; tokens come by client_id and client_secret, access_token, or the shops".to_owned()
        );
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(()),
        "http" if local => Ok(()),
        _ => Err(format!("{}; allowed is https://, and http:// on loopback: a token goes there", shown())),
    }
}

fn host_is_shop(admin_url: &str) -> bool {
    let authority = admin_url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    authority.contains("{shop}")
}

fn token_header(token: &Secret) -> Result<reqwest::header::HeaderValue, CallError> {
    let mut value = reqwest::header::HeaderValue::from_str(token.expose())
        .map_err(|_| CallError::Refused("the access token has characters that no header may have".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn header(answer: &Response, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

/// A status other than 2xx, where GraphQL never said anything.
fn refused(status: StatusCode, after: Option<Duration>, said: &str) -> CallError {
    let text = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    match status.as_u16() {
        401 => CallError::Unauthorized(text),
        // 430 is Shopify's own: too many requests, by its security.
        429 | 430 => CallError::Throttled {
            reason: format!("Shopify throttles this shop: {text}"),
            after: after.unwrap_or(Duration::from_secs(1)),
        },
        402 => CallError::Refused(format!("the shop is frozen for unpaid bills ({text})")),
        403 => CallError::Refused(format!("Shopify forbids it ({text}): does the app have this shop's approval?")),
        404 => CallError::Refused(format!(
            "there is no such shop or API version ({text}); see admin_url, api_version and the shop's domain"
        )),
        423 => CallError::Refused(format!("the shop is locked at Shopify ({text})")),
        300..=399 => CallError::Refused(format!("{text}: redirects are not followed; set admin_url to the final address")),
        408 | 500..=599 => CallError::Unknown(text),
        _ => CallError::Refused(format!("Shopify refuses the request: {text}")),
    }
}

/// No answer came. Before the connection was up nothing can have happened; afterwards, everything.
fn not_answered(e: &reqwest::Error) -> CallError {
    let reason = chain(e);
    if e.is_connect() {
        CallError::Away { reason, after: None }
    } else if e.is_builder() {
        CallError::Refused(reason)
    } else {
        CallError::Unknown(reason)
    }
}

/// As much of a text as anybody reads.
fn beginning(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(at, _)| &text[..at])
}

/// The whole body, if it is not too long.
async fn read(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| chain(&e.without_url()))? {
        if bytes.len() + chunk.len() > ANSWER_LIMIT {
            return Err(format!("it is longer than {ANSWER_LIMIT} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
