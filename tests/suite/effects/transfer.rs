//! The kind `shopify-transfer` by itself: what is asked for, what every answer means, whose token is shown to whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stockwarden::actors::effects::Clock;
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::{Decision, Kind};
use stockwarden::events::ids::{ItemId, LocationId};
use stockwarden::handlers::registry::{KINDS, Surroundings};
use stockwarden::handlers::{Blame, Handler, Handlers, Job, Verdict};
use stockwarden::ports::Registry;
use stockwarden::ports::registry::{ShopEntry, ShopKind};
use stockwarden::shopify::{NoStoredTokens, RegisteredTokens, StoredTokens};
use stockwarden::vault::Vault;

use super::harness::{self, PATIENCE, TestClock, World};
use super::transfer_shop::{CLIENT_SECRET, Fault, Shopify, TOKEN};

pub const SHOP: &str = "a.example";

pub fn build(toml: &str, tokens: Arc<dyn StoredTokens>) -> Result<Arc<dyn Handler>, String> {
    let config = HandlerConfig { kind: "shopify-transfer".into(), table: toml::from_str(toml).expect("toml") };
    let env = Env::of([("TOKEN", TOKEN), ("APP_SECRET", CLIENT_SECRET)]);
    let handlers = Handlers::build_in(
        KINDS,
        &BTreeMap::from([("t".to_owned(), config)]),
        &Surroundings { tokens, ..Surroundings::new(&env) },
    );
    handlers.map(|h| h.get("t").expect("t").handler.clone()).map_err(|e| e[0].to_string())
}

/// With one stored token, unless `more` says otherwise.
pub fn handler(shopify: &Shopify, more: &str) -> Arc<dyn Handler> {
    let token = if more.contains("client_id") { "" } else { "access_token = { env = \"TOKEN\" }" };
    let toml = format!("admin_url = \"{}\"\ntimeout = \"300ms\"\n{token}\n{more}", shopify.admin_url());
    build(&toml, Arc::new(NoStoredTokens)).expect("handler")
}

/// Of an item whose id no double holds.
pub fn decision(n: u128) -> Decision {
    Decision {
        inventory_item_id: Some(ItemId(9_007_199_254_740_993)),
        location_id: Some(LocationId(82_211_110_002)),
        ..harness::decision(n)
    }
}

fn job(decision: &Decision, settings: Value) -> Job {
    harness::job(decision, settings)
}

fn plain() -> Job {
    job(&decision(1), json!({"to": "t"}))
}

fn input(handler: &dyn Handler, job: &Job) -> Result<Value, String> {
    let request = handler.prepare(job, "2026-11-20T14:15:10.123Z".parse().expect("time"))?;
    Ok(serde_json::from_slice::<Value>(&request).expect("JSON")["variables"].clone())
}

async fn send(handler: &dyn Handler, job: &Job, now: DateTime<Utc>) -> Verdict {
    let request = handler.prepare(job, now).expect("request");
    handler.send(job, &request, now).await
}

async fn verdict_on(fault: Fault) -> Verdict {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, [fault]).await;
    send(&*handler(&shopify, ""), &plain(), clock.now()).await
}

#[tokio::test]
async fn a_decision_becomes_a_draft_for_its_location_with_its_ids_in_the_tags() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, []).await;
    let handler = handler(&shopify, "origin = 82211110001");
    let verdict = send(&*handler, &plain(), clock.now()).await;
    let Verdict::Done { response, reference } = verdict else { panic!("{verdict:?}") };
    let state = shopify.state();
    assert_eq!(reference.as_deref(), Some("gid://shopify/InventoryTransfer/2921201"));
    assert_eq!(response.as_deref(), Some("transfer #T0001 DRAFT"));
    let (asked, made) = (&state.mutations[0], &state.transfers[0]);
    assert_eq!(asked.path, "/a.example/admin/api/2026-07/graphql.json");
    assert_eq!(asked.headers["x-shopify-access-token"], TOKEN);
    assert_eq!(
        made.input["lineItems"],
        json!([{"inventoryItemId": "gid://shopify/InventoryItem/9007199254740993", "quantity": 24}])
    );
    assert_eq!(made.input["originLocationId"], "gid://shopify/Location/82211110001");
    assert_eq!(made.input["destinationLocationId"], "gid://shopify/Location/82211110002");
    assert_eq!(
        (&made.input["dateCreated"], &made.input["referenceName"]),
        (&json!("2026-11-20T10:00:00Z"), &json!("RO-000000000000"))
    );
    assert!(made.input["note"].as_str().expect("note").contains("fell to 4, below 10"));
    let proposal = decision(1).proposal_id.simple().to_string();
    assert!(made.tags.contains(&"stockwarden".to_owned()) && made.tags.contains(&format!("reorder-{proposal}")), "{made:?}");
    assert!(made.tags.iter().all(|t| t.len() <= 40), "{made:?}");
    assert!(asked.json["variables"]["key"].as_str().expect("key").parse::<uuid::Uuid>().is_ok());
    assert_eq!(asked.body, handler.prepare(&plain(), clock.now()).expect("request"), "the frozen bytes are what is sent");
}

#[tokio::test]
async fn a_route_chooses_origin_destination_and_state() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, []).await;
    let handler = handler(&shopify, "origin = \"gid://shopify/Location/1\"");
    let settings = json!({"to": "t", "origin": "5", "destination": 6, "ready": true, "tags": ["urgent"]});
    assert!(matches!(send(&*handler, &job(&decision(1), settings), clock.now()).await, Verdict::Done { .. }));
    let made = shopify.state().transfers[0].clone();
    assert_eq!((made.status, made.tags.last().map(String::as_str)), ("READY_TO_SHIP", Some("urgent")));
    assert_eq!(made.input["originLocationId"], "gid://shopify/Location/5");
    assert_eq!(made.input["destinationLocationId"], "gid://shopify/Location/6");
}

#[test]
fn two_effects_of_one_proposal_differ_in_key_and_tag() {
    let handler = build("", Arc::new(NoStoredTokens)).expect("handler");
    let first = plain();
    let mut second = plain();
    second.id.route_id = "1".into();
    let (first, second) = (input(&*handler, &first).expect("input"), input(&*handler, &second).expect("input"));
    assert_ne!(first["key"], second["key"]);
    assert_eq!(first["input"]["tags"][1], second["input"]["tags"][1]);
    assert_ne!(first["input"]["tags"][2], second["input"]["tags"][2]);
}

#[test]
fn what_cannot_be_a_transfer_is_refused_before_anything_is_sent() {
    let handler = build("", Arc::new(NoStoredTokens)).expect("handler");
    let with = |change: &dyn Fn(&mut Decision)| {
        let mut decision = decision(1);
        change(&mut decision);
        decision
    };
    let warning = with(&|d| (d.kind, d.quantity) = (Kind::Warning, None));
    let pooled = with(&|d| (d.shop, d.variant_id, d.inventory_item_id) = (None, None, None));
    for (decision, settings, want) in [
        (warning, json!({}), "a warning orders nothing"),
        (pooled, json!({}), "route rules of scope sku to another handler"),
        (with(&|d| d.inventory_item_id = None), json!({}), "names no inventory item"),
        (with(&|d| d.quantity = Some(0)), json!({}), "0 units"),
        (with(&|d| d.quantity = Some(1 << 31)), json!({}), "set a maximum"),
        (with(&|d| d.location_id = None), json!({}), "give the route an origin or a destination"),
        (decision(1), json!({"origin": 82_211_110_002_u64}), "are the same location"),
        (decision(1), json!({"ready": true}), "needs both an origin and a destination"),
        (decision(1), json!({"ready": "yes"}), "is not true or false"),
        (decision(1), json!({"origin": "gid://shopify/Product/1"}), "is not a location such as"),
        (decision(1), json!({"origin": -1}), "is not a location such as"),
        (decision(1), json!({"tags": ["a,b"]}), "without a comma"),
    ] {
        let mut route = settings.clone();
        route["to"] = json!("t");
        let refused = input(&*handler, &job(&decision, route));
        assert!(refused.as_ref().is_err_and(|e| e.contains(want)), "{settings} for \"{want}\": {refused:?}");
    }
}

#[tokio::test]
async fn every_user_error_is_permanent_and_says_what_to_mend() {
    for (code, want) in [
        ("UNTRACKED_ITEM", "track this item"),
        ("BUNDLED_ITEM", "components"),
        ("INVENTORY_STATE_NOT_ACTIVE", "stock the item"),
        ("ITEM_NOT_FOUND", "no longer in the shop"),
        ("LOCATION_NOT_FOUND", "locations of this shop"),
        ("LOCATION_NOT_ACTIVE", "activate the location"),
        ("TAG_EXCEEDS_MAX_LENGTH", "tags of the route"),
        ("INVALID_QUANTITY", "maximum of the rule"),
        ("IDEMPOTENCY_KEY_PARAMETER_MISMATCH", "by its tags"),
        ("A_CODE_OF_TOMORROW", "then retry"),
    ] {
        let verdict = verdict_on(Fault::UserError(code)).await;
        assert!(
            matches!(&verdict, Verdict::Permanent { reason } if reason.contains(code) && reason.contains(want)),
            "{verdict:?}"
        );
    }
}

#[tokio::test]
async fn every_other_answer_has_its_verdict() {
    for (fault, want) in [
        (Fault::Denied, "write_inventory_transfers"),
        (Fault::Status("404 Not Found", &[], "{\"errors\":\"Not Found\"}"), "no such shop or API version"),
        (Fault::Status("402 Payment Required", &[], ""), "unpaid"),
        (Fault::Status("403 Forbidden", &[], ""), "approval"),
        (Fault::Status("301 Moved Permanently", &[("location", "http://127.0.0.1:1/")], ""), "redirects are not followed"),
        (Fault::Body("{\"errors\": [{\"message\": \"Field 'x' doesn't exist\"}]}"), "doesn't exist"),
    ] {
        let verdict = verdict_on(fault.clone()).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains(want)), "{fault:?}: {verdict:?}");
    }
    for fault in [
        Fault::CommitThenDrop,
        Fault::CommitThenHang,
        Fault::FailInside,
        Fault::Status("500 Internal Server Error", &[], ""),
        Fault::Status("503 Service Unavailable", &[("retry-after", "1")], ""),
        Fault::Body("<html>"),
        Fault::Body("{}"),
        Fault::Body("{\"data\": null}"),
        Fault::Body("{\"data\": {\"inventoryTransferCreate\": null}}"),
        Fault::Body("{\"data\": {\"inventoryTransferCreate\": {\"inventoryTransfer\": null, \"userErrors\": []}}}"),
    ] {
        let verdict = verdict_on(fault.clone()).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{fault:?}: {verdict:?}");
    }
    for (fault, wait) in [
        (Fault::Status("429 Too Many Requests", &[("retry-after", "7.0")], ""), 7),
        (Fault::Throttle(60_000), 600),
        (Fault::UserError("IDEMPOTENCY_CONCURRENT_REQUEST"), 2),
    ] {
        let verdict = verdict_on(fault.clone()).await;
        let Verdict::Retry { after, blame, .. } = &verdict else { panic!("{fault:?}: {verdict:?}") };
        assert_eq!((*after, *blame), (Some(Duration::from_secs(wait)), Blame::Effect), "{fault:?}: other shops go on");
    }
}

#[tokio::test]
async fn a_shop_that_nobody_reaches_had_no_effect() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = nobody.local_addr().expect("address");
    drop(nobody);
    let toml = format!("admin_url = \"http://{address}/{{shop}}\"\naccess_token = {{ env = \"TOKEN\" }}");
    let handler = build(&toml, Arc::new(NoStoredTokens)).expect("handler");
    let verdict = send(&*handler, &plain(), Utc::now()).await;
    assert!(matches!(verdict, Verdict::Retry { blame: Blame::Target, .. }), "{verdict:?}");
}

#[tokio::test]
async fn short_throttling_is_waited_out_and_costs_no_attempt() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, [Fault::Throttle(20), Fault::Throttle(10)]).await;
    let verdict = send(&*handler(&shopify, ""), &plain(), clock.now()).await;
    assert!(matches!(verdict, Verdict::Done { .. }), "{verdict:?}");
    assert_eq!(shopify.counts(), (3, 1, 0));
}

#[tokio::test]
async fn a_version_that_fell_forward_is_told() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, []).await;
    shopify.state().speaks = Some("2027-01");
    let verdict = send(&*handler(&shopify, ""), &plain(), clock.now()).await;
    let told = |r: &str| r.contains("API version 2027-01, not 2026-07") && r.contains("set api_version");
    assert!(matches!(&verdict, Verdict::Done { response: Some(r), .. } if told(r)), "{verdict:?}");
}

const APP: &str = "client_id = \"the-app\"\nclient_secret = { env = \"APP_SECRET\" }";

#[tokio::test]
async fn client_credentials_are_exchanged_once_and_again_shortly_before_the_end() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, []).await;
    let handler = handler(&shopify, APP);
    let jobs: Vec<Job> = (1..=8).map(|n| job(&decision(n), json!({"to": "t"}))).collect();
    let sends = jobs.iter().map(|job| send(&*handler, job, clock.now()));
    assert!(futures::future::join_all(sends).await.iter().all(|v| matches!(v, Verdict::Done { .. })));
    assert_eq!(shopify.state().issued, 1, "eight at once, one exchange");
    // 86,399 s of life, less five minutes.
    for (second, issued) in [(86_098, 1), (86_099, 2), (86_400, 2)] {
        let now = clock.now() + Duration::from_secs(second);
        send(&*handler, &plain(), now).await;
        assert_eq!(shopify.state().issued, issued, "after {second} s");
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, [Fault::Revoke]).await;
    let renewing = handler(&shopify, APP);
    assert!(matches!(send(&*renewing, &plain(), clock.now()).await, Verdict::Done { .. }));
    assert_eq!(shopify.counts(), (2, 1, 2));
    // The new one is refused as well.
    shopify.state().script.extend([Fault::Revoke, Fault::Revoke]);
    let verdict = send(&*renewing, &plain(), clock.now()).await;
    assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains("still installed")), "{verdict:?}");
    assert_eq!(shopify.state().issued, 3);
    // A stored one cannot be renewed.
    shopify.state().script.push_back(Fault::Revoke);
    let verdict = send(&*handler(&shopify, ""), &plain(), clock.now()).await;
    let told = |r: &str| r.contains("give the handler a new access_token") && r.contains("***") && !r.contains(TOKEN);
    assert!(matches!(&verdict, Verdict::Permanent { reason } if told(reason)), "{verdict:?}");
}

#[tokio::test]
async fn wrong_credentials_are_permanent_and_an_exchange_that_fails_is_not() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, []).await;
    let handler = handler(&shopify, APP);
    shopify.state().token_script.extend(["503 Service Unavailable", "400 Bad Request", "200 OK"]);
    let verdict = send(&*handler, &plain(), clock.now()).await;
    assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
    let verdict = send(&*handler, &plain(), clock.now()).await;
    let told = |r: &str| r.contains("client_id and client_secret") && !r.contains("secret%3D1") && !r.contains(CLIENT_SECRET);
    assert!(matches!(&verdict, Verdict::Permanent { reason } if told(reason)), "{verdict:?}");
    let verdict = send(&*handler, &plain(), clock.now()).await;
    assert!(matches!(verdict, Verdict::Retry { .. }), "no token in the answer: {verdict:?}");
    assert!(shopify.state().mutations.is_empty());
}

#[tokio::test]
async fn each_shops_own_token_comes_sealed_from_the_registry() {
    let clock = TestClock::new();
    let shopify = Shopify::start(&clock, []).await;
    let world = World::new();
    let file = world.folder.path().join("registry.db").display().to_string();
    let registry = Arc::new(SqliteStore::connect(&file, PATIENCE).await.expect("store"));
    let vault = Vault::from_base64(&Vault::new_key().expect("key")).expect("vault");
    let tokens = Arc::new(RegisteredTokens { registry: registry.clone(), vault: vault.clone() });
    let handler = build(&format!("admin_url = \"{}\"", shopify.admin_url()), tokens).expect("handler");
    let entry = |token: Option<&str>| ShopEntry {
        shop: SHOP.into(),
        organisation: "default".into(),
        kind: ShopKind::Shopify,
        webhook_secrets: Vec::new(),
        access_token: token.map(|t| vault.seal(SHOP, t.as_bytes()).expect("sealed")),
        added_at: clock.now(),
    };
    for (known, want) in [(None, "is not registered"), (Some(entry(None)), "no access token is stored")] {
        if let Some(known) = known {
            registry.put_shop(known).await.expect("stored");
        }
        let verdict = send(&*handler, &plain(), clock.now()).await;
        let told = |r: &str| r.contains(want) && r.contains("shop add a.example --kind shopify --access-token-env");
        assert!(matches!(&verdict, Verdict::Permanent { reason } if told(reason)), "{verdict:?}");
    }
    registry.put_shop(entry(Some(TOKEN))).await.expect("stored");
    assert!(
        matches!(send(&*handler, &plain(), clock.now()).await, Verdict::Done { .. }),
        "a token given meanwhile works at once"
    );
}

#[tokio::test]
async fn no_token_goes_to_a_host_that_is_not_a_shop_at_shopify() {
    let handler = build("access_token = { env = \"TOKEN\" }", Arc::new(NoStoredTokens)).expect("handler");
    for shop in ["evil.example", "myshopify.com.evil.example", "store:acme/berlin", "x@evil.example/a.myshopify.com", ""] {
        let mut job = plain();
        job.shop = shop.into();
        let verdict = send(&*handler, &job, Utc::now()).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains("is not a")), "{shop}: {verdict:?}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_its_key() {
    for (toml, want) in [
        ("admin_url = \"http://shop.example/{shop}\"", "allowed is https://"),
        ("admin_url = \"https://me:secret@shop.example/\"", "credentials"),
        ("admin_url = \"https://{store}/x\"", "{store}"),
        ("api_version = \"2026-01\"", "too old"),
        ("api_version = \"unstable\"", "api_version"),
        ("client_id = \"x\"", "go together"),
        ("client_id = \"x\"\nclient_secret = { env = \"NOT_SET\" }", "NOT_SET"),
        (
            "client_id = \"x\"\nclient_secret = { env = \"APP_SECRET\" }\nadmin_url = \"https://{shop}/x\"",
            "admin_url must end in",
        ),
        ("client_id = \"x\"\nclient_secret = { env = \"APP_SECRET\" }\naccess_token = { env = \"TOKEN\" }", "choose one"),
        ("origin = \"Berlin\"", "origin"),
        ("index_lag = \"soon\"", "index_lag"),
        ("redy = true", "redy"),
    ] {
        let refused = build(toml, Arc::new(NoStoredTokens)).err();
        assert!(refused.as_ref().is_some_and(|e| e.contains(want)), "{toml}: {refused:?}");
        assert!(refused.is_some_and(|e| !e.contains("me:secret")), "{toml}");
    }
}
