//! The kind `email`: an order request as a mail, with the line attached as CSV.
//!
//! ```toml
//! [handlers.mail]
//! kind = "email"
//! smtp_url = "smtp://mail.example.com:587"      # smtps:// encrypts from the first byte
//! starttls = "required"                         # required | when-offered | never; default: required with a password
//! username = "bot"
//! password = { env = "SMTP_PASSWORD" }
//! from = "Stockwarden <orders@example.com>"
//! to = "buyer@example.com"                      # or a list; a route's `address` goes first
//! timeout = "30s"                               # for each step of the dialogue
//! ```
//!
//! Frozen are envelope and message, so that a repeat has the same Message-ID, date and bytes, and receivers that collapse equal
//! ids show one mail. SMTP itself cannot be asked: what may have arrived is sent again and marked as a possible duplicate.

mod message;
mod smtp;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::smtp::{Encryption, Server};
use super::registry::{duration_text, read_config};
use super::{Context, Guarantee, Handler, Job, Verdict};
use crate::config::SecretRef;

pub(super) const GUARANTEE: Guarantee = Guarantee::BestEffort;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    smtp_url: String,
    from: String,
    to: Option<OneOrMore>,
    username: Option<String>,
    password: Option<SecretRef>,
    starttls: Option<StartTls>,
    #[serde(default = "default_timeout", deserialize_with = "duration_text")]
    timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StartTls {
    Required,
    WhenOffered,
    Never,
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

pub struct Email {
    server: Server,
    from: Mailbox,
    /// Recipients unless the route names its own.
    to: Vec<Mailbox>,
    secrets: Vec<String>,
}

pub(super) fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    let from = mailbox(&config.from).map_err(|e| format!("from: {e}"))?;
    let to = match config.to.clone() {
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
    let server = server(&config, credentials)?;
    Ok(Arc::new(Email { server, from, to, secrets }))
}

fn server(config: &Config, credentials: Option<Credentials>) -> Result<Server, String> {
    let bad = |why: &str| format!("smtp_url: {why}; a mail server is smtp://host[:port] or smtps://host[:port]");
    let url: Url = config.smtp_url.parse().map_err(|e| bad(&format!("{e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "smtp_url holds credentials; use username and password = { env = \"NAME\" } or { file = \"path\" }".to_owned()
        );
    }
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("it names no host"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(bad("there is something after the host"));
    }
    let (encryption, port) = match (url.scheme(), config.starttls) {
        ("smtps", None) => (Encryption::Wrapped, 465),
        ("smtps", Some(_)) => return Err("starttls goes with smtp://; smtps:// is encrypted already".to_owned()),
        ("smtp", Some(StartTls::Required)) => (Encryption::StartTlsRequired, 587),
        ("smtp", Some(StartTls::WhenOffered)) => (Encryption::StartTlsWhenOffered, 25),
        ("smtp", Some(StartTls::Never)) => (Encryption::Never, 25),
        // A password never travels in the clear unless someone says so.
        ("smtp", None) if credentials.is_some() => (Encryption::StartTlsRequired, 587),
        ("smtp", None) => (Encryption::StartTlsWhenOffered, 25),
        (other, _) => return Err(bad(&format!("{other}:// is not supported"))),
    };
    Ok(Server {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.port().unwrap_or(port),
        encryption,
        credentials,
        timeout: config.timeout,
        idle: Mutex::new(Vec::new()),
    })
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
}

fn freeze(head: &Head, message: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = serde_json::to_vec(head).map_err(|e| format!("the envelope cannot be written: {e}"))?;
    bytes.push(b'\n');
    bytes.extend_from_slice(message);
    Ok(bytes)
}

fn thaw(request: &[u8]) -> Result<(Envelope, &[u8]), String> {
    let at = request.iter().position(|b| *b == b'\n').ok_or("the frozen mail has no envelope")?;
    let head: Head = serde_json::from_slice(&request[..at]).map_err(|e| format!("the frozen envelope cannot be read: {e}"))?;
    let wrong = |e: &dyn std::error::Error| format!("the frozen envelope is wrong: {e}");
    let from: Address = head.mail_from.parse().map_err(|e| wrong(&e))?;
    let to = head.rcpt_to.iter().map(|a| a.parse::<Address>()).collect::<Result<Vec<_>, _>>().map_err(|e| wrong(&e))?;
    let envelope = Envelope::new(Some(from), to).map_err(|e| wrong(&e))?;
    Ok((envelope, &request[at + 1..]))
}

impl Email {
    fn recipients(&self, job: &Job) -> Result<Vec<Mailbox>, String> {
        let own = match job.route.settings.get("address") {
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

impl Handler for Email {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let to = self.recipients(job)?;
        let message = message::compose(job, &self.from, &to, now)?;
        let rcpt_to = to.iter().map(|m| m.email.to_string()).collect();
        let head = Head { mail_from: self.from.email.to_string(), rcpt_to };
        freeze(&head, &message.formatted())
    }

    fn send<'a>(&'a self, _job: &'a Job, request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            match thaw(request) {
                Ok((envelope, message)) => self.server.send(&envelope, message).await,
                Err(reason) => Verdict::Permanent { reason },
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}
