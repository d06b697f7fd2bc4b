//! A node: starts the tree in order, waits to be told to stop, stops it in the opposite order.
//!
//! Intake stops first, so that nothing is acknowledged that is not looked after; then sends; then shards drain, commit and
//! snapshot; the log and the store go last.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::adapters::{self, Adapters, wall_clock};
use super::metrics::{EffectsCollector, EngineCollector};
use super::rules::Rules;
use super::targets::ConfiguredTargets;
use crate::actors::Engine;
use crate::actors::cluster::{self, ClusterQueries};
use crate::actors::dispatcher::{Dispatcher, Parts};
use crate::actors::effects::{Environment, Random};
use crate::actors::moves::Mover;
use crate::actors::settings::EngineSettings;
use crate::actors::stats::EngineStats;
use crate::adapters::peers::HttpPeers;
use crate::admin::{Admin, Command};
use crate::api::{self, ApiContext, ControlHandler, Limits, Listener, NodeRole, Probe, ReorderParts};
use crate::cli::Fault;
use crate::config::{Config, Env, HandlerConfig, LogKind, master_key};
use crate::handlers::registry::{KINDS, Surroundings};
use crate::handlers::{Handlers, Instance};
use crate::links::{LinkKey, Links};
use crate::ports::{Queries, Registry};
use crate::shopify::RegisteredTokens;
use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;

/// How long the log may take to answer at the start.
const PREPARE: Duration = Duration::from_secs(15);
/// How long a partition that is given up may take to drain, commit and snapshot.
const DRAIN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(60);
const DEATHS_UNTIL_QUARANTINE: u32 = 3;

pub struct Node {
    pub admin: Arc<Admin>,
    pub stats: Option<Arc<EngineStats>>,
    pub queries: Option<Arc<dyn Queries>>,
    pub address: SocketAddr,
    /// Why the node has to stop by itself, once it has to.
    pub fatal: watch::Receiver<Option<String>>,
    http: api::Server,
    control: Option<api::Server>,
    engine: Option<Engine>,
    pub dispatcher: Option<Dispatcher>,
}

impl Node {
    /// Starts everything that the node's roles need. Called inside an actix system.
    pub async fn start(config: &Config, env: &Env) -> Result<Node, Fault> {
        let refused = |e: api::ServeError| Fault::new("cannot serve HTTP").because(e.to_string());
        let key = master_key(config, env).map_err(|e| Fault::new("there is no usable master key").because(e.to_string()))?;
        if let Some(path) = &key.generated {
            tracing::info!(path = %path.display(), "made a master key; keep a copy of it apart from the store's backups");
        }
        let runtime = Handle::current();
        let adapters = adapters::open(config, env, &config.node.name).await?;
        let reached = surroundings(config, env, Some((&key.vault, &adapters.registry)));
        let handlers = build_handlers(&config.handlers, &reached).map_err(|problems| {
            let told: Vec<_> = problems.into_iter().map(|(_, why)| why).collect();
            Fault::new("the handlers are not configured well")
                .because(told.join("; "))
                .mend("stockwarden check says the same without starting")
        })?;
        let inbound = listeners(&handlers);
        let targets = ConfiguredTargets::running(handlers.clone());
        prepare(&adapters, config).await?;
        // Before anything takes part in a group: a second start by mistake must not fence the node that runs.
        api::check_listen(&config.http.listen).map_err(refused)?;
        let metrics = Arc::<Metrics>::default();
        let has = |role| config.node.roles.contains(&role);
        let (fatal_sender, fatal) = watch::channel(None);
        let engine = if has(NodeRole::Shards) {
            let on_fatal = Box::new(move |why| {
                fatal_sender.send_replace(Some(why));
            });
            let started =
                Engine::start(adapters.log.clone(), adapters.snapshots.clone(), settings(config), runtime.clone(), on_fatal)
                    .await;
            let engine = started.map_err(|e| Fault::new("cannot start the engine").because(e.to_string()))?;
            metrics.register(|r| r.register_collector(Box::new(EngineCollector(engine.stats.clone()))));
            Some(engine)
        } else {
            None
        };
        let dispatcher = if has(NodeRole::Handlers) {
            let env = Environment::live(Utc::now, random()?);
            let parts = Parts {
                log: adapters.log.clone(),
                ledger: adapters.ledger.clone(),
                handlers,
                env,
                node: config.node.name.clone(),
                runtime: runtime.clone(),
                drain: DRAIN,
            };
            let started = Dispatcher::start(parts).await;
            let dispatcher = started.map_err(|e| Fault::new("cannot start the dispatcher").because(e.to_string()))?;
            metrics.register(|r| r.register_collector(Box::new(EffectsCollector(Box::new(dispatcher.states())))));
            Some(dispatcher)
        } else {
            None
        };
        let stats = engine.as_ref().map(|e| e.stats.clone());
        let all_queries: Arc<dyn Queries> = Arc::new(cluster(config, &adapters, engine.as_ref(), runtime.clone())?);
        // Moves look at live state whatever the node's roles: targets talk to nodes with the role ingest.
        let mover = Mover::new(adapters.log.clone(), adapters.reorders.clone(), all_queries.clone(), Arc::new(wall_clock));
        let queries = (has(NodeRole::Api) || has(NodeRole::Shards)).then_some(all_queries);
        let admin = Arc::new(Admin::new(
            adapters.log.clone(),
            adapters.registry.clone(),
            adapters.ledger.clone(),
            key.vault.clone(),
            Arc::new(Utc::now),
            Arc::new(Rules),
            targets,
        ));
        let context = ApiContext {
            node: config.node.name.clone(),
            roles: config.node.roles.clone(),
            log: adapters.log.clone(),
            registry: adapters.registry.clone(),
            queries: queries.clone(),
            vault: key.vault,
            clock: Arc::new(wall_clock),
            metrics,
            limits: Limits { body: config.http.body_limit, ..Limits::default() },
            reorders: ReorderParts {
                list: adapters.reorders.clone(),
                moves: Arc::new(mover),
                ledger: adapters.ledger.clone(),
                kinds: config.handlers.iter().map(|(name, h)| (name.clone(), h.kind.clone())).collect(),
            },
            inbound,
            probes: dispatcher.iter().map(dispatcher_probe).collect(),
        };
        let http = api::serve(context, &config.http.listen).map_err(refused)?;
        let control = match config.is_local() {
            true => Some(api::serve_control(&config.control_socket(), control_handler(admin.clone())).map_err(refused)?),
            false => None,
        };
        let address = http.address();
        let reached = config.node.advertise.clone().or_else(|| default_address(address));
        if reached.is_none() && config.log.kind == LogKind::Kafka {
            tracing::warn!(%address, "other nodes cannot reach this one: set node.advertise to a URL where they can");
        }
        let announced = adapters.owners.announce(&config.node.name, reached.as_deref()).await;
        announced.map_err(|e| Fault::new("cannot tell the other nodes where this one is").because(e.to_string()))?;
        Ok(Node { admin, stats, queries, address, fatal, http, control, engine, dispatcher })
    }

    pub async fn stop(self) {
        self.http.stop().await;
        if let Some(control) = self.control {
            control.stop().await;
        }
        if let Some(dispatcher) = self.dispatcher {
            dispatcher.stop().await;
        }
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
    }
}

/// The queries of this node, and through it of the whole cluster.
fn cluster(config: &Config, adapters: &Adapters, engine: Option<&Engine>, runtime: Handle) -> Result<ClusterQueries, Fault> {
    let peers = HttpPeers::new().map_err(|e| Fault::new("cannot talk to other nodes").because(e.to_string()))?;
    Ok(ClusterQueries::new(cluster::Parts {
        engine: engine.map(|e| e.queries.clone()),
        log: adapters.log.clone(),
        snapshots: adapters.snapshots.clone(),
        owners: adapters.owners.clone(),
        peers: Arc::new(peers),
        node: config.node.name.clone(),
        clock: Arc::new(wall_clock),
        runtime,
    }))
}

/// Where others reach a node that says nothing of it: the address that it listens at, unless that is every one of its machine.
fn default_address(bound: SocketAddr) -> Option<String> {
    (!bound.ip().is_unspecified()).then(|| format!("http://{bound}"))
}

/// What handlers reach of the installation; without its store, nothing can be sent to a shop by a stored token.
pub fn surroundings(config: &Config, env: &Env, stored: Option<(&Vault, &Arc<dyn Registry>)>) -> Surroundings {
    let mut surroundings = Surroundings { public_url: config.http.public_url.clone(), ..Surroundings::new(env) };
    if let Some((vault, registry)) = stored {
        // Links in messages lead to where this node is reached from outside, if it says so.
        surroundings.links = config.http.public_url.as_deref().map(|url| Links::new(LinkKey::new(vault), url));
        surroundings.tokens = Arc::new(RegisteredTokens { registry: registry.clone(), vault: vault.clone() });
    }
    surroundings
}

/// The configured handlers, or what is wrong: (name, why). Reaches nobody.
pub fn build_handlers<'c>(
    configured: impl IntoIterator<Item = (&'c String, &'c HandlerConfig)>,
    surroundings: &Surroundings,
) -> Result<Handlers, Vec<(String, String)>> {
    Handlers::build_in(KINDS, configured, surroundings)
        .map_err(|problems| problems.into_iter().map(|p| (p.handler().to_owned(), p.to_string())).collect())
}

fn listeners(handlers: &Handlers) -> Vec<Listener> {
    let listens = |i: &Instance| {
        let inbound = i.handler.clone().inbound()?;
        Some(Listener { name: i.name.clone(), kind: i.kind.to_owned(), inbound })
    };
    handlers.iter().filter_map(listens).collect()
}

/// Numbers that spread retries; nothing secret hangs on them.
fn random() -> Result<Random, Fault> {
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).map_err(|e| Fault::new("the system gives no random numbers").because(e.to_string()))?;
    let generator = Mutex::new(SmallRng::seed_from_u64(u64::from_le_bytes(seed)));
    Ok(Arc::new(move || generator.lock().expect("no code panics while holding this lock").random::<f64>()))
}

fn dispatcher_probe(dispatcher: &Dispatcher) -> Probe {
    let health = dispatcher.health();
    let check = move || -> BoxFuture<'static, Result<(), String>> {
        let problem = health.summary();
        Box::pin(async move { problem.map_or(Ok(()), Err) })
    };
    Probe { name: "dispatcher", roles: vec![NodeRole::Handlers], check: Arc::new(check) }
}

async fn prepare(adapters: &Adapters, config: &Config) -> Result<(), Fault> {
    let log = adapters.log.clone();
    tokio::task::spawn_blocking(move || log.prepare(PREPARE))
        .await
        .map_err(|e| Fault::new("the log is not ready").because(e.to_string()))?
        .map_err(|e| Fault::log_not_ready(&e, config))
}

fn settings(config: &Config) -> EngineSettings {
    EngineSettings {
        node: config.node.name.clone(),
        commit_interval: config.shards.commit_interval,
        snapshot_interval: config.shards.snapshot_interval,
        tick_interval: TICK,
        max_resident_variants: config.shards.max_resident_variants,
        arbiters: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        drain_deadline: DRAIN,
        deaths_until_quarantine: DEATHS_UNTIL_QUARANTINE,
        clock: Arc::new(wall_clock),
        probe: None,
    }
}

fn control_handler(admin: Arc<Admin>) -> ControlHandler {
    Arc::new(move |value: Value| -> BoxFuture<'static, Result<Value, String>> {
        let admin = admin.clone();
        Box::pin(async move {
            let command: Command =
                serde_json::from_value(value).map_err(|e| format!("this node does not know the command: {e}"))?;
            serde_json::to_value(admin.answer(command).await).map_err(|e| e.to_string())
        })
    })
}

/// Runs `work` in an actix system on a multi-threaded runtime; drivers and the API work there, shards on threads of their own.
pub fn in_system<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("the system gives threads")
    });
    system.block_on(work)
}

/// `stockwarden serve`: until SIGTERM or Ctrl-C.
pub async fn serve(config: Config, env: Env) -> Result<(), Fault> {
    let signals = |kind| signal(kind).map_err(|e| Fault::new("cannot listen for signals").because(e.to_string()));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let mut node = tokio::select! {
        node = Node::start(&config, &env) => node?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let log = match config.log.kind {
        LogKind::Embedded => format!("embedded in {}", config.log_dir().display()),
        LogKind::Kafka => format!("Kafka at {}", config.log.bootstrap_servers),
    };
    tracing::info!(node = config.node.name, address = %node.address, log, store = %config.store.url, "serving");
    eprintln!(
        "stockwarden {} serves at http://{} (node {}, log: {log}, store: {}).\n\
         Next: stockwarden shop add DOMAIN --webhook-secret-env NAME, then point the shop's webhooks at \
         http://{}/webhooks/shopify. Ctrl-C stops it.",
        env!("CARGO_PKG_VERSION"),
        node.address,
        config.node.name,
        config.store.url,
        node.address,
    );
    let fatal = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        Ok(why) = node.fatal.wait_for(Option::is_some) => why.clone(),
    };
    tracing::info!("stopping: webhooks first, then sends, then shards");
    tokio::select! {
        () = node.stop() => {}
        _ = interrupt.recv() => tracing::warn!("stopped at once; the next start folds what is missing from the log"),
    }
    match fatal {
        Some(why) => Err(Fault::new("the node had to stop").because(why)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tick a minute (DESIGN §10), and three deaths (issue 4) are what a node really runs with.
    #[test]
    fn a_node_ticks_once_a_minute_and_quarantines_at_the_third_death() {
        let config = Config::from_text("c.toml", "", &Env::of::<&str, &str>([])).expect("a good configuration");
        let settings = settings(&config);
        assert_eq!((settings.tick_interval, settings.deaths_until_quarantine), (Duration::from_secs(60), 3));
    }
}
