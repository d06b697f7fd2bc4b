//! Shops that go on selling whatever happens: signed webhooks to any node, and records straight to the log. What was acknowledged
//! is remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use stockwarden::adapters::kafka::KafkaLog;
use stockwarden::events::record::{NewRecord, Position};
use stockwarden::ports::EventLog as _;
use stockwarden::sim::shopify_signature;
use tokio::sync::watch;

use super::installation::{Installation, NODES, SECRET};
use crate::engine::harness::foreign;

/// A fact whose writer was told that it is durable.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    pub position: Position,
    /// Of the body as it was sent.
    pub digest: [u8; 32],
}

const SHOPS: u64 = 6;
const VARIANTS: u64 = 20;
const LOCATIONS: u64 = 2;
/// Who sends webhooks, and who writes to the log.
const SENDERS: usize = 4;
const WRITERS: usize = 2;
const WEBHOOK_EVERY: Duration = Duration::from_millis(20);
const BATCH_EVERY: Duration = Duration::from_millis(60);
const BATCH: usize = 6;
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

pub const RULES: &str = r#"
[[rule]]
id = "low"
scope = "location"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "up-to", level = 60, pack = 6, minimum = 12 }
cool_down = "0s"
routes = [{ to = "erp" }, { to = "audit", id = "copy" }]

[[rule]]
id = "shop-low"
scope = "shop"
trigger = { kind = "constant", threshold = 25 }
cool_down = "5s"
routes = [{ to = "audit" }]
"#;

/// Routes of the rules above, as the ledger names them.
pub fn routes(rule: &str) -> &'static [&'static str] {
    match rule {
        "low" => &["0", "copy"],
        _ => &["0"],
    }
}

pub fn shops() -> Vec<String> {
    (0..SHOPS).map(|n| format!("shop-{n}.myshopify.com")).collect()
}

struct Level {
    shop: String,
    item: u64,
    location: u64,
    available: i64,
    /// Of the last fact, Unix milliseconds.
    updated: i64,
}

pub struct Load {
    installation: Arc<Installation>,
    log: Arc<KafkaLog>,
    http: reqwest::Client,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
}

impl Load {
    pub async fn new(installation: Arc<Installation>) -> Load {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().expect("a client");
        let settings = installation.settings.clone();
        let log = tokio::task::block_in_place(|| crate::support::kafka::open(&settings));
        Load { installation, log, http, acknowledged: Arc::default() }
    }

    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, position: Position, body: &[u8]) {
        let digest = Sha256::digest(body).into();
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Acknowledged { position, digest });
    }

    /// The catalogue, through webhooks.
    pub async fn list_products(&self) {
        for (shop, n) in shops().iter().zip(0..) {
            for variant in 1..=VARIANTS {
                let body = product(n * 1000 + variant);
                let sent = self.webhook(0, shop, "products/create", &body).await;
                assert!(sent, "a product is taken");
            }
        }
    }

    /// Sells until `stop` says true.
    pub async fn run(self: Arc<Self>, seed: u64, stop: watch::Receiver<bool>) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut workers: Vec<Vec<Level>> = (0..SENDERS + WRITERS).map(|_| Vec::new()).collect();
        for (shop, n) in shops().into_iter().zip(0..) {
            for item in 1..=VARIANTS {
                for location in 1..=LOCATIONS {
                    let available = rng.random_range(12..60);
                    let level = Level { shop: shop.clone(), item: n * 1000 + item + 500_000, location, available, updated: 0 };
                    workers[rng.random_range(0..SENDERS + WRITERS)].push(level);
                }
            }
        }
        let running = workers.into_iter().enumerate().map(|(i, levels)| {
            let (load, stop, rng) = (self.clone(), stop.clone(), SmallRng::seed_from_u64(seed ^ (i as u64 + 1)));
            tokio::spawn(async move {
                if i < SENDERS { load.send(levels, rng, stop).await } else { load.write(levels, rng, stop).await }
            })
        });
        for ended in futures::future::join_all(running).await {
            ended.expect("the load does not break down");
        }
    }

    async fn send(&self, mut levels: Vec<Level>, mut rng: SmallRng, stop: watch::Receiver<bool>) {
        let mut pace = tokio::time::interval(WEBHOOK_EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            pace.tick().await;
            let at = rng.random_range(0..levels.len());
            let body = sell(&mut levels[at], &mut rng);
            let mut node = rng.random_range(0..NODES);
            // What was not acknowledged comes again, as from any shop; and now and then what was, as well.
            for _ in 0..3 {
                let sent = self.webhook(node, &levels[at].shop, "inventory_levels/update", &body).await;
                if sent && !rng.random_bool(0.02) {
                    break;
                }
                node = (node + 1) % NODES;
            }
        }
    }

    async fn write(&self, mut levels: Vec<Level>, mut rng: SmallRng, stop: watch::Receiver<bool>) {
        let mut pace = tokio::time::interval(BATCH_EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            pace.tick().await;
            let records: Vec<NewRecord> = (0..BATCH)
                .map(|_| {
                    let at = rng.random_range(0..levels.len());
                    let body = sell(&mut levels[at], &mut rng);
                    // Now and then something that nobody understands: it must become a dead letter, once.
                    foreign(&levels[at].shop, if rng.random_bool(0.01) { "not json".to_owned() } else { body })
                })
                .collect();
            // When it fails, some may be written; nobody was told so.
            if let Ok(positions) = self.log.append(records.clone()).await {
                for (record, position) in records.iter().zip(positions) {
                    self.remember(position, record.value.as_deref().unwrap_or_default());
                }
            }
        }
    }

    async fn webhook(&self, node: usize, shop: &str, topic: &str, body: &str) -> bool {
        let Some(base) = self.installation.base(node) else { return false };
        let request = self
            .http
            .post(format!("{base}/webhooks/shopify"))
            .header("X-Shopify-Topic", topic)
            .header("X-Shopify-Hmac-Sha256", shopify_signature(SECRET, body.as_bytes()))
            .header("X-Shopify-Shop-Domain", shop)
            .header("X-Shopify-Webhook-Id", uuid::Uuid::new_v4().to_string())
            .header("X-Shopify-Triggered-At", Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true))
            .body(body.to_owned());
        let Ok(answer) = request.send().await else { return false };
        if !answer.status().is_success() {
            return false;
        }
        let Ok(answer) = answer.json::<serde_json::Value>().await else { return false };
        let Some(position) = answer["position"].as_str().and_then(|p| p.parse().ok()) else { return false };
        self.remember(position, body.as_bytes());
        true
    }
}

/// Sells some, or restocks when the shelf is empty; the webhook's body.
fn sell(level: &mut Level, rng: &mut SmallRng) -> String {
    level.available = if level.available <= 3 { rng.random_range(40..70) } else { level.available - rng.random_range(1..=5) };
    level.updated = Utc::now().timestamp_millis().max(level.updated + 1);
    let updated = DateTime::from_timestamp_millis(level.updated).expect("in range").to_rfc3339_opts(SecondsFormat::Millis, true);
    format!(
        r#"{{"inventory_item_id":{},"location_id":{},"available":{},"updated_at":"{updated}"}}"#,
        level.item, level.location, level.available
    )
}

fn product(id: u64) -> String {
    let item = id + 500_000;
    format!(
        r#"{{"id":{id},"title":"Product {id}","vendor":"Acme","updated_at":"2026-11-01T00:00:00Z","variants":[{{"id":{id},"inventory_item_id":{item},"sku":"SKU-{id}","title":"Default Title","inventory_quantity":null}}]}}"#
    )
}
