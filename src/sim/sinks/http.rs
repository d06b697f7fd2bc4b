//! Signed webhooks over HTTP, as Shopify sends them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::sim::delivery::{Delivery, Phase};
use crate::sim::shopify_signature;

use super::report::Tally;
use super::{Counters, Pace, Report, Schedule, Stop, add, sleep_or_stop};

/// Shopify waits so long for an answer, all in all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Shopify's connect timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The path that DESIGN §5 gives to Shopify.
const PATH: &str = "/webhooks/shopify";
const API_VERSION: &str = "2026-07";
/// A delivery of the catalogue is sent again so often; what follows would be about unknown products.
const CATALOGUE_ATTEMPTS: u32 = 6;
/// If so many connections fail and none succeeds, nobody is there.
const NOBODY_THERE: u64 = 40;

#[derive(Debug, thiserror::Error)]
pub enum HttpSinkError {
    #[error("\"{url}\" is not a URL to send to: {reason}; an example is http://127.0.0.1:8080")]
    BadUrl { url: String, reason: String },
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

pub struct HttpSink {
    client: Client,
    url: Url,
    secret_of: Box<dyn Fn(&str) -> String + Send + Sync>,
    max_in_flight: usize,
    timeout: Duration,
}

/// A delivery's way from the permit to the tally.
struct Sending {
    delivery: Delivery,
    secret: Arc<str>,
    began: Instant,
    permit: OwnedSemaphorePermit,
}

impl HttpSink {
    /// `base` is the target's base URL, or the whole URL of its webhook endpoint.
    pub fn new(
        base: &str,
        secret_of: impl Fn(&str) -> String + Send + Sync + 'static,
        max_in_flight: usize,
    ) -> Result<HttpSink, HttpSinkError> {
        let bad = |reason: String| HttpSinkError::BadUrl { url: base.to_owned(), reason };
        let mut url = Url::parse(base).map_err(|e| bad(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(bad("it is neither http nor https".into()));
        }
        if matches!(url.path(), "" | "/") {
            url.set_path(PATH);
        }
        // reqwest comes without a TLS provider of its own; whoever installed one before us chose well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(max_in_flight)
            .no_proxy()
            .build()
            .map_err(|e| HttpSinkError::Client(e.to_string()))?;
        Ok(HttpSink { client, url, secret_of: Box::new(secret_of), max_in_flight: max_in_flight.max(1), timeout: TIMEOUT })
    }

    /// Another patience than Shopify's.
    pub fn with_timeout(self, timeout: Duration) -> HttpSink {
        HttpSink { timeout, ..self }
    }

    /// Sends all deliveries on schedule. Past the bound of unanswered ones a due delivery is skipped and counted.
    pub async fn run(
        self: Arc<Self>,
        deliveries: impl Iterator<Item = Delivery>,
        virtual_start: i64,
        pace: Pace,
        counters: Arc<Counters>,
        mut stop: Stop,
    ) -> Report {
        let tally = Arc::new(Mutex::new(Tally::new(self.url.to_string())));
        let permits = Arc::new(Semaphore::new(self.max_in_flight));
        let mut secrets: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let mut schedule = Schedule::new(pace);
        let mut live = false;
        for delivery in deliveries {
            if let Some(why) = reason_to_stop(&stop, &tally) {
                lock(&tally).report.stopped = Some(why);
                break;
            }
            let is_live = delivery.phase == Phase::Live;
            if is_live && !live {
                drain(&permits, self.max_in_flight).await;
                schedule.begin_live();
                live = true;
            }
            if is_live && let Some(when) = schedule.wall(delivery.due, virtual_start) {
                if when > Instant::now() && sleep_or_stop(when, &mut stop).await {
                    lock(&tally).report.stopped = Some("interrupted".into());
                    break;
                }
                lock(&tally).lateness.record(Instant::now().saturating_duration_since(when));
            }
            if is_live && schedule.is_over() {
                break;
            }
            let scheduled = is_live && pace.speedup.is_some();
            let permit = match permits.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) if scheduled => {
                    lock(&tally).report.skipped += 1;
                    continue;
                }
                Err(_) => match permits.clone().acquire_owned().await {
                    Ok(permit) => permit,
                    Err(_) => break,
                },
            };
            if is_live {
                lock(&tally).report.live += 1;
                add(&counters.live);
            } else {
                lock(&tally).report.catalogue += 1;
                add(&counters.catalogue);
            }
            let secret = secrets.entry(delivery.shop.clone()).or_insert_with_key(|shop| (self.secret_of)(shop).into()).clone();
            let sending = Sending { delivery, secret, began: Instant::now(), permit };
            tokio::spawn(self.clone().send(sending, tally.clone(), counters.clone(), stop.clone()));
        }
        let live_for = if live { schedule.live_for() } else { Duration::ZERO };
        drain(&permits, self.max_in_flight).await;
        lock(&tally).finish(live_for)
    }

    async fn send(self: Arc<Self>, sending: Sending, tally: Arc<Mutex<Tally>>, counters: Arc<Counters>, mut stop: Stop) {
        let Sending { delivery, secret, began, permit } = sending;
        let attempts = if delivery.phase == Phase::Catalogue { CATALOGUE_ATTEMPTS } else { 1 };
        let mut pause = Duration::from_millis(100);
        let mut answer = self.post(&delivery, &secret).await;
        for _ in 1..attempts {
            if !worth_a_retry(&answer) || sleep_or_stop(Instant::now() + pause, &mut stop).await {
                break;
            }
            pause *= 2;
            answer = self.post(&delivery, &secret).await;
        }
        add(if answer.starts_with('2') { &counters.accepted } else { &counters.refused });
        lock(&tally).answer(&answer, began.elapsed());
        drop(permit);
    }

    /// The status, or what came instead of an answer.
    async fn post(&self, delivery: &Delivery, secret: &str) -> String {
        let request = self
            .client
            .post(self.url.clone())
            .timeout(self.timeout)
            .header("Content-Type", "application/json")
            .header("X-Shopify-Topic", delivery.topic.as_str())
            .header("X-Shopify-Hmac-Sha256", shopify_signature(secret, &delivery.body))
            .header("X-Shopify-Shop-Domain", &*delivery.shop)
            .header("X-Shopify-API-Version", API_VERSION)
            .header("X-Shopify-Webhook-Id", delivery.webhook_id.to_string())
            .header("X-Shopify-Event-Id", delivery.event_id.to_string())
            .header("X-Shopify-Triggered-At", delivery.triggered_at_text())
            .body(delivery.body.clone());
        let sent = async {
            let response = request.send().await?;
            let status = response.status();
            // Read to its end, so that the connection can be used again.
            response.bytes().await?;
            Ok::<StatusCode, reqwest::Error>(status)
        };
        match sent.await {
            Ok(status) => status.as_str().to_owned(),
            Err(e) if e.is_connect() => "connect".into(),
            Err(e) if e.is_timeout() => "timeout".into(),
            Err(_) => "broken".into(),
        }
    }
}

fn worth_a_retry(answer: &str) -> bool {
    answer.starts_with('5') || matches!(answer, "429" | "connect" | "timeout" | "broken")
}

fn reason_to_stop(stop: &Stop, tally: &Mutex<Tally>) -> Option<String> {
    if *stop.borrow() {
        return Some("interrupted".into());
    }
    let tally = lock(tally);
    let failed = tally.report.answered("connect");
    (failed >= NOBODY_THERE && tally.report.answers.len() == 1).then(|| format!("nothing answers at {}", tally.report.target))
}

/// Waits until no delivery is on its way.
async fn drain(permits: &Arc<Semaphore>, all: usize) {
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    // An error says that the semaphore is closed, which nobody does.
    drop(permits.acquire_many(all).await);
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    // Counters stay sound whatever panicked while it held them.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
