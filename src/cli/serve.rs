//! `serve`: a node.

use super::{Context, Fault};
use crate::config::NodeRole;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  stockwarden serve\n  stockwarden serve --config node-a.toml --roles ingest,api")]
pub struct Args {
    /// What this node does: ingest, shards, handlers, api; node.roles in the configuration, all by default
    #[arg(long, value_delimiter = ',', value_parser = role, value_name = "ROLE,…")]
    roles: Option<Vec<NodeRole>>,
}

fn role(text: &str) -> Result<NodeRole, String> {
    NodeRole::parse(text.trim()).ok_or_else(|| "a role is ingest, shards, handlers or api".to_owned())
}

pub fn run(mut context: Context<'_>, args: &Args) -> Result<(), Fault> {
    if let Some(roles) = &args.roles {
        let mut roles = roles.clone();
        roles.sort_unstable();
        roles.dedup();
        context.config.node.roles = roles;
    }
    context.world.serve(context.config, context.env)
}
