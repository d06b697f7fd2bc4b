//! `/healthz`, `/readyz`, `/metrics`. Readiness is several named, timed probes; each is remembered for a second, so that
//! polling costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::params::Params;
use super::problem::{Kind, Problem};
use super::{NodeRole, State};
use crate::telemetry::metrics::CONTENT_TYPE;

const REMEMBERED: Duration = Duration::from_secs(1);
pub(super) const WITHIN: Duration = Duration::from_secs(2);

type Check = dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// A condition of readiness. The check says what is wrong and how to mend it.
#[derive(Clone)]
pub struct Probe {
    pub name: &'static str,
    /// The roles whose work depends on it.
    pub roles: Vec<NodeRole>,
    pub check: Arc<Check>,
}

/// A probe with its last result.
pub(super) struct Remembered {
    probe: Probe,
    last: Mutex<Option<(Instant, Value, bool)>>,
}

impl Remembered {
    pub fn new(probe: Probe) -> Self {
        Remembered { probe, last: Mutex::new(None) }
    }

    async fn result(&self) -> (Value, bool) {
        let mut last = self.last.lock().await;
        if let Some((at, value, ok)) = &*last
            && at.elapsed() < REMEMBERED
        {
            return (value.clone(), *ok);
        }
        let began = Instant::now();
        let result = tokio::time::timeout(WITHIN, (self.probe.check)())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")));
        let ok = result.is_ok();
        let value = report(self.probe.name, result.err(), began.elapsed());
        *last = Some((Instant::now(), value.clone(), ok));
        (value, ok)
    }
}

fn report(name: &str, problem: Option<String>, took: Duration) -> Value {
    json!({ "name": name, "ok": problem.is_none(), "ms": took.as_secs_f64() * 1000.0, "problem": problem })
}

/// The process answers; nothing else is said.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Whether the node can do the work of its roles, or of the one that is asked for.
pub async fn readyz(request: HttpRequest, state: Data<State>) -> Result<HttpResponse, Problem> {
    let asked = match Params::read(&request, &["role"])?.text("role") {
        None => state.roles.clone(),
        Some(name) => vec![
            NodeRole::parse(&name)
                .ok_or_else(|| Problem::new(Kind::BadRequest, "role is not one of ingest, shards, handlers, api"))?,
        ],
    };
    let concerned = state.probes.iter().filter(|p| p.probe.roles.iter().any(|r| asked.contains(r)));
    let mut results = join_all(concerned.map(Remembered::result)).await;
    if asked.iter().any(|r| matches!(r, NodeRole::Shards | NodeRole::Api))
        && let Some(queries) = &state.queries
    {
        results.extend(queries.readiness().into_iter().map(|(name, problem)| {
            let ok = problem.is_none();
            (report(name, problem, Duration::ZERO), ok)
        }));
    }
    for role in asked.iter().filter(|r| !state.roles.contains(r)) {
        results.push((report("role", Some(format!("this node has not the role {}", role.as_str())), Duration::ZERO), false));
    }
    let ready = results.iter().all(|(_, ok)| *ok);
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    if !ready {
        response.insert_header(("Retry-After", "1"));
    }
    Ok(response.json(json!({
        "ready": ready,
        "node": state.node,
        "roles": state.roles.iter().map(|r| r.as_str()).collect::<Vec<_>>(),
        "probes": results.into_iter().map(|(value, _)| value).collect::<Vec<_>>(),
    })))
}

pub async fn metrics(state: Data<State>) -> HttpResponse {
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(state.all_metrics.encode())
}
