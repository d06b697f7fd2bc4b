//! `POST /webhooks/shopify`: acknowledged only when its fact is durable (DESIGN §7.1).
//!
//! Refusals come in this order: 413, 404, 401, 503 (DESIGN §10). What is signed is never refused for what it says or leaves out:
//! that would cost the subscription.

use std::time::{Duration, Instant};

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::problem::{Kind, Problem};
use super::shops::Shop;
use super::{NodeRole, State, body};
use crate::events::dead_letter::{DeadLetter, Reason, Unreadable};
use crate::events::record::{NewRecord, Position};
use crate::ports::LogError;
use crate::ports::registry::ShopKind;
use crate::sources::shopify::{self, Delivery, Outcome};
use crate::telemetry::metrics::{OutcomeLabel, WebhookOutcome};

/// What a sender is asked to wait when the log or the store is away.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_QUEUE: Duration = Duration::from_secs(1);

enum Durable {
    Fact(Position),
    DeadLetter(Position),
}

pub async fn shopify(request: HttpRequest, payload: Payload, state: Data<State>) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let result = receive(&request, payload, &state).await;
    let outcome = match &result {
        Ok(Durable::Fact(_)) => WebhookOutcome::Accepted,
        Ok(Durable::DeadLetter(_)) => WebhookOutcome::DeadLetter,
        Err(problem) => match problem.kind {
            Kind::TooLarge => WebhookOutcome::TooLarge,
            Kind::UnknownShop | Kind::NotFound => WebhookOutcome::UnknownShop,
            Kind::BadSignature => WebhookOutcome::BadSignature,
            Kind::Unavailable | Kind::Internal => WebhookOutcome::Unavailable,
            _ => WebhookOutcome::BadRequest,
        },
    };
    state.metrics.webhooks.get_or_create(&OutcomeLabel { outcome }).inc();
    state.metrics.webhook_seconds.observe(began.elapsed().as_secs_f64());
    result.map(|durable| {
        HttpResponse::Ok().json(match durable {
            Durable::Fact(at) => json!({ "position": at.to_string() }),
            Durable::DeadLetter(at) => json!({ "dead_letter": at.to_string() }),
        })
    })
}

async fn receive(request: &HttpRequest, payload: Payload, state: &State) -> Result<Durable, Problem> {
    state.requires(NodeRole::Ingest)?;
    let limits = &state.limits;
    body::check_declared(request, limits.body)?;

    let delivery = Delivery::read(|name| request.headers().get(name).and_then(|v| v.to_str().ok()));
    let key = delivery.shop_key().ok_or_else(|| {
        Problem::new(Kind::UnknownShop, "the header X-Shopify-Shop-Domain names no shop that could be registered")
    })?;
    let shop = registered(state, &key).await?;

    let body = state.bodies.read(request, payload, limits.body, limits.body_within).await?;
    state.metrics.webhook_bytes.inc_by(body.bytes.len() as u64);
    check_signature(state, &key, &shop, &delivery, &body.bytes).await?;

    let now = (state.clock)();
    match shopify::accept(&delivery, &key, &body.bytes, now) {
        Outcome::Fact(record) => match append(state, record).await {
            Ok(at) => Ok(Durable::Fact(at)),
            Err(LogError::Refused { size, reason }) => {
                let why = Unreadable::new(Reason::OutOfRange, format!("the log refused the record of {size} bytes: {reason}"));
                let letter = shopify::dead_letter(delivery.topic, &body.bytes, &why, now);
                bury(state, &key, letter, &body.bytes).await
            }
            Err(error) => Err(unavailable(&error)),
        },
        Outcome::DeadLetter(letter) => bury(state, &key, *letter, &body.bytes).await,
    }
}

async fn registered(state: &State, key: &str) -> Result<std::sync::Arc<Shop>, Problem> {
    let found = state
        .shops
        .find(key)
        .await
        .map_err(|e| Problem::unavailable(format!("whether \"{key}\" is registered cannot be told now: {e}"), RETRY))?;
    found.filter(|s| s.kind == ShopKind::Shopify).ok_or_else(|| {
        Problem::new(
            Kind::UnknownShop,
            format!("no Shopify shop \"{key}\" is registered; register it with: stockwarden shop add {key} --kind shopify"),
        )
    })
}

async fn check_signature(state: &State, key: &str, shop: &Shop, delivery: &Delivery<'_>, body: &[u8]) -> Result<(), Problem> {
    if shopify::is_signed(body, delivery.hmac, &shop.secrets) {
        return Ok(());
    }
    let changed = match delivery.hmac {
        Some(_) => state.shops.second_look(key, shop).await,
        None => None,
    };
    if let Some(shop) = &changed
        && shopify::is_signed(body, delivery.hmac, &shop.secrets)
    {
        return Ok(());
    }
    if let Some(reason) = &changed.as_deref().unwrap_or(shop).shut {
        return Err(Problem::unavailable(format!("signatures of \"{key}\" cannot be checked: {reason}"), RETRY));
    }
    Err(Problem::new(
        Kind::BadSignature,
        match delivery.hmac {
            None => format!("the delivery for \"{key}\" has no header X-Shopify-Hmac-Sha256"),
            Some(_) => format!("the delivery for \"{key}\" is signed with none of the shop's webhook secrets"),
        },
    ))
}

/// Writes a dead letter; without its bytes if the log does not take them.
async fn bury(state: &State, key: &str, letter: DeadLetter, body: &[u8]) -> Result<Durable, Problem> {
    tracing::warn!(shop = key, reason = letter.reason.as_str(), message = letter.message, "a webhook went to the dead letters");
    let key = || Some(key.as_bytes().to_vec());
    let at = match append(state, letter.clone().into_record(key(), None)).await {
        Err(LogError::Refused { .. }) => append(state, shopify::without_bytes(letter, body).into_record(key(), None)).await,
        other => other,
    };
    at.map(Durable::DeadLetter).map_err(|e| unavailable(&e))
}

/// The sender waits 5 s in all; what takes longer is answered as unavailable, may be written all the same, and comes again.
async fn append(state: &State, record: NewRecord) -> Result<Position, LogError> {
    let within = state.limits.append_within;
    let positions = tokio::time::timeout(within, state.log.append(vec![record])).await.map_err(|_| LogError::Unavailable {
        during: "writing a webhook".to_owned(),
        reason: format!("no answer within {within:?}"),
    })??;
    positions.first().copied().ok_or_else(|| LogError::Damaged("a record was written, but no position came back".to_owned()))
}

fn unavailable(error: &LogError) -> Problem {
    let retry = if matches!(error, LogError::QueueFull) { RETRY_QUEUE } else { RETRY };
    Problem::unavailable(error.to_string(), retry)
}
