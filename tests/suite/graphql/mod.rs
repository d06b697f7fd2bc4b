//! Every GraphQL document that we send, against Shopify's own schemas of the API versions that we speak, with the variables that the
//! code builds (DESIGN §8). `scripts/graphql` brings schemas and graphql.js; `validate.js` puts them together.
//!
//! A new document needs a line in `shopify::documents` and a request here that uses it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stockwarden::handlers::shopify_transfer::location_variables;
use stockwarden::shopify::{NoStoredTokens, documents};

use crate::effects::harness;
use crate::effects::transfer;

const VERSIONS: [&str; 3] = ["2026-04", "2026-07", "2026-10"];

/// Documents and requests.
type Case = (Vec<Value>, Vec<Value>);

/// What is told of each case, and the mutations that need a key, by version.
fn validate(cases: &[Case]) -> (Vec<Vec<String>>, Value) {
    let folder = std::env::var("STOCKWARDEN_TEST_GRAPHQL").expect(
        "STOCKWARDEN_TEST_GRAPHQL (the folder that scripts/graphql makes) is not set: run ./test, which makes it and sets it",
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/graphql/validate.js");
    let mut node = Command::new("node")
        .args([script, &folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed (scripts/requirements)");
    let cases: Vec<Value> = cases.iter().map(|(d, r)| json!({"documents": d, "requests": r})).collect();
    let asked = json!({"versions": VERSIONS, "cases": cases}).to_string();
    node.stdin.take().expect("piped").write_all(asked.as_bytes()).expect("written");
    let done = node.wait_with_output().expect("ended");
    assert!(done.status.success(), "validate.js failed");
    let told: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let line = |p: &Value| format!("{} {}: {}", p["version"], p["name"], p["problem"]);
    let lines = |case: &Value| case.as_array().expect("a list").iter().map(line).collect();
    (told["problems"].as_array().expect("a list").iter().map(lines).collect(), told["idempotent"].clone())
}

fn ours() -> Vec<Value> {
    documents::ALL.iter().map(|d| json!({"name": d.name, "text": d.text})).collect()
}

/// Requests as they are built for decisions, and the search for what became of them.
fn requests() -> Vec<Value> {
    let handler = transfer::build("", std::sync::Arc::new(NoStoredTokens)).expect("handler");
    let mut requests = Vec::new();
    for (name, settings) in [
        ("a draft of an outside supplier", json!({"to": "t"})),
        ("a draft", json!({"to": "t", "origin": 1, "destination": 2, "tags": ["urgent"]})),
        ("ready to ship", json!({"to": "t", "origin": 1, "ready": true})),
    ] {
        let job = harness::job(&transfer::decision(1), settings);
        let now = "2026-11-20T14:15:10.123Z".parse().expect("time");
        let mut request: Value = serde_json::from_slice(&handler.prepare(&job, now).expect("request")).expect("JSON");
        if let Some(tag) = request.pointer("/variables/input/tags/2").and_then(Value::as_str) {
            requests.push(json!({"name": "its search", "query": documents::TRANSFERS_BY_TAG.text,
                "variables": stockwarden::handlers::shopify_transfer::search_variables(tag)}));
        }
        request["name"] = json!(name);
        requests.push(request);
    }
    let ids = ["gid://shopify/Location/1".to_owned(), "gid://shopify/Location/2".to_owned()];
    for (name, document, variables) in [
        ("the scopes, for check", documents::ACCESS, json!({})),
        ("locations, for check", documents::LOCATIONS, location_variables(&ids, true)),
        ("locations without their details", documents::LOCATIONS, location_variables(&ids, false)),
    ] {
        requests.push(json!({"name": name, "query": document.text, "variables": variables}));
    }
    requests
}

#[test]
fn every_document_and_its_variables_are_valid_in_every_version_that_we_speak() {
    let (problems, idempotent) = validate(&[(ours(), requests())]);
    assert_eq!(problems, [Vec::<String>::new()]);
    // The lint reads descriptions; it must not become blind when they are worded anew.
    for version in VERSIONS {
        let found = idempotent[version].as_array().expect("a list");
        for mutation in
            ["inventoryTransferCreate", "inventoryTransferCreateAsReadyToShip", "inventorySetQuantities", "refundCreate"]
        {
            assert!(found.contains(&json!(mutation)), "{version}: {mutation} is not among {found:?}");
        }
    }
}

#[test]
fn a_document_that_breaks_is_told_for_every_version() {
    let breaks = [
        ("status", "state", "Cannot query field"),
        (" @idempotent(key: $key)", "", "refused at runtime without @idempotent"),
        ("InventoryTransferCreateInput!", "InventoryTransferInput!", "Unknown type"),
        ("$query: String!", "$query: ID!", "expecting type"),
        ("sortKey: ID", "sortKey: AGE", "does not exist in \\\"TransferSortKeys\\\" enum"),
        ("first: 10", "first: 10, limit: 10", "Unknown argument"),
        ("mutation StockwardenTransfer(", "mutation StockwardenTransfer((", "Syntax Error"),
    ];
    let case = |from: &str, to: &str| {
        let change = |list: Vec<Value>, key: &str| {
            let changed = |mut one: Value| {
                one[key] = json!(one[key].as_str().expect("text").replace(from, to));
                one
            };
            list.into_iter().map(changed).collect()
        };
        (change(ours(), "text"), change(requests(), "query"))
    };
    let cases: Vec<Case> = breaks.iter().map(|(from, to, _)| case(from, to)).collect();
    for ((from, to, want), told) in breaks.iter().zip(validate(&cases).0) {
        for version in VERSIONS {
            let found = told.iter().any(|p| p.contains(version) && p.contains(want));
            assert!(found, "{from} → {to} in {version}: {told:#?}");
        }
    }
}

#[test]
fn variables_that_do_not_fit_are_told() {
    let misfits = [
        ("/variables/input/lineItems/0/quantity", json!("24"), "Int cannot represent"),
        ("/variables/input/lineItems/0/quantity", json!(1_u64 << 31), "Int cannot represent"),
        ("/variables/input/lineItems/0", json!({"quantity": 1}), "inventoryItemId"),
        ("/variables/input", json!({"lineItems": [], "origin": 1}), "origin"),
        ("/variables/key", Value::Null, "must not be null"),
        ("/variables", json!({"input": {}, "key": "k", "limit": 1}), "no variable $limit"),
    ];
    let case = |at: &str, value: &Value| {
        let mut requests = requests();
        for request in requests.iter_mut().filter(|r| r.pointer("/variables/input").is_some()) {
            *request.pointer_mut(at).expect(at) = value.clone();
        }
        (ours(), requests)
    };
    let mut cases: Vec<Case> = misfits.iter().map(|(at, value, _)| case(at, value)).collect();
    cases.push((ours(), Vec::new()));
    let (told, _) = validate(&cases);
    for ((at, value, want), told) in misfits.iter().zip(&told) {
        assert!(told.iter().any(|p| p.contains(want)), "{at} = {value}: {told:#?}");
    }
    assert!(told.last().expect("a case").iter().any(|p| p.contains("no request is shown that uses it")), "{told:#?}");
}
