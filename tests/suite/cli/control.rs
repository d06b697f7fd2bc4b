//! Commands while another process owns `data_dir`, and what a failure half-way leaves.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;
use serde_json::Value;
use stockwarden::adapters::embedded::log::EmbeddedLog;
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::admin::{Admin, Command, RuleChecker, RuleProblem, ShopAdd};
use stockwarden::api::{ControlHandler, serve_control};
use stockwarden::events::record::{NewRecord, Offset, Partition, Position, Topic};
use stockwarden::ports::event_log::{Group, GroupHandle, GroupSink, PartitionReader, TransactionalWriter};
use stockwarden::ports::registry::ShopKind;
use stockwarden::ports::targets::{Finding, Scope};
use stockwarden::ports::{EventLog, LogError, Targets};
use stockwarden::vault::Vault;

use super::Home;

struct AnyRules;

impl RuleChecker for AnyRules {
    fn check(&self, text: &str) -> Result<Vec<Value>, Vec<RuleProblem>> {
        Ok(vec![serde_json::json!({ "id": text })])
    }
}

struct NoTargets;

impl Targets for NoTargets {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
    fn ask(&self, _: Scope, _: Duration) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

async fn admin(home: &Home, log: Arc<dyn EventLog>) -> Admin {
    let path = home.data().join("stockwarden.db");
    let store = SqliteStore::connect(&path.display().to_string(), Duration::from_secs(10)).await.expect("a store");
    let vault = Vault::from_base64(&Vault::new_key().expect("a key")).expect("a vault");
    let store = Arc::new(store);
    Admin::new(log, store.clone(), store, vault, Arc::new(Utc::now), Arc::new(AnyRules), Arc::new(NoTargets))
}

#[test]
fn a_command_goes_through_the_process_that_owns_the_folder() {
    let home = Home::new().with("S", "shpss_first");
    let log = home.log();
    let run = home.run(&["rules", "check", "/dev/null"]);
    assert_eq!(run.code, 0, "a check needs no log: {run:?}");
    let runtime = runtime();
    let server = runtime.block_on(async {
        let admin = Arc::new(admin(&home, log.clone()).await);
        let handler: ControlHandler = Arc::new(move |command| {
            let admin = admin.clone();
            Box::pin(async move { admin.answer_json(command).await })
        });
        serve_control(&home.data().join("control.sock"), handler).expect("it listens")
    });

    let added = home.json(&["shop", "add", "a.myshopify.com", "--webhook-secret-env", "S"]);
    assert_eq!(added["added"], true);
    let facts = home.records("facts", &[]);
    assert_eq!(facts[0]["position"], added["position"]);
    let run = home.run(&["shop", "remove", "b.myshopify.com"]);
    assert_eq!(run.code, 1);
    assert!(
        run.err.starts_with("error: there is no shop \"b.myshopify.com\"; did you mean \"a.myshopify.com\"?\nmend:"),
        "{run:?}"
    );
    let run = home.run(&["check"]);
    assert!(run.code == 0 && run.out.contains("running; answers at "), "{run:?}");
    assert_eq!(std::fs::metadata(home.data().join("control.sock")).expect("it").permissions().mode() & 0o777, 0o600);
    runtime.block_on(server.stop());
    assert!(!home.data().join("master.key").exists(), "only who opens the store makes a key");

    // The process is gone: the next command opens the log itself.
    drop(log);
    assert_eq!(home.records("facts", &[]).len(), 1);
}

/// A log that fails so many appends.
struct Failing {
    log: Arc<EmbeddedLog>,
    fail: AtomicBool,
}

impl Failing {
    fn failed<T>(&self) -> Option<Result<T, LogError>> {
        let gone = LogError::Unavailable { during: "appending".into(), reason: "pulled the plug".into() };
        self.fail.swap(false, Ordering::SeqCst).then_some(Err(gone))
    }
}

impl EventLog for Failing {
    fn prepare(&self, timeout: Duration) -> Result<(), LogError> {
        self.log.prepare(timeout)
    }
    fn partitions(&self) -> i32 {
        self.log.partitions()
    }
    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        match self.failed() {
            Some(failed) => Box::pin(std::future::ready(failed)),
            None => self.log.append(records),
        }
    }
    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        match self.failed() {
            Some(failed) => Box::pin(std::future::ready(failed)),
            None => self.log.append_atomically(records),
        }
    }
    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        self.log.join(group, topic, sink)
    }
    fn writer(&self, member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        self.log.writer(member)
    }
    fn reader(&self, topic: Topic, partition: Partition, from: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        self.log.reader(topic, partition, from)
    }
    fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError> {
        self.log.watermarks(topic, partition)
    }
    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        self.log.committed(group, topic)
    }
    fn probe(&self, timeout: Duration) -> Result<(), LogError> {
        self.log.probe(timeout)
    }
}

#[test]
fn a_command_that_failed_half_way_is_completed_by_the_same_command() {
    let home = Home::new();
    let log = Arc::new(Failing { log: home.log(), fail: AtomicBool::new(true) });
    runtime().block_on(async {
        let admin = admin(&home, log.clone()).await;
        let rules = || Command::RulesApply { organisation: "default".into(), text: "low".into() };
        let told = admin.execute(rules()).await.expect_err("the log is away");
        assert!(told.mend().is_some_and(|m| m.contains("can be repeated safely")), "{told}");
        let again = admin.execute(rules()).await.expect("applied");
        assert_eq!(
            (&again["applied"], &again["rule_version"]),
            (&Value::from(true), &Value::from(1)),
            "the version was given, the fact not written"
        );
        assert_eq!(admin.execute(rules()).await.expect("unchanged")["applied"], false);

        let shop = || {
            Command::ShopAdd(ShopAdd {
                shop: "a.myshopify.com".into(),
                organisation: None,
                kind: ShopKind::Shopify,
                webhook_secret: None,
                access_token: None,
                move_here: false,
            })
        };
        log.fail.store(true, Ordering::SeqCst);
        admin.execute(shop()).await.expect_err("the log is away");
        assert!(admin.execute(shop()).await.expect("registered")["position"].is_string());
        log.fail.store(true, Ordering::SeqCst);
        let remove = || Command::ShopRemove { shop: "a.myshopify.com".into() };
        admin.execute(remove()).await.expect_err("the log is away");
        assert_eq!(admin.execute(remove()).await.expect("removed")["removed"], true);
    });
}
