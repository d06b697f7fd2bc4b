//! Administration: organisations, shops, rules, tokens, dead letters, a look into the log.
//!
//! The command line asks [`Admin`] in its own process, or through the control socket of the process that owns `data_dir`;
//! a [`Command`] is the same in both. To add one: a variant there, its arm in [`Admin::execute`], a function in the file of
//! its noun. Every change is idempotent: after a failure half-way the same command again completes it.

mod command;
mod dead_letters;
mod effects;
mod error;
mod organisations;
mod rules;
mod scan;
mod shops;
mod status;
mod targets;
mod tokens;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

pub use command::{Command, RetrySelection, ShopAdd, TailFrom};
pub use dead_letters::RETRY_OF;
pub use error::{AdminError, Refusal, Reply};
pub use rules::{RuleChecker, RuleProblem, route_warnings};
pub use tokens::token_hash;

use crate::events::record::{NewRecord, Position};
use crate::ports::{EventLog, Ledger, Registry, Targets};
use crate::vault::Vault;

/// Tells the time; passed in.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

pub struct Admin {
    log: Arc<dyn EventLog>,
    registry: Arc<dyn Registry>,
    ledger: Arc<dyn Ledger>,
    vault: Vault,
    clock: Clock,
    rules: Arc<dyn RuleChecker>,
    targets: Arc<dyn Targets>,
    /// One change at a time: what is read from the registry is still so when it is written, and facts of one noun stand in
    /// the log in the order of their changes.
    turn: tokio::sync::Mutex<()>,
}

impl Admin {
    pub fn new(
        log: Arc<dyn EventLog>,
        registry: Arc<dyn Registry>,
        ledger: Arc<dyn Ledger>,
        vault: Vault,
        clock: Clock,
        rules: Arc<dyn RuleChecker>,
        targets: Arc<dyn Targets>,
    ) -> Admin {
        Admin { log, registry, ledger, vault, clock, rules, targets, turn: tokio::sync::Mutex::new(()) }
    }

    /// Performs one command. What changes something returns when the change is durable.
    pub async fn execute(&self, command: Command) -> Result<Value, AdminError> {
        let _turn = match command.changes() {
            true => Some(self.turn.lock().await),
            false => None,
        };
        match command {
            Command::OrgAdd { name } => self.org_add(&name).await,
            Command::OrgList => self.org_list().await,
            Command::ShopAdd(shop) => self.shop_add(shop).await,
            Command::ShopList { organisation } => self.shop_list(organisation.as_deref()).await,
            Command::ShopRemove { shop } => self.shop_remove(&shop).await,
            Command::RulesApply { organisation, text } => self.rules_apply(&organisation, &text).await,
            Command::RulesShow { organisation } => self.rules_show(&organisation).await,
            Command::TokenCreate { organisation, role, shops } => self.token_create(&organisation, role, shops).await,
            Command::TokenList => self.token_list().await,
            Command::TokenRevoke { id } => self.token_revoke(&id).await,
            Command::DeadLettersList { limit, shop, reason } => self.dead_letters_list(limit, shop, reason).await,
            Command::DeadLettersShow { position } => self.dead_letters_show(position).await,
            Command::DeadLettersRetry(selection) => self.dead_letters_retry(selection).await,
            Command::TopicsList => self.topics_list().await,
            Command::TopicsTail { topic, from, limit, wait_ms, shop, fact } => {
                self.topics_tail(topic, from, limit, wait_ms, shop, fact).await
            }
            Command::Status => self.status().await,
            Command::Targets { within_ms } => self.ask_targets(Duration::from_millis(within_ms)).await,
        }
    }

    /// As [`Admin::execute`], in the form that goes through the control socket.
    pub async fn answer(&self, command: Command) -> Reply {
        self.execute(command).await.into()
    }

    /// As [`Admin::answer`], JSON in, JSON out; what the control socket serves. An error says that the JSON is no command.
    pub async fn answer_json(&self, command: Value) -> Result<Value, String> {
        let command = Command::deserialize(command)
            .map_err(|_| format!("this node (version {}) does not know the command", env!("CARGO_PKG_VERSION")))?;
        serde_json::to_value(self.answer(command).await).map_err(|e| e.to_string())
    }

    fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    async fn append_one(&self, record: NewRecord) -> Result<Position, AdminError> {
        let positions = self.log.append(vec![record]).await?;
        positions.first().copied().ok_or_else(|| AdminError::Internal("the log wrote a record and gave no position".into()))
    }

    /// Refuses an organisation that does not exist, naming the one that may be meant.
    async fn known_organisation(&self, name: &str) -> Result<(), AdminError> {
        let all = self.registry.organisations().await?;
        if all.iter().any(|o| o == name) {
            return Ok(());
        }
        let hint = crate::config::nearest(name, all.iter().map(String::as_str));
        Err(AdminError::refused(
            Refusal::NotFound,
            match hint {
                Some(near) => format!("there is no organisation \"{name}\"; did you mean \"{near}\"?"),
                None => format!("there is no organisation \"{name}\""),
            },
            format!("stockwarden org list names all; stockwarden org add {name} makes it"),
        ))
    }
}

/// Runs what blocks (readers of the log) where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, AdminError> + Send + 'static) -> Result<T, AdminError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(AdminError::Internal(format!("a task ended before its time: {e}"))),
    }
}
