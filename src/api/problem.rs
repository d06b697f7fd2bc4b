//! Errors as the outside sees them: RFC 9457 problem details, one way for all.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::ports::queries::wire;

/// Kinds of problems; the names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    Unauthorized,
    BadSignature,
    Forbidden,
    NotFound,
    UnknownShop,
    MethodNotAllowed,
    Conflict,
    RequestTimeout,
    TooLarge,
    Unprocessable,
    Internal,
    Misdirected,
    Unavailable,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Kind::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "The request is not understood"),
            Kind::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed"),
            Kind::BadSignature => (StatusCode::UNAUTHORIZED, "bad-signature", "The signature does not fit"),
            Kind::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The token's role does not suffice"),
            Kind::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Kind::UnknownShop => (StatusCode::NOT_FOUND, "unknown-shop", "The shop is not registered"),
            Kind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here"),
            Kind::Conflict => (StatusCode::CONFLICT, "conflict", "The state does not allow it"),
            Kind::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request came too slowly"),
            Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Kind::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, "failed", "The command failed"),
            Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something is wrong on this side"),
            Kind::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected", "Another node owns it"),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not possible now; try again"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Problem {
    pub kind: Kind,
    /// For people; holds no secret and nothing of a body.
    pub detail: String,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    reason: Option<&'static str>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), retry_after: None, allow: None, reason: None }
    }

    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        Problem { retry_after: Some(retry_after), ..Problem::new(Kind::Unavailable, detail) }
    }

    /// With a code for other nodes (`ports::queries::wire`).
    pub fn because(self, reason: &'static str) -> Self {
        Problem { reason: Some(reason), ..self }
    }

    pub fn method_not_allowed(allow: &'static str) -> Self {
        Problem { allow: Some(allow), ..Problem::new(Kind::MethodNotAllowed, format!("this address answers to {allow} only")) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// A problem's detail, left with its response for the log line at the boundary.
pub(super) struct Told(pub String);

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.parts().0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, name, title) = self.kind.parts();
        let mut response = HttpResponse::build(status);
        if let Some(after) = self.retry_after {
            // Whole seconds, at least one: 0 would be a busy loop.
            response.insert_header((RETRY_AFTER, after.as_secs_f64().ceil().max(1.0) as u64));
        }
        if let Some(allow) = self.allow {
            response.insert_header((ALLOW, allow));
        }
        if let Some(reason) = self.reason {
            response.insert_header((wire::REASON, reason));
        }
        match self.kind {
            Kind::Unauthorized => response.insert_header((WWW_AUTHENTICATE, "Bearer")),
            Kind::BadSignature => response.insert_header((WWW_AUTHENTICATE, "Signature")),
            _ => &mut response,
        };
        let body = json!({
            "type": format!("urn:stockwarden:problem:{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
        });
        let mut response = response.content_type("application/problem+json").body(body.to_string());
        response.extensions_mut().insert(Told(self.detail.clone()));
        response
    }
}
