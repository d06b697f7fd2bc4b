//! What the kinds that speak HTTP have in common: a client that goes nowhere unasked, and what an outcome without an answer means.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Url};
use tower::util::MapResultLayer;

use super::target::{Guarded, RefusedAddress, check_address};
use super::{Blame, Context, Verdict};
use crate::causes::chain;

/// Longest `Retry-After` that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The address under `key` of an instance's table.
pub fn checked_url(key: &str, text: &str, allow_private: bool) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|e| format!("{key} = \"{text}\" is not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{key} = \"{text}\"; allowed are http:// and https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "{key} holds credentials; they have keys of their own, as {{ env = \"NAME\" }} or {{ file = \"path\" }}"
        ));
    }
    let host = url.host_str().unwrap_or_default();
    // The host as an address, however it was written (0x7f.1, [::ffff:7f00:1]): no look-up will see it.
    if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>()
        && !allow_private
    {
        check_address(host, ip).map_err(|e| format!("{key}: {e}"))?;
    }
    Ok(url)
}

/// Follows no redirect, uses no proxy, and connects to public addresses only, unless private ones are allowed.
pub fn client(timeout: Duration, allow_private: bool, context: &Context) -> Result<Client, String> {
    built(builder(timeout, guarded(allow_private, context)))
}

/// Tries whether a connection comes about as those of [`client`] do, encryption included, and hangs up. Nothing is ever sent.
pub struct Connector {
    timeout: Duration,
    resolver: Guarded,
}

impl Connector {
    pub fn new(timeout: Duration, allow_private: bool, context: &Context) -> Connector {
        Connector { timeout, resolver: guarded(allow_private, context) }
    }

    /// With a client of its own, which nothing else needs.
    pub async fn connects(&self, url: &Url) -> Result<(), String> {
        let client = built(builder(self.timeout, self.resolver.clone()).connector_layer(MapResultLayer::new(hang_up)))?;
        match client.head(url.clone()).send().await {
            Err(e) if caused_by::<Connected>(&e) => Ok(()),
            Err(e) => Err(chain(&e.without_url())),
            Ok(_) => Err("it answered what nobody asked".to_owned()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("connected, and hung up on purpose")]
struct Connected;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn hang_up<C>(connection: Result<C, AnyError>) -> Result<C, AnyError> {
    connection.and_then(|_| Err(Connected.into()))
}

fn built(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|e| format!("no HTTP client can be made: {e}"))
}

fn guarded(allow_private: bool, context: &Context) -> Guarded {
    Guarded { lookup: context.lookup.clone(), allow_private }
}

fn builder(timeout: Duration, resolver: Guarded) -> ClientBuilder {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .dns_resolver(Arc::new(resolver))
        // A connection that is not up by then cannot have carried a request, which the total timeout could not tell.
        .connect_timeout(timeout / 2)
        .timeout(timeout)
        .user_agent(concat!("stockwarden/", env!("CARGO_PKG_VERSION")))
}

/// What is read of an answer, at most `limit` bytes. A text that breaks off is given as far as it came.
pub async fn read_body(mut answer: reqwest::Response, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    bytes.truncate(limit);
    bytes
}

/// No answer came. Before the connection was up nothing can have happened; afterwards, everything.
pub fn judge_error(e: reqwest::Error) -> Verdict {
    let e = e.without_url();
    let reason = chain(&e);
    if caused_by::<RefusedAddress>(&e) {
        Verdict::Permanent { reason }
    } else if e.is_connect() {
        Verdict::Retry { reason, after: None, blame: Blame::Target }
    } else if e.is_builder() {
        Verdict::Permanent { reason }
    } else {
        Verdict::Ambiguous { reason }
    }
}

fn caused_by<E: std::error::Error + 'static>(e: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(e);
    while let Some(e) = source {
        if e.is::<E>() {
            return true;
        }
        source = e.source();
    }
    false
}

/// `Retry-After` in seconds or as a date.
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(value).ok()?.with_timezone(&Utc) - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_bounded() {
        let now = "2026-11-20T10:00:00Z".parse().expect("time");
        let read = |value: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, reqwest::header::HeaderValue::from_static(value))]), now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Fri, 20 Nov 2026 10:02:00 GMT"), Some(Duration::from_secs(120)));
        assert_eq!(read("Fri, 20 Nov 2020 10:02:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999"), Some(LONGEST_WAIT));
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
