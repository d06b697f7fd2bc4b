//! Commands beside a running node, and what a node refuses at its start.

use serde_json::Value;
use stockwarden::events::record::{Position, Topic};

use super::SHOP;
use super::node::{Client, Site};
use crate::engine::harness::{LOW, decisions, foreign, level, product};
use crate::support::postgres::Database;

/// Keys of the facts at these positions.
fn keys_at(site: &Site, positions: &[Position]) -> Vec<String> {
    let batches = site.read_all(Topic::Facts);
    let found = |p: &Position| {
        let record = batches.iter().flat_map(|b| b.iter()).find(|r| r.position() == *p);
        String::from_utf8_lossy(record.expect("it is in the log").key.unwrap_or_default()).into_owned()
    };
    positions.iter().map(found).collect()
}

fn positions(of: &Value) -> Vec<Position> {
    let texts = of.as_array().map_or_else(|| std::slice::from_ref(of), Vec::as_slice);
    texts.iter().map(|t| t.as_str().expect("a position").parse().expect("a position")).collect()
}

/// Each is durable when the command returns, and holds from then on (DESIGN §10).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shops_rules_and_tokens_hold_in_a_running_node_as_soon_as_their_command_returns() {
    const SECRET: &str = "hush";
    let site = Site::new(2, "").await.with("SHOP_SECRET", SECRET);
    let node = site.start();
    let token = site.token();
    assert!(!token.is_empty());
    let client = Client::new(&node, &token);
    client.ready().await;

    let file = site.dir.path().join("rules.toml");
    std::fs::write(&file, LOW).expect("the rules");
    let applied = site.json(&["rules", "apply", file.to_str().expect("UTF-8")]);
    assert_eq!(keys_at(&site, &positions(&applied["positions"])), ["~rules"; 2]);
    let added = site.json(&["shop", "add", SHOP, "--webhook-secret-env", "SHOP_SECRET"]);
    assert_eq!(keys_at(&site, &positions(&added["position"])), [SHOP]);

    let body = level(1, 20, 1).into_bytes();
    let headers = [
        ("x-shopify-topic", "inventory_levels/update".to_owned()),
        ("x-shopify-shop-domain", SHOP.to_owned()),
        ("x-shopify-webhook-id", "w-1".to_owned()),
        ("x-shopify-hmac-sha256", stockwarden::sim::shopify_signature(SECRET, &body)),
    ];
    site.append(vec![foreign(SHOP, product(1))]).await;
    let (status, answer) = client.post("/webhooks/shopify", headers.map(|(n, v)| (n.to_owned(), v)).to_vec(), body).await;
    assert_eq!(status, 200, "{answer}");
    let crossed = *site.append(vec![foreign(SHOP, level(1, 9, 2))]).await.last().expect("a position");
    let (status, view) = client.get(&format!("/v1/shops/{SHOP}/variants/1?after={crossed}")).await;
    assert_eq!((status, &view["available"]), (200, &9.into()), "{view}");
    let next = site.json(&["token", "create", "--role", "reader"])["token"].as_str().expect("a token").to_owned();
    let (status, _) = Client::new(&node, &next).get(&format!("/v1/shops/{SHOP}/variants/1")).await;
    assert_eq!(status, 200, "the next request knows the token");
    site.until("the rule has decided", || decisions(&*site.log).len() == 1).await;
    node.stop();
    site.remove().await;
}

/// What does not go together: `serve` refuses it, `check` finds it, and neither sends the reader on to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_go_together_is_refused_with_what_to_do_and_check_says_the_same() {
    let site = Site::new(2, "").await;
    site.apply_rules(LOW);
    let node = site.start();
    let client = Client::new(&node, &site.token());
    site.append(vec![foreign(SHOP, product(1)), foreign(SHOP, level(1, 7, 1))]).await;
    client.catch_up(&site).await;
    node.stop();

    let other = Database::create().await;
    for (variable, value, told) in [
        ("STOCKWARDEN__LOG__PARTITIONS", "5", "set partitions = 2"),
        ("STOCKWARDEN__STORE__URL", other.url.as_str(), "[log] group_id of its own"),
        ("STOCKWARDEN__STORE__URL", "postgres://me:hidden@127.0.0.1:9/x", "does the store postgres://me:…@127.0.0.1:9/x exist"),
        ("STOCKWARDEN__LOG__BOOTSTRAP_SERVERS", "127.0.0.1:9", "do the brokers 127.0.0.1:9 run"),
    ] {
        for verb in ["serve", "check"] {
            let run = tokio::task::block_in_place(|| site.run_with(variable, value, &[verb]));
            let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
            assert_eq!(run.status.code(), Some(1), "{verb} {value}: {said}");
            assert!(said.contains(told), "{verb} {value}: {said}");
            assert!(!said.contains("stockwarden check") && !said.contains("start with: stockwarden serve"), "{verb}: {said}");
            assert!(!said.contains("hidden"), "{said}");
        }
    }
    // A cluster that has not begun yet is no fault.
    let fresh = tokio::task::block_in_place(|| site.run_with("STOCKWARDEN__LOG__TOPICS__FACTS", "not-there-yet", &["check"]));
    let said = String::from_utf8_lossy(&fresh.stdout).into_owned();
    assert!(fresh.status.success() && said.contains("makes its topics stock-facts"), "{said}");
    other.remove().await;
    site.remove().await;
}
