//! Reads of live state, over a small implementation of the port.

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use serde_json::Value;
use stockwarden::domain::views::{ProposalView, Provenance, RiskView, ShopView, Source, VariantView};
use stockwarden::events::decision::RiskLevel;
use stockwarden::events::ids::{ItemId, ProductId, VariantId};
use stockwarden::events::record::Position;
use stockwarden::ports::queries::{Answer, Queries, QueryError, Question, VariantFilter, VariantPage};
use stockwarden::ports::registry::Role;

use super::site::{SHOP, Site, problem};

/// Answers from a list; remembers the last filter. Each shop has the variants 1 and 2^53+1, applied up to offset 7.
#[derive(Default)]
pub struct Known {
    shops: Mutex<Vec<ShopView>>,
    pub asked: Mutex<Option<(VariantFilter, Option<Position>)>>,
    pub unready: Mutex<Option<String>>,
    /// Of every variant.
    pub open_proposals: Mutex<Vec<ProposalView>>,
}

fn provenance() -> Provenance {
    Provenance { partition: 3, offset: 7, epoch: 1, node: "a".into(), source: Source::Owner, staleness_ms: 0 }
}

fn variant(shop: &str, id: u64) -> VariantView {
    VariantView {
        shop: shop.into(),
        variant_id: VariantId(id),
        inventory_item_id: Some(ItemId(id)),
        product_id: ProductId(7),
        sku: Some("S".into()),
        title: "T".into(),
        product_title: "T".into(),
        variant_title: String::new(),
        vendor: None,
        product_type: None,
        tags: vec![],
        available: Some(4),
        tracked: None,
        levels: vec![],
        levels_complete: false,
        stale_since: None,
        risk: RiskView { level: RiskLevel::None, probability: None, hours_left: None },
        open_proposals: vec![],
        quarantined: None,
        provenance: provenance(),
    }
}

impl Known {
    pub fn add(&self, shop: &str, organisation: &str) {
        let mut shops = self.shops.lock().expect("lock");
        shops.push(ShopView {
            shop: shop.into(),
            organisation: organisation.into(),
            kind: "shopify".into(),
            variants: 2,
            at_risk: 0,
            open_proposals: 0,
            waiting_items: 0,
            rule_version: None,
            provenance: provenance(),
        });
        shops.sort_by(|a, b| a.shop.cmp(&b.shop));
    }

    fn known(&self, shop: &str, after: Option<Position>) -> Result<ShopView, QueryError> {
        match after {
            Some(after) if after.partition != 3 => {
                return Err(QueryError::BadRequest(format!("{after} is of another partition")));
            }
            Some(after) if after.offset > 7 => {
                return Err(QueryError::Behind { after, retry_after: Duration::from_millis(1500) });
            }
            _ => {}
        }
        let shops = self.shops.lock().expect("lock");
        shops.iter().find(|s| s.shop == shop).cloned().ok_or_else(|| QueryError::NoShop(shop.into()))
    }
}

impl Queries for Known {
    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopView>, QueryError>> {
        ready(Ok(self.shops.lock().expect("lock").clone())).boxed()
    }

    fn find<'a>(
        &'a self,
        shop: &'a str,
        question: Question,
        after: Option<Position>,
        _: Duration,
    ) -> BoxFuture<'a, Result<Answer, QueryError>> {
        let known = self.known(shop, after);
        let answer = match question {
            Question::Shop => known.map(Answer::Shop),
            Question::Variants(filter) => {
                *self.asked.lock().expect("lock") = Some((filter, after));
                let page = VariantPage { variants: vec![variant(shop, 1)], next: Some(VariantId(9_007_199_254_740_993)) };
                known.map(|_| Answer::Variants(page))
            }
            Question::Variant(id) => known.and_then(|_| match id.0 {
                1 | 9_007_199_254_740_993 => {
                    let open_proposals = self.open_proposals.lock().expect("lock").clone();
                    Ok(Answer::Variant(Box::new(VariantView { open_proposals, ..variant(shop, id.0) })))
                }
                _ => Err(QueryError::NoVariant { shop: shop.into(), variant: id }),
            }),
        };
        ready(answer).boxed()
    }

    fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("engine", self.unready.lock().expect("lock").clone())]
    }
}

async fn site() -> (Site, String) {
    let site = Site::new().await;
    site.queries.add(SHOP, "default");
    let token = site.token(Role::Reader, "default", &[]).await;
    (site, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_is_answered_with_ids_as_text_and_its_provenance() {
    let (site, token) = site().await;
    let response = site.get(&format!("/v1/shops/{SHOP}/variants/9007199254740993?after=3:7"), &token).await;
    let body: Value = response.json().await.expect("JSON");
    assert_eq!((body["variant_id"].as_str(), body["available"].as_i64()), (Some("9007199254740993"), Some(4)));
    assert_eq!((body["provenance"]["partition"].as_i64(), body["provenance"]["source"].as_str()), (Some(3), Some("owner")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_takes_its_filters_and_gives_the_cursor_of_the_next_page() {
    let (site, token) = site().await;
    let path =
        format!("/v1/shops/{SHOP}/variants?at_risk=true&vendor=Nord%20%26%20hang&sku=a%2Fb&cursor=12&limit=1000&after=3:5");
    let body: Value = site.get(&path, &token).await.json().await.expect("JSON");
    assert_eq!((body["variants"][0]["variant_id"].as_str(), body["next_cursor"].as_str()), (Some("1"), Some("9007199254740993")));
    let (filter, after) = site.queries.asked.lock().expect("lock").clone().expect("asked");
    let want = VariantFilter {
        at_risk: Some(true),
        vendor: Some("Nord & hang".into()),
        sku: Some("a/b".into()),
        cursor: Some(VariantId(12)),
        limit: 1000,
    };
    assert_eq!((filter, after.map(|p| p.to_string()).as_deref()), (want, Some("3:5")));
    site.get(&format!("/v1/shops/{SHOP}/variants"), &token).await;
    let (filter, _) = site.queries.asked.lock().expect("lock").clone().expect("asked");
    assert_eq!(filter, VariantFilter { limit: 100, ..VariantFilter::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_or_bad_query_key_is_named() {
    let (site, token) = site().await;
    let list = format!("/v1/shops/{SHOP}/variants");
    for (path, named) in [
        (format!("{list}?atrisk=true"), "atrisk"),
        (format!("{list}?at_risk=yes"), "at_risk"),
        (format!("{list}?limit=0"), "limit"),
        (format!("{list}?limit=1001"), "limit"),
        (format!("{list}?cursor=x"), "cursor"),
        (format!("{list}?limit=1&limit=2"), "limit"),
        (format!("{list}?after=3"), "after"),
        (format!("{list}/1?after=x:1"), "after"),
        (format!("{list}/1?as=1"), "as"),
        (format!("{list}/one"), "one"),
        (format!("{list}/-1"), "-1"),
        (format!("/v1/shops/{SHOP}?limit=1"), "limit"),
        ("/v1/shops?x".to_owned(), "x"),
    ] {
        let (status, told) = problem(site.get(&path, &token).await).await;
        assert_eq!(status, 400, "{path}");
        assert!(told["detail"].as_str().expect("detail").contains(named), "{path}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_applied_yet_is_a_503_with_retry_after_and_what_is_not_there_a_404() {
    let (site, token) = site().await;
    let behind = site.get(&format!("/v1/shops/{SHOP}/variants/1?after=3:8"), &token).await;
    assert_eq!(behind.headers()["retry-after"], "2");
    assert_eq!(problem(behind).await.0, 503);
    // Also a shop that nobody has heard of: the very fact that is waited for may be its first.
    assert_eq!(problem(site.get("/v1/shops/new.myshopify.com?after=3:8", &token).await).await.0, 503);
    assert_eq!(problem(site.get("/v1/shops/new.myshopify.com?after=3:7", &token).await).await.0, 404);
    assert_eq!(problem(site.get(&format!("/v1/shops/{SHOP}/variants/1?after=2:1"), &token).await).await.0, 400);
    let (status, told) = problem(site.get(&format!("/v1/shops/{SHOP}/variants/5"), &token).await).await;
    assert_eq!(status, 404);
    assert!(told["detail"].as_str().expect("detail").contains("variant 5"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_came_through_the_log_and_a_store_with_a_slash_are_found() {
    let (site, token) = site().await;
    site.queries.add("foreign.myshopify.com", "default");
    site.queries.add("store:default/Mitte", "default");
    site.queries.add("Upper.MyShopify.com", "default");
    for shop in ["foreign.myshopify.com", "FOREIGN.myshopify.com", "store:default%2FMitte", "Upper.MyShopify.com"] {
        assert_eq!(site.get(&format!("/v1/shops/{shop}/variants/1"), &token).await.status(), 200, "{shop}");
    }
}
