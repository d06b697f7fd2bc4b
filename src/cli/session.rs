//! Where a command is performed: by the process that owns `data_dir`, through its control socket; or here, if nobody does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::Value;
use tokio::net::UnixStream;

use super::output::Out;
use super::world::World;
use super::{Context, Fault};
use crate::admin::{Admin, Command, Reply};
use crate::config::{Config, Env, master_key};

/// A command that scans a large log takes its time.
const ANSWER: Duration = Duration::from_secs(300);
const PREPARING: Duration = Duration::from_secs(15);
/// How long a process that owns `data_dir` may take from its lock to its socket.
const STARTING: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Topics that are missing are made.
    Work,
    /// Nothing is changed.
    Check,
}

pub enum Session {
    Here(Box<Admin>),
    There { client: reqwest::Client, socket: PathBuf },
}

impl Session {
    pub async fn open(context: &Context<'_>) -> Result<Session, Fault> {
        Session::connect(context.world, &context.config, &context.env, context.out, Purpose::Work).await
    }

    pub async fn connect(world: &dyn World, config: &Config, env: &Env, out: Out, purpose: Purpose) -> Result<Session, Fault> {
        if let Some(session) = Session::there(config).await? {
            return Ok(session);
        }
        match Session::here(world, config, env, out, purpose).await {
            Ok(session) => Ok(session),
            // Somebody may hold the folder and be about to listen. Otherwise the first error says what is wrong.
            Err(fault) if config.is_local() && config.log_dir().join("lock").exists() => {
                let until = Instant::now() + if owned(&config.log_dir()) { STARTING } else { Duration::ZERO };
                while Instant::now() < until {
                    if let Some(session) = Session::there(config).await? {
                        return Ok(session);
                    }
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                Err(fault)
            }
            Err(fault) => Err(fault),
        }
    }

    /// The process that owns `data_dir`, if one listens.
    pub async fn there(config: &Config) -> Result<Option<Session>, Fault> {
        let socket = config.control_socket();
        if !config.is_local() {
            return Ok(None);
        }
        match UnixStream::connect(&socket).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Fault::new(format!("the control socket {} does not let you in", socket.display()))
                    .because(e.to_string())
                    .mend("run the command as the user that runs the node"));
            }
            // No socket, or one that a dead process left behind.
            Err(_) => return Ok(None),
        }
        let client = reqwest::Client::builder().unix_socket(socket.clone()).timeout(ANSWER).build();
        let client = client.map_err(|e| Fault::new("cannot make an HTTP client").because(e.to_string()))?;
        Ok(Some(Session::There { client, socket }))
    }

    async fn here(world: &dyn World, config: &Config, env: &Env, out: Out, purpose: Purpose) -> Result<Session, Fault> {
        let key = master_key(config, env).map_err(|e| Fault::new("there is no usable master key").because(e.to_string()))?;
        if let Some(path) = &key.generated {
            out.remark(&format!(
                "made a master key in {}; secrets are sealed under it, so keep a copy apart from the store's backups",
                path.display()
            ));
        }
        let ports = world.open(config, env).await?;
        if purpose == Purpose::Work {
            let log = ports.log.clone();
            let prepared = tokio::task::spawn_blocking(move || log.prepare(PREPARING)).await;
            let told = prepared.map_err(|e| e.to_string()).and_then(|p| p.map_err(|e| e.to_string()));
            told.map_err(|e| {
                Fault::new("the log is not ready").because(e).mend("stockwarden check says what cannot be reached")
            })?;
        }
        let handlers = config.handlers.keys().cloned().collect();
        let admin = Admin::new(ports.log, ports.registry, key.vault, Arc::new(Utc::now), world.rules(), handlers);
        Ok(Session::Here(Box::new(admin)))
    }

    pub async fn run(&self, command: Command) -> Result<Value, Fault> {
        match self {
            Session::Here(admin) => Ok(admin.execute(command).await?),
            Session::There { client, socket } => ask(client, socket, &command).await,
        }
    }
}

/// Whether a process holds the embedded log's lock.
fn owned(log_dir: &Path) -> bool {
    let lock = std::fs::OpenOptions::new().write(true).open(log_dir.join("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

async fn ask(client: &reqwest::Client, socket: &Path, command: &Command) -> Result<Value, Fault> {
    let lost = |e: reqwest::Error| {
        // The error's own text is a chain without its causes.
        let mut causes = e.to_string();
        let mut cause = std::error::Error::source(&e);
        while let Some(c) = cause {
            causes.push_str(&format!(": {c}"));
            cause = c.source();
        }
        Fault::new(format!("the node at {} gave no answer", socket.display()))
            .because(causes)
            .mend("it may have performed the command; look before repeating it, repeating is safe")
    };
    let response = client.post("http://control/control").json(command).send().await.map_err(lost)?;
    let status = response.status();
    let body = response.bytes().await.map_err(lost)?;
    match serde_json::from_slice::<Reply>(&body) {
        Ok(Reply::Done(value)) => Ok(value),
        Ok(Reply::Failed { message, mend }) => Err(Fault { mend, ..Fault::new(message) }),
        Err(_) => {
            // Problem details: the command did not get as far as being performed.
            let detail = serde_json::from_slice::<Value>(&body).ok().and_then(|v| v["detail"].as_str().map(str::to_owned));
            Err(Fault::new(detail.unwrap_or_else(|| format!("the node answered {status}")))
                .mend("is the node of the same version as this program? stockwarden --version"))
        }
    }
}
