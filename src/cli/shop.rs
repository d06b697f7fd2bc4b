//! `shop`: registration of shops. Secrets come from variables, never from the command line, which others can read.

use serde_json::Value;

use super::output::{cell, table_of};
use super::session::Session;
use super::{Context, DONE, Fault};
use crate::admin::{Command, ShopAdd};
use crate::config::{Env, Secret, SecretRef};
use crate::ports::registry::ShopKind;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Register a shop, or change its registration; a new webhook secret rotates, the previous one stays valid
    #[command(after_help = "Examples:\n  SECRET=… stockwarden shop add my-shop.myshopify.com --webhook-secret-env SECRET\n  \
                            stockwarden shop add berlin-mitte --kind store --org acme")]
    Add {
        /// The shop's domain; of a physical store its name
        #[arg(value_name = "DOMAIN")]
        shop: String,
        #[arg(long, default_value = "shopify", value_parser = kind, value_name = "shopify|store|generic")]
        kind: ShopKind,
        /// The organisation that owns it; of a new shop "default"
        #[arg(long, value_name = "NAME")]
        org: Option<String>,
        /// The variable that holds the secret that its webhooks are signed with
        #[arg(long, value_name = "NAME")]
        webhook_secret_env: Option<String>,
        /// The variable that holds its Admin API access token
        #[arg(long, value_name = "NAME")]
        access_token_env: Option<String>,
        /// Take it over from another organisation
        #[arg(long = "move")]
        move_here: bool,
    },
    /// List shops
    List {
        #[arg(long, value_name = "NAME")]
        org: Option<String>,
    },
    /// Remove a shop: its webhooks are refused from now on; its history stays in the log
    Remove {
        #[arg(value_name = "DOMAIN")]
        shop: String,
    },
}

fn kind(text: &str) -> Result<ShopKind, String> {
    ShopKind::parse(text).ok_or_else(|| "a shop's kind is shopify, store or generic".to_owned())
}

pub async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    match verb {
        Verb::Add { shop, kind, org, webhook_secret_env, access_token_env, move_here } => {
            let webhook_secret = secret("--webhook-secret-env", webhook_secret_env, &context.env)?;
            let access_token = secret("--access-token-env", access_token_env, &context.env)?;
            let add = ShopAdd { shop, organisation: org, kind, webhook_secret, access_token, move_here };
            let done = Session::open(context).await?.run(Command::ShopAdd(add)).await?;
            context.out.result(&done, |v| added(v, kind));
        }
        Verb::List { org } => {
            let list = Session::open(context).await?.run(Command::ShopList { organisation: org }).await?;
            context.out.result(&list, listed);
        }
        Verb::Remove { shop } => {
            let done = Session::open(context).await?.run(Command::ShopRemove { shop }).await?;
            context.out.result(&done, |v| {
                format!("removed {}, as fact {}; its history stays in the log", cell(&v["shop"]), cell(&v["position"]))
            });
        }
    }
    Ok(DONE)
}

fn secret(flag: &str, variable: Option<String>, env: &Env) -> Result<Option<Secret>, Fault> {
    let Some(name) = variable else { return Ok(None) };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !name.bytes().all(legal) || name.as_bytes().first().is_none_or(u8::is_ascii_digit) {
        // It is most likely the secret itself, so it is not repeated.
        return Err(Fault::new(format!("{flag} takes the name of an environment variable, not the secret"))
            .mend(format!("put the secret into a variable and name it: SECRET=… stockwarden shop add … {flag} SECRET"))
            .usage());
    }
    SecretRef::Env(name).resolve(flag, env).map(Some).map_err(|e| Fault::new(e.to_string()))
}

fn added(v: &Value, kind: ShopKind) -> String {
    let (shop, organisation) = (cell(&v["shop"]), cell(&v["organisation"]));
    let mut text = match (v["added"].as_bool(), v["moved_from"].as_str()) {
        (Some(true), _) => format!("registered {shop} in the organisation {organisation}"),
        (_, Some(from)) => format!("moved {shop} from the organisation {from} to {organisation}"),
        _ => format!("{shop} stays registered in the organisation {organisation}"),
    };
    text.push_str(&format!(", as fact {}", cell(&v["position"])));
    if v["webhook_secret"] == "rotated" {
        text.push_str("\nthe new webhook secret holds, the previous one is still accepted");
    }
    match kind {
        ShopKind::Shopify if v["webhook_secrets"] == 0 => {
            text.push_str("\nit has no webhook secret yet, so its webhooks are refused; add one with --webhook-secret-env NAME");
        }
        ShopKind::Shopify => text.push_str("\nits webhooks go to POST /webhooks/shopify"),
        ShopKind::Store | ShopKind::Generic => text.push_str(&format!(
            "\nits events go to POST /v1/stores/…/events with a token: stockwarden token create --role ingest --shop {shop}"
        )),
    }
    text
}

fn listed(v: &Value) -> String {
    if v["shops"].as_array().is_none_or(Vec::is_empty) {
        return "no shop is registered; add one with: stockwarden shop add DOMAIN --webhook-secret-env NAME".to_owned();
    }
    table_of(
        &v["shops"],
        &[
            ("SHOP", "shop"),
            ("ORGANISATION", "organisation"),
            ("KIND", "kind"),
            ("WEBHOOK SECRETS", "webhook_secrets"),
            ("ACCESS TOKEN", "access_token"),
            ("ADDED", "added_at"),
        ],
    )
}
