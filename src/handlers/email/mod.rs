//! The kind `email`: an order request as a mail, with the line attached as CSV.
//!
//! ```toml
//! [handlers.mail]
//! kind = "email"
//! smtp_url = "smtp+starttls://mail.example.com"  # smtps:// encrypts from the first byte, smtp:// if the server offers it
//! ca_file = "/etc/stockwarden/ca.pem"            # whose certificates are trusted, instead of the public ones
//! username = "bot"                               # with smtp:// only to this machine, or after STARTTLS
//! password = { env = "SMTP_PASSWORD" }
//! from = "Stockwarden <orders@example.com>"
//! to = "buyer@example.com"                       # or a list; a route's `address` goes first
//! timeout = "30s"                                # for each step of the dialogue
//! links = true                                   # acknowledge and snooze, if http.public_url is set
//! templates = { subject = "{{quantity}} × {{sku}}", text = { file = "order.txt" }, html = { file = "order.html" } }
//! ```
//!
//! A template's fields are those of the target's body and `order::OWN_FIELDS`; `templates/` beside this file holds what is used where
//! none is given, and is a good begin for one's own.
//!
//! Frozen are envelope and message, so that a repeat has the same Message-ID, date and bytes, and receivers that collapse equal
//! ids show one mail. SMTP itself cannot be asked: what may have arrived is sent again and marked as a possible duplicate. What becomes
//! of a proposal is told as a reply in the thread of its first mail.
//!
//! A route with `digest = "1h"` collects the orders of an hour for one vendor and address into one mail; what is about to run out goes
//! at once.

mod message;
mod order;
mod probe;
mod server;
mod smtp;
mod template;
mod text;
mod update;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::message::{Mail, message_id};
use self::order::{LineLinks, Templates};
use self::smtp::Server;
use super::registry::{duration_text, read_config};
use super::{Context, Guarantee, Handler, Job, Update, Verdict};
use crate::config::SecretRef;
use crate::events::decision::{ProposalChange, Route};
use crate::events::fact::Move;
use crate::links::{Claim, LIFETIME_MS, Links};
use crate::ports::ledger::EffectId;
use crate::ports::targets::{Finding, Scope};

/// Longest name of an article or list of recipients in a link, in characters.
const LINK_TEXT: usize = 80;

pub(super) const GUARANTEE: Guarantee = Guarantee::BestEffort;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    smtp_url: String,
    from: String,
    to: Option<OneOrMore>,
    username: Option<String>,
    password: Option<SecretRef>,
    ca_file: Option<PathBuf>,
    #[serde(default = "yes")]
    links: bool,
    #[serde(default)]
    templates: TemplateTexts,
    #[serde(default = "default_timeout", deserialize_with = "duration_text")]
    timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// The text itself, or { file = "path" }.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateTexts {
    subject: Option<toml::Value>,
    text: Option<toml::Value>,
    html: Option<toml::Value>,
}

fn yes() -> bool {
    true
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

pub struct Email {
    /// Name of the instance.
    name: String,
    server: Server,
    from: Mailbox,
    /// Recipients unless the route names its own.
    to: Vec<Mailbox>,
    templates: Templates,
    links: Option<Links>,
    secrets: Vec<String>,
}

pub(super) fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    let from = mailbox(&config.from).map_err(|e| format!("from: {e}"))?;
    let to = match config.to {
        None => Vec::new(),
        Some(OneOrMore::One(one)) => mailboxes(&[one]).map_err(|e| format!("to: {e}"))?,
        Some(OneOrMore::More(more)) => mailboxes(&more).map_err(|e| format!("to: {e}"))?,
    };
    let (credentials, secrets) = match (&config.username, &config.password) {
        (None, None) => (None, Vec::new()),
        (Some(user), Some(password)) => {
            let password = context.secret("password", password)?;
            (Some(Credentials::new(user.clone(), password.clone())), vec![password])
        }
        _ => return Err("username and password go together".to_owned()),
    };
    let server = server::server(&config.smtp_url, config.ca_file.as_deref(), credentials, config.timeout)?;
    let templates = templates(&config.templates)?;
    let links = context.links.clone().filter(|_| config.links);
    Ok(Arc::new(Email { name: context.name.clone(), server, from, to, templates, links, secrets }))
}

fn templates(texts: &TemplateTexts) -> Result<Templates, String> {
    let (subject, text, html) =
        (own_text("subject", &texts.subject)?, own_text("text", &texts.text)?, own_text("html", &texts.html)?);
    Templates::new(subject.as_deref(), text.as_deref(), html.as_deref())
}

fn own_text(key: &str, given: &Option<toml::Value>) -> Result<Option<String>, String> {
    let file = |table: &toml::Table| match (table.len(), table.get("file")) {
        (1, Some(toml::Value::String(path))) => Some(path.clone()),
        _ => None,
    };
    match given {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(toml::Value::Table(table)) if file(table).is_some() => {
            let path = file(table).unwrap_or_default();
            let text = std::fs::read_to_string(&path).map_err(|e| format!("templates.{key} = {{ file = \"{path}\" }}: {e}"))?;
            Ok(Some(text))
        }
        Some(_) => Err(format!("templates.{key} is neither a text nor {{ file = \"path\" }}")),
    }
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    if text.chars().any(char::is_control) {
        return Err("an address with control characters".to_owned());
    }
    text.parse().map_err(|_| format!("\"{text}\" is not an address such as orders@example.com or Name <orders@example.com>"))
}

fn mailboxes(texts: &[String]) -> Result<Vec<Mailbox>, String> {
    texts.iter().map(|t| mailbox(t)).collect()
}

/// What is frozen: this as one line of JSON, then the message.
#[derive(Serialize, Deserialize)]
struct Head {
    mail_from: String,
    rcpt_to: Vec<String>,
    /// Its Message-ID; replies refer to it.
    #[serde(default)]
    id: Option<String>,
}

fn freeze(head: &Head, message: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = serde_json::to_vec(head).map_err(|e| format!("the envelope cannot be written: {e}"))?;
    bytes.push(b'\n');
    bytes.extend_from_slice(message);
    Ok(bytes)
}

fn thaw(request: &[u8]) -> Result<(Envelope, &[u8], Option<String>), String> {
    let at = request.iter().position(|b| *b == b'\n').ok_or("the frozen mail has no envelope")?;
    let head: Head = serde_json::from_slice(&request[..at]).map_err(|e| format!("the frozen envelope cannot be read: {e}"))?;
    let wrong = |e: &dyn std::error::Error| format!("the frozen envelope is wrong: {e}");
    let from: Address = head.mail_from.parse().map_err(|e| wrong(&e))?;
    let to = head.rcpt_to.iter().map(|a| a.parse::<Address>()).collect::<Result<Vec<_>, _>>().map_err(|e| wrong(&e))?;
    let envelope = Envelope::new(Some(from), to).map_err(|e| wrong(&e))?;
    Ok((envelope, &request[at + 1..], head.id))
}

impl Email {
    fn recipients(&self, route: &Route) -> Result<Vec<Mailbox>, String> {
        let own = match route.settings.get("address") {
            None => return if self.to.is_empty() { Err(NO_ADDRESS.to_owned()) } else { Ok(self.to.clone()) },
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(more)) => more.iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect(),
            Some(other) => return Err(format!("the route's address = {other} is neither an address nor a list of them")),
        };
        if own.is_empty() {
            return Err(NO_ADDRESS.to_owned());
        }
        mailboxes(&own).map_err(|e| format!("the route's address: {e}"))
    }
}

const NO_ADDRESS: &str = "nobody to write to: give the route an address or the handler a `to`";

impl Email {
    /// Of one decision, or of several that go to the same recipients.
    fn order(&self, jobs: &[Job], now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let job = jobs.first().ok_or("a mail of no decisions")?;
        let to = self.recipients(&job.route)?;
        let id = message_id(&job.id, &self.from.email);
        let content = order::content(&self.templates, jobs, |job| self.line_links(job, &to, now));
        let decision = (jobs.len() == 1).then_some(job.decision.decision_id);
        let name = if jobs.len() == 1 { job.decision.kind.as_str() } else { "orders" };
        let csv = Some((format!("{name}-{}.csv", job.decision.decision_id), order::csv(jobs)));
        // A later decision on the same proposal goes into the thread of the first.
        let opening = (job.decision.proposal_id != job.decision.decision_id && jobs.len() == 1).then(|| self.opening(job));
        let mail = Mail { from: &self.from, to: &to, id: &id, answers: opening.as_deref(), content, csv, decision };
        self.freeze(&id, &to, &message::compose(mail, now)?)
    }

    fn reply(&self, job: &Job, update: &Update, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let to = self.recipients(&job.route)?;
        let id = message_id(&job.id, &self.from.email);
        // What the first send gave: the id of its mail, which may have been a digest.
        let parent = update.reference.as_deref().filter(|r| message::is_message_id(r));
        let content = update::content(job, &update.change);
        let decision = Some(job.decision.decision_id);
        let mail = Mail { from: &self.from, to: &to, id: &id, answers: parent, content, csv: None, decision };
        self.freeze(&id, &to, &message::compose(mail, now)?)
    }

    /// Message-ID of the mail that opened the proposal on this route.
    fn opening(&self, job: &Job) -> String {
        let effect = EffectId { decision_id: job.decision.proposal_id, route_id: job.id.route_id.clone() };
        message_id(&effect, &self.from.email)
    }

    fn freeze(&self, id: &str, to: &[Mailbox], message: &[u8]) -> Result<Vec<u8>, String> {
        let rcpt_to = to.iter().map(|m| m.email.to_string()).collect();
        freeze(&Head { mail_from: self.from.email.to_string(), rcpt_to, id: Some(id.to_owned()) }, message)
    }

    fn line_links(&self, job: &Job, to: &[Mailbox], now: DateTime<Utc>) -> Option<LineLinks> {
        let links = self.links.as_ref()?;
        let by = to.iter().map(|m| m.email.to_string()).collect::<Vec<_>>().join(", ");
        let quantity = job.decision.quantity.map(|q| format!("{q} × ")).unwrap_or_default();
        let what = text::cut(format!("{quantity}{}", order::what(&job.decision)), LINK_TEXT);
        let url = |moved: Move| {
            let ends_at = now.timestamp_millis() + LIFETIME_MS;
            let (via, by, what) = (self.name.clone(), text::cut(by.clone(), LINK_TEXT), what.clone());
            links.url(&Claim { proposal_id: job.decision.proposal_id, moved, ends_at, via, by, what })
        };
        Some(LineLinks { acknowledge: url(Move::Acknowledge), snooze: url(Move::Snooze) })
    }
}

impl Handler for Email {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    /// Not who among us sees to it, and when: a vendor has nothing to do with that.
    fn follows(&self, change: &ProposalChange) -> bool {
        !matches!(change.moved, Some(Move::Assign | Move::Snooze))
    }

    fn probe<'a>(&'a self, scope: &'a Scope, _now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.ask_all(scope))
    }

    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        match &job.update {
            None => self.order(std::slice::from_ref(job), now),
            Some(update) => self.reply(job, update, now),
        }
    }

    fn digests(&self) -> bool {
        true
    }

    fn prepare_digest(&self, jobs: &[Job], now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        self.order(jobs, now)
    }

    fn send<'a>(&'a self, _job: &'a Job, request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            match thaw(request) {
                Ok((envelope, message, id)) => self.server.send(&envelope, message, id.as_deref()).await,
                Err(reason) => Verdict::Permanent { reason },
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}
