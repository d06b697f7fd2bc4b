//! What is refused for good is seen on the reorder, in the metrics and among the dead letters, with what to mend; and once it is mended,
//! an operator has it sent again, by command or by API.

use serde_json::{Value, json};

use super::site::{Site, bearer, path_of, route, until_shown};
use crate::effects::transfer_shop;
use crate::system::node::{Client, Node};

/// (route, handler, what the target says, what to mend)
const REFUSED: [(usize, &str, &str, &str); 5] = [
    (0, "jira", "valid project is required", "check the route's project"),
    (1, "slack", "channel_not_found", "correct channel in the route"),
    (2, "mail", "taking the recipient reject@supplier.example: permanent error (550)", "correct it in the route's address"),
    (3, "old-slack", "invalid_auth", "install the app again and give its bot token"),
    (4, "transfer", "Shopify refuses the access token", "give a new one with: stockwarden shop add"),
];

async fn broken() -> (Site, Node, Client, String, Value) {
    let mut site = Site::new().await;
    site.set("OLD_TOKEN", "xoxb-revoked-since-long");
    let handlers = site.handlers();
    let old = format!(
        "[handlers.old-slack]\nkind = \"slack\"\napi_url = \"{}\"\ntoken = {{ env = \"OLD_TOKEN\" }}\nchannel = \"#replenishment\"\n\
         allow_private_addresses = true\n",
        site.slack.url()
    );
    site.configure(&format!("{handlers}{old}"));
    site.register_shop();
    site.apply_rules(
        r##"{ to = "jira", project = "NOPE" }, { to = "slack", channel = "#nowhere" }, { to = "mail", address = "reject@supplier.example" },
           { to = "old-slack" }, { to = "transfer" }"##,
    );
    site.shopify.state().tokens.clear();
    let (node, client, token) = site.start().await;
    let reorder = site.sinks(&client, 1).await;
    let all_failed = |r: &Value| r["routes"].as_array().is_some_and(|all| all.iter().all(|r| r["state"] == "failed"));
    let shown = until_shown(&client, &reorder, "every route has failed", all_failed).await;
    (site, node, client, token, shown)
}

async fn metrics(node: &Node) -> String {
    let answer = reqwest::get(format!("{}/metrics", node.base)).await.expect("an answer");
    answer.text().await.expect("text")
}

fn reason(route: &Value) -> &str {
    route["reason"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_good_is_seen_on_the_reorder_in_metrics_and_in_the_dead_letters() {
    let (site, node, _, _, shown) = broken().await;
    let counted = metrics(&node).await;
    let letters = site.done(&["dead-letters", "list"]);
    let letters = letters["failed_effects"].as_array().expect("a list");
    assert_eq!(letters.len(), REFUSED.len(), "{letters:#?}");
    for (n, handler, said, mend) in REFUSED {
        let on_reorder = route(&shown, n);
        let told = reason(&on_reorder);
        assert!(on_reorder["handler"] == handler && told.contains(said) && told.contains(mend), "{on_reorder:#}");
        assert_eq!(on_reorder["attempts"], 1, "it is not tried again by itself: {on_reorder:#}");
        let letter = letters.iter().find(|l| l["handler"] == handler).unwrap_or_else(|| panic!("{handler}: {letters:#?}"));
        assert_eq!(reason(letter), told);
        let kind = if handler == "mail" { "email" } else { on_reorder["kind"].as_str().expect("a kind") };
        let kind = if handler == "transfer" { "shopify-transfer" } else { kind };
        for (outcome, n) in [("failed", 1), ("done", 0), ("retried", 0)] {
            let line = format!("stockwarden_effects_total{{handler=\"{handler}\",kind=\"{kind}\",outcome=\"{outcome}\"}} {n}\n");
            assert!(counted.contains(&line), "{line} is not in\n{counted}");
        }
    }
    let everything = format!("{shown}{letters:?}{counted}{}", node.told());
    for secret in site.secrets() {
        assert!(!everything.contains(secret), "{secret} in {everything}");
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_mended_is_sent_again_by_command_and_by_api_and_the_rest_fails_visibly_again() {
    let (site, node, client, token, shown) = broken().await;
    let failed = |n: usize, times: u64| move |r: &Value| route(r, n)["state"] == "failed" && route(r, n)["attempts"] == times;
    let done = |n: usize| move |r: &Value| route(r, n)["state"] == "done";

    // By command, of one handler.
    site.jira.state().more_projects = vec!["NOPE"];
    let retried = site.done(&["dead-letters", "retry", "--effects", "--handler", "jira"]);
    let id = shown["reorder_id"].as_str().expect("an id");
    assert_eq!(retried, json!({"retried": [{"effect": format!("{id}/0")}], "skipped": []}));
    until_shown(&client, &shown, "the issue is made", done(0)).await;
    assert_eq!(site.jira.issues().len(), 1);

    // By API, of one route.
    site.shopify.state().tokens.insert(transfer_shop::TOKEN.to_owned());
    let path = format!("{}/routes/4/retry", path_of(&shown));
    let (status, answer) = client.post(&path, bearer(&token), Vec::new()).await;
    assert_eq!(status, 200, "{answer}");
    until_shown(&client, &shown, "the transfer is made", done(4)).await;
    assert_eq!(site.shopify.counts().1, 1);
    let (status, answer) = client.post(&path, bearer(&token), Vec::new()).await;
    assert_eq!(status, 409, "what is done is not sent again: {answer}");

    // All that is left, by command: nothing of it was mended.
    let retried = site.done(&["dead-letters", "retry", "--effects"]);
    assert_eq!(retried["retried"].as_array().map(Vec::len), Some(3), "{retried}");
    for n in [1, 2, 3] {
        let shown = until_shown(&client, &shown, "it is refused once more", failed(n, 2)).await;
        assert!(reason(&route(&shown, n)).contains(REFUSED[n].2), "{shown:#}");
    }
    // What is done stays done, also if it is named.
    let (code, told) = site.json(&["dead-letters", "retry", &format!("{id}/0")]);
    assert_eq!((code, told["retried"].as_array().map(Vec::len)), (1, Some(0)), "{told}");
    assert_eq!((site.jira.issues().len(), site.shopify.counts().1), (1, 1));
    let line = "stockwarden_effects_total{handler=\"jira\",kind=\"jira\",outcome=\"done\"} 1\n";
    let counted = metrics(&node).await;
    assert!(counted.contains(line), "{counted}");
    node.stop();
    // Without a node the command works on the ledger itself.
    assert_eq!(site.done(&["dead-letters", "list"])["failed_effects"].as_array().map(Vec::len), Some(3));
}
