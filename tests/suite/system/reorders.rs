//! Reorders on Kafka and Postgres.

use serde_json::{Value, json};
use stockwarden::events::record::Position;

use super::SHOP;
use super::node::{Client, Site};
use crate::engine::harness::{LOW, foreign, level, product};

fn bearer(token: &str) -> Vec<(String, String)> {
    vec![("authorization".to_owned(), format!("Bearer {token}"))]
}

/// A reader that names a position sees what the fact decided, at any node and whatever the order in which shards, dispatcher and
/// list come to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorder_and_its_moves_are_seen_at_once_by_who_names_the_position() {
    let site = Site::new(2, "").await;
    site.apply_rules(LOW);
    let staff = site.json(&["token", "create", "--role", "staff"])["token"].as_str().expect("a token").to_owned();
    let (first, second) = (site.start_as("a"), site.start_as("b"));
    let clients = [Client::new(&first, &staff), Client::new(&second, &staff)];
    for client in &clients {
        client.ready().await;
    }
    let facts = vec![foreign(SHOP, product(1)), foreign(SHOP, level(1, 20, 1)), foreign(SHOP, level(1, 9, 2))];
    let crossed: Position = *site.append(facts).await.last().expect("a position");
    let (status, list) = clients[1].get(&format!("/v1/reorders?after={crossed}")).await;
    assert_eq!((status, list["reorders"].as_array().map(Vec::len)), (200, Some(1)), "{list}");
    let path = format!("/v1/reorders/{}", list["reorders"][0]["reorder_id"].as_str().expect("an id"));
    for (n, (moved, body, state)) in [
        ("acknowledge", json!({}), "acknowledged"),
        ("assign", json!({"to": "jana"}), "acknowledged"),
        ("ordered", json!({"quantity": 60}), "ordered"),
        ("received", json!({"quantity": 10}), "ordered"),
        ("received", json!({}), "received"),
    ]
    .into_iter()
    .enumerate()
    {
        let (here, there) = (&clients[n % 2], &clients[(n + 1) % 2]);
        let (status, moved) = here.post(&format!("{path}/{moved}"), bearer(&staff), body.to_string().into_bytes()).await;
        assert_eq!((status, &moved["reorder"]["state"]), (200, &json!(state)), "{moved}");
        let position = moved["position"].as_str().expect("it was news");
        let (status, seen) = there.get(&format!("{path}?after={position}")).await;
        assert_eq!((status, &seen["state"]), (200, &json!(state)), "{seen}");
    }
    let (status, told) = clients[0].post(&format!("{path}/cancel"), bearer(&staff), Vec::new()).await;
    assert_eq!((status, told["type"].as_str()), (409, Some("urn:stockwarden:problem:conflict")), "{told}");
    let (_, shown) = clients[0].get(&path).await;
    assert_eq!((&shown["received"], &shown["assigned_to"]), (&json!(60), &json!("jana")));
    // The rule's handler is not configured: it fails visibly.
    assert_eq!((&shown["routes"][0]["handler"], &shown["routes"][0]["kind"]), (&json!("erp"), &Value::Null));
    first.stop();
    second.stop();
    site.remove().await;
}
