//! `/v1/reorders`: the proposals and what staff do with them, each under the rights of the caller's token.

mod body;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Caller;
use super::body::check_declared;
use super::params::Params;
use super::problem::{Kind, Problem};
use super::queries::visible;
use super::{NodeRole, State};
use crate::domain::proposal;
use crate::events::fact::Move;
use crate::events::record::{Offset, Position, Topic};
use crate::ports::event_log::{Group, LogError};
use crate::ports::ledger::EffectId;
use crate::ports::reorders::{MoveError, MoveOutcome, MoveRequest, Reorder, ReorderFilter};
use crate::ports::snapshot_store::StoreError;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// Added to the wait for a move to show: looking at live state, and the log's time.
const MOVE_WITHIN: Duration = Duration::from_secs(9);
/// A move's body.
const MAX_BODY: usize = 64 * 1024;
const LOOK_AGAIN: Duration = Duration::from_millis(25);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Who works a proposal here, for the channels that show it.
const VIA: &str = "api";

pub async fn list(request: HttpRequest, state: Data<State>) -> Result<HttpResponse, Problem> {
    state.requires(NodeRole::Api)?;
    let caller = state.tokens.reader(&request).await?;
    let params = Params::read(&request, &["state", "shop", "vendor", "handler", "open", "cursor", "limit", "after"])?;
    let after = params.parsed("after", "a position such as 3:1042")?;
    let mut filter = ReorderFilter {
        organisation: caller.organisation().to_owned(),
        shops: caller.shops().to_vec(),
        state: params.text("state").map(|s| named_state(&s)).transpose()?,
        open: params.parsed("open", "true or false")?,
        vendor: params.text("vendor"),
        handler: params.text("handler"),
        before: params.parsed("cursor", "the next_cursor of the page before")?,
        limit: params.parsed("limit", "a number from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT),
    };
    if !(1..=MAX_LIMIT).contains(&filter.limit) {
        return Err(Problem::new(Kind::BadRequest, format!("limit={} is not a number from 1 to {MAX_LIMIT}", filter.limit)));
    }
    let kinds = &state.reorders.kinds;
    if let Some(name) = filter.handler.as_ref().filter(|h| !kinds.contains_key(*h)) {
        let told: String = name.chars().take(64).collect();
        let known = if kinds.is_empty() { "none is".to_owned() } else { kinds.keys().cloned().collect::<Vec<_>>().join(", ") };
        return Err(Problem::new(
            Kind::BadRequest,
            format!("handler=\"{}\" is not configured; configured: {known}", told.escape_debug()),
        ));
    }
    if let Some(shop) = params.text("shop") {
        filter.shops = vec![visible(&state, &*state.queries(&request)?, &caller, &shop, after).await?];
    }
    if let Some(after) = after {
        taken_in(&state, after).await?;
    }
    let list = Arc::clone(&state.reorders.list);
    let page = state.run(STORE_WITHIN, async move { list.reorders(filter).await }).await?.map_err(|e| store_away(&e))?;
    let shown: Vec<Value> = page.reorders.iter().map(|r| view::view(r, kinds)).collect();
    Ok(HttpResponse::Ok().json(json!({ "reorders": shown, "next_cursor": page.next.map(|c| c.to_string()) })))
}

pub async fn one(request: HttpRequest, path: Path<String>, state: Data<State>) -> Result<HttpResponse, Problem> {
    state.requires(NodeRole::Api)?;
    let caller = state.tokens.reader(&request).await?;
    let after = Params::read(&request, &["after"])?.parsed("after", "a position such as 3:1042")?;
    let id = id_of(&path)?;
    if let Some(after) = after {
        taken_in(&state, after).await?;
    }
    let reorder = seen(&state, &caller, id).await?;
    Ok(HttpResponse::Ok().json(view::view(&reorder, &state.reorders.kinds)))
}

/// A move. The same again answers 200 and writes nothing.
pub async fn make(
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    state.requires(NodeRole::Api)?;
    let caller = state.tokens.staff(&request).await?;
    Params::read(&request, &[])?;
    let (id, name) = path.into_inner();
    let moved = Move::parse(&name).ok_or_else(|| {
        let told: String = name.chars().take(64).collect();
        let moves: Vec<_> = Move::ALL.into_iter().map(Move::as_str).collect();
        Problem::new(Kind::NotFound, format!("there is no move \"{}\"; moves are {}", told.escape_debug(), moves.join(", ")))
    })?;
    let id = id_of(&id)?;
    seen(&state, &caller, id).await?;
    check_declared(&request, MAX_BODY)?;
    let body = state.bodies.read(&request, payload, MAX_BODY, state.limits.body_within).await?;
    let asked = MoveRequest {
        proposal_id: id,
        moved,
        details: body::details(moved, &body.bytes)?,
        by: caller.name(),
        via: VIA.to_owned(),
        dedupe_id: idempotency_key(&request, id),
        wait: state.limits.query_wait,
    };
    let (moves, wait) = (Arc::clone(&state.reorders.moves), state.limits.query_wait + MOVE_WITHIN);
    let outcome = state.run(wait, async move { moves.carry_out(asked).await }).await?.map_err(|e| refused(id, e))?;
    let position = match outcome {
        MoveOutcome::Moved { position, .. } => Some(position.to_string()),
        MoveOutcome::Already { .. } => None,
    };
    let reorder = seen(&state, &caller, id).await?;
    Ok(HttpResponse::Ok().json(json!({ "position": position, "reorder": view::view(&reorder, &state.reorders.kinds) })))
}

/// A route that failed for good is tried again, with the same bytes.
pub async fn retry(request: HttpRequest, path: Path<(String, String)>, state: Data<State>) -> Result<HttpResponse, Problem> {
    state.requires(NodeRole::Api)?;
    let caller = state.tokens.staff(&request).await?;
    Params::read(&request, &[])?;
    let (id, route_id) = path.into_inner();
    let id = id_of(&id)?;
    let reorder = seen(&state, &caller, id).await?;
    let Some(route) = reorder.routes.iter().find(|r| r.route_id == route_id) else {
        let known: Vec<_> = reorder.routes.iter().map(|r| r.route_id.as_str()).collect();
        let told: String = route_id.chars().take(64).collect();
        return Err(Problem::new(
            Kind::NotFound,
            format!("the reorder has no route \"{}\"; its routes are: {}", told.escape_debug(), known.join(", ")),
        ));
    };
    let effect = EffectId { decision_id: id, route_id: route.route_id.clone() };
    let (ledger, now) = (Arc::clone(&state.reorders.ledger), now(&state));
    let retried = state.run(STORE_WITHIN, async move { ledger.retry(&effect, now).await }).await?;
    if !retried.map_err(|e| store_away(&e))? {
        let told = format!("the route is {}; only one that failed can be tried again", route.state.as_str());
        return Err(Problem::new(Kind::Conflict, told));
    }
    tracing::info!(reorder = %id, route = route.route_id, handler = route.handler, by = caller.name(), "a failed effect is tried again");
    let reorder = seen(&state, &caller, id).await?;
    Ok(HttpResponse::Ok().json(json!({ "reorder": view::view(&reorder, &state.reorders.kinds) })))
}

fn now(state: &State) -> DateTime<Utc> {
    DateTime::from_timestamp_millis((state.clock)()).unwrap_or_default()
}

/// A client that repeats a request says so with the header `Idempotency-Key`.
fn idempotency_key(request: &HttpRequest, id: Uuid) -> Option<String> {
    let key = request.headers().get("idempotency-key")?.to_str().ok()?;
    (!key.is_empty() && key.len() <= 255).then(|| format!("{VIA}/{id}/{key}"))
}

fn named_state(text: &str) -> Result<proposal::State, Problem> {
    proposal::State::parse(text).ok_or_else(|| {
        let told: String = text.chars().take(64).collect();
        let states: Vec<_> = proposal::State::ALL.into_iter().map(proposal::State::as_str).collect();
        Problem::new(Kind::BadRequest, format!("there is no state \"{}\"; states are {}", told.escape_debug(), states.join(", ")))
    })
}

fn id_of(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| {
        let told: String = text.chars().take(64).collect();
        Problem::new(Kind::BadRequest, format!("\"{}\" is not a reorder's id, which is a UUID", told.escape_debug()))
    })
}

fn no_reorder(id: Uuid) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no reorder {id}"))
}

/// The reorder, if it exists for the caller (DESIGN §7.10).
async fn seen(state: &State, caller: &Caller, id: Uuid) -> Result<Reorder, Problem> {
    let list = Arc::clone(&state.reorders.list);
    let found = state.run(STORE_WITHIN, async move { list.reorder(id).await }).await?.map_err(|e| store_away(&e))?;
    found.filter(|r| caller.sees(&r.opening.shop, &r.opening.organisation)).ok_or_else(|| no_reorder(id))
}

fn refused(id: Uuid, error: MoveError) -> Problem {
    match error {
        MoveError::NotFound(_) => no_reorder(id),
        MoveError::Illegal(why) => Problem::new(Kind::Conflict, why),
        MoveError::BadRequest(why) => Problem::new(Kind::BadRequest, why),
        MoveError::Unavailable { reason, retry_after } => Problem::unavailable(reason, retry_after),
    }
}

fn store_away(error: &StoreError) -> Problem {
    Problem::unavailable(error.to_string(), RETRY_AFTER)
}

/// Waits until the list shows what the fact at `after` decided: until its shard has committed past it, and the dispatcher has taken
/// in what stood in the decisions by then.
async fn taken_in(state: &State, after: Position) -> Result<(), Problem> {
    let partitions = state.log.partitions();
    let Some(at) = usize::try_from(after.partition).ok().filter(|_| after.partition < partitions) else {
        let told = format!("after={after}: there is no partition {}; there are {partitions}", after.partition);
        return Err(Problem::new(Kind::BadRequest, told));
    };
    let deadline = Instant::now() + state.limits.query_wait;
    until_committed(state, Group::Shards, Topic::Facts, at, after.offset + 1, after, deadline).await?;
    let log = Arc::clone(&state.log);
    let (_, end) = blocking(move || log.watermarks(Topic::Decisions, after.partition)).await?;
    if end == 0 {
        return Ok(());
    }
    until_committed(state, Group::Dispatcher, Topic::Decisions, at, end, after, deadline).await
}

async fn until_committed(
    state: &State,
    group: Group,
    topic: Topic,
    partition: usize,
    offset: Offset,
    after: Position,
    deadline: Instant,
) -> Result<(), Problem> {
    loop {
        let log = Arc::clone(&state.log);
        let committed = blocking(move || log.committed(group, topic)).await?;
        if committed.get(partition).copied().flatten().is_some_and(|c| c >= offset) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Problem::unavailable(format!("position {after} is not in the list yet"), RETRY_AFTER));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(call).await;
    done.map_err(|e| Problem::new(Kind::Internal, format!("it broke down: {e}")))?
        .map_err(|e| Problem::unavailable(e.to_string(), RETRY_AFTER))
}
