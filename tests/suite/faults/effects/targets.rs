//! The five targets, and in front of them, for each node, what goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;

use super::erp::Erp;
use super::front::Front;
use super::post::Post;
use super::script::{Kind, Script};
use crate::effects::email_server::OwnServer;
use crate::effects::harness::TestClock;
use crate::effects::jira_server::{self, JiraServer};
use crate::effects::slack::server::{ALL_SCOPES, CHANNEL, SlackServer, TOKEN};
use crate::effects::transfer_shop::{self, Shopify};

const TICK: Duration = Duration::from_millis(100);
/// How late Jira's index is: usually; and for every fifth issue later than the handler is told, so that some are made twice.
const INDEX_LATE: Duration = Duration::from_millis(500);
const FAR_TOO_LATE: (u64, Duration) = (5, Duration::from_secs(8));
const TRANSFERS_LATE: TimeDelta = TimeDelta::seconds(3);
/// Hits of a page, as of the real ones.
const PAGE: usize = 100;
const DUPLICATE: &str = "stockwarden-duplicate";

/// An effect as its target shows it.
#[derive(Debug, Clone)]
pub struct Effect {
    pub decision: String,
    /// As the ledger would refer to it.
    pub reference: Option<String>,
    /// A duplicate that was found and closed.
    pub closed: bool,
}

pub struct Targets {
    erp: Erp,
    jira: JiraServer,
    mail: OwnServer,
    slack: SlackServer,
    shopify: Shopify,
    pub script: Arc<Script>,
}

impl Targets {
    pub async fn start(seed: u64) -> Targets {
        let clock = TestClock::new();
        let jira = JiraServer::with_late_index(&clock, INDEX_LATE).await;
        (jira.state().later, jira.state().page) = (Some(FAR_TOO_LATE), PAGE);
        let shopify = Shopify::start(&clock, []).await;
        shopify.state().index_lag = TRANSFERS_LATE;
        // It does not know repeats by their client_msg_id: what is not found in its history is there twice.
        let slack = SlackServer::start(false, ALL_SCOPES, []).await;
        slack.show_in_pages_of(PAGE);
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(TICK);
            loop {
                pace.tick().await;
                clock.advance(TICK);
            }
        });
        let (erp, mail) = (Erp::start().await, OwnServer::start().await);
        Targets { erp, jira, mail, slack, shopify, script: Arc::new(Script::new(seed)) }
    }

    /// The handlers of a configuration, but for the addresses.
    pub fn config() -> String {
        format!(
            r##"
[handlers.erp]
kind = "target"
url = "http://127.0.0.1:1/orders"
timeout = "1s"
allow_private_addresses = true
[handlers.jira]
kind = "jira"
base_url = "http://127.0.0.1:1"
email = "{}"
token = {{ env = "JIRA_TOKEN" }}
project = "REP"
index_lag = "1s"
sweep_every = "2s"
timeout = "1s"
allow_private_addresses = true
[handlers.mail]
kind = "email"
smtp_url = "smtp://127.0.0.1:1"
from = "Stockwarden <orders@example.com>"
timeout = "1s"
[handlers.slack]
kind = "slack"
api_url = "http://127.0.0.1:1/api"
token = {{ env = "SLACK_TOKEN" }}
channel = "{CHANNEL}"
timeout = "1s"
allow_private_addresses = true
[handlers.transfer]
kind = "shopify-transfer"
admin_url = "http://127.0.0.1:1/{{shop}}/admin/api/{{version}}/graphql.json"
access_token = {{ env = "SHOPIFY_TOKEN" }}
destination = "gid://shopify/Location/2"
timeout = "1s"
"##,
            jira_server::EMAIL
        )
    }

    /// The environment of a node: its addresses and the secrets.
    pub async fn environment(&self, node: usize) -> Vec<(String, String)> {
        let front = |kind, behind| Front::start(kind, node, behind, self.script.clone());
        let post = format!("127.0.0.1:{}", self.mail.port.trim()).parse().expect("the server's address");
        let url = |handler: &str, key: &str, url: String| (format!("STOCKWARDEN__HANDLERS__{handler}__{key}"), url);
        let secret = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        vec![
            url("ERP", "URL", format!("http://{}/orders", front(Kind::Erp, self.erp.address).await)),
            url("JIRA", "BASE_URL", format!("http://{}", front(Kind::Jira, self.jira.address).await)),
            url("MAIL", "SMTP_URL", format!("smtp://{}", Post::start(node, post, self.script.clone()).await)),
            url("SLACK", "API_URL", format!("http://{}/api", front(Kind::Slack, self.slack.address).await)),
            url(
                "TRANSFER",
                "ADMIN_URL",
                format!(
                    "http://{}/{{shop}}/admin/api/{{version}}/graphql.json",
                    front(Kind::Transfer, self.shopify.address).await
                ),
            ),
            secret("JIRA_TOKEN", jira_server::TOKEN),
            secret("SLACK_TOKEN", TOKEN),
            secret("SHOPIFY_TOKEN", transfer_shop::TOKEN),
        ]
    }

    /// What each target has in the end, in the order in which it came to be.
    pub fn effects(&self) -> BTreeMap<Kind, Vec<Effect>> {
        Kind::ALL.into_iter().map(|kind| (kind, self.effects_of(kind))).collect()
    }

    fn effects_of(&self, kind: Kind) -> Vec<Effect> {
        let effect = |decision: &str, reference: Option<String>| {
            let decision = decision.parse::<uuid::Uuid>().expect("a decision's id").to_string();
            Effect { decision, reference, closed: false }
        };
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        match kind {
            // A repeat under a key is none: it changes nothing at the target.
            Kind::Erp => {
                let of = |(key, _): &(String, u32)| effect(key.split('/').next().unwrap_or_default(), None);
                self.erp.orders().iter().map(of).collect()
            }
            Kind::Jira => {
                let of = |issue: &jira_server::Issue| {
                    let ids = &issue.properties["stockwarden.reorder"];
                    let closed = issue.labels().iter().any(|l| l == DUPLICATE) && issue.status() == "Done";
                    Effect { closed, ..effect(&text(&ids["decision_id"]), Some(issue.id.to_string())) }
                };
                self.jira.issues().iter().map(of).collect()
            }
            Kind::Mail => {
                let mails = self.mail.mails_in_order();
                mails
                    .iter()
                    .map(|mail| effect(header(mail, "X-Stockwarden-Decision"), Some(header(mail, "Message-ID").to_owned())))
                    .collect()
            }
            Kind::Slack => {
                let posted = self.slack.posted();
                let of = |p: &crate::effects::slack::server::Posted| {
                    effect(&text(&p.body["metadata"]["event_payload"]["decision_id"]), Some(format!("{}:{}", p.channel, p.ts)))
                };
                posted.iter().map(of).collect()
            }
            Kind::Transfer => {
                let of = |t: &transfer_shop::Transfer| {
                    let tag = t.tags.iter().find_map(|t| t.strip_prefix("reorder-")).expect("every transfer names its proposal");
                    effect(tag, Some(t.gid.clone()))
                };
                self.shopify.state().transfers.iter().map(of).collect()
            }
        }
    }
}

fn header<'m>(mail: &'m str, name: &str) -> &'m str {
    let line = mail.lines().take_while(|l| !l.is_empty()).find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("a mail without {name}")).trim()
}
