//! A Jira that does what the real one does to its clients: commits and then drops the connection, indexes late, throttles, refuses.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stockwarden::actors::effects::Clock;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::harness::TestClock;
use crate::support::stand_in;

pub const EMAIL: &str = "bot@example.com";
pub const TOKEN: &str = "atlassian-t0ken";
const STATUSES: [(&str, &str, &str, &str); 3] = [
    // id of the status, name, category, id of the transition that leads there
    ("10000", "To Do", "new", "11"),
    ("10001", "In Progress", "indeterminate", "21"),
    ("10002", "Done", "done", "31"),
];

#[derive(Debug, Clone)]
pub struct Issue {
    pub id: u64,
    pub fields: Value,
    pub properties: BTreeMap<String, Value>,
    pub comments: Vec<Value>,
    /// Index into [`STATUSES`].
    status: usize,
    /// From when on searches see it.
    visible_from: DateTime<Utc>,
}

impl Issue {
    pub fn key(&self) -> String {
        format!("REP-{}", self.id - 10_000)
    }

    pub fn labels(&self) -> Vec<String> {
        let labels = self.fields["labels"].as_array().expect("labels");
        labels.iter().map(|l| l.as_str().expect("text").to_owned()).collect()
    }

    pub fn status(&self) -> &'static str {
        STATUSES[self.status].1
    }

    fn shown(&self) -> Value {
        let (id, name, category, _) = STATUSES[self.status];
        let status = json!({"id": id, "name": name, "statusCategory": {"key": category}});
        json!({"id": self.id.to_string(), "key": self.key(), "fields": {"labels": self.labels(), "status": status}})
    }
}

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is carried out, and nobody is told.
    CommitThenDrop,
    /// It is carried out, and no answer ever comes.
    CommitThenHang,
    /// It is not carried out; these bytes are the answer.
    Instead(String),
    /// It is carried out, and this is the body of the answer.
    Garbled(&'static str),
}

impl Fault {
    pub fn status(status: &str, headers: &str, body: &str) -> Fault {
        Fault::Instead(answer(status, headers, body))
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

#[derive(Default)]
pub struct State {
    pub issues: Vec<Issue>,
    /// (part of "METHOD path" that the request has to begin with, what goes wrong with it), each once.
    faults: VecDeque<(&'static str, Fault)>,
    /// For how long searches do not see an issue.
    index_late: Duration,
    /// Every so-many-th issue is not seen for longer, for so long.
    pub later: Option<(u64, Duration)>,
    /// Issues in a page of a search; 0 is 2, so that pages are followed.
    pub page: usize,
    /// Of the test; without one nothing is late.
    clock: Option<TestClock>,
    pub searches: usize,
    /// The token is no longer good.
    pub revoked: bool,
    /// Keys of projects beside REP.
    pub more_projects: Vec<&'static str>,
    /// "METHOD path" of each request.
    pub seen: Vec<String>,
    pub bodies: Vec<String>,
}

impl State {
    fn now(&self) -> DateTime<Utc> {
        self.clock.as_ref().map_or(DateTime::UNIX_EPOCH, Clock::now)
    }
}

#[derive(Clone)]
pub struct JiraServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl JiraServer {
    pub async fn start() -> JiraServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let server = JiraServer { address: listener.local_addr().expect("address"), state: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        server
    }

    /// One whose searches see an issue so long after it was made.
    pub async fn with_late_index(clock: &TestClock, late: Duration) -> JiraServer {
        let server = JiraServer::start().await;
        server.state().clock = Some(clock.clone());
        server.state().index_late = late;
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }

    /// The next request that begins with `at` goes wrong.
    pub fn fault(&self, at: &'static str, fault: Fault) {
        self.state().faults.push_back((at, fault));
    }

    pub fn issues(&self) -> Vec<Issue> {
        self.state().issues.clone()
    }

    /// As with the button in Jira: labels and texts are copied, properties are not.
    pub fn clone_issue(&self, index: usize) {
        let mut state = self.state();
        let original = state.issues[index].clone();
        let id = next_id(&state);
        let copy = Issue { id, properties: BTreeMap::new(), comments: vec![], ..original };
        state.issues.push(copy);
    }

    async fn serve(self, mut stream: TcpStream) {
        let Some(request) = stand_in::read(&mut stream).await else { return };
        let head = request.head.trim_end_matches(" HTTP/1.1").to_owned();
        let fault = {
            let mut state = self.state();
            state.seen.push(head.clone());
            state.bodies.push(String::from_utf8_lossy(&request.body).into_owned());
            let at = state.faults.iter().position(|(at, _)| head.starts_with(at));
            at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault)
        };
        let bytes = match fault {
            Some(Fault::Instead(bytes)) => bytes,
            other => {
                let (status, body) = self.carry_out(&head, &request);
                match other {
                    Some(Fault::CommitThenDrop) => return,
                    Some(Fault::CommitThenHang) => std::future::pending().await,
                    Some(Fault::Garbled(body)) => answer(status, "", body),
                    _ => answer(status, "", &body.to_string()),
                }
            }
        };
        let _ = stream.write_all(bytes.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn carry_out(&self, head: &str, request: &stand_in::Request) -> (&'static str, Value) {
        let basic = format!("Basic {}", STANDARD.encode(format!("{EMAIL}:{TOKEN}")));
        if request.headers.get("authorization") != Some(&basic) || self.state().revoked {
            return ("401 Unauthorized", Value::Null);
        }
        let body = || -> Value { serde_json::from_slice(&request.body).expect("JSON") };
        let (method, path) = head.split_once(' ').expect("a path");
        let path = path.split('?').next().expect("a path").strip_prefix("/rest/api/3/").expect("version 3");
        let mut state = self.state();
        match (method, path.split('/').collect::<Vec<_>>().as_slice()) {
            ("GET", ["myself"]) => ("200 OK", json!({"accountId": "5b10", "displayName": "Stockwarden bot", "active": true})),
            ("GET", ["project", key]) => project(&state, key),
            ("POST", ["issue"]) => create(&mut state, body()),
            ("POST", ["search", "jql"]) => search(&mut state, &body()),
            (_, ["issue", id, rest @ ..]) => match state.issues.iter_mut().find(|i| i.id.to_string() == *id) {
                Some(issue) => of_issue(issue, method, rest, body),
                None => ("404 Not Found", json!({"errorMessages": ["Issue does not exist."]})),
            },
            other => panic!("not asked of Jira: {other:?}"),
        }
    }
}

fn next_id(state: &State) -> u64 {
    10_001 + state.issues.len() as u64
}

fn wrong(field: &str, text: &str) -> (&'static str, Value) {
    ("400 Bad Request", json!({"errorMessages": [], "errors": {field: text}}))
}

fn has_project(state: &State, key: &str) -> bool {
    key == "REP" || state.more_projects.contains(&key)
}

fn project(state: &State, key: &str) -> (&'static str, Value) {
    if !has_project(state, key) {
        let told = format!("No project could be found with key '{key}'.");
        return ("404 Not Found", json!({"errorMessages": [told], "errors": {}}));
    }
    let kind = |id: &str, name: &str, subtask: bool| json!({"id": id, "name": name, "subtask": subtask});
    let types = [kind("10007", "Task", false), kind("10008", "Bug", false), kind("10009", "Sub-task", true)];
    ("200 OK", json!({"id": "10000", "key": key, "name": "Replenishment", "issueTypes": types}))
}

fn create(state: &mut State, body: Value) -> (&'static str, Value) {
    let fields = body["fields"].clone();
    let texts = |v: &Value| v.as_array().into_iter().flatten().map(|l| l.as_str().expect("text").to_owned()).collect::<Vec<_>>();
    let summary = fields["summary"].as_str().unwrap_or_default();
    if !has_project(state, fields["project"]["key"].as_str().unwrap_or_default()) {
        return wrong("project", "valid project is required");
    }
    if summary.is_empty() || summary.encode_utf16().count() > 255 || summary.contains('\n') {
        return wrong("summary", "The summary is invalid");
    }
    if texts(&fields["labels"]).iter().any(|l| l.contains(' ')) {
        return wrong("labels", "The label can't contain spaces.");
    }
    if fields["description"]["type"] != "doc" || fields["description"]["version"] != 1 {
        return wrong("description", "Operation value must be an Atlassian Document");
    }
    if fields["priority"]["name"] == "Nonesuch" {
        return wrong("priority", "Field 'priority' cannot be set. It is not on the appropriate screen, or unknown.");
    }
    let properties = body["properties"].as_array().into_iter().flatten();
    let properties = properties.map(|p| (p["key"].as_str().expect("key").to_owned(), p["value"].clone())).collect();
    let id = next_id(state);
    let late = state.later.filter(|(every, _)| id.is_multiple_of(*every)).map_or(state.index_late, |(_, late)| late);
    let visible_from = state.now() + late;
    state.issues.push(Issue { id, fields, properties, comments: vec![], status: 0, visible_from });
    ("201 Created", json!({"id": id.to_string(), "key": format!("REP-{}", id - 10_000), "self": "https://jira.example"}))
}

/// As much of JQL as is used.
fn search(state: &mut State, body: &Value) -> (&'static str, Value) {
    state.searches += 1;
    let jql = body["jql"].as_str().expect("jql");
    let (conditions, order) = jql.split_once(" ORDER BY created ").expect("an order");
    let fits = |issue: &Issue| {
        conditions.split(" AND ").all(|condition| match condition.split(' ').collect::<Vec<_>>().as_slice() {
            ["labels", "=", label] => issue.labels().iter().any(|l| format!("\"{l}\"") == *label),
            ["labels", "!=", label] => !issue.labels().iter().any(|l| format!("\"{l}\"") == *label),
            ["created", ">=", since] => {
                assert!(since.starts_with("\"-") && since.ends_with("m\""), "{since}");
                true
            }
            other => panic!("not understood: {other:?}"),
        })
    };
    let now = state.now();
    let mut hits: Vec<&Issue> = state.issues.iter().filter(|i| i.visible_from <= now && fits(i)).collect();
    if order == "DESC" {
        hits.reverse();
    }
    let size = if state.page == 0 { 2 } else { state.page };
    let from: usize = body["nextPageToken"].as_str().map_or(0, |t| t.parse().expect("a token"));
    let page: Vec<Value> = hits.iter().skip(from).take(size).map(|i| i.shown()).collect();
    let mut answer = json!({"issues": page, "isLast": from + size >= hits.len()});
    if from + size < hits.len() {
        answer["nextPageToken"] = json!((from + size).to_string());
    }
    ("200 OK", answer)
}

fn of_issue(issue: &mut Issue, method: &str, rest: &[&str], body: impl Fn() -> Value) -> (&'static str, Value) {
    match (method, rest) {
        ("GET", []) => ("200 OK", issue.shown()),
        ("GET", ["properties", key]) => match issue.properties.get(*key) {
            Some(value) => ("200 OK", json!({"key": key, "value": value})),
            None => ("404 Not Found", json!({"errorMessages": ["no such property"]})),
        },
        ("GET", ["comment"]) => ("200 OK", json!({"comments": issue.comments})),
        ("POST", ["comment"]) => {
            assert_eq!(body()["body"]["type"], "doc");
            issue.comments.push(body());
            ("201 Created", json!({"id": "1"}))
        }
        ("GET", ["transitions"]) => {
            let others = STATUSES.iter().enumerate().filter(|(i, _)| *i != issue.status);
            let possible: Vec<Value> = others
                .map(|(_, (id, name, category, transition))| {
                    json!({"id": transition, "name": format!("to {name}"), "to": {"id": id, "name": name, "statusCategory": {"key": category}}})
                })
                .collect();
            ("200 OK", json!({"transitions": possible}))
        }
        ("POST", ["transitions"]) => {
            let wanted = body()["transition"]["id"].clone();
            match STATUSES.iter().position(|(.., transition)| wanted == *transition) {
                Some(at) if at != issue.status => {
                    issue.status = at;
                    ("204 No Content", Value::Null)
                }
                _ => ("400 Bad Request", json!({"errorMessages": ["That transition is not valid."]})),
            }
        }
        ("PUT", []) => {
            let label = body()["update"]["labels"][0]["add"].clone();
            assert!(label.is_string());
            issue.fields["labels"].as_array_mut().expect("labels").push(label);
            ("204 No Content", Value::Null)
        }
        other => panic!("not asked of an issue: {other:?}"),
    }
}
