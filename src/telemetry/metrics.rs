//! The node's metrics, in Prometheus's text form. Labels are closed sets: no shop, SKU or person is ever one (DESIGN §7.9).
//!
//! To add metrics of a module: give it a struct of `Family`, `Counter` … with a `new(&Metrics)` that registers them, as
//! [`HttpMetrics`] does, and keep the struct where they are counted.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the node. All names begin with `stockwarden_`.
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(…)")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { registry: Mutex::new(Registry::with_prefix("stockwarden")) }
    }
}

impl Metrics {
    /// Registers metrics; `add` gets the registry with its prefix set.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a String does not fail");
        text
    }
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WebhookOutcome {
    Accepted,
    DeadLetter,
    TooLarge,
    UnknownShop,
    BadSignature,
    BadRequest,
    Unavailable,
}

impl EncodeLabelValue for WebhookOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(
            &match self {
                WebhookOutcome::Accepted => "accepted",
                WebhookOutcome::DeadLetter => "dead_letter",
                WebhookOutcome::TooLarge => "too_large",
                WebhookOutcome::UnknownShop => "unknown_shop",
                WebhookOutcome::BadSignature => "bad_signature",
                WebhookOutcome::BadRequest => "bad_request",
                WebhookOutcome::Unavailable => "unavailable",
            },
            encoder,
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    pub outcome: WebhookOutcome,
}

/// A request by the pattern of its route, so that the number of series is the number of routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub route: String,
    pub status: u16,
}

#[derive(Debug, Clone)]
pub struct HttpMetrics {
    pub requests: Family<RequestLabels, Counter>,
    pub webhooks: Family<OutcomeLabel, Counter>,
    pub webhook_bytes: Counter,
    pub webhook_seconds: Histogram,
    pub shops: Gauge,
}

impl HttpMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        let own = HttpMetrics {
            requests: Family::default(),
            webhooks: Family::default(),
            webhook_bytes: Counter::default(),
            // 0.5 ms to 8 s; Shopify gives up at 5 s.
            webhook_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 15)),
            shops: Gauge::default(),
        };
        metrics.register(|r| {
            r.register("http_requests", "HTTP requests by route and status", own.requests.clone());
            r.register("webhooks", "Webhooks by what became of them", own.webhooks.clone());
            r.register("webhook_bytes", "Bytes of webhook bodies read", own.webhook_bytes.clone());
            r.register(
                "webhook_seconds",
                "Time from a webhook's head to its answer, durable included",
                own.webhook_seconds.clone(),
            );
            r.register("registered_shops", "Shops in the directory of this node", own.shops.clone());
        });
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_our_prefix() {
        let metrics = Metrics::default();
        let http = HttpMetrics::new(&metrics);
        http.webhooks.get_or_create(&OutcomeLabel { outcome: WebhookOutcome::DeadLetter }).inc();
        http.webhook_seconds.observe(0.002);
        let text = metrics.encode();
        assert!(text.contains("stockwarden_webhooks_total{outcome=\"dead_letter\"} 1"), "{text}");
        assert!(text.contains("stockwarden_webhook_seconds_count 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
