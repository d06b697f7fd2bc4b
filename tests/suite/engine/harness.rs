//! An engine over real adapters, in a thread of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use stockwarden::actors::Engine;
use stockwarden::actors::queries::EngineQueries;
use stockwarden::actors::settings::{EngineSettings, FaultProbe};
use stockwarden::actors::stats::EngineStats;
use stockwarden::adapters::embedded::log::{EmbeddedLog, Options};
use stockwarden::domain::views::VariantView;
use stockwarden::events::decision::{Decision, Recorded};
use stockwarden::events::ids::VariantId;
use stockwarden::events::record::{NewRecord, Position, RecordBatch, Topic};
use stockwarden::ports::queries::{Queries, QueryError};
use stockwarden::ports::{EventLog, SnapshotStore};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a future on the runtime that the tests' own connections live on.
pub fn block<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime")).block_on(future)
}

/// A wall clock that tests set.
#[derive(Clone)]
pub struct TestClock(pub Arc<AtomicI64>);

impl TestClock {
    pub fn at(ms: i64) -> TestClock {
        TestClock(Arc::new(AtomicI64::new(ms)))
    }

    pub fn reader(&self) -> Arc<dyn Fn() -> i64 + Send + Sync> {
        let now = self.0.clone();
        Arc::new(move || now.load(Ordering::Relaxed))
    }
}

pub fn embedded_log(dir: &Path, partitions: i32, clock: &TestClock) -> Arc<EmbeddedLog> {
    let options = Options { partitions, segment_bytes: 64 << 20, max_record_bytes: 4 << 20, clock: clock.reader() };
    EmbeddedLog::open(&dir.join("log"), options).expect("the log opens")
}

pub fn settings(node: &str) -> EngineSettings {
    EngineSettings {
        node: node.to_owned(),
        commit_interval: Duration::from_millis(5),
        snapshot_interval: Duration::from_millis(50),
        tick_interval: Duration::from_secs(3600),
        max_resident_variants: usize::MAX,
        arbiters: 2,
        drain_deadline: Duration::from_secs(20),
        deaths_until_quarantine: 3,
        clock: TestClock::at(0).reader(),
        probe: None,
    }
}

pub fn with_probe(mut settings: EngineSettings, probe: impl Fn(VariantId, i64) + Send + Sync + 'static) -> EngineSettings {
    settings.probe = Some(FaultProbe(Arc::new(probe)));
    settings
}

pub struct Running {
    pub queries: Arc<EngineQueries>,
    pub stats: Arc<EngineStats>,
    pub runtime: tokio::runtime::Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    pub fn start(log: Arc<dyn EventLog>, store: Arc<dyn SnapshotStore>, settings: EngineSettings) -> Running {
        let (sender, started) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            let system = actix::System::with_tokio_rt(runtime);
            system.block_on(async move {
                let runtime = tokio::runtime::Handle::current();
                let engine = Engine::start(log, store, settings, runtime.clone(), Box::new(|why| panic!("fatal: {why}")))
                    .await
                    .expect("the engine starts");
                sender.send((engine.queries.clone(), engine.stats.clone(), runtime)).expect("the test waits");
                let _ = stopped.await;
                engine.stop().await;
            });
        });
        let (queries, stats, runtime) = started.recv_timeout(PATIENCE).expect("the engine starts in time");
        Running { queries, stats, runtime, stop: Some(stop), thread: Some(thread) }
    }

    /// Drains and stops, as on SIGTERM.
    pub fn stop(mut self) {
        drop(self.stop.take());
        self.thread.take().expect("once").join().expect("the engine stops without a panic");
    }

    pub fn block<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn variant(&self, shop: &str, variant: u64, after: Option<Position>) -> Result<VariantView, QueryError> {
        self.block(self.queries.variant(shop, VariantId(variant), after, PATIENCE))
    }

    pub fn wait_live(&self) {
        eventually("all shards are live", || self.queries.readiness().iter().all(|(_, problem)| problem.is_none()));
    }

    /// Waits until everything in the log is applied.
    pub fn catch_up(&self, log: &dyn EventLog) {
        for partition in 0..log.partitions() {
            let (_, end) = log.watermarks(Topic::Facts, partition).expect("watermarks");
            if end > 0 {
                let after = Position { partition, offset: end - 1 };
                eventually("everything is applied", || {
                    match self.block(self.queries.shop("nobody.example", Some(after), PATIENCE)) {
                        Err(QueryError::NoShop(_)) => true,
                        // A shard that is just being rebuilt.
                        Err(QueryError::NotReady { .. }) => false,
                        other => panic!("{other:?}"),
                    }
                });
            }
        }
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Everything committed in a topic, partition by partition.
pub fn read_all(log: &dyn EventLog, topic: Topic) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for partition in 0..log.partitions() {
        let (low, high) = log.watermarks(topic, partition).expect("watermarks");
        let mut reader = log.reader(topic, partition, low).expect("a reader");
        while let Some(batch) = reader.next(high, Duration::from_secs(1)).expect("readable") {
            if !batch.is_empty() {
                batches.push(batch);
            }
        }
    }
    batches
}

pub fn decisions(log: &dyn EventLog) -> Vec<Decision> {
    let mut found = Vec::new();
    for batch in read_all(log, Topic::Decisions) {
        for record in batch.iter() {
            if let Recorded::Decision(d) = Recorded::read(&record).expect("a readable decision") {
                found.push(*d);
            }
        }
    }
    found
}

/// A record as a foreign producer writes it: key and JSON, no headers.
pub fn foreign(shop: &str, value: impl Into<String>) -> NewRecord {
    NewRecord {
        topic: Topic::Facts,
        partition: None,
        key: Some(shop.as_bytes().to_vec()),
        headers: Vec::new(),
        value: Some(value.into().into_bytes()),
    }
}

pub fn append(log: &dyn EventLog, records: Vec<NewRecord>) -> Vec<Position> {
    block(log.append(records)).expect("appended")
}

/// A product with one variant `id`, its item `id + 1000`.
pub fn product(id: u64) -> String {
    format!(
        r#"{{"id":{id},"admin_graphql_api_id":"gid://shopify/Product/{id}","title":"Product {id}","vendor":"Acme","updated_at":"2026-11-01T00:00:00Z","variants":[{{"id":{id},"inventory_item_id":{},"sku":"SKU-{id}","title":"Default Title","inventory_quantity":null}}]}}"#,
        id + 1000
    )
}

/// A level of variant `id`'s item at location 1, `second` seconds into the test's hour.
pub fn level(id: u64, available: i64, second: u32) -> String {
    format!(
        r#"{{"inventory_item_id":{},"location_id":1,"available":{available},"updated_at":"2026-11-01T01:{:02}:{:02}Z"}}"#,
        id + 1000,
        second / 60,
        second % 60
    )
}

pub fn rules(version: i64, toml: &str, partitions: i32) -> Vec<NewRecord> {
    let rules = stockwarden::domain::rules::from_toml(toml).expect("valid rules");
    let fact = stockwarden::events::fact::RulesApplied {
        organisation: "default".into(),
        rule_version: version,
        rules: rules.iter().map(|r| serde_json::to_value(r).expect("plain")).collect(),
    };
    let value = serde_json::to_vec(&fact).expect("plain");
    (0..partitions)
        .map(|partition| NewRecord {
            topic: Topic::Facts,
            partition: Some(partition),
            key: Some(b"~rules".to_vec()),
            headers: vec![("fact", b"rules/applied".to_vec()), ("version", b"1".to_vec())],
            value: Some(value.clone()),
        })
        .collect()
}

pub const LOW: &str = r#"
[[rule]]
id = "low"
scope = "location"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "up-to", level = 60, pack = 6, minimum = 12 }
cool_down = "0s"
routes = [{ to = "erp" }]
"#;
