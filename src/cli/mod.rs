//! The command line, a file a verb. Verbs say what was done and what to do next; `--json` says the same to programs.
//!
//! A new verb: a file with its `clap` arguments and a `run`, its variant in [`Verb`], its arm in [`dispatch`].

mod check;
mod dead_letters;
pub mod demo;
mod fault;
mod org;
mod output;
mod rules;
mod serve;
mod session;
mod shop;
mod simulate;
mod token;
mod topics;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use fault::{Fault, store_mend};
use output::Out;
pub use world::{Ports, World};

use crate::config::{Config, DEFAULT_FILE, Env};
use crate::telemetry::logging;

/// Exit codes (DESIGN §5). Wrong usage is 2, and clap's own.
pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
/// A check found a difference.
pub const DIFFERENT: u8 = 3;

#[derive(Parser)]
#[command(
    name = "stockwarden",
    version,
    about = "Watches the stock of every product variant of many shops, live, and gets it reordered before it sells out",
    after_help = "Begin with:\n  stockwarden demo                 everything on this machine, with simulated shops\n  \
                  stockwarden serve                a node, as stockwarden.toml says\n  \
                  stockwarden check                what is wrong, and how to mend it\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check found a difference."
)]
struct Cli {
    /// The configuration; ./stockwarden.toml if it is there, else the defaults
    #[arg(long, short, global = true, value_name = "FILE", env = "STOCKWARDEN_CONFIG")]
    config: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// What to log, such as info or stockwarden=debug; RUST_LOG says the same
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything on this machine: simulated shops, a node, stand-ins for what it orders from
    Demo(demo::Args),
    /// Load as many shops would make it, to HTTP or straight to the log
    Simulate(simulate::SimulateArgs),
    /// Run a node
    Serve(serve::Args),
    /// Check the configuration, reach every dependency, say what is wrong and how to mend it
    Check(check::Args),
    /// Organisations: who owns shops, rules and tokens
    #[command(subcommand)]
    Org(org::Verb),
    /// Shops: register them, rotate their secrets, remove them
    #[command(subcommand)]
    Shop(shop::Verb),
    /// Rules: when something is to be reordered
    #[command(subcommand)]
    Rules(rules::Verb),
    /// Tokens of the HTTP API
    #[command(subcommand)]
    Token(token::Verb),
    /// Records that could not be understood
    #[command(subcommand)]
    DeadLetters(dead_letters::Verb),
    /// A look into the log
    #[command(subcommand)]
    Topics(topics::Verb),
}

/// How long the log may take to answer.
const PREPARING: Duration = Duration::from_secs(15);

/// What every verb is given.
pub struct Context<'w> {
    pub world: &'w dyn World,
    pub config: Config,
    pub env: Env,
    pub out: Out,
}

/// Runs the program; what it returns is the process's exit code.
pub fn main(world: &dyn World) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way too; they are no errors.
        Err(e) => {
            let code = e.exit_code();
            let _ = e.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(FAILED));
        }
    };
    let out = Out::new(cli.json);
    match run(world, cli, out) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            out.fault(&fault);
            ExitCode::from(fault.code)
        }
    }
}

fn run(world: &dyn World, cli: Cli, out: Out) -> Result<u8, Fault> {
    let serving = matches!(cli.verb, Verb::Serve(_));
    logging::start(cli.log.as_deref(), if serving { logging::Level::Info } else { logging::Level::Warn })
        .map_err(|e| Fault::new("cannot start logging").because(e.to_string()).usage())?;
    let env = Env::of_process();
    let loaded = load(cli.config.as_deref(), &env);
    if let Verb::Check(args) = &cli.verb {
        return check::run(world, loaded, env, out, args);
    }
    // Checking a file of rules needs no log, and so no configuration that works.
    if let Verb::Rules(rules::Verb::Check { file }) = &cli.verb {
        return rules::check(world, loaded.ok().as_ref(), out, file);
    }
    let config = loaded?;
    let context = Context { world, config, env, out };
    match cli.verb {
        Verb::Serve(args) => serve::run(context, &args).map(|()| DONE),
        Verb::Demo(args) => world.demo(args, context.env).map(|()| DONE),
        other => asynchronously(dispatch(&context, other)),
    }
}

async fn dispatch(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    match verb {
        Verb::Org(verb) => org::run(context, verb).await,
        Verb::Shop(verb) => shop::run(context, verb).await,
        Verb::Rules(verb) => rules::run(context, verb).await,
        Verb::Token(verb) => token::run(context, verb).await,
        Verb::DeadLetters(verb) => dead_letters::run(context, verb).await,
        Verb::Topics(verb) => topics::run(context, verb).await,
        Verb::Simulate(args) => {
            let open = async || {
                let ports = context
                    .world
                    .open(&context.config, &context.env)
                    .await
                    .map_err(|f| anyhow::anyhow!("{}: {}", f.what, f.cause.unwrap_or_default()))?;
                let log = ports.log.clone();
                tokio::task::spawn_blocking(move || log.prepare(PREPARING)).await??;
                Ok(ports.log)
            };
            let clean = simulate::run(args, context.out.is_json(), open).await;
            clean
                .map_err(|e| Fault::new("the simulation did not end well").because(format!("{e:#}")))
                .map(|clean| if clean { DONE } else { FAILED })
        }
        Verb::Serve(_) | Verb::Demo(_) | Verb::Check(_) => unreachable!("they were run before, outside of a runtime"),
    }
}

/// Runs on a runtime that ends in bounded time, also when a driver's thread hangs.
fn asynchronously<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Fault::new("cannot start").because(e.to_string()))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn load(named: Option<&Path>, env: &Env) -> Result<Config, Fault> {
    let default = Path::new(DEFAULT_FILE);
    let file = named.or_else(|| default.exists().then_some(default));
    Config::load(file, env).map_err(|e| {
        let fault = Fault::new("the configuration is wrong").because(e.to_string());
        match e.problems() {
            [] => fault,
            _ => fault
                .mend("docs/example/stockwarden.toml shows every section; a variable STOCKWARDEN__SECTION__KEY overrides a key"),
        }
    })
}
