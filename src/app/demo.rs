//! `stockwarden demo`: a node on embedded adapters, simulated shops that send it signed webhooks over HTTP, and stand-ins that
//! receive what it orders. Nothing in it is special but who calls and who is called.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::adapters::wall_clock;
use super::node::Node;
use crate::actors::stats::EngineStats;
use crate::admin::{Admin, Command, ShopAdd};
use crate::cli::{Fault, demo::Args};
use crate::config::{Config, Env, MASTER_KEY, Secret};
use crate::events::time;
use crate::ports::Queries;
use crate::ports::registry::{Role, ShopKind};
use crate::sim::screen::{self, DemoStats, HandlerResults, RecentDecision, Snapshot};
use crate::sim::sinks::{Counters, HttpSink, Pace};
use crate::sim::standins::{MailSink, TargetStandIn};
use crate::sim::{Settings, Simulation, webhook_secret};

const RULES: &str = r#"
[[rule]]
id = "low-stock"
scope = "location"
trigger = { kind = "constant", threshold = 5 }
quantity = { kind = "up-to", level = 40, pack = 5 }
cool_down = "0s"
routes = [{ to = "erp" }]

[[rule]]
id = "selling-out"
scope = "shop"
trigger = { kind = "gradient", probability = 0.9, horizon = "5m" }
cool_down = "10m"
routes = [{ to = "mail", address = "replenishment@demo.example" }]
"#;

/// Unanswered webhooks at a time.
const IN_FLIGHT: usize = 256;
const POLL: Duration = Duration::from_secs(1);

pub async fn run(args: Args, env: Env) -> Result<(), Fault> {
    let (stop_sender, stop) = watch::channel(false);
    listen_for_signals(stop_sender.clone())?;
    if let Some(seconds) = args.seconds {
        let stop = stop_sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.send_replace(true);
        });
    }
    let failed = |what: &str, e: &dyn std::fmt::Display| Fault::new(format!("cannot start {what}")).because(e.to_string());
    let continues = args.data_dir.join("log").exists();
    let folder = std::path::absolute(&args.data_dir).map_err(|e| failed("in that folder", &e))?;
    std::fs::create_dir_all(&folder).map_err(|e| failed("in that folder", &e))?;
    let secret_file = folder.join("target.secret");
    let secret = target_secret(&secret_file).map_err(|e| failed("the stand-in for a target", &e))?;
    let target = TargetStandIn::start(&secret).await.map_err(|e| failed("the stand-in for a target", &e))?;
    let mails = MailSink::start().await.map_err(|e| failed("the stand-in for a mail server", &e))?;
    let config = config(&args, &env, &folder, &target, &mails, &secret_file)?;
    eprintln!("{} in {} …", if continues { "going on" } else { "beginning" }, args.data_dir.display());
    let node = Node::start(&config, &env).await?;

    let settings = Settings {
        seed: args.seed,
        shops: args.shops,
        variants: args.variants,
        rate: args.rate,
        start_time: wall_clock(),
        lead_time: Some(Duration::from_secs(45)),
        facts: None,
        duration: None,
        ..Settings::default()
    };
    let simulation = Simulation::new(settings).map_err(|e| failed("the simulated shops", &e).usage())?;
    let token = introduce(&node.admin, &simulation, args.seed).await?;
    let base = format!("http://{}", node.address);
    let seed = args.seed;
    let sink = HttpSink::new(&base, move |shop| webhook_secret(seed, shop), IN_FLIGHT).map_err(|e| failed("the shops", &e))?;
    let virtual_start = simulation.settings().start_time * 1_000_000;
    let pace = Pace { speedup: Some(1.0), at_most: None };
    let shops = tokio::spawn(Arc::new(sink).run(simulation, virtual_start, pace, Arc::new(Counters::default()), stop.clone()));

    let stats = Stats::new(&node, target, mails, &base, &token);
    let polled = tokio::spawn(poll(stats.clone(), node.queries.clone(), stop.clone()));
    let ended = screen::run(&*stats, stop).await.map_err(|e| Fault::new("cannot draw").because(e.to_string()))?;
    let _ = shops.await;
    let _ = polled.await;
    // The screen's figures are counters of this run; a last look after everything has come to rest.
    let last = screen::Ended { last: stats.snapshot(), ..ended };
    drop(stats);
    node.stop().await;
    println!(
        "{}\nstopped cleanly; the data is in {}. The same command goes on from it.",
        screen::summary(&last),
        args.data_dir.display()
    );
    Ok(())
}

fn listen_for_signals(stop: watch::Sender<bool>) -> Result<(), Fault> {
    let signals = |kind| signal(kind).map_err(|e| Fault::new("cannot listen for signals").because(e.to_string()));
    let (mut interrupt, mut terminate) = (signals(SignalKind::interrupt())?, signals(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(())
}

/// The secret is kept: what was planned in an earlier run is signed with it in this one.
fn target_secret(file: &Path) -> std::io::Result<String> {
    use std::io::Write as _;
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => {
            let key = crate::vault::Vault::new_key().map_err(std::io::Error::other)?;
            let secret = format!("whsec_{key}");
            let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
            writeln!(out, "{secret}")?;
            Ok(secret)
        }
    }
}

fn config(
    args: &Args,
    env: &Env,
    folder: &Path,
    target: &TargetStandIn,
    mails: &MailSink,
    secret: &Path,
) -> Result<Config, Fault> {
    let listen = match std::net::TcpListener::bind(&args.listen) {
        Ok(_) => args.listen.clone(),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            eprintln!("{} is taken; serving at a free port instead", args.listen);
            "127.0.0.1:0".to_owned()
        }
        Err(e) => return Err(Fault::new(format!("cannot listen at {}", args.listen)).because(e.to_string()).usage()),
    };
    let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let text = format!(
        r#"
data_dir = {data}
[log]
kind = "embedded"
partitions = 4
[http]
listen = "{listen}"
[node]
name = "demo"
[handlers.erp]
kind = "target"
url = "{url}"
secret = {{ file = {secret} }}
allow_private_addresses = true
[handlers.mail]
kind = "email"
smtp_url = "{smtp}"
from = "Stockwarden demo <orders@demo.example>"
"#,
        data = quoted(folder),
        url = target.url(),
        secret = quoted(secret),
        smtp = mails.url(),
    );
    // The environment's own settings are for nodes; of it the demo takes the master key only.
    let own = Env::of(env.get(MASTER_KEY).map(|key| (MASTER_KEY, key)));
    Config::from_text("the demo's configuration", &text, &own)
        .map_err(|e| Fault::new("cannot make the demo's configuration").because(e.to_string()))
}

/// Registers the simulated shops and the rules; gives a token to look around with.
async fn introduce(admin: &Admin, simulation: &Simulation, seed: u64) -> Result<String, Fault> {
    for shop in simulation.shops() {
        let add = ShopAdd {
            shop: shop.to_string(),
            organisation: None,
            kind: ShopKind::Shopify,
            webhook_secret: Some(Secret::new(webhook_secret(seed, shop))),
            access_token: None,
            move_here: false,
        };
        admin.execute(Command::ShopAdd(add)).await?;
    }
    admin.execute(Command::RulesApply { organisation: "default".into(), text: RULES.into() }).await?;
    let create = Command::TokenCreate { organisation: "default".into(), role: Role::Reader, shops: Vec::new() };
    let token = admin.execute(create).await?;
    Ok(token["token"].as_str().unwrap_or_default().to_owned())
}

/// What the screen asks; what takes a query is asked once a second and kept.
struct Stats {
    engine: Option<Arc<EngineStats>>,
    handlers: Box<dyn Fn() -> Vec<HandlerResults> + Send + Sync>,
    polled: Mutex<Polled>,
    links: Vec<(String, String)>,
}

#[derive(Default, Clone)]
struct Polled {
    shops: u64,
    variants: u64,
    at_risk: u64,
    open_proposals: u64,
}

impl Stats {
    fn new(node: &Node, target: TargetStandIn, mails: MailSink, base: &str, token: &str) -> Arc<Stats> {
        let states = node.dispatcher.as_ref().map(|d| d.states());
        let handlers = move || {
            let received = |name: &str| match name {
                "erp" => Some(target.received().accepted),
                "mail" => Some(mails.count()),
                _ => None,
            };
            let states = states.as_ref().map(|s| s()).unwrap_or_default();
            let result = |s: crate::actors::effects::SenderState| HandlerResults {
                received: received(&s.handler),
                done: s.done,
                waiting: s.in_flight as u64,
                failed: s.failed,
                name: s.handler,
            };
            states.into_iter().map(result).collect()
        };
        let look = format!("curl -H 'Authorization: Bearer {token}' {base}/v1/shops");
        Arc::new(Stats {
            engine: node.stats.clone(),
            handlers: Box::new(handlers),
            polled: Mutex::default(),
            links: vec![("look around".into(), look), ("metrics".into(), format!("{base}/metrics"))],
        })
    }
}

impl DemoStats for Stats {
    fn snapshot(&self) -> Snapshot {
        let polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut snapshot = Snapshot {
            shops: polled.shops,
            variants: polled.variants,
            at_risk: polled.at_risk,
            open_proposals: polled.open_proposals,
            handlers: (self.handlers)(),
            links: self.links.clone(),
            ..Snapshot::default()
        };
        if let Some(engine) = &self.engine {
            snapshot.facts = engine.facts.get();
            snapshot.decisions = engine.decisions.get();
            snapshot.lag = engine.lag.get().max(0) as u64;
            let recent = engine.recent_decisions().into_iter().rev().map(|d| RecentDecision {
                at: time::format(d.decided_at).get(11..19).unwrap_or_default().to_owned(),
                shop: d.shop.unwrap_or_default(),
                title: d.title.unwrap_or_default(),
                quantity: d.quantity,
                reason: d.reason,
            });
            snapshot.recent = recent.collect();
        }
        snapshot
    }
}

async fn poll(stats: Arc<Stats>, queries: Option<Arc<dyn Queries>>, mut stop: watch::Receiver<bool>) {
    let Some(queries) = queries else { return };
    loop {
        // Not ready is a passing state; the last answer stays.
        if let Ok(shops) = queries.shops().await {
            let sum = |of: fn(&crate::domain::views::ShopView) -> u64| shops.iter().map(of).sum();
            let polled = Polled {
                shops: shops.len() as u64,
                variants: sum(|s| s.variants),
                at_risk: sum(|s| s.at_risk),
                open_proposals: sum(|s| s.open_proposals),
            };
            *stats.polled.lock().unwrap_or_else(PoisonError::into_inner) = polled;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
    }
}
