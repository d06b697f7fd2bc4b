//! `dead-letters`: what could not be understood, and effects that failed for good.

use serde_json::Value;

use super::output::{cell, table_of};
use super::session::Session;
use super::{Context, DONE, FAILED, Fault};
use crate::admin::{Command, RetrySelection};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List the newest
    List {
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
        /// Only of this shop
        #[arg(long, value_name = "DOMAIN")]
        shop: Option<String>,
        /// Only with this reason, such as wrong_type
        #[arg(long)]
        reason: Option<String>,
    },
    /// Show one with its bytes
    Show {
        /// As list shows it, such as 0:7; of an effect DECISION/ROUTE
        position: String,
    },
    /// Append the original records to stock-facts again, or send failed effects again, after the cause is mended
    #[command(after_help = "Examples:\n  stockwarden dead-letters retry 0:7 3:2\n  \
                            stockwarden dead-letters retry --all --reason newer_version\n  \
                            stockwarden dead-letters retry --effects --handler jira")]
    Retry {
        /// Positions of records, or effects as DECISION/ROUTE
        #[arg(required_unless_present_any = ["all", "effects"], conflicts_with_all = ["all", "effects"])]
        positions: Vec<String>,
        /// All records
        #[arg(long, conflicts_with = "effects")]
        all: bool,
        /// All effects that failed
        #[arg(long)]
        effects: bool,
        /// Of the effects only those of this handler
        #[arg(long, requires = "effects", value_name = "NAME")]
        handler: Option<String>,
        /// Of all only those with this reason
        #[arg(long, requires = "all")]
        reason: Option<String>,
    },
}

pub async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    let session = Session::open(context).await?;
    match verb {
        Verb::List { limit, shop, reason } => {
            let list = session.run(Command::DeadLettersList { limit, shop, reason }).await?;
            context.out.result(&list, listed);
        }
        Verb::Show { position } => {
            let shown = session.run(Command::DeadLettersShow { position }).await?;
            context.out.result(&shown, |v| serde_json::to_string_pretty(v).unwrap_or_else(|_| v.to_string()));
        }
        Verb::Retry { positions, reason, effects, handler, .. } => {
            let selection = match positions.is_empty() {
                true if effects => RetrySelection::Effects { handler },
                true => RetrySelection::All { reason },
                false => RetrySelection::Positions(positions),
            };
            let done = session.run(Command::DeadLettersRetry(selection)).await?;
            context.out.result(&done, retried);
            // All that was asked for was skipped: that is not what was wanted.
            let none = |key: &str| done[key].as_array().is_none_or(Vec::is_empty);
            if none("retried") && !none("skipped") {
                return Ok(FAILED);
            }
        }
    }
    Ok(DONE)
}

fn listed(v: &Value) -> String {
    let letters = letters_listed(v);
    if v["failed_effects"].as_array().is_none_or(Vec::is_empty) {
        return letters;
    }
    let effects = table_of(
        &v["failed_effects"],
        &[("EFFECT", "effect"), ("AT", "at"), ("KEY", "key"), ("HANDLER", "handler"), ("REASON", "reason")],
    );
    format!("{letters}\n\nEffects that failed; stockwarden dead-letters retry EFFECT sends one again:\n{effects}")
}

fn letters_listed(v: &Value) -> String {
    let shown = v["dead_letters"].as_array().map_or(0, Vec::len);
    if shown == 0 {
        return "no dead letters".to_owned();
    }
    let table = table_of(
        &v["dead_letters"],
        &[("POSITION", "position"), ("AT", "at"), ("KEY", "key"), ("REASON", "reason"), ("MESSAGE", "message")],
    );
    format!(
        "{table}\n{shown} of {} shown; stockwarden dead-letters show POSITION has the bytes, retry POSITION tries again",
        v["total"]
    )
}

fn retried(v: &Value) -> String {
    let each = |key: &str| v[key].as_array().cloned().unwrap_or_default();
    let mut lines: Vec<String> = each("retried").iter().map(again).collect();
    lines.extend(each("skipped").iter().map(|r| format!("{} stays: {}", cell(named(r)), cell(&r["reason"]))));
    lines.push(match each("retried").len() {
        0 => "nothing was tried again".to_owned(),
        n => format!("{n} tried again; what still cannot be read comes back as a new dead letter"),
    });
    lines.join("\n")
}

/// The position of a record, or an effect.
fn named(r: &Value) -> &Value {
    r.get("position").unwrap_or(&r["effect"])
}

fn again(r: &Value) -> String {
    match r.get("effect") {
        Some(effect) => format!("{} is sent again", cell(effect)),
        None => format!("{} is now fact {}", cell(&r["position"]), cell(&r["fact"])),
    }
}
