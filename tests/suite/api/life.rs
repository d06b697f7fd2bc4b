//! The life of a reorder, from the delivery that crossed to its receipt, on a whole node with embedded log and store.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use stockwarden::sim::shopify_signature;

use crate::engine::harness::{level, product};
use crate::support::stand_in::{Behaviour, StandIn};
use crate::system::node::{BINARY, MASTER_KEY, Node, PATIENCE};

const SHOP: &str = "a.myshopify.com";
const SECRET: &str = "hush";

struct Installation {
    dir: tempfile::TempDir,
    node: Option<Node>,
    http: reqwest::Client,
    base: String,
    staff: String,
}

fn command(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(dir.path()).env_remove("RUST_LOG");
    command.env("STOCKWARDEN_MASTER_KEY", MASTER_KEY).env("SHOP_SECRET", SECRET);
    command
}

impl Installation {
    /// A node whose rule sends orders to `erp` at the stand-in.
    async fn new(erp: &StandIn) -> Installation {
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[log]\npartitions = 3\n[node]\nname = \"t\"\n\
             [handlers.erp]\nkind = \"target\"\nurl = \"{}\"\nallow_private_addresses = true\n",
            erp.url()
        );
        std::fs::write(dir.path().join("stockwarden.toml"), config).expect("the configuration");
        let rules = crate::engine::harness::LOW;
        std::fs::write(dir.path().join("rules.toml"), rules).expect("the rules");
        let log = dir.path().join("node.log");
        let node = Node::try_start(command(&dir, &["serve"]), log).unwrap_or_else(|told| panic!("the node ended early: {told}"));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (http, base) = (reqwest::Client::new(), node.base.clone());
        let mut installation = Installation { dir, node: Some(node), http, base, staff: String::new() };
        installation.json(&["shop", "add", SHOP, "--webhook-secret-env", "SHOP_SECRET"]);
        installation.json(&["rules", "apply", "rules.toml"]);
        installation.staff = installation.token("staff", &[]);
        installation
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = command(&self.dir, &[args, &["--json"]].concat()).output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
    }

    fn token(&self, role: &str, more: &[&str]) -> String {
        let made = self.json(&[&["token", "create", "--role", role], more].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    /// A webhook of Shopify's; its position.
    async fn deliver(&self, topic: &str, body: String) -> String {
        let signed = shopify_signature(SECRET, body.as_bytes());
        let request = self.http.post(format!("{}/webhooks/shopify", self.base)).header("x-shopify-topic", topic);
        let request = request.header("x-shopify-shop-domain", SHOP).header("x-shopify-webhook-id", "w");
        let answer = request.header("x-shopify-hmac-sha256", signed).body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.expect("JSON");
        answer["position"].as_str().unwrap_or_else(|| panic!("no position: {answer}")).to_owned()
    }

    async fn sell(&self, variant: u64, levels: &[(i64, u32)]) -> String {
        self.deliver("products/update", product(variant)).await;
        let mut last = String::new();
        for (available, second) in levels {
            last = self.deliver("inventory_levels/update", level(variant, *available, *second)).await;
        }
        last
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.staff);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Units that arrived in one box; told twice they arrived once. The status of the answer.
    async fn box_arrived(&self, id: &str, name: &str, units: i64) -> u16 {
        let request = self.http.post(format!("{}/v1/reorders/{id}/received", self.base)).bearer_auth(&self.staff);
        let request = request.header("idempotency-key", name).body(json!({ "quantity": units }).to_string());
        request.send().await.expect("an answer").status().as_u16()
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// A move that has to work; the reorder after it.
    async fn make(&self, id: &str, moved: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, &format!("/v1/reorders/{id}/{moved}"), Some(body)).await;
        assert_eq!(status, 200, "{moved}: {answer}");
        answer["reorder"].clone()
    }

    async fn until(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = self.get(path).await;
            if holds(&body) {
                return body;
            }
            assert!(Instant::now() < deadline, "in vain: {what}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorder_lives_from_the_crossing_to_its_receipt() {
    let erp = StandIn::start([]).await;
    let site = Installation::new(&erp).await;
    let crossed = site.sell(1, &[(20, 1), (9, 2)]).await;
    let list = site.get(&format!("/v1/reorders?after={crossed}")).await;
    let reorder = &list["reorders"][0];
    assert_eq!(
        (list["reorders"].as_array().map(Vec::len), &reorder["shop"], &reorder["variant_id"]),
        (Some(1), &json!(SHOP), &json!("1"))
    );
    assert_eq!((&reorder["available"], &reorder["quantity"], &reorder["rule_id"]), (&json!(9), &json!(54), &json!("low")));
    let caused = format!("{}:{}", reorder["caused_by"]["partition"], reorder["caused_by"]["offset"]);
    assert_eq!(caused, crossed);
    let id = reorder["reorder_id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/reorders/{id}");
    let sent = site.until(&path, "it is sent", |r| r["state"] == "sent").await;
    assert_eq!((&sent["routes"][0]["state"], &sent["routes"][0]["kind"]), (&json!("done"), &json!("target")));

    let assigned = site.make(&id, "assign", json!({"to": "jana"})).await;
    assert_eq!((&assigned["state"], &assigned["assigned_to"]), (&json!("sent"), &json!("jana")));
    let snoozed = site.make(&id, "snooze", json!({"until": "2099-01-01T00:00:00Z"})).await;
    assert_eq!((&snoozed["assigned_to"], &snoozed["snoozed_until"]), (&json!("jana"), &json!("2099-01-01T00:00:00.000Z")));
    assert_eq!(site.make(&id, "acknowledge", json!({"note": "on it"})).await["state"], "acknowledged");
    let ordered = json!({"quantity": 60, "eta": "2026-12-24T00:00:00Z", "reference": "PO-7"});
    let ordered = site.make(&id, "ordered", ordered).await;
    assert_eq!(
        (&ordered["state"], &ordered["quantity"], &ordered["proposed_quantity"]),
        (&json!("ordered"), &json!(60), &json!(54))
    );
    assert_eq!((&ordered["eta"], &ordered["reference"]), (&json!("2026-12-24T00:00:00.000Z"), &json!("PO-7")));
    assert_eq!((&ordered["changed_by"]["move"], &ordered["changed_by"]["via"]), (&json!("ordered"), &json!("api")));

    let (status, told) = site.call(Method::POST, &format!("{path}/acknowledge"), None).await;
    assert!(status == 409 && told["detail"].as_str().is_some_and(|d| d.contains("is ordered")), "{told}");
    let (status, again) = site.call(Method::POST, &format!("{path}/ordered"), None).await;
    assert_eq!((status, &again["position"]), (200, &Value::Null), "a repeat writes nothing");

    assert_eq!(site.make(&id, "in-transit", json!({})).await["state"], "in_transit");
    let part = site.make(&id, "received", json!({"quantity": 24})).await;
    assert_eq!((&part["state"], &part["received"]), (&json!("in_transit"), &json!(24)));
    let all = site.make(&id, "received", json!({})).await;
    assert_eq!((&all["state"], &all["received"]), (&json!("received"), &json!(60)));
    let (status, told) = site.call(Method::POST, &format!("{path}/cancel"), None).await;
    assert!(status == 409 && told["detail"].as_str().is_some_and(|d| d.contains("closed")), "{told}");
    assert_eq!(site.get("/v1/reorders?open=true").await["reorders"], json!([]));
    assert_eq!(site.get("/v1/reorders?state=received").await["reorders"][0]["reorder_id"], json!(id));

    let facts = command(&site.dir, &["topics", "tail", "facts", "--from-beginning", "--type", "proposal/moved", "--json"])
        .output()
        .expect("run");
    let facts = String::from_utf8(facts.stdout).expect("text");
    assert_eq!(facts.lines().count(), 7, "one a move that changed something: {facts}");
    site.node.expect("runs").stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stock_does_shows_and_so_does_a_restart() {
    let erp = StandIn::start([]).await;
    let mut site = Installation::new(&erp).await;
    let crossed = site.sell(1, &[(20, 1), (9, 2)]).await;
    let id =
        site.get(&format!("/v1/reorders?after={crossed}")).await["reorders"][0]["reorder_id"].as_str().expect("an id").to_owned();
    let back = site.sell(1, &[(50, 3)]).await;
    let resolved = site.get(&format!("/v1/reorders/{id}?after={back}")).await;
    assert_eq!((&resolved["state"], &resolved["changed_by"]["by"]), (&json!("resolved"), &Value::Null));
    assert_eq!(site.call(Method::POST, &format!("/v1/reorders/{id}/ordered"), None).await.0, 409);

    let crossed = site.sell(1, &[(7, 4)]).await;
    let second = site.get(&format!("/v1/reorders?after={crossed}&open=true")).await["reorders"][0]["reorder_id"].clone();
    let second = second.as_str().expect("an id").to_owned();
    assert_ne!(second, id);
    site.make(&second, "acknowledge", json!({})).await;
    assert_eq!(site.box_arrived(&second, "box-1", 5).await, 200);
    site.node.take().expect("runs").kill();
    let node = Node::try_start(command(&site.dir, &["serve"]), site.dir.path().join("node.log")).expect("it starts again");
    site.base.clone_from(&node.base);
    let path = format!("/v1/reorders/{second}");
    let kept = site.get(&path).await;
    assert_eq!((&kept["state"], &kept["received"]), (&json!("ordered"), &json!(5)));
    assert_eq!(
        site.until("/v1/reorders", "both are there", |l| l["reorders"].as_array().is_some_and(|r| r.len() == 2)).await["next_cursor"],
        Value::Null
    );
    let deadline = Instant::now() + PATIENCE;
    while site.box_arrived(&second, "box-1", 5).await == 503 {
        assert!(Instant::now() < deadline, "it never gets ready");
    }
    assert_eq!(site.box_arrived(&second, "box-2", 2).await, 200);
    assert_eq!(site.get(&path).await["received"], 7, "a box that is told of again after a crash is counted once");
    assert_eq!(site.call(Method::POST, &format!("{path}/cancel"), None).await.0, 200);
    assert_eq!(site.get(&path).await["state"], "cancelled");
    node.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_failed_is_tried_again_by_command_and_by_api() {
    let refused = || Behaviour::status("422 Unprocessable", &[], "no such article");
    let erp = StandIn::start([refused(), refused()]).await;
    let site = Installation::new(&erp).await;
    let crossed = site.sell(1, &[(20, 1), (9, 2)]).await;
    let id =
        site.get(&format!("/v1/reorders?after={crossed}")).await["reorders"][0]["reorder_id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/reorders/{id}");
    let failed =
        |r: &Value| r["routes"][0]["state"] == "failed" && r["routes"][0]["reason"].as_str().is_some_and(|t| t.contains("422"));
    let shown = site.until(&path, "it has failed", failed).await;
    assert_eq!(shown["state"], "proposed");
    let list = site.json(&["dead-letters", "list"]);
    let effect = list["failed_effects"][0]["effect"].as_str().expect("it is listed").to_owned();
    assert_eq!((effect.as_str(), &list["failed_effects"][0]["handler"]), (format!("{id}/0").as_str(), &json!("erp")));
    assert_eq!(site.json(&["dead-letters", "show", &effect])["decision"]["available"], 9);

    let again = site.json(&["dead-letters", "retry", &effect]);
    assert_eq!(again["retried"][0]["effect"], json!(effect));
    let attempts = |r: &Value| r["routes"][0]["attempts"] == 2 && r["routes"][0]["state"] == "failed";
    site.until(&path, "it has failed again", attempts).await;
    let began = Instant::now();
    let (status, retried) = site.call(Method::POST, &format!("{path}/routes/0/retry"), None).await;
    assert_eq!(status, 200, "{retried}");
    let done = site.until(&path, "it is sent", |r| r["state"] == "sent").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(done["routes"][0]["attempts"], 3);
    let bodies: Vec<_> = erp.requests().into_iter().map(|r| r.body).collect();
    assert!(bodies.len() == 3 && bodies.iter().all(|b| *b == bodies[0]), "the same bytes each time");
    site.node.expect("runs").stop();
}
