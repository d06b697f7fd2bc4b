//! One mail over SMTP, with the stage known at which something went wrong.
//!
//! lettre's own transport answers with an error that does not tell whether the message was under way already, and its asynchronous
//! connections wait for answers for ever. Both decide here between "nothing happened" and "it may be in a mailbox", so the dialogue is
//! led here, over lettre's connection, and a few idle connections are kept.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Noop, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};

use crate::handlers::{Blame, Verdict};

/// Idle connections are kept for so long; servers hang up after five minutes at the earliest (RFC 5321 §4.5.3.2).
const IDLE: Duration = Duration::from_secs(30);
const MAX_IDLE: usize = 4;
const LOGIN: &str = "authenticating";
const NO_STARTTLS: &str = "the mail server does not offer STARTTLS, and without it nothing is sent; is its port for smtps://?";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// `smtps://`
    Wrapped,
    StartTlsRequired,
    StartTlsWhenOffered,
    Never,
}

pub struct Server {
    pub host: String,
    pub port: u16,
    pub encryption: Encryption,
    pub tls: TlsParameters,
    pub credentials: Option<Credentials>,
    /// For each step of the dialogue.
    pub timeout: Duration,
    pub idle: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
}

/// What went wrong before the message was under way.
enum Fault {
    Smtp(&'static str, Error),
    /// Of this one; what is wrong with it says nothing about the others.
    Recipient(String, Error),
    Silent(&'static str),
    Refused(String),
}

impl Server {
    /// `reference`: what names the mail once it is taken.
    pub async fn send(&self, envelope: &Envelope, message: &[u8], reference: Option<&str>) -> Verdict {
        let mut connection = match self.begin(envelope).await {
            Ok(connection) => connection,
            Err(fault) => return judge_before(fault),
        };
        let verdict = match self.limit("taking the message", connection.message(message)).await {
            Ok(answer) => {
                let said: Vec<&str> = answer.message().collect();
                Verdict::Done {
                    response: Some(format!("{} {}", answer.code(), said.join(" "))),
                    reference: reference.map(str::to_owned),
                }
            }
            // From the first byte of the message on, only the server's word says what became of it.
            Err(Fault::Smtp(_, e) | Fault::Recipient(_, e)) => {
                let reason = print("taking the message", &e);
                if e.is_transient() {
                    retry(reason, Blame::Target)
                } else if e.is_permanent() {
                    Verdict::Permanent { reason }
                } else {
                    Verdict::Ambiguous { reason }
                }
            }
            Err(Fault::Silent(step)) => Verdict::Ambiguous { reason: format!("the mail server was silent while {step}") },
            Err(Fault::Refused(reason)) => Verdict::Ambiguous { reason },
        };
        if matches!(verdict, Verdict::Done { .. }) {
            self.keep(connection);
        }
        verdict
    }

    /// A connection of its own, up to the login, and no mail: how it went, else why not.
    pub async fn greet(&self) -> Result<String, Verdict> {
        let mut connection = self.connect().await.map_err(judge_before)?;
        let tried = self.limit("asked whether it listens (NOOP)", connection.command(Noop)).await;
        let encrypted = if connection.is_encrypted() { "encrypted" } else { "not encrypted" };
        // It is done with, whatever the server says to it.
        let _ = tokio::time::timeout(self.timeout, connection.quit()).await;
        tried.map_err(judge_before)?;
        let login = if self.credentials.is_some() { "logged in" } else { "without a login" };
        Ok(format!("it takes mails: {encrypted}, {login}"))
    }

    /// Up to the go-ahead for the message.
    async fn begin(&self, envelope: &Envelope) -> Result<AsyncSmtpConnection, Fault> {
        let mut connection = self.connection().await?;
        let mut options = Vec::new();
        let addresses = envelope.from().into_iter().chain(envelope.to());
        if addresses.into_iter().any(|a| !a.to_string().is_ascii()) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Fault::Refused("the mail server does not take addresses with such letters (no SMTPUTF8)".to_owned()));
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        self.limit("taking the sender", connection.command(Mail::new(envelope.from().cloned(), options))).await?;
        for to in envelope.to() {
            let taken = self.limit("taking a recipient", connection.command(Rcpt::new(to.clone(), vec![]))).await;
            taken.map_err(|fault| match fault {
                Fault::Smtp(_, e) => Fault::Recipient(to.to_string(), e),
                other => other,
            })?;
        }
        self.limit("asked to take data", connection.command(Data)).await?;
        Ok(connection)
    }

    async fn connection(&self) -> Result<AsyncSmtpConnection, Fault> {
        while let Some(mut connection) = self.take_idle() {
            let alive = tokio::time::timeout(self.timeout, connection.test_connected()).await;
            if matches!(alive, Ok(true)) {
                return Ok(connection);
            }
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Fault> {
        let hello = ClientId::default();
        let wrapped = (self.encryption == Encryption::Wrapped).then(|| self.tls.clone());
        let dial =
            AsyncSmtpConnection::connect_tokio1((self.host.as_str(), self.port), Some(self.timeout), &hello, wrapped, None);
        let mut connection = self.limit("connecting", dial).await?;
        let upgrade = match self.encryption {
            Encryption::StartTlsRequired if !connection.can_starttls() => {
                return Err(Fault::Refused(NO_STARTTLS.to_owned()));
            }
            Encryption::StartTlsRequired => true,
            Encryption::StartTlsWhenOffered => connection.can_starttls(),
            Encryption::Wrapped | Encryption::Never => false,
        };
        if upgrade {
            self.limit("encrypting", connection.starttls(self.tls.clone(), &hello)).await?;
        }
        if let Some(credentials) = &self.credentials {
            self.limit(LOGIN, connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(connection)
    }

    async fn limit<T>(&self, step: &'static str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(Fault::Smtp(step, e)),
            Err(_) => Err(Fault::Silent(step)),
        }
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().expect("no code panics while holding this lock");
        idle.retain(|(since, _)| since.elapsed() < IDLE);
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().expect("no code panics while holding this lock");
        if idle.len() < MAX_IDLE && !connection.has_broken() {
            idle.push((Instant::now(), connection));
        }
    }
}

fn judge_before(fault: Fault) -> Verdict {
    match fault {
        // One who is deferred (greylisting, a full mailbox) says nothing about the others.
        Fault::Recipient(to, e) => {
            let mend = "; correct it in the route's address or the handler's to";
            judge(&format!("taking the recipient {to}"), &e, mend, Blame::Effect)
        }
        Fault::Smtp(LOGIN, e) => judge(LOGIN, &e, "; see the handler's username and password", Blame::Target),
        Fault::Smtp(step, e) => judge(step, &e, "", Blame::Target),
        Fault::Silent(step) => retry(format!("the mail server was silent while {step}"), Blame::Target),
        Fault::Refused(reason) => Verdict::Permanent { reason },
    }
}

/// `mend` is for what lasts, `deferred` says whose fault it is if it does not.
fn judge(step: &str, e: &Error, mend: &str, deferred: Blame) -> Verdict {
    let said = print(step, e);
    // "internal client error": no mechanism in common, for example. Nobody but an operator mends it.
    if e.is_permanent() || e.is_client() {
        return Verdict::Permanent { reason: format!("{said}{mend}") };
    }
    retry(said, if e.is_transient() { deferred } else { Blame::Target })
}

fn retry(reason: String, blame: Blame) -> Verdict {
    Verdict::Retry { reason, after: None, blame }
}

fn print(step: &str, e: &Error) -> String {
    let told = format!("mail server, {step}: {e}");
    match told.contains("certificate") {
        true => format!("{told}; if your own CA has signed it, name that CA with ca_file"),
        false => told,
    }
}
