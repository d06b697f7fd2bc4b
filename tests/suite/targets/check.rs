//! `stockwarden check` asks the targets of all handlers, and has no effect there.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::{SHOP, Site};
use crate::effects::email_server::OwnServer;
use crate::effects::transfer_shop;

const ROUTES: &str = r##"{ to = "jira" }, { to = "jira", project = "OPS", issue_type = "Bug" }, { to = "slack", channel = "#replenishment" },
    { to = "slack" }, { to = "mail", address = "orders@supplier.example" }, { to = "transfer", origin = 1 }, { to = "erp" }"##;

impl Site {
    /// Exit code and findings of `check`. Nothing that it prints holds a secret.
    fn check(&self, more: &[&str]) -> (i32, Vec<Value>) {
        let plain = format!("{:?}", self.run(&[&["check"], more].concat()));
        let (code, found) = self.check_once(more);
        for secret in self.secrets() {
            assert!(!plain.contains(secret) && !format!("{found:?}").contains(secret), "{secret} in {plain}");
        }
        (code, found)
    }

    fn check_once(&self, more: &[&str]) -> (i32, Vec<Value>) {
        let (code, value) = self.json(&[&["check"], more].concat());
        assert_eq!(value["ok"] == true, code == 0, "{value:#}");
        (code, value["checks"].as_array().expect("a list").clone())
    }

    fn nothing_happened(&self) {
        assert!(self.jira.issues().is_empty() && self.slack.posted().is_empty() && self.mail.mails().is_empty());
        assert_eq!(self.shopify.counts().0, 0, "mutations");
        assert!(self.erp.requests().is_empty(), "{:?}", self.erp.requests());
        let seen = self.jira.state().seen.clone();
        assert!(seen.iter().all(|request| request.starts_with("GET ")), "{seen:?}");
    }
}

/// The finding about `what`.
fn finding<'f>(found: &'f [Value], what: &str) -> &'f Value {
    found.iter().find(|f| f["what"] == what).unwrap_or_else(|| panic!("nothing about {what}: {found:#?}"))
}

fn is(found: &[Value], what: &str, result: &str, detail: &str, mend: &str) {
    let finding = finding(found, what);
    let holds = |key: &str, part: &str| finding[key].as_str().unwrap_or_default().contains(part);
    assert!(finding["result"] == result && holds("detail", detail) && holds("mend", mend), "{what}: {finding:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_is_well_each_target_says_so_with_a_node_and_without_and_nothing_happens_there() {
    let site = Site::new().await;
    site.configure(&site.handlers());
    site.jira.state().more_projects = vec!["OPS"];
    site.register_shop();
    site.apply_rules(ROUTES);
    let look = || {
        let (code, found) = site.check(&[]);
        for (what, detail) in [
            ("jira: account", "Stockwarden bot"),
            ("jira: project REP", "the issue type Task"),
            ("jira: project OPS", "the issue type Bug"),
            ("slack: token", "stockwarden of Acme"),
            ("slack: channel #replenishment", "is there"),
            ("slack: channel C0123456789", "is there"),
            (&format!("mail: mail server 127.0.0.1:{}", site.mail.port), "not encrypted, without a login"),
            ("transfer: shops", "1 take the token"),
            ("transfer: location 1", SHOP),
            ("erp: connection to 127.0.0.1", "nothing was sent"),
        ] {
            is(&found, what, "ok", detail, "");
        }
        assert_eq!(code, 0, "{found:#?}");
        found
    };
    assert!(look().iter().all(|f| f["what"] != "node"));
    let (node, ..) = site.start().await;
    assert!(look().iter().any(|f| f["what"] == "node"), "the node is asked, which has the shops' tokens");
    node.stop();
    site.nothing_happened();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_routes_name_and_targets_have_not_is_told_with_what_to_mend() {
    let site = Site::new().await;
    site.configure(&site.handlers());
    site.register_shop();
    site.slack.grant("chat:write,channels:read,channels:history");
    site.apply_rules(
        r##"{ to = "jira", project = "NOPE" }, { to = "jira", issue_type = "Epos" }, { to = "jira", project = "../x" },
           { to = "slack", channel = "#nowhere" }, { to = "slack", channel = "#attic" }, { to = "slack", channel = "#general" },
           { to = "slack", channel = "C0404040404" }, { to = "mail" }, { to = "transfer", origin = 2, destination = 3 }"##,
    );
    let (code, found) = site.check(&[]);
    assert_eq!(code, 1);
    is(&found, "jira: account", "ok", "", "");
    is(&found, "jira: project NOPE", "PROBLEM", "No project could be found", "the routes of the rule \"low\"");
    is(&found, "jira: issue type Epos", "PROBLEM", "it has: Task, Bug", "correct issue_type");
    is(&found, "jira: project ../x", "PROBLEM", "neither a project's key", "correct project");
    is(&found, "slack: channel #nowhere", "PROBLEM", "channel_not_found", "the routes of the rule \"low\"");
    is(&found, "slack: channel #attic", "PROBLEM", "is_archived", "unarchive it");
    is(&found, "slack: channel #general", "PROBLEM", "not_in_channel", "invite the app");
    is(&found, "slack: channel C0404040404", "PROBLEM", "channel_not_found", "channel");
    is(&found, "mail: route of the rule \"low\"", "PROBLEM", "nobody to write to", "address");
    is(&found, "transfer: location 2", "PROBLEM", "none of the 1 shops asked has it", "origin and destination");
    is(&found, "transfer: location 3", "PROBLEM", "deactivated", "activate it");
    site.nothing_happened();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_passwords_that_are_no_longer_good_are_told() {
    let mut site = Site::with_mail(OwnServer::with_tls("starttls").await).await;
    let trusted = format!(
        "smtp_url = \"smtp+starttls://127.0.0.1:{}\"\nca_file = \"{}\"\nusername = \"u\"\npassword = {{ env = \"SMTP_PASSWORD\" }}",
        site.mail.port,
        site.mail.certificate().display()
    );
    let plain = format!("smtp_url = \"smtp://127.0.0.1:{}\"", site.mail.port);
    let handlers = site.handlers().replace(&plain, &trusted);
    site.configure(&handlers);
    site.register_shop();
    site.apply_rules(ROUTES);
    let server = format!("mail: mail server 127.0.0.1:{}", site.mail.port);
    is(&site.check(&[]).1, &server, "ok", "encrypted, logged in", "");
    site.set("SMTP_PASSWORD", "stolen-and-changed");
    site.jira.state().revoked = true;
    site.slack.revoke(true);
    site.shopify.state().tokens.clear();
    let (code, found) = site.check(&[]);
    assert_eq!(code, 1);
    is(&found, "jira: account", "PROBLEM", "make a new API token", "token of [handlers.jira]");
    is(&found, "slack: token", "PROBLEM", "token_revoked: the token is not or no longer valid", "token of [handlers.slack]");
    is(&found, &server, "PROBLEM", "authenticating", "username and password of [handlers.mail]");
    let shop = format!("transfer: shop {SHOP}");
    is(&found, &shop, "PROBLEM", "it was revoked or has expired", "[handlers.transfer]");
    assert!(!found.iter().any(|f| f["what"].as_str().is_some_and(|w| w.contains("project") || w.contains("channel"))));

    site.jira.state().revoked = false;
    site.slack.revoke(false);
    site.slack.grant("channels:read");
    site.shopify.state().tokens.insert(transfer_shop::TOKEN.to_owned());
    site.shopify.state().granted = vec!["read_products"];
    let (_, found) = site.check(&[]);
    is(&found, "slack: token", "PROBLEM", "not the scope chat:write", "install it again");
    is(&found, &shop, "PROBLEM", "write_inventory_transfers and read_inventory_transfers", "approve it");
    site.shopify.state().granted = vec!["write_inventory_transfers"];
    is(&site.check(&[]).1, "transfer: location 1", "not asked", "read_locations", "");
    site.shopify.state().granted.push("read_inventory");
    is(&site.check(&[]).1, "transfer: location 1", "ok", "is there", "");
    site.nothing_happened();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_be_reached_or_hangs_costs_its_deadline_and_no_more() {
    let site = Site::new().await;
    // A port that was free a moment ago, and one behind which nobody says a word.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = silent.local_addr().expect("an address").port();
    site.configure(&format!(
        "[handlers.a]\nkind = \"target\"\nurl = \"http://127.0.0.1:{free}/\"\nallow_private_addresses = true\n\
         [handlers.b]\nkind = \"target\"\nurl = \"https://127.0.0.1:{mute}/\"\nallow_private_addresses = true\n\
         [handlers.c]\nkind = \"target\"\nurl = \"http://localhost:{free}/\"\n\
         [handlers.d]\nkind = \"email\"\nsmtp_url = \"smtp://127.0.0.1:{mute}\"\nfrom = \"a@example.com\"\nto = \"b@example.com\"\n"
    ));
    let before = Instant::now();
    let (code, found) = site.check_once(&["--timeout", "2"]);
    let took = before.elapsed();
    assert!(took < Duration::from_secs(10), "all at once, 2 s each: {took:?}");
    assert_eq!(code, 1);
    is(&found, "a: connection to 127.0.0.1", "PROBLEM", "refused", "url of [handlers.a]");
    is(&found, "b: answer", "PROBLEM", "no answer within 2 s", "firewalls");
    is(&found, "c: connection to localhost", "PROBLEM", "is a loopback address; set allow_private_addresses", "");
    is(&found, "d: answer", "PROBLEM", "no answer within 2 s", "firewalls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_a_target_is_looked_at() {
    // Whatever is spoken behind its TLS: nothing is sent that it could answer.
    let mut site = Site::with_mail(OwnServer::with_tls("wrapped").await).await;
    site.configure(&format!(
        "[handlers.erp]\nkind = \"target\"\nurl = \"https://127.0.0.1:{}/\"\nallow_private_addresses = true\n",
        site.mail.port
    ));
    let (code, found) = site.check(&[]);
    assert_eq!(code, 1);
    is(&found, "erp: connection to 127.0.0.1", "PROBLEM", "certificate", "url of [handlers.erp]");
    let certificate = site.mail.certificate().display().to_string();
    site.set("SSL_CERT_FILE", &certificate);
    is(&site.check(&[]).1, "erp: connection to 127.0.0.1", "ok", "it connects", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_it_reaches_nobody_and_without_its_store_it_still_asks_the_targets() {
    let mut site = Site::new().await;
    site.configure(&site.handlers());
    let (code, found) = site.check(&["--offline"]);
    assert_eq!(code, 0, "{found:#?}");
    assert!(found.iter().all(|f| f["what"] != "log" && f["what"] != "store" && f["what"] != "jira: account"), "{found:#?}");
    assert!(site.jira.state().seen.is_empty() && site.slack.calls("auth.test").is_empty());
    assert!(!site.dir.path().join("data").exists(), "it opens nothing");
    site.set("STOCKWARDEN__STORE__URL", "postgres://me@127.0.0.1:9/x");
    let (code, found) = site.check(&["--timeout", "3"]);
    assert_eq!(code, 1);
    is(&found, "log and store", "PROBLEM", "", "");
    is(&found, "jira: project REP", "ok", "", "");
    is(&found, "slack: channel C0123456789", "ok", "", "");
}
