//! One issue for each decision and route, whatever becomes of answers, index and nodes: `jira` through ledger and sender, and its
//! resolution.

use std::time::Duration;

use serde_json::json;
use stockwarden::actors::effects::{BreakerState, Clock, Sender};
use stockwarden::handlers::{Common, Resolution};
use stockwarden::ports::ledger::{Effect, EffectFilter, EffectId, EffectState, Planned};

use super::harness::{Node, World, decision, planned, route, until};
use super::jira::{handler, jira_job, now};
use super::jira_server::{Fault, Issue, JiraServer, TOKEN};
use super::tap::Tap;

/// Less than `index_lag`.
const LATE: Duration = Duration::from_secs(120);

fn row(n: u128, route_id: &str) -> Planned {
    let row = planned(n, "jira", &decision(n), &route(json!({"to": "jira"})));
    Planned {
        id: EffectId { route_id: route_id.into(), ..row.id.clone() },
        order_key: format!("a.example/{n}/{route_id}"),
        ..row
    }
}

/// Lets time pass while there is nothing to do, until `look` finds something.
async fn passing<T>(world: &World, node: &Node, sender: &Sender, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    until(what, async || {
        let now = world.clock.now();
        let open = |row: &Effect| !matches!(row.state, EffectState::Done | EffectState::Failed);
        let due = |row: &Effect| open(row) && (row.state == EffectState::Sending || row.planned.due_at <= now);
        let working = sender.state().breaker == BreakerState::Closed && all(node).await.iter().any(due);
        if !working && sender.state().in_flight == 0 {
            world.clock.advance(Duration::from_secs(5));
        }
        sender.wake();
        look().await
    })
    .await
}

async fn all(node: &Node) -> Vec<Effect> {
    let filter = EffectFilter { limit: 1000, ..EffectFilter::default() };
    node.shared.ledger.list(filter).await.expect("list")
}

async fn until_done(world: &World, node: &Node, sender: &Sender, n: u128) -> Effect {
    passing(world, node, sender, "it is done", async || Some(node.row(n).await).filter(|r| r.state == EffectState::Done)).await
}

async fn all_done(world: &World, node: &Node, sender: &Sender, rows: usize) -> Vec<Effect> {
    passing(world, node, sender, "all are done", async || {
        Some(all(node).await).filter(|all| all.len() == rows && all.iter().all(|r| r.state == EffectState::Done))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_whose_answer_was_lost_is_found_by_its_label_and_not_made_again() {
    let world = World::new();
    let jira = JiraServer::with_late_index(&world.clock, LATE).await;
    jira.fault("POST /rest/api/3/issue", Fault::CommitThenDrop);
    let node = world.node(Tap::default()).await;
    node.plan(&[row(1, "0")]).await;
    let sender = node.sender("jira", Common::default(), handler(&jira, ""));
    node.until(1, EffectState::Ambiguous).await;
    let done = until_done(&world, &node, &sender, 1).await;
    assert_eq!(
        (done.reference.as_deref(), done.response.as_deref(), done.possible_duplicate),
        (Some("10001"), Some("REP-1"), false)
    );
    assert_eq!(jira.issues().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_again_before_the_index_had_its_time() {
    let jira = JiraServer::start().await;
    // Not carried out, but that is not known.
    jira.fault("POST /rest/api/3/issue", Fault::Instead(String::new()));
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[row(1, "0")]).await;
    let sender = node.sender("jira", Common::default(), handler(&jira, "index_lag = \"3m\""));
    node.until(1, EffectState::Ambiguous).await;
    world.clock.advance(Duration::from_secs(10));
    until("it was searched for", async || (jira.state().searches == 1).then_some(())).await;
    let waiting = node.until(1, EffectState::Ambiguous).await;
    assert_eq!(
        waiting.planned.due_at,
        now() + Duration::from_secs(181),
        "the index's time after the longest that the request can take"
    );
    assert!(jira.issues().is_empty());
    let done = until_done(&world, &node, &sender, 1).await;
    assert_eq!((jira.issues().len(), done.possible_duplicate), (1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_decision_and_route_has_one_issue_though_a_third_of_the_answers_are_lost() {
    let world = World::new();
    let jira = JiraServer::with_late_index(&world.clock, LATE).await;
    let node = world.node(Tap::default()).await;
    let rows: Vec<Planned> = (1..=15).flat_map(|n| [row(n, "0"), row(n, "ops")]).collect();
    for n in 0..10 {
        let faults = [
            Fault::CommitThenDrop,
            Fault::status("429 Too Many Requests", "Retry-After: 7\r\n", "{}"),
            Fault::status("503 Service Unavailable", "", ""),
            Fault::Garbled("<html>"),
        ];
        jira.fault("POST /rest/api/3/issue", faults[n % 4].clone());
        jira.fault("POST /rest/api/3/search", Fault::status("503 Service Unavailable", "", ""));
    }
    node.plan(&rows).await;
    let sender = node.sender("jira", Common::default(), handler(&jira, ""));
    let rows = all_done(&world, &node, &sender, 30).await;
    let mut owners: Vec<String> = jira.issues().iter().map(owner).collect();
    assert_eq!(owners.len(), 30);
    owners.sort();
    owners.dedup();
    assert_eq!(owners.len(), 30, "one issue each");
    for row in rows {
        let known = jira.issues().into_iter().find(|i| Some(i.id.to_string()) == row.reference).expect("the issue");
        assert_eq!(owner(&known), format!("{}/{}", row.planned.id.decision_id, row.planned.id.route_id));
    }
}

fn owner(issue: &Issue) -> String {
    let ids = &issue.properties["stockwarden.reorder"];
    format!("{}/{}", ids["decision_id"].as_str().expect("id"), ids["route_id"].as_str().expect("id"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_index_that_was_too_late_made_twice_is_closed_by_the_sweep_and_clones_are_left_alone() {
    let world = World::new();
    // Jira says "seconds to minutes"; this is a bad day.
    let jira = JiraServer::with_late_index(&world.clock, Duration::from_secs(1800)).await;
    jira.fault("POST /rest/api/3/issue", Fault::CommitThenDrop);
    let node = world.node(Tap::default()).await;
    node.plan(&[row(1, "0"), row(2, "0"), row(2, "ops")]).await;
    let one_at_a_time = Common { concurrency: 1, ..Common::default() };
    let sender = node.sender("jira", one_at_a_time, handler(&jira, "sweep_every = \"5m\""));
    all_done(&world, &node, &sender, 3).await;
    let kept = node.row(1).await.reference.expect("reference");
    assert_eq!((kept.as_str(), jira.issues().len()), ("10004", 4), "made again, since nothing was found");
    jira.clone_issue(3);
    // The first attempt to close it fails on the way.
    jira.fault("PUT /rest/api/3/issue", Fault::status("503 Service Unavailable", "", ""));
    let marked = |i: &Issue| i.labels().contains(&"stockwarden-duplicate".to_owned());
    let one_is_marked = async || jira.issues().iter().any(marked).then_some(());
    passing(&world, &node, &sender, "one is marked", one_is_marked).await;
    let issues = jira.issues();
    let closed: Vec<u64> = issues.iter().filter(|i| marked(i)).map(|i| i.id).collect();
    assert_eq!(closed, [10_001], "the ledger knows the other");
    assert_eq!(issues[0].status(), "Done");
    assert!(issues[0].comments[0].to_string().contains("Duplicate of REP-4"));
    assert!(issues[1..].iter().all(|i| i.comments.is_empty() && i.status() == "To Do"), "{:?}", &issues[1..]);
    let searches = jira.state().searches;
    let swept_again = async || (jira.state().searches > searches + 6).then_some(());
    passing(&world, &node, &sender, "it is swept again", swept_again).await;
    assert_eq!(jira.issues().iter().filter(|i| marked(i)).count(), 1, "once is enough");
}

#[tokio::test]
async fn a_resolution_that_finds_two_keeps_the_oldest_and_closes_the_newer() {
    let jira = JiraServer::start().await;
    let handler = handler(&jira, "");
    let job = jira_job(&decision(1));
    let request = handler.prepare(&job, now()).expect("request");
    for _ in 0..2 {
        handler.send(&job, &request, now()).await;
    }
    jira.clone_issue(0);
    let found = handler.resolve(&job, &request, now()).await;
    assert_eq!(found, Resolution::Done { response: Some("REP-1".into()), reference: Some("10001".into()) });
    let issues = jira.issues();
    assert_eq!(issues.iter().map(Issue::status).collect::<Vec<_>>(), ["To Do", "Done", "To Do"]);
}

#[tokio::test]
async fn after_a_restart_the_index_gets_its_whole_time_again() {
    let jira = JiraServer::start().await;
    let handler = handler(&jira, "index_lag = \"3m\"");
    let job = jira_job(&decision(1));
    let request = handler.prepare(&job, now()).expect("request");
    let wait = Duration::from_secs(181);
    let asked = handler.resolve(&job, &request, now()).await;
    assert!(matches!(asked, Resolution::AskLater { after: Some(after), .. } if after == wait), "{asked:?}");
    assert_eq!(handler.resolve(&job, &request, now() + wait).await, Resolution::NotDone);
    jira.fault("POST /rest/api/3/search", Fault::status("401 Unauthorized", "", ""));
    let asked = handler.resolve(&job, &request, now() + wait).await;
    assert!(
        matches!(&asked, Resolution::AskLater { reason, .. } if reason.contains("token")),
        "a question that fails says nothing: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_jira_echoes_is_not_stored() {
    let jira = JiraServer::start().await;
    let body = format!("{{\"errorMessages\":[\"{TOKEN} is not known\"]}}");
    jira.fault("POST /rest/api/3/issue", Fault::status("401 Unauthorized", "", &body));
    let world = World::new();
    let node = world.node(Tap::default()).await;
    node.plan(&[row(1, "0")]).await;
    node.sender("jira", Common::default(), handler(&jira, ""));
    let reason = node.until(1, EffectState::Failed).await.response.expect("reason");
    assert!(reason.contains("*** is not known") && reason.contains("make a new API token"), "{reason}");
}

#[test]
fn a_node_that_dies_while_jira_works_leaves_one_issue_to_the_next() {
    let world = World::new();
    let servers = tokio::runtime::Runtime::new().expect("runtime");
    let jira = servers.block_on(JiraServer::with_late_index(&world.clock, LATE));
    jira.fault("POST /rest/api/3/issue", Fault::CommitThenHang);
    let first = tokio::runtime::Runtime::new().expect("runtime");
    first.block_on(async {
        let node = world.node(Tap::default()).await;
        node.plan(&[row(1, "0")]).await;
        node.sender("jira", Common::default(), handler(&jira, "timeout = \"1h\""));
        until("Jira has made it", async || (jira.issues().len() == 1).then_some(())).await;
    });
    first.shutdown_background();
    let second = tokio::runtime::Runtime::new().expect("runtime");
    second.block_on(async {
        let node = world.node(Tap::default()).await;
        let sender = node.sender("jira", Common::default(), handler(&jira, ""));
        let done = until_done(&world, &node, &sender, 1).await;
        assert_eq!((done.reference.as_deref(), done.possible_duplicate, jira.issues().len()), (Some("10001"), false, 1));
    });
}
