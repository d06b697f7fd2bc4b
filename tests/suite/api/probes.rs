//! Health, readiness, metrics.

use std::sync::atomic::Ordering;

use serde_json::Value;
use stockwarden::api::{Limits, NodeRole};
use stockwarden::ports::LogError;

use super::site::{Site, problem, until};

async fn ready(site: &Site, query: &str) -> (u16, Value) {
    let response = site.client.get(format!("{}/readyz{query}", site.base)).send().await.expect("answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

fn failing(body: &Value) -> Vec<&str> {
    let probes = body["probes"].as_array().expect("probes");
    probes.iter().filter(|p| p["ok"] == false).map(|p| p["name"].as_str().expect("name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_when_all_probes_of_its_roles_are_good_and_says_which_are_not() {
    let site = Site::new().await;
    let (status, body) = until("readiness", async || Some(ready(&site, "").await).filter(|(s, _)| *s == 200)).await;
    assert_eq!((status, body["ready"].as_bool(), body["node"].as_str()), (200, Some(true), Some("a")));
    let names: Vec<_> = body["probes"].as_array().expect("probes").iter().map(|p| p["name"].as_str().expect("name")).collect();
    assert_eq!(names, ["log", "secrets", "store", "engine"]);
    assert!(body["probes"].as_array().expect("probes").iter().all(|p| p["ms"].is_number()));
    *site.queries.unready.lock().expect("lock") = Some("2 partitions are folding".into());
    site.log.set_fault(Some(LogError::QueueFull));
    let seen = until("the log's fault", async || Some(ready(&site, "").await).filter(|(_, b)| failing(b).contains(&"log"))).await;
    assert_eq!((seen.0, failing(&seen.1)), (503, vec!["log", "engine"]));
    assert!(seen.1.to_string().contains("2 partitions are folding"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_is_ready_while_the_store_is_away_if_it_has_read_the_secrets_once() {
    let site = Site::new().await;
    until("the secrets", async || (ready(&site, "?role=ingest").await.0 == 200).then_some(())).await;
    site.store.away.store(true, Ordering::SeqCst);
    until("the store's absence", async || (ready(&site, "?role=api").await.0 == 503).then_some(())).await;
    let (status, body) = ready(&site, "?role=ingest").await;
    assert_eq!((status, failing(&body)), (200, vec![]));
    assert_eq!(failing(&ready(&site, "?role=handlers").await.1), ["store"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_costs_the_log_nothing() {
    let site = Site::new().await;
    let began = std::time::Instant::now();
    for _ in 0..200 {
        ready(&site, "").await;
    }
    let allowed = 1 + began.elapsed().as_secs() as usize;
    assert!(site.log.probes.load(Ordering::SeqCst) <= allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_the_node_has_not_is_not_ready_and_one_that_does_not_exist_is_told() {
    let site = Site::with(Limits::default(), vec![NodeRole::Ingest]).await;
    let (status, body) = ready(&site, "?role=shards").await;
    assert_eq!(status, 503);
    assert!(failing(&body).contains(&"role"), "{body}");
    let response = site.client.get(format!("{}/readyz?role=cook", site.base)).send().await.expect("answer");
    assert_eq!(problem(response).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_nobody() {
    let site = Site::new().await;
    site.log.set_fault(Some(LogError::QueueFull));
    site.store.away.store(true, Ordering::SeqCst);
    let response = site.client.get(format!("{}/healthz", site.base)).send().await.expect("answer");
    assert_eq!(response.status(), 200);
}
