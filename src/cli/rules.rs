//! `rules`: check a file, apply it, show what holds.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::output::{Out, cell};
use super::session::Session;
use super::world::World;
use super::{Context, DONE, FAILED, Fault};
use crate::admin::{Command, route_warnings};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Check a file of rules; reaches nothing and changes nothing
    #[command(after_help = "Example:\n  stockwarden rules check rules.toml")]
    Check { file: PathBuf },
    /// Make the file the organisation's whole set of rules; an unchanged set makes no new version
    #[command(after_help = "Example:\n  stockwarden rules apply rules.toml --org acme")]
    Apply {
        file: PathBuf,
        #[arg(long, default_value = "default", value_name = "NAME")]
        org: String,
    },
    /// Show the set that was applied last, in the form of the file
    Show {
        #[arg(long, default_value = "default", value_name = "NAME")]
        org: String,
    },
}

/// Checks a file, without log and store.
pub fn check(world: &dyn World, config: Option<&Config>, out: Out, file: &Path) -> Result<u8, Fault> {
    let checked = world.rules().check(&read(file)?);
    let (code, value) = match &checked {
        Ok(rules) => {
            let handlers: Option<Vec<String>> = config.map(|c| c.handlers.keys().cloned().collect());
            let warnings = handlers.map(|h| route_warnings(rules, &h)).unwrap_or_default();
            (DONE, json!({ "ok": true, "rules": rules.len(), "problems": [], "warnings": warnings }))
        }
        Err(problems) => (FAILED, json!({ "ok": false, "problems": problems, "warnings": [] })),
    };
    if let (Err(problems), false) = (&checked, out.is_json()) {
        let list = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        return Err(Fault::new(format!("{} has {} problem(s)", file.display(), problems.len())).because(list));
    }
    out.result(&value, |v| {
        format!(
            "{} is well: {} rule(s){}\napply it with: stockwarden rules apply {}",
            file.display(),
            v["rules"],
            warned(v),
            file.display()
        )
    });
    Ok(code)
}

pub async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    match verb {
        Verb::Check { file } => return check(context.world, Some(&context.config), context.out, &file),
        Verb::Apply { file, org } => {
            let text = read(&file)?;
            let done = Session::open(context).await?.run(Command::RulesApply { organisation: org, text }).await?;
            context.out.result(&done, applied);
        }
        Verb::Show { org } => {
            let shown = Session::open(context).await?.run(Command::RulesShow { organisation: org.clone() }).await?;
            context.out.result(&shown, |v| set(v, &org));
        }
    }
    Ok(DONE)
}

fn read(file: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(file).map_err(|e| Fault::new(format!("cannot read {}", file.display())).because(e.to_string()))
}

fn warned(v: &Value) -> String {
    v["warnings"].as_array().into_iter().flatten().map(|w| format!("\nwarning: {}", cell(w))).collect()
}

fn applied(v: &Value) -> String {
    let (version, organisation) = (&v["rule_version"], cell(&v["organisation"]));
    let positions = v["positions"].as_array().map_or(0, Vec::len);
    let text = match v["applied"].as_bool() {
        Some(true) => format!(
            "applied {} rule(s) to the organisation {organisation} as version {version}, on {positions} partitions\n\
             what is already low is shown as low and proposed at its next crossing, unless the rule says initial = \"propose\"",
            v["rules"]
        ),
        _ => format!("nothing changed: the organisation {organisation} has these rules already, as version {version}"),
    };
    text + &warned(v)
}

/// As a file that `rules apply` takes.
fn set(v: &Value, organisation: &str) -> String {
    let Some(version) = v["rule_version"].as_i64() else {
        return format!("# the organisation {organisation} has no rules yet; stockwarden rules apply FILE --org {organisation}");
    };
    let head = format!("# organisation {organisation}, version {version}, applied {}\n\n", cell(&v["applied_at"]));
    let mut table = serde_json::Map::new();
    table.insert("rule".to_owned(), without_nulls(&v["rules"]));
    match toml::to_string(&Value::Object(table)) {
        Ok(text) => head + &text,
        // What TOML cannot say is still shown.
        Err(_) => head + &v["rules"].to_string(),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
