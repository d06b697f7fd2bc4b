//! Acknowledged anywhere is acknowledged everywhere: real handlers, real channels' protocols, and the other channels show it within 5 s.

use std::time::{Duration, Instant};

use chrono::Utc;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::site::{JIRA_SECRET, SLACK_SECRET, Site, path_of, until_shown};
use crate::effects::slack::server::Posted;
use crate::system::node::{Client, Node};

/// The promise.
const WITHIN: Duration = Duration::from_secs(5);
/// For a machine that is kept busy by others.
const WITHIN_IF_BUSY: Duration = Duration::from_secs(20);
const PUBLIC: &str = "https://stockwarden.example.com/links/";

/// A reorder that all three channels have told.
struct Told {
    reorder: Value,
    /// Where Slack has it.
    ts: String,
    /// Jira's id of it.
    issue: u64,
    /// Message-ID of its mail.
    mail: String,
    /// The token of the mail's link.
    link: String,
}

impl Told {
    async fn new(site: &Site, client: &Client, variant: u64) -> Told {
        let reorder = site.sinks(client, variant).await;
        let done = |r: &Value| r["routes"].as_array().is_some_and(|all| all.iter().all(|r| r["state"] == "done"));
        let reorder = until_shown(client, &reorder, "all channels were told", done).await;
        let reference = |handler: &str| {
            let routes = reorder["routes"].as_array().expect("routes");
            let route = routes.iter().find(|r| r["handler"] == handler).expect("the route");
            route["reference"].as_str().expect("a reference").to_owned()
        };
        let ts = reference("slack").split_once(':').expect("channel and ts").1.to_owned();
        let (issue, mail) = (reference("jira").parse().expect("an id"), reference("mail"));
        let text = mails(site).into_iter().find(|m| m.contains(&format!("Message-ID: {mail}"))).expect("the mail");
        let link = text.split(PUBLIC).nth(1).expect("a link");
        let link = link.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).next().expect("a token").to_owned();
        Told { reorder, ts, issue, mail, link }
    }

    fn message(&self, site: &Site) -> Posted {
        site.slack.posted().into_iter().find(|p| p.ts == self.ts).expect("the message")
    }

    fn edited(&self, site: &Site) -> bool {
        self.message(site).edits.iter().any(|edit| edit.to_string().to_lowercase().contains("acknowledged"))
    }

    /// A comment that says so, and the configured transition.
    fn moved_in_jira(&self, site: &Site) -> bool {
        let issue = site.jira.issues().into_iter().find(|i| i.id == self.issue).expect("the issue");
        issue.status() == "In Progress" && issue.comments.iter().any(|c| c.to_string().contains("Acknowledged by"))
    }

    /// In the thread of its mail.
    fn answered_by_mail(&self, site: &Site) -> bool {
        let answers = format!("In-Reply-To: {}", self.mail);
        mails(site).iter().any(|m| m.contains(&answers) && m.contains("Acknowledged by"))
    }
}

/// Decoded as far as their links and Message-IDs need it.
fn mails(site: &Site) -> Vec<String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace("=\r\n", "").replace("=3D", "=");
    site.mail.mails().into_iter().map(text).collect()
}

fn hmac(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    parts.iter().for_each(|part| mac.update(part));
    hex::encode(mac.finalize().into_bytes())
}

fn headers<const N: usize>(of: [(&str, String); N]) -> Vec<(String, String)> {
    of.map(|(n, v)| (n.to_owned(), v)).to_vec()
}

/// What Slack posts when somebody presses the button that the message has.
async fn press(client: &Client, message: &Posted) {
    let fixture: Value = serde_json::from_str(include_str!("../../fixtures/slack/block_actions.json")).expect("JSON");
    let mut payload = fixture["payload_decoded"].clone();
    let blocks = message.body["blocks"].as_array().expect("blocks");
    let buttons = blocks.iter().find(|b| b["type"] == "actions").expect("buttons")["elements"].as_array().expect("a list");
    let mut button = buttons.iter().find(|b| b["action_id"] == "reorder_ack").expect("the button").clone();
    button["action_ts"] = json!("1795270600.123456");
    payload["actions"] = json!([button]);
    let mut form: reqwest::Url = "http://x/".parse().expect("a URL");
    form.query_pairs_mut().append_pair("payload", &payload.to_string());
    let body = form.query().expect("a form").as_bytes().to_vec();
    let at = Utc::now().timestamp().to_string();
    let signature = format!("v0={}", hmac(SLACK_SECRET, &[b"v0:", at.as_bytes(), b":", &body]));
    let headers = headers([
        ("content-type", "application/x-www-form-urlencoded".to_owned()),
        ("x-slack-request-timestamp", at),
        ("x-slack-signature", signature),
    ]);
    let (status, answer) = client.post("/webhooks/slack", headers, body).await;
    assert_eq!(status, 200, "{answer}");
}

/// What Jira posts when somebody drags the issue to *In Progress*.
async fn drag(client: &Client, issue: u64) {
    let mut event: Value = serde_json::from_str(include_str!("../../fixtures/jira/webhook_issue_updated.json")).expect("JSON");
    event["issue"]["id"] = json!(issue.to_string());
    event["issue"]["fields"]["status"] =
        json!({"id": "10001", "name": "In Progress", "statusCategory": {"key": "indeterminate"}});
    event["changelog"]["items"] =
        json!([{"field": "status", "from": "10000", "fromString": "To Do", "to": "10001", "toString": "In Progress"}]);
    let body = event.to_string().into_bytes();
    let signature = format!("sha256={}", hmac(JIRA_SECRET, &[&body]));
    let headers = headers([("content-type", "application/json".to_owned()), ("x-hub-signature", signature)]);
    let (status, answer) = client.post("/webhooks/jira", headers, body).await;
    assert_eq!(status, 200, "{answer}");
}

/// The vendor follows the link and presses the button on its page.
async fn follow(node: &Node, link: &str) {
    let url = format!("{}/links/{link}", node.base);
    let page = reqwest::get(&url).await.expect("an answer");
    assert_eq!(page.status().as_u16(), 200);
    let text = page.text().await.expect("text");
    assert!(text.contains("<form method=\"post\"><button type=\"submit\">Acknowledge</button>"), "{text}");
    let done = reqwest::Client::new().post(&url).send().await.expect("an answer");
    assert_eq!(done.status().as_u16(), 200);
    assert!(done.text().await.expect("text").contains("It is acknowledged now."));
}

/// How long, and why it may take so long: runnable processes for each core.
fn limit() -> (Duration, String) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let busy = load > 2.0 * cores;
    let told = format!("load {load} on {cores} cores");
    if busy { (WITHIN_IF_BUSY, format!("{told}: busy with other things")) } else { (WITHIN, told) }
}

/// Its name, and whether it shows it.
type Channel<'c> = (&'c str, &'c dyn Fn() -> bool);

/// Waits until every channel shows it, and says when each did.
async fn shown(client: &Client, told: &Told, since: Instant, whence: &str, channels: &[Channel<'_>]) -> Vec<String> {
    let mut times = vec![None; channels.len()];
    loop {
        for ((_, shows), time) in channels.iter().zip(&mut times) {
            if time.is_none() && shows() {
                *time = Some(since.elapsed());
            }
        }
        let said: Vec<String> = channels
            .iter()
            .zip(&times)
            .map(|((name, _), time)| time.map_or(format!("{name} not yet"), |t| format!("{name} after {} ms", t.as_millis())))
            .collect();
        if times.iter().all(Option::is_some) {
            return said;
        }
        let (limit, load) = limit();
        if since.elapsed() >= limit {
            let (_, reorder) = client.get(&path_of(&told.reorder)).await;
            panic!("acknowledged in {whence}, not shown within {limit:?} ({load}): {said:?}\n{reorder:#}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_in_slack_by_mail_or_in_jira_the_other_channels_show_it_within_five_seconds() {
    let site = Site::new().await;
    site.configure(&site.handlers());
    site.register_shop();
    site.apply_rules(r#"{ to = "jira" }, { to = "slack" }, { to = "mail", address = "orders@supplier.example" }"#);
    let (node, client, _) = site.start().await;
    let mut times = Vec::new();
    let acknowledged = async |told: &Told, via: &str| {
        let (_, shown) = client.get(&path_of(&told.reorder)).await;
        assert_eq!((&shown["state"], &shown["changed_by"]["via"]), (&json!("acknowledged"), &json!(via)), "{shown:#}");
    };

    let told = Told::new(&site, &client, 1).await;
    let since = Instant::now();
    press(&client, &told.message(&site)).await;
    let channels: [Channel<'_>; 3] = [
        ("Jira", &|| told.moved_in_jira(&site)),
        ("mail", &|| told.answered_by_mail(&site)),
        ("Slack itself", &|| told.edited(&site)),
    ];
    times.push(("Slack", shown(&client, &told, since, "Slack", &channels).await));
    acknowledged(&told, "slack").await;

    let told = Told::new(&site, &client, 2).await;
    let since = Instant::now();
    follow(&node, &told.link).await;
    let channels: [Channel<'_>; 2] = [("Slack", &|| told.edited(&site)), ("Jira", &|| told.moved_in_jira(&site))];
    times.push(("mail", shown(&client, &told, since, "mail", &channels).await));
    acknowledged(&told, "mail").await;

    let told = Told::new(&site, &client, 3).await;
    let since = Instant::now();
    drag(&client, told.issue).await;
    let channels: [Channel<'_>; 2] = [("Slack", &|| told.edited(&site)), ("mail", &|| told.answered_by_mail(&site))];
    times.push(("Jira", shown(&client, &told, since, "Jira", &channels).await));
    acknowledged(&told, "jira").await;

    eprintln!("acknowledged in → shown in: {times:?}");
    node.stop();
    // Three messages, issues and order mails in all: what was shown was no second proposal.
    let orders = mails(&site).iter().filter(|m| !m.contains("In-Reply-To: ")).count();
    assert_eq!((site.slack.posted().len(), site.jira.issues().len(), orders), (3, 3, 3), "{times:?}");
}
