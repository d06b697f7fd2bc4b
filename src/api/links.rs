//! `/links/{token}`: what a link in a mail leads to. GET shows what it would do, and a button; POST does it. Scanners of mails follow
//! links, but they press no buttons. Who has the token may do what it says and nothing else; the answer is a page, for people.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpResponse, HttpResponseBuilder, Resource};
use sha2::{Digest, Sha256};

use super::State;
use crate::events::fact::{Move, MoveDetails};
use crate::events::time::{self, Millis};
use crate::html::escape;
use crate::links::{Claim, Refused};
use crate::ports::reorders::{MoveError, MoveOutcome, MoveRequest};

/// How long the answer waits until the move shows everywhere.
const WAIT: Duration = Duration::from_secs(2);
/// The time that a move may take in all.
const WITHIN: Duration = Duration::from_secs(10);
/// How long a link snoozes.
const SNOOZE_MS: Millis = 24 * 60 * 60 * 1000;
/// Nothing is loaded, run or framed; the form leads back to where it stands.
const POLICY: &str = "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub fn resource() -> Resource {
    web::resource("/links/{token}")
        .route(web::get().to(show))
        .route(web::head().to(show))
        .route(web::post().to(carry_out))
        .default_service(web::to(|| async {
            let mut answer = builder(StatusCode::METHOD_NOT_ALLOWED);
            answer.insert_header((ALLOW, "GET, HEAD, POST"));
            page(answer, "That is not possible here", &[], None)
        }))
}

async fn show(token: Path<String>, state: Data<State>) -> HttpResponse {
    let claim = match state.links.open(&token, (state.clock)()) {
        Ok(claim) => claim,
        Err(refused) => return refuse(refused),
    };
    let (verb, button) = wording(claim.moved);
    let lines = [claim.what.clone(), reference(&claim), format!("The mail went to {}.", claim.by)];
    page(builder(StatusCode::OK), verb, &lines, Some(button))
}

async fn carry_out(token: Path<String>, state: Data<State>) -> HttpResponse {
    let now = (state.clock)();
    let claim = match state.links.open(&token, now) {
        Ok(claim) => claim,
        Err(refused) => return refuse(refused),
    };
    let details = match claim.moved {
        Move::Snooze => MoveDetails { until: Some(now + SNOOZE_MS), ..MoveDetails::default() },
        _ => MoveDetails::default(),
    };
    let request = MoveRequest {
        proposal_id: claim.proposal_id,
        moved: claim.moved,
        details,
        by: claim.by.clone(),
        via: claim.via.clone(),
        dedupe_id: Some(format!("link/{}", hex::encode(&Sha256::digest(token.as_bytes())[..16]))),
        wait: WAIT,
    };
    let moves = Arc::clone(&state.reorders.moves);
    let moved = match state.run(WITHIN, async move { moves.carry_out(request).await }).await {
        Ok(moved) => moved,
        Err(problem) => Err(MoveError::Unavailable { reason: problem.detail, retry_after: Duration::from_secs(1) }),
    };
    let (status, title, told) = match moved {
        Ok(MoveOutcome::Moved { state, .. }) => (StatusCode::OK, "Done", format!("It is {} now.", state.replace('_', " "))),
        Ok(MoveOutcome::Already { state }) => {
            (StatusCode::OK, "Done before", format!("It was {} already; nothing was changed.", state.replace('_', " ")))
        }
        Err(MoveError::NotFound(_)) => (StatusCode::NOT_FOUND, "Not found", "There is no such reorder any more.".to_owned()),
        Err(MoveError::Illegal(why)) => (StatusCode::CONFLICT, "Not possible any more", why),
        Err(MoveError::BadRequest(why)) => (StatusCode::BAD_REQUEST, "Not possible", why),
        Err(MoveError::Unavailable { reason, retry_after }) => {
            tracing::warn!(reason, "a link's move is not possible now");
            let mut answer = builder(StatusCode::SERVICE_UNAVAILABLE);
            answer.insert_header((RETRY_AFTER, retry_after.as_secs().max(1)));
            let told = "Nothing was changed; please try again in a moment.".to_owned();
            return page(answer, "Not possible now", &[claim.what.clone(), told], wording(claim.moved).1.into());
        }
    };
    page(builder(status), title, &[claim.what.clone(), told, reference(&claim)], None)
}

/// Title and button.
fn wording(moved: Move) -> (&'static str, &'static str) {
    match moved {
        Move::Acknowledge => ("Acknowledge this reorder?", "Acknowledge"),
        Move::Snooze => ("Snooze this reorder for a day?", "Snooze for a day"),
        Move::Assign => ("Assign this reorder?", "Assign"),
        Move::Ordered => ("Mark this reorder as ordered?", "Ordered"),
        Move::InTransit => ("Mark this reorder as on its way?", "On its way"),
        Move::Received => ("Mark this reorder as received?", "Received"),
        Move::Cancel => ("Cancel this reorder?", "Cancel the reorder"),
    }
}

fn reference(claim: &Claim) -> String {
    format!("Reference {}; this link holds until {}.", claim.proposal_id, time::format(claim.ends_at))
}

fn refuse(refused: Refused) -> HttpResponse {
    let (status, title, told) = match refused {
        Refused::Forged => (StatusCode::NOT_FOUND, "This link leads nowhere", "Was it cut when it was copied? It must be whole."),
        Refused::Expired => {
            (StatusCode::GONE, "This link is too old", "It held for 30 days. A newer mail, or whoever sent this one, helps.")
        }
    };
    page(builder(status), title, &[told.to_owned()], None)
}

fn builder(status: StatusCode) -> HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header(("X-Robots-Tag", "noindex"));
    answer
}

/// The form has no address: it is sent to where the page is from.
fn page(mut answer: HttpResponseBuilder, title: &str, lines: &[String], button: Option<&str>) -> HttpResponse {
    let title = escape(title);
    let lines: String = lines.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
    let form = button.map(|b| format!("<form method=\"post\"><button type=\"submit\">{}</button></form>\n", escape(b)));
    answer.content_type("text/html; charset=utf-8").body(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title></head><body>\n<h1>{title}</h1>\n{lines}{}</body></html>\n",
        form.unwrap_or_default()
    ))
}
