//! A node's HTTP side in a temporary folder, with what a test needs to talk to it and to look into its log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use hmac::{Hmac, Mac};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};
use stockwarden::actors::moves::Mover;
use stockwarden::adapters::embedded::log::{EmbeddedLog, Options};
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::api::{ApiContext, Limits, Listener, NodeRole, ReorderParts, Server, serve};
use stockwarden::events::record::{RecordBatch, Topic};
use stockwarden::ports::registry::{Role, ShopEntry, ShopKind, TokenEntry};
use stockwarden::ports::{EventLog as _, Moves, Registry as _};
use stockwarden::telemetry::metrics::Metrics;
use stockwarden::vault::Vault;
use tempfile::TempDir;

use super::ports::{Log, Store};
use super::queries::Known;

pub const SHOP: &str = "demo-outdoor.myshopify.com";
pub const SECRET: &str = "shpss_0123456789abcdef0123456789abcdef";
pub const LEVEL: &[u8] = br#"{"inventory_item_id":1,"location_id":2,"available":3,"updated_at":"2026-11-20T09:15:02-05:00"}"#;
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Site {
    pub client: Client,
    pub server: Option<Server>,
    pub log: Arc<Log>,
    pub store: Arc<Store>,
    pub vault: Vault,
    pub queries: Arc<Known>,
    pub base: String,
    _dir: TempDir,
}

/// A record of the log.
pub struct Stored {
    pub position: String,
    pub key: String,
    pub headers: Vec<(String, String)>,
    pub value: Vec<u8>,
}

impl Stored {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.value).expect("JSON")
    }
}

pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("key");
    mac.update(body);
    STANDARD.encode(mac.finalize().into_bytes())
}

impl Site {
    /// A node with all roles, and the shop [`SHOP`] with [`SECRET`].
    pub async fn new() -> Site {
        Site::with(Limits::default(), NodeRole::ALL.to_vec()).await
    }

    pub async fn with(limits: Limits, roles: Vec<NodeRole>) -> Site {
        Site::build(limits, roles, Vec::new(), None).await
    }

    /// With handlers whose targets talk back.
    pub async fn listening(limits: Limits, roles: Vec<NodeRole>, listeners: Vec<Listener>) -> Site {
        Site::build(limits, roles, listeners, None).await
    }

    /// A node with all roles whose moves are carried out by `moves`.
    pub async fn moving(moves: Arc<dyn Moves>) -> Site {
        Site::build(Limits::default(), NodeRole::ALL.to_vec(), Vec::new(), Some(moves)).await
    }

    async fn build(limits: Limits, roles: Vec<NodeRole>, listeners: Vec<Listener>, moves: Option<Arc<dyn Moves>>) -> Site {
        // Already installed by another test, or installed now: either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("folder");
        let clock = || Utc::now().timestamp_millis();
        let options = Options { partitions: 4, segment_bytes: 64 << 20, max_record_bytes: 8 << 20, clock: Arc::new(clock) };
        let log = Arc::new(Log::new(EmbeddedLog::open(&dir.path().join("log"), options).expect("log")));
        let file = dir.path().join("store.db");
        let store = SqliteStore::connect(file.to_str().expect("path"), PATIENCE).await.expect("store");
        let list = Arc::new(store.clone());
        let store = Arc::new(Store::new(store));
        let vault = Vault::from_base64(&Vault::new_key().expect("randomness")).expect("key");
        let queries = Arc::new(Known::default());
        let context = ApiContext {
            node: "a".into(),
            roles,
            log: log.clone(),
            registry: store.clone(),
            queries: Some(queries.clone()),
            vault: vault.clone(),
            clock: Arc::new(clock),
            metrics: Arc::new(Metrics::default()),
            limits,
            reorders: ReorderParts {
                list: list.clone(),
                moves: moves.unwrap_or_else(|| Arc::new(Mover::new(log.clone(), list.clone(), queries.clone(), Arc::new(clock)))),
                ledger: list,
                kinds: [("erp".into(), "target".into()), ("mail".into(), "email".into())].into(),
            },
            inbound: listeners,
            probes: Vec::new(),
        };
        let server = serve(context, "127.0.0.1:0").expect("serve");
        let base = format!("http://{}", server.address());
        let client = Client::builder().no_proxy().build().expect("client");
        let site = Site { client, server: Some(server), log, store, vault, queries, base, _dir: dir };
        site.add_shop(SHOP, "default", &[SECRET]).await;
        site
    }

    /// As another process would do it: in the store, without a word to the node.
    pub async fn add_shop(&self, shop: &str, organisation: &str, secrets: &[&str]) {
        let entry = ShopEntry {
            shop: shop.into(),
            organisation: organisation.into(),
            kind: ShopKind::Shopify,
            webhook_secrets: secrets.iter().map(|s| self.vault.seal(shop, s.as_bytes()).expect("sealed")).collect(),
            access_token: None,
            added_at: Utc::now(),
        };
        self.store.inner.put_shop(entry).await.expect("put");
    }

    /// A new token; returns its text. Its id is the text as well.
    pub async fn token(&self, role: Role, organisation: &str, shops: &[&str]) -> String {
        let text = format!("{}-{organisation}-{}", role.as_str(), shops.join("-"));
        let entry = TokenEntry {
            id: text.clone(),
            hash: Sha256::digest(&text).into(),
            organisation: organisation.into(),
            role,
            shops: shops.iter().map(|s| (*s).to_owned()).collect(),
            created_at: Utc::now(),
            revoked_at: None,
        };
        self.store.inner.add_token(entry).await.expect("token");
        text
    }

    /// A delivery, signed with `secret`, not yet sent.
    pub fn delivery(&self, shop: &str, topic: &str, secret: &str, body: &[u8]) -> RequestBuilder {
        self.client
            .post(format!("{}/webhooks/shopify", self.base))
            .header("X-Shopify-Topic", topic)
            .header("X-Shopify-Shop-Domain", shop)
            .header("X-Shopify-Webhook-Id", "w-1")
            .header("X-Shopify-Hmac-Sha256", sign(secret, body))
            .body(body.to_vec())
    }

    /// Sends a level of [`SHOP`].
    pub async fn send_level(&self) -> Response {
        self.delivery(SHOP, "inventory_levels/update", SECRET, LEVEL).send().await.expect("answer")
    }

    pub async fn get(&self, path: &str, token: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).bearer_auth(token).send().await.expect("answer")
    }

    /// All records of a topic, partition by partition.
    pub fn records(&self, topic: Topic) -> Vec<Stored> {
        let log = &self.log.inner;
        let mut all = Vec::new();
        for partition in 0..log.partitions() {
            let (first, end) = log.watermarks(topic, partition).expect("watermarks");
            let mut reader = log.reader(topic, partition, first).expect("reader");
            while let Some(batch) = reader.next(end, Duration::from_millis(100)).expect("read") {
                all.extend(stored(&batch));
            }
        }
        all
    }

    pub async fn metrics(&self) -> String {
        self.client.get(format!("{}/metrics", self.base)).send().await.expect("metrics").text().await.expect("text")
    }

    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }
}

fn stored(batch: &RecordBatch) -> Vec<Stored> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let of = |r: stockwarden::events::record::RecordRef<'_>| Stored {
        position: r.position().to_string(),
        key: text(r.key.unwrap_or_default()),
        headers: r.headers.map(|(n, v)| (n.to_owned(), text(v))).collect(),
        value: r.value.unwrap_or_default().to_vec(),
    };
    batch.iter().map(of).collect()
}

/// The problem details of a refusal, checked for their form.
pub async fn problem(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").expect("content type").to_str().expect("text").to_owned();
    assert_eq!(kind, "application/problem+json");
    let value: Value = response.json().await.expect("JSON");
    assert_eq!(value["status"], status);
    assert!(value["type"].as_str().expect("type").starts_with("urn:stockwarden:problem:"), "{value}");
    assert!(!value["title"].as_str().expect("title").is_empty());
    assert!(!value["detail"].as_str().expect("detail").is_empty());
    (status, value)
}

/// Asks until `done` says so.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::task::yield_now().await;
    }
    panic!("waited in vain for {what}");
}
