//! The one place where adapters are chosen and the tree is started and stopped in order.

mod adapters;
mod demo;
mod metrics;
mod node;
mod rules;
mod targets;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::admin::RuleChecker;
use crate::cli::{Fault, Ports, World};
use crate::config::{Config, Env};
use crate::ports::{Registry, Targets};
use crate::vault::Vault;

pub struct App;

impl World for App {
    fn open<'a>(&'a self, config: &'a Config, env: &'a Env) -> BoxFuture<'a, Result<Ports, Fault>> {
        Box::pin(async move {
            // A name of its own: under the node's name a command would fence the node's transactions.
            let name = format!("{}-cli", config.node.name);
            let adapters = adapters::open(config, env, &name).await?;
            Ok(Ports { log: adapters.log, registry: adapters.registry, ledger: adapters.ledger })
        })
    }

    fn rules(&self) -> Arc<dyn RuleChecker> {
        Arc::new(rules::Rules)
    }

    fn handler_problems(&self, config: &Config, env: &Env) -> Vec<(String, String)> {
        node::build_handlers(&config.handlers, &node::surroundings(config, env, None)).err().unwrap_or_default()
    }

    fn targets(&self, config: &Config, env: &Env, stored: Option<(&Vault, &Arc<dyn Registry>)>) -> Arc<dyn Targets> {
        targets::ConfiguredTargets::of(config, node::surroundings(config, env, stored))
    }

    fn demo(&self, args: crate::cli::demo::Args, env: Env) -> Result<(), Fault> {
        node::in_system(demo::run(args, env))
    }

    fn serve(&self, config: Config, env: Env) -> Result<(), Fault> {
        node::in_system(node::serve(config, env))
    }
}
