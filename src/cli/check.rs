//! `check`: what is wrong with this installation, and how to mend it.
//!
//! The targets of the handlers are asked too, without an effect there (`Handler::probe`): by the node that runs on this `data_dir`, with the
//! settings that it runs with; where none does, from here.

use std::time::Duration;

use serde_json::{Value, json};

use super::fault::{log_mend, store_mend};
use super::output::{Out, table_of};
use super::session::{Purpose, Session};
use super::world::World;
use super::{DONE, FAILED, Fault, asynchronously};
use crate::admin::Command;
use crate::config::{Config, Env, master_key, would_make_master_key};
use crate::ports::targets::{Finding, Found, Scope};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  stockwarden check --config node-a.toml\n  \
                        stockwarden check --offline          the configuration alone, as before a deployment")]
pub struct Args {
    /// Reach nobody: neither log nor store nor the targets of handlers
    #[arg(long)]
    offline: bool,
    /// How long to wait for each dependency, seconds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600), value_name = "SECONDS")]
    timeout: u64,
}

#[derive(Default)]
struct Findings(Vec<Value>);

impl Findings {
    fn ok(&mut self, what: &str, detail: impl Into<String>) {
        self.0.push(json!({ "what": what, "ok": true, "result": "ok", "detail": detail.into(), "mend": null }));
    }

    /// No fault, and no more is known.
    fn not_asked(&mut self, what: &str, why: impl Into<String>) {
        self.0.push(json!({ "what": what, "ok": true, "result": "not asked", "detail": why.into(), "mend": null }));
    }

    fn target(&mut self, finding: Finding, mend_too: &str) {
        let Finding { handler, about, result, said, mend } = finding;
        let what = format!("{handler}: {about}");
        match result {
            Found::Fine => self.ok(&what, said),
            Found::NotAsked => self.not_asked(&what, said),
            Found::Problem => self.problem(&what, said, format!("{handler}: {}{mend_too}", mend.unwrap_or_default())),
        }
    }

    fn problem(&mut self, what: &str, detail: impl Into<String>, mend: impl Into<String>) {
        let (detail, mend) = (detail.into(), mend.into());
        self.0.push(json!({ "what": what, "ok": false, "result": "PROBLEM", "detail": detail, "mend": mend }));
    }
}

pub fn run(world: &dyn World, loaded: Result<Config, Fault>, env: Env, out: Out, args: &Args) -> Result<u8, Fault> {
    let mut found = Findings::default();
    match loaded {
        Err(fault) => {
            let what = fault.cause.clone().unwrap_or(fault.what.clone());
            for line in what.lines() {
                found.problem("configuration", line, fault.mend.clone().unwrap_or_default());
            }
        }
        Ok(config) => {
            let handlers = config.handlers.len();
            found.ok("configuration", format!("node {}, {handlers} handler(s)", config.node.name));
            settings(world, &config, &env, &mut found);
            let within = Duration::from_secs(args.timeout);
            if !args.offline {
                asynchronously(async {
                    dependencies(world, &config, &env, within, &mut found).await;
                    Ok(())
                })?;
            }
        }
    }
    let all_well = found.0.iter().all(|f| f["ok"] == true);
    let value = json!({ "ok": all_well, "checks": found.0 });
    out.result(&value, told);
    Ok(if all_well { DONE } else { FAILED })
}

fn told(v: &Value) -> String {
    let checks = v["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = table_of(&v["checks"], &[("CHECK", "what"), ("RESULT", "result"), ("DETAIL", "detail")]);
    let mut mends: Vec<&str> = checks.iter().filter_map(|c| c["mend"].as_str()).filter(|m| !m.is_empty()).collect();
    mends.dedup();
    for mend in mends {
        text.push_str(&format!("\nmend: {mend}"));
    }
    text.push_str(if v["ok"] == true { "\nall is well; start with: stockwarden serve" } else { "" });
    text
}

/// What can be told without reaching anybody.
fn settings(world: &dyn World, config: &Config, env: &Env, found: &mut Findings) {
    if let Err(e) = config.log.resolved_properties(env) {
        found.problem("log.properties", e.to_string(), "set the variable or write the file before starting");
    }
    let wrong = world.handler_problems(config, env);
    for (name, handler) in &config.handlers {
        let key = format!("handlers.{name}");
        match wrong.iter().find(|(n, _)| n == name) {
            Some((_, told)) => found.problem(&key, told, format!("mend [{key}] in the configuration")),
            None => found.ok(&key, format!("kind {}", handler.kind)),
        }
    }
    if let Some(path) = would_make_master_key(config, env) {
        found.ok("master key", format!("none yet; the first command that needs it makes one in {}", path.display()));
        return;
    }
    match master_key(config, env) {
        Ok(_) => found.ok("master key", "found"),
        Err(e) => found.problem("master key", e.to_string(), "without the key no secret of a shop can be sealed or opened"),
    }
}

async fn dependencies(world: &dyn World, config: &Config, env: &Env, within: Duration, found: &mut Findings) {
    let silent = Out::new(true);
    let asked = async {
        let session = Session::connect(world, config, env, silent, Purpose::Check).await?;
        let status = session.run(Command::Status).await?;
        Ok((session, status))
    };
    let fault: Fault = match tokio::time::timeout(within, asked).await {
        Ok(Ok((session, status))) => {
            if let Session::There { socket } = &session {
                found.ok("node", format!("running; answers at {}", socket.display()));
            }
            for (what, mend) in [("log", log_mend(config)), ("store", store_mend(config))] {
                let detail = status[what]["detail"].as_str().unwrap_or("no answer");
                match status[what]["ok"].as_bool() {
                    Some(true) => found.ok(what, detail),
                    _ => found.problem(what, detail, status[what]["mend"].as_str().map_or(mend, str::to_owned)),
                }
            }
            return targets(&session, config, within, found).await;
        }
        Ok(Err(fault)) => fault,
        Err(_) => Fault::new(format!("no answer within {} s", within.as_secs())),
    };
    let detail = match &fault.cause {
        Some(cause) => format!("{}: {cause}", fault.what),
        None => fault.what.clone(),
    };
    let mend = fault.mend.unwrap_or_else(|| format!("{}; {}", log_mend(config), store_mend(config)));
    found.problem("log and store", detail.replace('\n', "; "), mend);
    // What the handlers themselves name can be asked all the same.
    for finding in world.targets(config, env, None).ask(Scope::default(), within).await {
        found.target(finding, "");
    }
}

/// The targets of the handlers, with what the rules route to them.
async fn targets(session: &Session, config: &Config, within: Duration, found: &mut Findings) {
    if config.handlers.is_empty() {
        return;
    }
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let answer = match session.run(Command::Targets { within_ms }).await {
        Ok(answer) => answer,
        Err(fault) => return found.problem("targets", fault.what, fault.mend.unwrap_or_default()),
    };
    if let Some(why) = answer["routes_unknown"].as_str() {
        found.not_asked("routes of the rules", why);
    }
    let node = match session {
        Session::There { .. } => "; the node asked, with the settings that it was started with: restart it after a change",
        Session::Here(_) => "",
    };
    match serde_json::from_value::<Vec<Finding>>(answer["findings"].clone()) {
        Ok(findings) => findings.into_iter().for_each(|finding| found.target(finding, node)),
        Err(e) => found.problem("targets", e.to_string(), "is the node of the same version? stockwarden --version"),
    }
}
