//! The one place where requests are counted and logged. Bodies, tokens and signatures are never part of a line.

use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::State;
use super::problem::Told;
use crate::sources::shopify::is_traceparent;
use crate::telemetry::metrics::RequestLabels;

pub async fn boundary<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    let began = Instant::now();
    let response = next.call(request).await?;
    let (request, status) = (response.request(), response.status());
    let route = request.match_pattern().unwrap_or_else(|| "unknown".to_owned());
    if let Some(state) = request.app_data::<Data<State>>() {
        state.metrics.requests.get_or_create(&RequestLabels { route: route.clone(), status: status.as_u16() }).inc();
    }
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    let method = request.method().as_str();
    let code = status.as_u16();
    if status.is_success() {
        tracing::debug!(method, route, status = code, ms, "answered");
        return Ok(response);
    }
    let told = response.response().extensions();
    let detail = told.get::<Told>().map_or("", |t| t.0.as_str());
    let trace_id = trace_id(request);
    if status.is_server_error() {
        tracing::warn!(method, route, status = code, ms, trace_id, detail, "not served");
    } else {
        tracing::info!(method, route, status = code, ms, trace_id, detail, "refused");
    }
    drop(told);
    Ok(response)
}

/// The caller's trace, or a new one.
fn trace_id(request: &actix_web::HttpRequest) -> String {
    let given = request.headers().get("traceparent").and_then(|t| t.to_str().ok()).filter(|t| is_traceparent(t));
    match given.and_then(|t| t.split('-').nth(1)) {
        Some(id) => id.to_owned(),
        None => {
            let mut id = [0; 16];
            // Without randomness the line has an id of zeros; there is nothing to refuse because of it.
            let _ = getrandom::fill(&mut id);
            hex::encode(id)
        }
    }
}
