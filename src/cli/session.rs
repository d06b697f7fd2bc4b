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
use crate::api::control::{self, ControlError};
use crate::config::{Config, Env, LogKind, MasterKey, master_key, would_make_master_key};
use crate::vault::Vault;

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
    There { socket: PathBuf },
}

impl Session {
    pub async fn open(context: &Context<'_>) -> Result<Session, Fault> {
        Session::connect(context.world, &context.config, &context.env, context.out, Purpose::Work).await
    }

    pub async fn connect(world: &dyn World, config: &Config, env: &Env, out: Out, purpose: Purpose) -> Result<Session, Fault> {
        let until = Instant::now() + STARTING;
        let mut was_free = false;
        loop {
            if let Some(session) = Session::there(config).await? {
                return Ok(session);
            }
            let fault = match Session::here(world, config, env, out, purpose).await {
                Ok(session) => return Ok(session),
                Err(fault) => fault,
            };
            // Somebody may hold the folder and be about to listen, or to let go. Otherwise the error says what is wrong.
            if config.log.kind != LogKind::Embedded || Instant::now() >= until {
                return Err(fault);
            }
            if owned(&config.log_dir()) {
                tokio::time::sleep(BETWEEN_TRIES).await;
            } else if was_free {
                return Err(fault);
            } else {
                was_free = true;
            }
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
        Ok(Some(Session::There { socket }))
    }

    async fn here(world: &dyn World, config: &Config, env: &Env, out: Out, purpose: Purpose) -> Result<Session, Fault> {
        let unusable = |why: String| Fault::new("there is no usable master key").because(why);
        let key = match purpose {
            // Whoever only looks seals nothing: a key for the moment will do, and none is left behind.
            Purpose::Check if would_make_master_key(config, env).is_some() => {
                let vault = Vault::new_key().and_then(|key| Vault::from_base64(&key)).map_err(|e| unusable(e.to_string()))?;
                MasterKey { vault, generated: None }
            }
            _ => master_key(config, env).map_err(|e| unusable(e.to_string()))?,
        };
        if let Some(path) = &key.generated {
            out.remark(&format!(
                "made a master key in {}; secrets are sealed under it, so keep a copy apart from the store's backups",
                path.display()
            ));
        }
        let ports = world.open(config, env).await?;
        if purpose == Purpose::Work {
            let log = ports.log.clone();
            tokio::task::spawn_blocking(move || log.prepare(PREPARING))
                .await
                .map_err(|e| Fault::new("the log is not ready").because(e.to_string()))?
                .map_err(|e| Fault::log_not_ready(&e, config))?;
        }
        let targets = world.targets(config, env, Some((&key.vault, &ports.registry)));
        let admin = Admin::new(ports.log, ports.registry, ports.ledger, key.vault, Arc::new(Utc::now), world.rules(), targets);
        Ok(Session::Here(Box::new(admin)))
    }

    pub async fn run(&self, command: Command) -> Result<Value, Fault> {
        match self {
            Session::Here(admin) => Ok(admin.execute(command).await?),
            Session::There { socket } => ask(socket, &command).await,
        }
    }
}

/// Whether a process holds the embedded log's lock.
fn owned(log_dir: &Path) -> bool {
    let lock = std::fs::OpenOptions::new().write(true).open(log_dir.join("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

async fn ask(socket: &Path, command: &Command) -> Result<Value, Fault> {
    let command = serde_json::to_value(command).map_err(|e| Fault::new("the command has no JSON form").because(e.to_string()))?;
    let answer = control::call(socket, &command, ANSWER).await.map_err(|e| match e {
        ControlError::Nobody { .. } => Fault::new(e.to_string()).mend("the node has just ended; repeat the command"),
        ControlError::NoAnswer { .. } => Fault::new(e.to_string())
            .mend("it may have performed the command; repeating it is safe, but for token create: look at token list first"),
        ControlError::Failed(_) => Fault::new(e.to_string()).mend("is the node of the same version? stockwarden --version"),
    })?;
    match serde_json::from_value(answer) {
        Ok(Reply::Done(value)) => Ok(value),
        Ok(Reply::Failed { message, mend }) => Err(Fault { mend, ..Fault::new(message) }),
        Err(e) => Err(Fault::new("the node's answer makes no sense to this program")
            .because(e.to_string())
            .mend("is the node of the same version? stockwarden --version")),
    }
}
