//! An installation in a temporary folder with its targets.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stockwarden::sim::shopify_signature;

use crate::effects::email_server::OwnServer;
use crate::effects::harness::TestClock;
use crate::effects::jira_server::{self, JiraServer};
use crate::effects::slack::server::{self as slack_server, CHANNEL, SlackServer};
use crate::effects::transfer_shop::{self, Shopify};
use crate::engine::harness::{level, product};
use crate::support::stand_in::StandIn;
use crate::system::node::{Client, MASTER_KEY, Node, command};

pub const SHOP: &str = "demo-outdoor.myshopify.com";
const SHOP_SECRET: &str = "shpss_0123456789";
pub const JIRA_SECRET: &str = "jira-webhook-secret";
pub const SLACK_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// All scopes that a handler's app may have, by the methods that they allow.
const SLACK_SCOPES: &[&str] = &["conversations.history", "conversations.replies", "conversations.list", "conversations.info"];

pub struct Site {
    pub dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    pub jira: JiraServer,
    pub slack: SlackServer,
    pub shopify: Shopify,
    pub erp: StandIn,
    pub mail: OwnServer,
}

impl Site {
    pub async fn new() -> Site {
        Site::with_mail(OwnServer::start().await).await
    }

    pub async fn with_mail(mail: OwnServer) -> Site {
        let env = [
            ("STOCKWARDEN_MASTER_KEY", MASTER_KEY),
            ("SHOP_SECRET", SHOP_SECRET),
            ("SHOP_TOKEN", transfer_shop::TOKEN),
            ("JIRA_TOKEN", jira_server::TOKEN),
            ("JIRA_SECRET", JIRA_SECRET),
            ("SLACK_TOKEN", slack_server::TOKEN),
            ("SLACK_SECRET", SLACK_SECRET),
            ("SMTP_PASSWORD", "pa55word"),
        ];
        Site {
            dir: tempfile::tempdir().expect("a folder"),
            env: env.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            jira: JiraServer::start().await,
            slack: SlackServer::start(true, SLACK_SCOPES, []).await,
            shopify: Shopify::start(&TestClock::new(), []).await,
            erp: StandIn::start([]).await,
            mail,
        }
    }

    /// Secrets that must never be seen.
    pub fn secrets(&self) -> Vec<&str> {
        let secret = |name: &str| ["KEY", "SECRET", "TOKEN", "PASSWORD"].iter().any(|end| name.ends_with(end));
        self.env.iter().filter(|(name, _)| secret(name)).map(|(_, v)| v.as_str()).collect()
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// All kinds, with what they need and no more.
    pub fn handlers(&self) -> String {
        format!(
            "[handlers.jira]\nkind = \"jira\"\nbase_url = \"http://{}\"\nemail = \"{}\"\ntoken = {{ env = \"JIRA_TOKEN\" }}\n\
             webhook_secret = {{ env = \"JIRA_SECRET\" }}\nproject = \"REP\"\nallow_private_addresses = true\n\
             transitions = {{ acknowledged = \"21\" }}\n\
             [handlers.slack]\nkind = \"slack\"\napi_url = \"{}\"\ntoken = {{ env = \"SLACK_TOKEN\" }}\n\
             signing_secret = {{ env = \"SLACK_SECRET\" }}\nchannel = \"{CHANNEL}\"\nallow_private_addresses = true\n\
             [handlers.mail]\nkind = \"email\"\nsmtp_url = \"smtp://127.0.0.1:{}\"\nfrom = \"Stockwarden <orders@example.com>\"\n\
             [handlers.transfer]\nkind = \"shopify-transfer\"\nadmin_url = \"{}\"\n\
             [handlers.erp]\nkind = \"target\"\nurl = \"{}\"\nallow_private_addresses = true\n",
            self.jira.address,
            jira_server::EMAIL,
            self.slack.url(),
            self.mail.port,
            self.shopify.admin_url(),
            self.erp.url(),
        )
    }

    pub fn configure(&self, handlers: &str) {
        let config = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://stockwarden.example.com\"\n[log]\npartitions = 2\n{handlers}"
        );
        std::fs::write(self.dir.path().join("stockwarden.toml"), config).expect("the configuration");
    }

    fn command(&self, args: &[&str]) -> Command {
        command(self.dir.path(), &self.env, args)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Exit code and JSON.
    pub fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.run(&[args, &["--json"]].concat());
        let told = || String::from_utf8_lossy(&output.stderr).into_owned();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", told()));
        (output.status.code().expect("it ended by itself"), value)
    }

    /// Of a command that has to succeed.
    pub fn done(&self, args: &[&str]) -> Value {
        let (code, value) = self.json(args);
        assert_eq!(code, 0, "{args:?}: {value}");
        value
    }

    pub fn register_shop(&self) {
        self.done(&["shop", "add", SHOP, "--webhook-secret-env", "SHOP_SECRET", "--access-token-env", "SHOP_TOKEN"]);
    }

    /// One rule, below 10 units, with these routes.
    pub fn apply_rules(&self, routes: &str) {
        let rule = format!(
            "[[rule]]\nid = \"low\"\nscope = \"location\"\ntrigger = {{ kind = \"constant\", threshold = 10 }}\n\
             quantity = {{ kind = \"up-to\", level = 60 }}\nroutes = [{routes}]\n"
        );
        std::fs::write(self.dir.path().join("rules.toml"), rule).expect("the rules");
        self.done(&["rules", "apply", "rules.toml"]);
    }

    pub async fn start(&self) -> (Node, Client, String) {
        let node = Node::try_start(self.command(&["serve"]), self.dir.path().join("node.log"))
            .unwrap_or_else(|told| panic!("the node ended early: {told}"));
        let token = self.done(&["token", "create", "--role", "staff"])["token"].as_str().expect("a token").to_owned();
        let client = Client::new(&node, &token);
        client.ready().await;
        (node, client, token)
    }

    /// A variant sinks below the rule's threshold; the reorder that comes of it.
    pub async fn sinks(&self, client: &Client, variant: u64) -> Value {
        let mut position = String::new();
        for (n, (topic, body)) in [
            ("products/update", product(variant)),
            ("inventory_levels/update", level(variant, 20, 1)),
            ("inventory_levels/update", level(variant, 4, 2)),
        ]
        .into_iter()
        .enumerate()
        {
            let headers = [
                ("x-shopify-topic", topic.to_owned()),
                ("x-shopify-shop-domain", SHOP.to_owned()),
                ("x-shopify-webhook-id", format!("w-{variant}-{n}")),
                ("x-shopify-hmac-sha256", shopify_signature(SHOP_SECRET, body.as_bytes())),
            ];
            let headers = headers.map(|(n, v)| (n.to_owned(), v)).to_vec();
            let (status, answer) = client.post("/webhooks/shopify", headers, body.into_bytes()).await;
            assert_eq!(status, 200, "{answer}");
            position = answer["position"].as_str().expect("a position").to_owned();
        }
        let (status, list) = client.get(&format!("/v1/reorders?after={position}")).await;
        assert_eq!(status, 200, "{list}");
        let variant = json!(variant.to_string());
        let found = list["reorders"].as_array().expect("a list").iter().find(|r| r["variant_id"] == variant);
        found.unwrap_or_else(|| panic!("no reorder of variant {variant}: {list}")).clone()
    }
}

pub fn path_of(reorder: &Value) -> String {
    format!("/v1/reorders/{}", reorder["reorder_id"].as_str().expect("an id"))
}

/// Waits until the reorder is as wanted.
pub async fn until_shown(client: &Client, reorder: &Value, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, shown) = client.get(&path_of(reorder)).await;
        assert_eq!(status, 200, "{shown}");
        if holds(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "in vain: {what}: {shown:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The route of that number.
pub fn route(reorder: &Value, n: usize) -> Value {
    let id = json!(n.to_string());
    let routes = reorder["routes"].as_array().expect("routes");
    routes.iter().find(|r| r["route_id"] == id).unwrap_or_else(|| panic!("no route {n}: {reorder:#}")).clone()
}

pub fn bearer(token: &str) -> Vec<(String, String)> {
    vec![("authorization".to_owned(), format!("Bearer {token}"))]
}
