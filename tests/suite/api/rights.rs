//! Who may read what (DESIGN §7.10).

use chrono::Utc;
use serde_json::Value;
use stockwarden::ports::Registry as _;
use stockwarden::ports::registry::Role;

use super::site::{SHOP, Site, problem, until};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_nothing_is_read() {
    let site = Site::new().await;
    let url = format!("{}/v1/shops", site.base);
    let bare = site.client.get(&url).send().await.expect("answer");
    assert_eq!(bare.headers()["www-authenticate"], "Bearer");
    assert_eq!(problem(bare).await.0, 401);
    for header in ["Bearer", "Bearer ", "Basic abc", "Bearer nobody"] {
        let response = site.client.get(&url).header("Authorization", header).send().await.expect("answer");
        assert!(response.headers().contains_key("www-authenticate"));
        assert_eq!(problem(response).await.0, 401, "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_but_ingest_reads() {
    let site = Site::new().await;
    for role in Role::ALL {
        let token = site.token(role, "default", &[]).await;
        let status = site.get("/v1/shops", &token).await.status().as_u16();
        assert_eq!(status, if role == Role::Ingest { 403 } else { 200 }, "{}", role.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_soon() {
    let site = Site::new().await;
    let token = site.token(Role::Reader, "default", &[]).await;
    assert_eq!(site.get("/v1/shops", &token).await.status(), 200);
    assert!(site.store.inner.revoke_token(&token, Utc::now()).await.expect("revoked"));
    let began = std::time::Instant::now();
    until("the end of the token", async || (site.get("/v1/shops", &token).await.status() == 401).then_some(())).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_a_known_token_goes_on_and_an_unknown_one_is_told_to_come_again() {
    let site = Site::new().await;
    let token = site.token(Role::Reader, "default", &[]).await;
    assert_eq!(site.get("/v1/shops", &token).await.status(), 200);
    site.store.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let began = std::time::Instant::now();
    // Past the time for which nobody would ask the store anyway.
    until("a second", async || {
        assert_eq!(site.get("/v1/shops", &token).await.status(), 200);
        (began.elapsed() > std::time::Duration::from_secs(1)).then_some(())
    })
    .await;
    assert_eq!(problem(site.get("/v1/shops", "other").await).await.0, 503);
}

async fn shops(site: &Site, token: &str) -> Vec<String> {
    let body: Value = site.get("/v1/shops", token).await.json().await.expect("JSON");
    body["shops"].as_array().expect("shops").iter().map(|s| s["shop"].as_str().expect("name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_of_others_looks_like_one_that_is_not_there() {
    let site = Site::new().await;
    site.add_shop("b.myshopify.com", "default", &["s"]).await;
    site.add_shop("c.myshopify.com", "acme", &["s"]).await;
    for (shop, organisation) in [(SHOP, "default"), ("b.myshopify.com", "default"), ("c.myshopify.com", "acme")] {
        site.queries.add(shop, organisation);
    }
    let all = site.token(Role::Admin, "default", &[]).await;
    let one = site.token(Role::Staff, "default", &["b.myshopify.com"]).await;
    let acme = site.token(Role::Reader, "acme", &[]).await;
    let strayed = site.token(Role::Reader, "acme", &["b.myshopify.com"]).await;
    assert_eq!(shops(&site, &all).await, ["b.myshopify.com", SHOP]);
    assert_eq!(shops(&site, &one).await, ["b.myshopify.com"]);
    assert_eq!(shops(&site, &acme).await, ["c.myshopify.com"]);
    assert!(shops(&site, &strayed).await.is_empty());
    for path in ["", "/variants", "/variants/1"] {
        for (token, shop, want) in [
            (&one, "b.myshopify.com", 200),
            (&one, "B.MyShopify.com", 200),
            (&one, SHOP, 404),
            (&one, "c.myshopify.com", 404),
            (&acme, "c.myshopify.com", 200),
            (&acme, SHOP, 404),
            (&strayed, "b.myshopify.com", 404),
            (&all, "nowhere.myshopify.com", 404),
        ] {
            let response = site.get(&format!("/v1/shops/{shop}{path}"), token).await;
            assert_eq!(response.status().as_u16(), want, "{shop}{path} {token}");
            if want == 404 {
                let (_, told) = problem(response).await;
                assert_eq!(told["detail"], format!("there is no shop \"{shop}\""), "the same words as for one that is nowhere");
            }
        }
    }
}
