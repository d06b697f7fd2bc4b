//! `POST /webhooks/{kind}[/{handler}]`: what targets say back. The handler reads it ([`crate::ports::inbound`]); what it asks for is
//! carried out here.
//!
//! A target repeats what is refused, and gives the subscription up in the end. So only what may go well later is refused: what
//! cannot be done is logged and answered 200.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use chrono::DateTime;
use serde_json::{Value, json};
use uuid::Uuid;

use super::problem::{Kind, Problem};
use super::{NodeRole, ReorderParts, State, body};
use crate::ports::inbound::{Asked, Inbound, Refusal, Request, Subject};
use crate::ports::reorders::{MoveError, MoveRequest};
use crate::ports::snapshot_store::StoreError;

/// Slack waits 3 s for an answer, connecting included.
const WITHIN: Duration = Duration::from_millis(2500);
/// Of that, for a move to show in what is read.
const SHOWN_WITHIN: Duration = Duration::from_millis(500);
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A handler that listens.
#[derive(Clone)]
pub struct Listener {
    /// Of the handler.
    pub name: String,
    pub kind: String,
    pub inbound: Arc<dyn Inbound>,
}

pub async fn bare(
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    receive(request, payload, &state, &path, None).await
}

pub async fn named(
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    receive(request, payload, &state, &path.0, Some(&path.1)).await
}

async fn receive(
    request: HttpRequest,
    payload: Payload,
    state: &State,
    kind: &str,
    name: Option<&str>,
) -> Result<HttpResponse, Problem> {
    state.requires(NodeRole::Ingest)?;
    body::check_declared(&request, state.limits.body)?;
    let listener = find(&state.inbound, kind, name)?.clone();
    let body = state.bodies.read(&request, payload, state.limits.body, state.limits.body_within).await?;
    let call = Call {
        listener,
        headers: request
            .headers()
            .iter()
            .filter_map(|(n, v)| Some((n.as_str().to_owned(), v.to_str().ok()?.to_owned())))
            .collect(),
        body: body.bytes.clone(),
        now: DateTime::from_timestamp_millis((state.clock)()).unwrap_or_default(),
        reorders: state.reorders.clone(),
    };
    let answer = state.run(WITHIN, call.carry_out()).await??;
    Ok(HttpResponse::Ok().json(answer.unwrap_or_else(|| json!({}))))
}

/// By its name, or the only one of its kind.
fn find<'l>(listeners: &'l [Listener], kind: &str, name: Option<&str>) -> Result<&'l Listener, Problem> {
    let of_kind: Vec<&Listener> = listeners.iter().filter(|l| l.kind == kind).collect();
    let found = match name {
        Some(name) => of_kind.iter().find(|l| l.name == name),
        None => of_kind.first().filter(|_| of_kind.len() == 1),
    };
    found.copied().ok_or_else(|| {
        let told: String = kind.chars().take(64).collect();
        let paths: Vec<_> = of_kind.iter().map(|l| format!("/webhooks/{kind}/{}", l.name)).collect();
        Problem::new(
            Kind::NotFound,
            match paths.is_empty() {
                true => format!("no handler of kind \"{}\" listens here", told.escape_debug()),
                false => format!("say which handler is meant: {}", paths.join(", ")),
            },
        )
    })
}

struct Call {
    listener: Listener,
    headers: HashMap<String, String>,
    body: Bytes,
    now: DateTime<chrono::Utc>,
    reorders: ReorderParts,
}

impl Call {
    async fn carry_out(self) -> Result<Option<Value>, Problem> {
        let header = |name: &str| self.headers.get(&name.to_ascii_lowercase()).cloned();
        let request = Request { header: &header, body: &self.body, now: self.now };
        let heard = self.listener.inbound.hear(request).await.map_err(|refusal| match refusal {
            Refusal::BadSignature(why) => Problem::new(Kind::BadSignature, why),
            Refusal::Unreadable(why) => Problem::new(Kind::BadRequest, why),
            Refusal::Unavailable(why) => Problem::unavailable(why, RETRY_AFTER),
        })?;
        for asked in heard.asked {
            self.make(asked).await?;
        }
        Ok(heard.answer)
    }

    async fn make(&self, asked: Asked) -> Result<(), Problem> {
        let Listener { name, kind, .. } = &self.listener;
        let Some(proposal_id) = self.subject(&asked.subject).await.map_err(|e| away(&e))? else {
            tracing::warn!(handler = name, kind, subject = ?asked.subject, "a target speaks of what it was never told; nothing is done");
            return Ok(());
        };
        let moved = asked.moved.as_str();
        let request = MoveRequest {
            proposal_id,
            moved: asked.moved,
            details: asked.details,
            by: asked.by,
            via: name.clone(),
            dedupe_id: asked.dedupe_id.map(|d| format!("{name}/{d}")),
            wait: SHOWN_WITHIN,
        };
        match self.reorders.moves.carry_out(request).await {
            Ok(outcome) => tracing::info!(handler = name, reorder = %proposal_id, moved, ?outcome, "a target moved a reorder"),
            Err(MoveError::Unavailable { reason, retry_after }) => {
                return Err(Problem::unavailable(reason, retry_after.max(RETRY_AFTER)));
            }
            Err(e) => {
                tracing::warn!(handler = name, reorder = %proposal_id, moved, error = %e, "a target asks for what cannot be done")
            }
        }
        Ok(())
    }

    /// The proposal, if it was routed to this handler: whoever may sign for a channel moves what stands in it, and nothing else
    /// (DESIGN §7.10).
    async fn subject(&self, subject: &Subject) -> Result<Option<Uuid>, StoreError> {
        let name = &self.listener.name;
        match subject {
            Subject::Reference(reference) => {
                Ok(self.reorders.ledger.by_reference(name, reference).await?.map(|effect| effect.decision_id))
            }
            Subject::Proposal(id) => {
                let found = self.reorders.list.reorder(*id).await?;
                Ok(found.filter(|r| r.routes.iter().any(|route| route.handler == *name)).map(|_| *id))
            }
        }
    }
}

fn away(error: &StoreError) -> Problem {
    Problem::unavailable(error.to_string(), RETRY_AFTER)
}
