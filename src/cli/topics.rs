//! `topics`: a look into the log.

use serde_json::Value;

use super::output::{cell, table_of};
use super::session::Session;
use super::{Context, DONE, Fault};
use crate::admin::{Command, TailFrom};
use crate::config::TopicsConfig;
use crate::events::record::{Offset, Topic};

/// Records of one answer.
const PAGE: usize = 500;
const WAIT_MS: u64 = 2_000;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List topics: how much they hold, how far their readers are
    List,
    /// Print records of a topic; order holds within a partition, so within a shop
    #[command(after_help = "Examples:\n  stockwarden topics tail facts --follow\n  \
                            stockwarden topics tail decisions --from-beginning --shop my-shop.myshopify.com --json")]
    Tail {
        /// facts, decisions or dead-letters, or the topic's name
        #[arg(default_value = "facts")]
        topic: String,
        /// From the first record that is there; else the last ones
        #[arg(long)]
        from_beginning: bool,
        /// Only of this shop
        #[arg(long, value_name = "DOMAIN")]
        shop: Option<String>,
        /// Only of this type, such as inventory_levels/update; of dead letters the reason
        #[arg(long = "type", value_name = "TYPE")]
        fact: Option<String>,
        /// Go on with what comes, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// How many of the last records
        #[arg(long, short = 'n', default_value_t = 10, conflicts_with = "from_beginning")]
        last: usize,
    },
}

pub async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, Fault> {
    match verb {
        Verb::List => {
            let list = Session::open(context).await?.run(Command::TopicsList).await?;
            context.out.result(&list, |v| {
                let columns = [("TOPIC", "topic"), ("OFFSETS", "offsets"), ("READ BY", "group"), ("LAG", "lag")];
                table_of(&v["topics"], &columns)
            });
        }
        Verb::Tail { topic, from_beginning, shop, fact, follow, last } => {
            let topic = topic_of(&topic, &context.config.log.topics)?;
            let from = if from_beginning { TailFrom::Beginning } else { TailFrom::Last(last) };
            tail(context, topic, from, shop, fact, follow).await?;
        }
    }
    Ok(DONE)
}

fn topic_of(name: &str, names: &TopicsConfig) -> Result<Topic, Fault> {
    let all = [
        ("facts", names.facts.as_str(), Topic::Facts),
        ("decisions", names.decisions.as_str(), Topic::Decisions),
        ("dead-letters", names.dead_letters.as_str(), Topic::DeadLetters),
    ];
    let found = all.iter().find(|(short, named, topic)| [short, named, &topic.default_name()].contains(&&name));
    found.map(|(_, _, topic)| *topic).ok_or_else(|| {
        Fault::new(format!("there is no topic \"{name}\"")).mend("topics are facts, decisions and dead-letters").usage()
    })
}

async fn tail(
    context: &Context<'_>,
    topic: Topic,
    mut from: TailFrom,
    shop: Option<String>,
    fact: Option<String>,
    follow: bool,
) -> Result<(), Fault> {
    let session = Session::open(context).await?;
    loop {
        let going_on = matches!(from, TailFrom::At(_));
        let wait_ms = if follow && going_on { WAIT_MS } else { 0 };
        let page = matches!(from, TailFrom::Last(_));
        let command = Command::TopicsTail { topic, from, limit: PAGE, wait_ms, shop: shop.clone(), fact: fact.clone() };
        let ask = session.run(command);
        let answer = tokio::select! {
            answer = ask => answer?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let records = answer["records"].as_array().map_or(&[][..], Vec::as_slice);
        for record in records {
            context.out.result(record, line);
        }
        if !follow && (page || records.is_empty()) {
            return Ok(());
        }
        let next: Option<Vec<Offset>> = serde_json::from_value(answer["next"].clone()).ok();
        from = TailFrom::At(next.ok_or_else(|| Fault::new("the answer does not say where to go on"))?);
    }
}

fn line(r: &Value) -> String {
    format!("{}  {}  {}  {}  {}", cell(&r["position"]), cell(&r["append_time"]), cell(&r["key"]), cell(&r["type"]), r["value"])
}
