//! HTTP: webhooks come in, queries are answered, probes and metrics are shown. The control socket is beside it.
//!
//! To add an endpoint: its function in the file of its kind, a line in [`routes`], a [`problem::Problem`] for whatever can
//! go wrong. Who may call it is its first line: [`auth::Tokens`] for people and services, a signature for webhooks.

pub mod auth;
mod body;
mod boundary;
pub mod control;
mod inbound;
mod links;
mod params;
mod probes;
pub mod problem;
mod queries;
mod reorders;
mod server;
mod shops;
mod webhooks;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, PathConfig};
use actix_web::{App, HttpResponse, HttpServer, ResponseError as _, Route};
use tokio::runtime::Handle;

pub use control::{ControlHandler, serve_control};
pub use inbound::Listener;
pub use probes::Probe;
pub use server::Server;

pub use crate::config::NodeRole;
use crate::events::time::Millis;
use crate::links::LinkKey;
use crate::ports::{EventLog, Ledger, Moves, Queries, Registry, Reorders};
use crate::telemetry::metrics::{HttpMetrics, Metrics};
use crate::vault::Vault;
use problem::{Kind, Problem};

/// Bounds (DESIGN §7.9).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one body.
    pub body: usize,
    /// Bytes of all bodies in flight; past it a webhook is answered 503 before it is read.
    pub bodies: usize,
    /// The time in which a body has to be complete.
    pub body_within: Duration,
    /// The time in which the log has to answer a webhook; Shopify waits 5 s in all.
    pub append_within: Duration,
    /// How long a read with `?after=` waits.
    pub query_wait: Duration,
    /// How long running requests may take to end at a stop.
    pub stop_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 2 * 1024 * 1024,
            bodies: 256 * 1024 * 1024,
            body_within: Duration::from_secs(10),
            append_within: Duration::from_secs(4),
            query_wait: Duration::from_secs(5),
            stop_within: Duration::from_secs(10),
        }
    }
}

/// What the server needs of the node.
pub struct ApiContext {
    pub node: String,
    pub roles: Vec<NodeRole>,
    pub log: Arc<dyn EventLog>,
    pub registry: Arc<dyn Registry>,
    /// With the role api; with shards alone it is asked for readiness only.
    pub queries: Option<Arc<dyn Queries>>,
    pub vault: Vault,
    /// Unix milliseconds.
    pub clock: Arc<dyn Fn() -> Millis + Send + Sync>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub reorders: ReorderParts,
    /// Handlers whose targets talk back.
    pub inbound: Vec<Listener>,
    /// Further conditions of readiness; `log`, `secrets`, `store` and those of [`Queries::readiness`] are there already.
    pub probes: Vec<Probe>,
}

/// What the endpoints of reorders need.
#[derive(Clone)]
pub struct ReorderParts {
    pub list: Arc<dyn Reorders>,
    pub moves: Arc<dyn Moves>,
    pub ledger: Arc<dyn Ledger>,
    /// Configured handlers with their kinds.
    pub kinds: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("http.listen = \"{listen}\" is no address to listen at: {reason}; give host:port, such as 127.0.0.1:8080")]
    BadAddress { listen: String, reason: String },
    #[error("cannot listen at {listen}: {source}; does another process listen there?")]
    Bind { listen: String, source: io::Error },
    #[error("cannot make the control socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot start the server's thread: {0}")]
    Thread(io::Error),
}

/// What handlers share.
struct State {
    node: String,
    roles: Vec<NodeRole>,
    log: Arc<dyn EventLog>,
    queries: Option<Arc<dyn Queries>>,
    links: LinkKey,
    clock: Arc<dyn Fn() -> Millis + Send + Sync>,
    metrics: HttpMetrics,
    all_metrics: Arc<Metrics>,
    limits: Limits,
    probes: Vec<probes::Remembered>,
    shops: Arc<shops::ShopDirectory>,
    tokens: auth::Tokens,
    bodies: body::Budget,
    reorders: ReorderParts,
    inbound: Vec<Listener>,
    /// Queries to the store run on the node's runtime, and to their end (PITFALLS 18).
    runtime: Handle,
}

impl State {
    fn requires(&self, role: NodeRole) -> Result<(), Problem> {
        if self.roles.contains(&role) {
            return Ok(());
        }
        Err(Problem::new(Kind::NotFound, format!("this node has not the role {}; ask one that has", role.as_str())))
    }

    /// Runs what asks the store on the node's runtime; whoever waits may give up, it ends all the same.
    async fn run<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(within, self.runtime.spawn(work)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => Err(Problem::new(Kind::Internal, format!("it broke down: {e}"))),
            Err(_) => Err(Problem::unavailable(format!("no answer within {within:?}"), Duration::from_secs(1))),
        }
    }
}

/// Whether [`serve`] will be able to listen there.
pub fn check_listen(listen: &str) -> Result<(), ServeError> {
    let addresses = server::addresses(listen)?;
    match std::net::TcpListener::bind(addresses.as_slice()) {
        Ok(_) => Ok(()),
        Err(source) => Err(ServeError::Bind { listen: listen.to_owned(), source }),
    }
}

/// Serves HTTP at `listen` (host:port, port 0 for a free one) and returns once it is bound. To be called within the node's
/// runtime: queries to the store run there. Stops by [`Server::stop`].
pub fn serve(context: ApiContext, listen: &str) -> Result<Server, ServeError> {
    let runtime = Handle::current();
    let addresses = server::addresses(listen)?;
    let metrics = HttpMetrics::new(&context.metrics);
    let links = LinkKey::new(&context.vault);
    let shops = shops::ShopDirectory::new(Arc::clone(&context.registry), context.vault, runtime.clone());
    let known = metrics.shops.clone();
    runtime.spawn(Arc::clone(&shops).refresh_forever(move |n| {
        known.set(n as i64);
    }));
    let stop_within = context.limits.stop_within.as_secs().max(1);
    let state = Data::new(State {
        probes: own_probes(&context.log, &context.registry, &shops, &runtime)
            .into_iter()
            .chain(context.probes)
            .map(probes::Remembered::new)
            .collect(),
        tokens: auth::Tokens::new(context.registry, runtime.clone()),
        runtime,
        reorders: context.reorders,
        inbound: context.inbound,
        bodies: body::Budget::new(context.limits.bodies),
        shops: Arc::clone(&shops),
        node: context.node,
        roles: context.roles,
        log: context.log,
        queries: context.queries,
        links,
        clock: context.clock,
        metrics,
        all_metrics: context.metrics,
        limits: context.limits,
    });
    let listen = listen.to_owned();
    let build = move || {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(
                    PathConfig::default()
                        .error_handler(|_, _| Problem::new(Kind::BadRequest, "the path is not well-formed").into()),
                )
                .wrap(from_fn(boundary::boundary))
                .configure(routes)
                .default_service(web::to(not_found))
        })
        .keep_alive(server::KEEP_ALIVE)
        .shutdown_timeout(stop_within)
        .disable_signals()
        .bind(addresses.as_slice())
        .map_err(|source| ServeError::Bind { listen, source })?;
        let address = server.addrs().first().copied();
        Ok((server.run(), address))
    };
    Server::start("http", build, Box::new(move || shops.stop()))
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(only("/webhooks/shopify", "POST", web::post().to(webhooks::shopify)))
        .service(only("/webhooks/{kind}", "POST", web::post().to(inbound::bare)))
        .service(only("/webhooks/{kind}/{handler}", "POST", web::post().to(inbound::named)))
        .service(links::resource())
        .service(only("/v1/shops", "GET", web::get().to(queries::shops)))
        .service(only("/v1/shops/{shop}", "GET", web::get().to(queries::shop)))
        .service(only("/v1/shops/{shop}/variants", "GET", web::get().to(queries::variants)))
        .service(only("/v1/shops/{shop}/variants/{variant}", "GET", web::get().to(queries::variant)))
        .service(only("/v1/reorders", "GET", web::get().to(reorders::list)))
        .service(only("/v1/reorders/{id}", "GET", web::get().to(reorders::one)))
        .service(only("/v1/reorders/{id}/{move}", "POST", web::post().to(reorders::make)))
        .service(only("/v1/reorders/{id}/routes/{route}/retry", "POST", web::post().to(reorders::retry)))
        .service(only("/healthz", "GET", web::get().to(probes::healthz)))
        .service(only("/readyz", "GET", web::get().to(probes::readyz)))
        .service(only("/metrics", "GET", web::get().to(probes::metrics)));
}

/// A resource with one method; others are answered 405.
fn only(path: &str, method: &'static str, route: Route) -> actix_web::Resource {
    let refuse = move || async move { Problem::method_not_allowed(method).error_response() };
    web::resource(path).route(route).default_service(web::to(refuse))
}

async fn not_found() -> HttpResponse {
    Problem::new(Kind::NotFound, "there is nothing at this address").error_response()
}

fn own_probes(
    log: &Arc<dyn EventLog>,
    registry: &Arc<dyn Registry>,
    shops: &Arc<shops::ShopDirectory>,
    runtime: &Handle,
) -> Vec<Probe> {
    let (log, registry, shops, runtime) = (Arc::clone(log), Arc::clone(registry), Arc::clone(shops), runtime.clone());
    let log_answers = move || -> futures::future::BoxFuture<'static, Result<(), String>> {
        let log = Arc::clone(&log);
        Box::pin(async move {
            let probe = tokio::task::spawn_blocking(move || log.probe(probes::WITHIN));
            probe.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        })
    };
    let secrets_cached = move || -> futures::future::BoxFuture<'static, Result<(), String>> {
        let loaded = shops.is_loaded();
        Box::pin(async move {
            loaded.then_some(()).ok_or_else(|| "the list of shops has not been read from the store yet".to_owned())
        })
    };
    let store_answers = move || -> futures::future::BoxFuture<'static, Result<(), String>> {
        let (registry, runtime) = (Arc::clone(&registry), runtime.clone());
        Box::pin(async move {
            // Any query with an index will do; no token has this hash.
            let query = runtime.spawn(async move { registry.token_by_hash(&[0; 32]).await.map(|_| ()) });
            query.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        })
    };
    vec![
        Probe { name: "log", roles: NodeRole::ALL.to_vec(), check: Arc::new(log_answers) },
        Probe { name: "secrets", roles: vec![NodeRole::Ingest], check: Arc::new(secrets_cached) },
        Probe { name: "store", roles: vec![NodeRole::Shards, NodeRole::Handlers, NodeRole::Api], check: Arc::new(store_answers) },
    ]
}
