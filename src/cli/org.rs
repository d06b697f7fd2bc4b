//! `org`: organisations.

use super::output::table_of;
use super::session::Session;
use super::{Context, DONE, Fault};
use crate::admin::Command;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Add an organisation; adding it again changes nothing
    #[command(after_help = "Example:\n  stockwarden org add acme")]
    Add { name: String },
    /// List organisations
    List,
}

pub async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    let session = Session::open(context).await?;
    match verb {
        Verb::Add { name } => {
            let done = session.run(Command::OrgAdd { name: name.clone() }).await?;
            context.out.result(&done, |v| match v["added"].as_bool() {
                Some(true) => format!("added the organisation {name}; its first shop: stockwarden shop add DOMAIN --org {name}"),
                _ => format!("the organisation {name} is there already"),
            });
        }
        Verb::List => {
            let list = session.run(Command::OrgList).await?;
            context.out.result(&list, |v| table_of(&v["organisations"], &[("ORGANISATION", "organisation"), ("SHOPS", "shops")]));
        }
    }
    Ok(DONE)
}
