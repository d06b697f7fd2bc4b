//! `token`: tokens of the HTTP API.

use serde_json::Value;

use super::output::{cell, table_of};
use super::session::Session;
use super::{Context, DONE, Fault};
use crate::admin::Command;
use crate::ports::registry::Role;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Create a token; it is shown once and kept as a hash
    #[command(after_help = "Examples:\n  stockwarden token create --role reader\n  \
                            TOKEN=$(stockwarden token create --role staff --org acme --shop my-shop.myshopify.com)")]
    Create {
        #[arg(long, value_parser = role, value_name = "reader|staff|auditor|admin|ingest")]
        role: Role,
        #[arg(long, default_value = "default", value_name = "NAME")]
        org: String,
        /// Only for this shop; may be given several times
        #[arg(long, value_name = "DOMAIN")]
        shop: Vec<String>,
    },
    /// List tokens, without the tokens themselves
    List,
    /// Revoke a token
    Revoke {
        /// Its id, as token list shows it
        id: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "a role is reader, staff, auditor, admin or ingest".to_owned())
}

pub async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    let session = Session::open(context).await?;
    match verb {
        Verb::Create { role, org, shop } => {
            let made = session.run(Command::TokenCreate { organisation: org, role, shops: shop }).await?;
            // The token alone on stdout, so that a shell can take it.
            context.out.result(&made, |v| cell(&v["token"]));
            context.out.remark(&told(&made));
        }
        Verb::List => {
            let list = session.run(Command::TokenList).await?;
            context.out.result(&list, |v| {
                let columns = [
                    ("ID", "id"),
                    ("ORGANISATION", "organisation"),
                    ("ROLE", "role"),
                    ("SHOPS", "shops"),
                    ("CREATED", "created_at"),
                    ("REVOKED", "revoked_at"),
                ];
                table_of(&v["tokens"], &columns)
            });
        }
        Verb::Revoke { id } => {
            let done = session.run(Command::TokenRevoke { id }).await?;
            context.out.result(&done, |v| match v["already"].as_bool() {
                Some(true) => format!("the token {} was revoked before", cell(&v["id"])),
                _ => format!("revoked the token {}; nodes refuse it from now on", cell(&v["id"])),
            });
        }
    }
    Ok(DONE)
}

fn told(v: &Value) -> String {
    let shops = match v["shops"].as_array() {
        Some(list) if !list.is_empty() => cell(&v["shops"]),
        _ => "all its shops".to_owned(),
    };
    format!(
        "token {}: {} in the organisation {}, for {shops}; it is shown only now\nsend it as: Authorization: Bearer TOKEN",
        cell(&v["id"]),
        cell(&v["role"]),
        cell(&v["organisation"]),
    )
}
