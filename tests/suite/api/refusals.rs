//! What is refused, with what, and in which order (DESIGN §10).

use std::time::Duration;

use stockwarden::api::{Limits, NodeRole};
use stockwarden::events::record::Topic;
use stockwarden::ports::LogError;

use super::http::Raw;
use super::site::{LEVEL, SECRET, SHOP, Site, problem, sign, until};

fn away() -> Option<LogError> {
    Some(LogError::Unavailable { during: "testing".into(), reason: "it is away".into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_in_the_order_413_404_401_503() {
    let site = Site::new().await;
    site.log.set_fault(away());
    let large = vec![b' '; 2 * 1024 * 1024 + 1];
    for (shop, secret, body, want) in [
        ("unknown.myshopify.com", "wrong", large.as_slice(), 413),
        (SHOP, SECRET, large.as_slice(), 413),
        ("unknown.myshopify.com", "wrong", LEVEL, 404),
        ("not a shop", "wrong", LEVEL, 404),
        (SHOP, "wrong", LEVEL, 401),
        (SHOP, SECRET, LEVEL, 503),
    ] {
        let response = site.delivery(shop, "inventory_levels/update", secret, body).send().await.expect("answer");
        let retry = response.headers().contains_key("retry-after");
        let (status, _) = problem(response).await;
        assert_eq!((status, retry), (want, want == 503), "{shop} {secret} {}", body.len());
    }
    let post = || site.client.post(format!("{}/webhooks/shopify", site.base)).body(LEVEL);
    let bare = post().send().await.expect("answer");
    assert_eq!(problem(bare).await.0, 404, "without a shop");
    let unsigned = post().header("X-Shopify-Shop-Domain", SHOP).send().await.expect("answer");
    assert!(unsigned.headers().contains_key("www-authenticate"));
    assert_eq!(problem(unsigned).await.0, 401, "without a signature");
    let signed = || post().header("X-Shopify-Shop-Domain", SHOP).header("X-Shopify-Hmac-Sha256", sign(SECRET, LEVEL));
    assert_eq!(problem(signed().send().await.expect("answer")).await.0, 503, "without a topic, while the log is away");
    site.log.set_fault(Some(LogError::QueueFull));
    let full = site.send_level().await;
    assert!(full.headers().contains_key("retry-after"));
    assert_eq!(problem(full).await.0, 503);
    site.log.set_fault(None);
    assert_eq!(site.send_level().await.status(), 200);
    assert_eq!((site.records(Topic::Facts).len(), site.records(Topic::DeadLetters).len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_one_bit_changed_is_refused() {
    let site = Site::new().await;
    let signature = sign(SECRET, LEVEL);
    for at in [0, LEVEL.len() / 2, LEVEL.len() - 1] {
        let mut bent = LEVEL.to_vec();
        bent[at] ^= 1;
        let request = site.delivery(SHOP, "inventory_levels/update", SECRET, &bent).build().expect("request");
        let mut request = request;
        request.headers_mut().insert("x-shopify-hmac-sha256", signature.parse().expect("header"));
        assert_eq!(problem(site.client.execute(request).await.expect("answer")).await.0, 401);
    }
    assert!(site.records(Topic::Facts).is_empty() && site.records(Topic::DeadLetters).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_of_a_rotation_are_good_at_once_and_the_old_one_no_longer_after_it() {
    let site = Site::new().await;
    let send = async |secret: &str| {
        site.delivery(SHOP, "inventory_levels/update", secret, LEVEL).send().await.expect("answer").status().as_u16()
    };
    assert_eq!((send(SECRET).await, send("new").await), (200, 401));
    // Past the moment in which a shop is not read again for one more bad signature.
    site.add_shop(SHOP, "default", &["new", SECRET]).await;
    until("the new secret", async || (send("new").await == 200).then_some(())).await;
    assert_eq!(send(SECRET).await, 200);
    site.add_shop(SHOP, "default", &["new"]).await;
    until("the end of the old secret", async || (send(SECRET).await == 401).then_some(())).await;
    assert_eq!(send("new").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_added_by_another_process_is_accepted_by_the_next_request_and_a_removed_one_soon_not() {
    use stockwarden::ports::Registry as _;
    let site = Site::new().await;
    let send = async || {
        site.delivery("late.myshopify.com", "inventory_levels/update", "s", LEVEL).send().await.expect("answer").status().as_u16()
    };
    assert_eq!(send().await, 404);
    site.add_shop("late.myshopify.com", "default", &["s"]).await;
    assert_eq!(send().await, 200);
    site.store.inner.remove_shop("late.myshopify.com").await.expect("removed");
    until("the removal", async || (send().await == 404).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_known_shops_are_served_and_unknown_ones_told_to_come_again() {
    let site = Site::new().await;
    assert_eq!(site.send_level().await.status(), 200);
    site.store.away.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(site.send_level().await.status(), 200);
    let unknown = site.delivery("x.myshopify.com", "inventory_levels/update", "s", LEVEL).send().await.expect("answer");
    assert!(unknown.headers().contains_key("retry-after"));
    assert_eq!(problem(unknown).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_shops_asks_the_store_for_a_few_at_a_time() {
    let site = Site::new().await;
    assert_eq!(site.send_level().await.status(), 200);
    site.store.hold.send_replace(true);
    let requests: Vec<_> = (0..40)
        .map(|i| {
            let request = site.delivery(&format!("x{i}.myshopify.com"), "inventory_levels/update", "s", LEVEL);
            tokio::spawn(async move { request.send().await.expect("answer").status().as_u16() })
        })
        .collect();
    site.store.waiting.subscribe().wait_for(|n| *n >= 4).await.expect("look-ups");
    assert_eq!(site.send_level().await.status(), 200, "a known shop is not held up");
    site.store.hold.send_replace(false);
    for request in requests {
        assert!(matches!(request.await.expect("task"), 404 | 503));
    }
    assert_eq!(site.store.most_waiting.load(std::sync::atomic::Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_by_its_declared_length_or_when_it_gets_there() {
    let site = Site::new().await;
    let mut declared = Raw::webhook(&site, &format!("Content-Length: {}", 2 * 1024 * 1024 + 1), "x").await;
    assert_eq!(declared.status().await, 413, "before a byte of the body");
    let mut chunked = Raw::webhook(&site, "Transfer-Encoding: chunked", "x").await;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..33 {
        chunked.send(&chunk).await;
    }
    assert_eq!(chunked.status().await, 413, "past the limit, before the end");
    let exact = vec![b' '; 2 * 1024 * 1024];
    let response = site.delivery(SHOP, "inventory_levels/update", SECRET, &exact).send().await.expect("answer");
    assert_eq!(response.status(), 200, "the limit itself is allowed (and its content a dead letter)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_half_a_body_is_given_up_and_leaves_nothing() {
    let limits = Limits { body_within: Duration::from_millis(100), ..Limits::default() };
    let site = Site::with(limits, NodeRole::ALL.to_vec()).await;
    let framing = format!("Content-Length: {}", LEVEL.len());
    let mut slow = Raw::webhook(&site, &framing, &sign(SECRET, LEVEL)).await;
    slow.send(&LEVEL[..10]).await;
    assert_eq!(slow.status().await, 408);
    let mut gone = Raw::webhook(&site, &framing, &sign(SECRET, LEVEL)).await;
    gone.send(&LEVEL[..10]).await;
    drop(gone);
    assert_eq!(site.send_level().await.status(), 200, "others are served");
    assert_eq!(site.records(Topic::Facts).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_together_have_a_bound_past_which_the_next_is_shed_unread() {
    let limits = Limits { bodies: 1024, ..Limits::default() };
    let site = Site::with(limits, NodeRole::ALL.to_vec()).await;
    site.log.hold.send_replace(true);
    let request = site.delivery(SHOP, "inventory_levels/update", SECRET, LEVEL);
    let first = tokio::spawn(async move { request.send().await.expect("answer").status().as_u16() });
    site.log.waiting.subscribe().wait_for(|n| *n == 1).await.expect("append");
    let (status, told) = problem(site.send_level().await).await;
    assert_eq!(status, 503, "{told}");
    site.log.hold.send_replace(false);
    assert_eq!(first.await.expect("task"), 200);
    assert_eq!(site.send_level().await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_answer_in_time_is_a_503() {
    let limits = Limits { append_within: Duration::from_millis(50), ..Limits::default() };
    let site = Site::with(limits, NodeRole::ALL.to_vec()).await;
    site.log.hold.send_replace(true);
    assert_eq!(problem(site.send_level().await).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_running_webhook_end_and_then_nobody_answers() {
    let mut site = Site::new().await;
    site.log.hold.send_replace(true);
    let request = site.delivery(SHOP, "inventory_levels/update", SECRET, LEVEL);
    let running = tokio::spawn(async move { request.send().await.expect("answer").status().as_u16() });
    site.log.waiting.subscribe().wait_for(|n| *n == 1).await.expect("append");
    let server = site.server.take().expect("running");
    let stopping = tokio::spawn(server.stop());
    let address = site.base.trim_start_matches("http://").to_owned();
    until("the port to close", async || tokio::net::TcpStream::connect(&address).await.is_err().then_some(())).await;
    assert!(!stopping.is_finished());
    site.log.hold.send_replace(false);
    assert_eq!(running.await.expect("task"), 200);
    stopping.await.expect("stopped");
    assert_eq!(site.records(Topic::Facts).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_role_ingest_takes_no_webhooks() {
    let site = Site::with(Limits::default(), vec![NodeRole::Api]).await;
    assert_eq!(problem(site.send_level().await).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_problem_details_and_metrics_name_no_shop() {
    let mut site = Site::new().await;
    let token = site.token(stockwarden::ports::registry::Role::Reader, "default", &[]).await;
    for (path, want) in [("/", 404), ("/v2/shops", 404), ("/v1/shops/%ff/variants", 404), ("/webhooks/shopify", 405)] {
        let response = site.get(path, &token).await;
        if want == 405 {
            assert_eq!(response.headers()["allow"], "POST");
        }
        assert_eq!(problem(response).await.0, want, "{path}");
    }
    let posted = site.client.post(format!("{}/healthz", site.base)).send().await.expect("answer");
    assert_eq!(posted.headers()["allow"], "GET");
    assert_eq!(problem(posted).await.0, 405);
    assert_eq!(site.send_level().await.status(), 200);
    let metrics = site.metrics().await;
    assert!(metrics.contains("stockwarden_webhooks_total{outcome=\"accepted\"} 1"), "{metrics}");
    assert!(!metrics.contains("myshopify"), "{metrics}");
    site.stop().await;
}
