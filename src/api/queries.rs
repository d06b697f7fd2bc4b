//! `GET /v1/…`: reads of live state, each under the rights of the caller's token.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::auth::{Caller, bearer};
use super::params::Params;
use super::problem::{Kind, Problem};
use super::{NodeRole, State};
use crate::events::ids::VariantId;
use crate::events::record::{Partition, Position};
use crate::ports::queries::{Asker, Queries, QueryError, Token, VariantFilter, wire};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// A log has no more (`log.partitions`).
const MAX_PARTITIONS: usize = 10_000;

pub async fn shops(request: HttpRequest, state: Data<State>) -> Result<HttpResponse, Problem> {
    let caller = state.tokens.reader(&request).await?;
    Params::read(&request, &[])?;
    let mut shops = state.queries(&request)?.shops().await.map_err(problem)?;
    shops.retain(|s| caller.sees(&s.shop, &s.organisation));
    Ok(HttpResponse::Ok().json(json!({ "shops": shops })))
}

pub async fn shop(request: HttpRequest, path: Path<String>, state: Data<State>) -> Result<HttpResponse, Problem> {
    let caller = state.tokens.reader(&request).await?;
    let after = Params::read(&request, &["after"])?.parsed("after", "a position such as 3:1042")?;
    let queries = state.queries(&request)?;
    let shop = visible(&state, &*queries, &caller, &path, after).await?;
    let view = queries.shop(&shop, after, state.limits.query_wait).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(view))
}

pub async fn variants(request: HttpRequest, path: Path<String>, state: Data<State>) -> Result<HttpResponse, Problem> {
    let caller = state.tokens.reader(&request).await?;
    let params = Params::read(&request, &["at_risk", "vendor", "sku", "cursor", "limit", "after"])?;
    let filter = VariantFilter {
        at_risk: params.parsed("at_risk", "true or false")?,
        vendor: params.text("vendor"),
        sku: params.text("sku"),
        cursor: params.parsed("cursor", "the next_cursor of the page before")?.map(VariantId),
        limit: params.parsed("limit", "a number from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT),
    };
    if !(1..=MAX_LIMIT).contains(&filter.limit) {
        return Err(Problem::new(Kind::BadRequest, format!("limit={} is not a number from 1 to {MAX_LIMIT}", filter.limit)));
    }
    let after = params.parsed("after", "a position such as 3:1042")?;
    let queries = state.queries(&request)?;
    let shop = visible(&state, &*queries, &caller, &path, after).await?;
    let page = queries.variants(&shop, filter, after, state.limits.query_wait).await.map_err(problem)?;
    let next = page.next.map(|id| id.to_string());
    Ok(HttpResponse::Ok().json(json!({ "variants": page.variants, "next_cursor": next })))
}

pub async fn variant(request: HttpRequest, path: Path<(String, String)>, state: Data<State>) -> Result<HttpResponse, Problem> {
    let caller = state.tokens.reader(&request).await?;
    let after = Params::read(&request, &["after"])?.parsed("after", "a position such as 3:1042")?;
    let (shop, variant) = path.into_inner();
    let id = variant.parse().map(VariantId).map_err(|_| {
        let told: String = variant.chars().take(64).collect();
        Problem::new(Kind::BadRequest, format!("\"{}\" is not a variant's numeric id", told.escape_debug()))
    })?;
    let queries = state.queries(&request)?;
    let shop = visible(&state, &*queries, &caller, &shop, after).await?;
    let view = queries.variant(&shop, id, after, state.limits.query_wait).await.map_err(problem)?;
    Ok(HttpResponse::Ok().json(view))
}

/// The shop's log key, if the caller may see it. A shop of others looks like one that is not there (DESIGN §7.10). A shop may
/// have come into being with the very fact that the caller waits for, so `after` holds for looking it up as well.
pub(super) async fn visible(
    state: &State,
    queries: &dyn Queries,
    caller: &Caller,
    shop: &str,
    after: Option<Position>,
) -> Result<String, Problem> {
    // Shops' domains know no case; keys of stores do, and so may keys that somebody else's producer wrote.
    let usual = if shop.starts_with("store:") { shop.to_owned() } else { shop.to_ascii_lowercase() };
    let as_written = (usual != shop).then(|| shop.to_owned());
    for key in std::iter::once(usual.clone()).chain(as_written) {
        let organisation = match state.shops.known(&key) {
            Some(known) => Some(known.organisation.clone()),
            // A shop that came in through the log (DESIGN §1) stands in no registry; the engine knows it.
            None => match queries.shop(&key, after, state.limits.query_wait).await {
                Ok(view) => Some(view.organisation),
                Err(QueryError::NoShop(_)) => None,
                Err(e) => return Err(problem(e)),
            },
        };
        match organisation {
            Some(organisation) if caller.sees(&key, &organisation) => return Ok(key),
            Some(_) => break,
            None => {}
        }
    }
    Err(no_shop(&usual))
}

/// The same words and headers for a shop that is not there and for one of others.
fn no_shop(shop: &str) -> Problem {
    let told: String = shop.chars().take(255).collect();
    Problem::new(Kind::NotFound, format!("there is no shop \"{}\"", told.escape_debug())).because(wire::NO_SHOP)
}

fn problem(error: QueryError) -> Problem {
    let told = error.to_string();
    match error {
        QueryError::NoShop(shop) => no_shop(&shop),
        QueryError::NoVariant { .. } => Problem::new(Kind::NotFound, told).because(wire::NO_VARIANT),
        QueryError::NotReady { retry_after, .. } => Problem::unavailable(told, retry_after).because(wire::NOT_READY),
        QueryError::Behind { retry_after, .. } => Problem::unavailable(told, retry_after).because(wire::BEHIND),
        QueryError::Elsewhere(_) => Problem::new(Kind::Misdirected, told).because(wire::ELSEWHERE),
        QueryError::BadRequest(why) => Problem::new(Kind::BadRequest, why),
    }
}

/// Who asks, by the request's headers. The header of forwarded queries gives no rights: it only keeps the answer to what
/// lives here.
fn asker(request: &HttpRequest) -> Result<Asker, Problem> {
    let Some(header) = request.headers().get(wire::FORWARDED) else {
        return Ok(Asker::Caller(Token::new(bearer(request)?)));
    };
    let partitions = header.to_str().ok().and_then(|text| {
        let list: Option<Vec<Partition>> = text.split(',').map(|p| p.trim().parse().ok().filter(|p| *p >= 0)).collect();
        list.filter(|l| l.len() <= MAX_PARTITIONS)
    });
    partitions.map(Asker::Node).ok_or_else(|| {
        Problem::new(Kind::BadRequest, format!("the header {} is a list of partitions, such as 0,3", wire::FORWARDED))
    })
}

/// Either the node's own queries or those of one caller.
pub(super) enum Queried<'s> {
    Own(&'s dyn Queries),
    Theirs(Box<dyn Queries>),
}

impl std::ops::Deref for Queried<'_> {
    type Target = dyn Queries;

    fn deref(&self) -> &Self::Target {
        match self {
            Queried::Own(queries) => *queries,
            Queried::Theirs(queries) => &**queries,
        }
    }
}

impl State {
    pub(super) fn queries(&self, request: &HttpRequest) -> Result<Queried<'_>, Problem> {
        let asker = asker(request)?;
        // What a node owns it tells to other nodes, also where it has no API of its own.
        if !(matches!(asker, Asker::Node(_)) && self.roles.contains(&NodeRole::Shards)) {
            self.requires(NodeRole::Api)?;
        }
        let queries = self
            .queries
            .as_deref()
            .ok_or_else(|| Problem::new(Kind::Internal, "the role api was started without its queries"))?;
        Ok(queries.asked_by(asker).map_or(Queried::Own(queries), Queried::Theirs))
    }
}
