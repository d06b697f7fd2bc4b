//! The targets of the configured handlers, for who checks them.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;

use super::node::build_handlers;
use crate::config::Config;
use crate::handlers::registry::Surroundings;
use crate::handlers::{Handlers, ask_targets};
use crate::ports::Targets;
use crate::ports::targets::{Finding, Scope};

pub struct ConfiguredTargets {
    /// Also of those that cannot be built.
    names: Vec<String>,
    handlers: Box<dyn Fn() -> Handlers + Send + Sync>,
}

impl ConfiguredTargets {
    /// Of a node: as it runs.
    pub fn running(handlers: Handlers) -> Arc<ConfiguredTargets> {
        let names = handlers.iter().map(|i| i.name.clone()).collect();
        Arc::new(ConfiguredTargets { names, handlers: Box::new(move || handlers.clone()) })
    }

    /// Of a command: built when they are asked. Those that cannot be built are left out; what is wrong with them is told elsewhere.
    pub fn of(config: &Config, surroundings: Surroundings) -> Arc<ConfiguredTargets> {
        let configured = config.handlers.clone();
        let names = configured.keys().cloned().collect();
        let handlers = move || {
            let mut all = Handlers::default();
            for one in &configured {
                if let Ok(built) = build_handlers([one], &surroundings) {
                    built.iter().for_each(|instance| all.insert(instance.clone()));
                }
            }
            all
        };
        Arc::new(ConfiguredTargets { names, handlers: Box::new(handlers) })
    }
}

impl Targets for ConfiguredTargets {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn ask(&self, scope: Scope, within: Duration) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async move { ask_targets(&(self.handlers)(), &scope, within, Utc::now()).await })
    }
}
