//! What targets say back: a button of Slack, a transition of Jira, a link in a mail. A handler instance that listens implements
//! [`Inbound`]; the API serves it at `POST /webhooks/{kind}[/{handler}]` and carries the moves out.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use uuid::Uuid;

use crate::events::fact::{Move, MoveDetails};

/// A request as it came.
pub struct Request<'a> {
    /// Looks a header up, whatever its case.
    pub header: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The raw body, which signatures are over.
    pub body: &'a [u8],
    pub now: DateTime<Utc>,
}

/// Which proposal is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Proposal(Uuid),
    /// The one whose effect has this [`crate::ports::ledger::Effect::reference`] at this handler.
    Reference(String),
}

/// A move that the target asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub subject: Subject,
    pub moved: Move,
    /// Who, as the target knows them.
    pub by: String,
    pub details: MoveDetails,
    /// The same for each delivery of the same act.
    pub dedupe_id: Option<String>,
}

/// What came of reading a request: moves to carry out, and the body of the answer (200; JSON).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    pub asked: Vec<Asked>,
    pub answer: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 401: nobody we know has signed this, or too long ago.
    #[error("{0}")]
    BadSignature(String),
    /// 400.
    #[error("{0}")]
    Unreadable(String),
    /// 503: what it lacks cannot be looked up now; it is to be sent again.
    #[error("{0}")]
    Unavailable(String),
}

pub trait Inbound: Send + Sync + 'static {
    /// Checks the signature and reads what is asked. Network only where the request does not say it all (a look-up of an issue); bounded in
    /// time, since the target waits.
    fn hear<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Heard, Refusal>>;
}
