//! What the command line needs of the rest of the program. `app` implements it, where adapters are chosen; tests may
//! implement it otherwise.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Fault;
use crate::admin::RuleChecker;
use crate::config::{Config, Env};
use crate::ports::{EventLog, Ledger, Registry, Targets};
use crate::vault::Vault;

/// The ports that administration works on.
pub struct Ports {
    pub log: Arc<dyn EventLog>,
    pub registry: Arc<dyn Registry>,
    pub ledger: Arc<dyn Ledger>,
}

pub trait World: Sync {
    /// Opens log and store as configured, in bounded time, for administration: beside a running node and never in its name.
    /// Fails if another process owns `data_dir`.
    fn open<'a>(&'a self, config: &'a Config, env: &'a Env) -> BoxFuture<'a, Result<Ports, Fault>>;

    fn rules(&self) -> Arc<dyn RuleChecker>;

    /// What is wrong with the configured handlers: (name, what). Reaches nobody.
    fn handler_problems(&self, config: &Config, env: &Env) -> Vec<(String, String)>;

    /// The targets of the handlers that can be built; without the store no stored token is at hand.
    fn targets(&self, config: &Config, env: &Env, stored: Option<(&Vault, &Arc<dyn Registry>)>) -> Arc<dyn Targets>;

    /// Runs the demo until it is told to stop; starts its own runtime.
    fn demo(&self, args: super::demo::Args, env: Env) -> Result<(), Fault>;

    /// Runs a node until it is told to stop; starts its own runtime.
    fn serve(&self, config: Config, env: Env) -> Result<(), Fault>;
}
