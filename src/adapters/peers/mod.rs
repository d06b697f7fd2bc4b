//! Other nodes over HTTP: the same addresses that callers use, with a header that says who forwards.
//!
//! The caller's token goes to addresses that nodes announced in the store, never further: no redirect is followed and no
//! proxy is used.

use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::domain::views::{ShopView, VariantView};
use crate::events::ids::{self, VariantId};
use crate::events::record::Position;
use crate::ports::peers::{Call, PeerError, Peers};
use crate::ports::queries::{Answer, QueryError, Question, VariantPage, wire};

/// A node that is there takes a connection at once.
const CONNECT_WITHIN: Duration = Duration::from_millis(250);
/// Less than the server keeps an idle connection, so that it is not used just when it is closed.
const IDLE: Duration = Duration::from_secs(30);
/// A page has a thousand variants at most.
const MAX_ANSWER: usize = 64 << 20;

pub struct HttpPeers {
    client: Client,
}

#[derive(Debug, thiserror::Error)]
#[error("no HTTP client for the other nodes can be made: {0}")]
pub struct NoClient(String);

#[derive(Deserialize)]
struct Shops {
    shops: Vec<ShopView>,
}

#[derive(Deserialize)]
struct Page {
    variants: Vec<VariantView>,
    #[serde(with = "ids::text::option")]
    next_cursor: Option<VariantId>,
}

impl HttpPeers {
    pub fn new() -> Result<HttpPeers, NoClient> {
        // reqwest comes without a TLS provider of its own; whoever installed one before us chose well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_WITHIN)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("stockwarden/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| NoClient(e.to_string()))?;
        Ok(HttpPeers { client })
    }

    async fn get<T: DeserializeOwned>(
        &self,
        call: Call,
        path: &[&str],
        pairs: Vec<(&str, String)>,
        asked: Asked<'_>,
    ) -> Result<T, PeerError> {
        let away = |reason: String| PeerError::Away { address: call.address.clone(), reason };
        let mut url = Url::parse(&call.address).map_err(|e| away(e.to_string()))?;
        url.path_segments_mut().map_err(|()| away("its address takes no path".to_owned()))?.pop_if_empty().extend(path);
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        let partitions: Vec<_> = call.partitions.iter().map(ToString::to_string).collect();
        let request = self
            .client
            .get(url)
            .bearer_auth(call.token.expose())
            .header(wire::FORWARDED, partitions.join(","))
            .timeout(call.within);
        // The URL names a shop, and is not worth a line for each.
        let mut response = request.send().await.map_err(|e| away(e.without_url().to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&response, &call, asked));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| away(e.without_url().to_string()))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(away(format!("its answer is larger than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|e| away(format!("its answer is not understood: {e}")))
    }
}

/// What was asked for, to name it in a refusal.
#[derive(Clone, Copy, Default)]
struct Asked<'a> {
    shop: &'a str,
    variant: Option<VariantId>,
    after: Option<Position>,
}

fn refusal(response: &Response, call: &Call, asked: Asked<'_>) -> PeerError {
    let reason = response.headers().get(wire::REASON).and_then(|r| r.to_str().ok());
    let shop = asked.shop.to_owned();
    match (reason, asked.variant, asked.after) {
        (Some(wire::NO_SHOP), ..) => QueryError::NoShop(shop).into(),
        (Some(wire::NO_VARIANT), Some(variant), _) => QueryError::NoVariant { shop, variant }.into(),
        (Some(wire::BEHIND), _, Some(after)) => QueryError::Behind { after, retry_after: Duration::from_secs(1) }.into(),
        (Some(wire::ELSEWHERE), ..) => PeerError::NotOwner(call.address.clone()),
        _ => PeerError::Away { address: call.address.clone(), reason: format!("it answered {}", response.status()) },
    }
}

impl Peers for HttpPeers {
    fn shops(&self, call: Call) -> BoxFuture<'_, Result<Vec<ShopView>, PeerError>> {
        Box::pin(async move {
            let found: Shops = self.get(call, &["v1", "shops"], Vec::new(), Asked::default()).await?;
            Ok(found.shops)
        })
    }

    fn find<'a>(
        &'a self,
        call: Call,
        shop: &'a str,
        question: &'a Question,
        after: Option<Position>,
    ) -> BoxFuture<'a, Result<Answer, PeerError>> {
        Box::pin(async move {
            let mut pairs: Vec<(&str, String)> = after.map(|a| ("after", a.to_string())).into_iter().collect();
            let mut asked = Asked { shop, variant: None, after };
            match question {
                Question::Shop => Ok(Answer::Shop(self.get(call, &["v1", "shops", shop], pairs, asked).await?)),
                Question::Variants(filter) => {
                    pairs.push(("limit", filter.limit.to_string()));
                    pairs.extend(filter.at_risk.map(|v| ("at_risk", v.to_string())));
                    pairs.extend(filter.vendor.clone().map(|v| ("vendor", v)));
                    pairs.extend(filter.sku.clone().map(|v| ("sku", v)));
                    pairs.extend(filter.cursor.map(|v| ("cursor", v.to_string())));
                    let page: Page = self.get(call, &["v1", "shops", shop, "variants"], pairs, asked).await?;
                    Ok(Answer::Variants(VariantPage { variants: page.variants, next: page.next_cursor }))
                }
                Question::Variant(variant) => {
                    asked.variant = Some(*variant);
                    let id = variant.to_string();
                    Ok(Answer::Variant(self.get(call, &["v1", "shops", shop, "variants", &id], pairs, asked).await?))
                }
            }
        })
    }
}
