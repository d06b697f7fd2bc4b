//! A stand-in Slack: channels with messages, the methods that the handler calls, and what goes wrong with them.
//!
//! Its address is written into the configuration as `api_url`; spoken over plain sockets, because no server library drops connections
//! or sends what is malformed. What it refuses, it refuses with Slack's codes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::stand_in::{Request, read};

pub const CHANNEL: &str = "C0123456789";
pub const TOKEN: &str = "xoxb-t0ken-of-the-app";

/// What becomes of the next call of a method that writes.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Done, but nobody is told.
    CommitThenDrop,
    /// Done, and no answer ever comes.
    CommitThenHang,
    /// Not done: the connection just ends.
    Drop,
    /// Not done; these bytes.
    Answer(String),
    /// Done; then `ok: false` with this code all the same.
    CommitThenError(&'static str),
    /// Not done; `ok: false` with this code.
    Error(&'static str),
}

#[derive(Debug, Clone)]
pub struct Posted {
    pub channel: String,
    pub ts: String,
    pub body: Value,
    /// Edits of it.
    pub edits: Vec<Value>,
}

#[derive(Default)]
struct State {
    faults: VecDeque<Fault>,
    /// Faults of methods that read.
    reading: VecDeque<Fault>,
    posted: Vec<Posted>,
    calls: Vec<(String, Request)>,
    clock: u64,
    revoked: bool,
    /// What Slack says of the token's scopes.
    granted: Option<&'static str>,
    /// Messages in a page; 0 is 1.
    page: usize,
}

#[derive(Clone)]
pub struct SlackServer {
    pub address: SocketAddr,
    /// Whether a repeat with the same client_msg_id gives the first message again; Slack documents neither.
    remembers: bool,
    /// Methods that the app has the scopes for, beside those that write.
    scopes: &'static [&'static str],
    state: Arc<Mutex<State>>,
}

pub const ALL_SCOPES: &[&str] = &["conversations.history", "conversations.replies", "conversations.list"];

impl SlackServer {
    pub async fn start(remembers: bool, scopes: &'static [&'static str], faults: impl IntoIterator<Item = Fault>) -> SlackServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let state = State { faults: faults.into_iter().collect(), ..State::default() };
        let server = SlackServer {
            address: listener.local_addr().expect("address"),
            remembers,
            scopes,
            state: Arc::new(Mutex::new(state)),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    pub fn posted(&self) -> Vec<Posted> {
        self.state.lock().expect("lock").posted.clone()
    }

    /// Calls of `method` so far.
    pub fn calls(&self, method: &str) -> Vec<Request> {
        let state = self.state.lock().expect("lock");
        state.calls.iter().filter(|(m, _)| m == method).map(|(_, r)| r.clone()).collect()
    }

    pub fn fail(&self, fault: Fault) {
        self.state.lock().expect("lock").faults.push_back(fault);
    }

    pub fn fail_reading(&self, fault: Fault) {
        self.state.lock().expect("lock").reading.push_back(fault);
    }

    /// Whether somebody has revoked the token.
    pub fn revoke(&self, revoked: bool) {
        self.state.lock().expect("lock").revoked = revoked;
    }

    /// From now on answers say which scopes the token has.
    pub fn grant(&self, scopes: &'static str) {
        self.state.lock().expect("lock").granted = Some(scopes);
    }

    /// Pages of history have so many messages instead of one.
    pub fn show_in_pages_of(&self, messages: usize) {
        self.state.lock().expect("lock").page = messages;
    }

    /// Somebody deletes every message.
    pub fn clear(&self) {
        self.state.lock().expect("lock").posted.clear();
    }

    async fn serve(self, mut stream: TcpStream) {
        while let Some(request) = read(&mut stream).await {
            let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (path, query) = path.split_once('?').unwrap_or((&path, ""));
            let method = path.strip_prefix("/api/").unwrap_or_default().to_owned();
            let writes = method.starts_with("chat.");
            let fault = {
                let mut state = self.state.lock().expect("lock");
                state.calls.push((method.clone(), request.clone()));
                if writes { state.faults.pop_front() } else { state.reading.pop_front() }
            };
            let carry_out = || self.carry_out(&method, query, &request);
            let answer = match fault {
                None => carry_out(),
                Some(Fault::CommitThenDrop) => return drop(carry_out()),
                Some(Fault::Drop) => return,
                Some(Fault::CommitThenHang) => {
                    carry_out();
                    return std::future::pending().await;
                }
                Some(Fault::Answer(bytes)) => {
                    let _ = stream.write_all(bytes.as_bytes()).await;
                    let _ = stream.shutdown().await;
                    return;
                }
                Some(Fault::CommitThenError(code)) => {
                    carry_out();
                    error(code)
                }
                Some(Fault::Error(code)) => error(code),
            };
            let body = answer.to_string();
            let granted =
                self.state.lock().expect("lock").granted.map(|s| format!("x-oauth-scopes: {s}\r\n")).unwrap_or_default();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n{granted}");
            let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, method: &str, query: &str, request: &Request) -> Value {
        if request.headers.get("authorization").map(String::as_str) != Some(&format!("Bearer {TOKEN}")) {
            return error("invalid_auth");
        }
        if self.state.lock().expect("lock").revoked {
            return error("token_revoked");
        }
        match method {
            "auth.test" => json!({"ok": true, "team": "Acme", "user": "stockwarden", "bot_id": "B1"}),
            "chat.postMessage" => self.post(serde_json::from_slice(&request.body).unwrap_or_default()),
            "chat.update" => self.update(&serde_json::from_slice(&request.body).unwrap_or_default()),
            read if !self.scopes.contains(&read) => json!({"ok": false, "error": "missing_scope", "needed": "channels:history"}),
            "conversations.history" => self.history(&pairs(query), None),
            "conversations.replies" => self.history(&pairs(query), get(&pairs(query), "ts")),
            "conversations.list" => {
                let other = json!({"id": "C0000000000", "name": "general", "is_member": false});
                let old = json!({"id": "C0000000001", "name": "attic", "is_archived": true, "is_member": true});
                json!({"ok": true, "channels": [other, old, {"id": CHANNEL, "name": "replenishment", "is_member": true}]})
            }
            "conversations.info" => match get(&pairs(query), "channel") {
                Some(id @ CHANNEL) => json!({"ok": true, "channel": {"id": id, "is_member": true, "is_archived": false}}),
                _ => error("channel_not_found"),
            },
            _ => error("unknown_method"),
        }
    }

    fn post(&self, body: Value) -> Value {
        let channel = match body["channel"].as_str() {
            Some(CHANNEL | "#replenishment") => CHANNEL.to_owned(),
            Some(other) if other.starts_with("C9") => other.to_owned(),
            _ => return error("channel_not_found"),
        };
        if let Err(refusal) = check_blocks(&body) {
            return refusal;
        }
        let mut state = self.state.lock().expect("lock");
        let known = state.posted.iter().find(|p| self.remembers && p.body["client_msg_id"] == body["client_msg_id"]);
        if let Some(known) = known {
            return posted(known);
        }
        if let Some(thread) = body["thread_ts"].as_str()
            && !state.posted.iter().any(|p| p.channel == channel && p.ts == thread)
        {
            return error("thread_not_found");
        }
        state.clock += 1;
        // Later than any test's clock.
        let new = Posted { channel, ts: format!("4000000000.{:06}", state.clock), body, edits: Vec::new() };
        state.posted.push(new.clone());
        posted(&new)
    }

    fn update(&self, body: &Value) -> Value {
        if let Err(refusal) = check_blocks(body) {
            return refusal;
        }
        let mut state = self.state.lock().expect("lock");
        let found = state.posted.iter_mut().find(|p| body["channel"] == p.channel && body["ts"] == p.ts);
        let Some(found) = found else { return error("message_not_found") };
        found.edits.push(body.clone());
        json!({"ok": true, "channel": found.channel, "ts": found.ts, "text": body["text"]})
    }

    /// Newest first; one message a page, so that every look must turn pages, unless told. Answers in threads are seen only there.
    fn history(&self, query: &[(String, String)], thread: Option<&str>) -> Value {
        let Some(channel) = get(query, "channel").filter(|c| c.starts_with('C')) else { return error("channel_not_found") };
        let with_metadata = get(query, "include_all_metadata") == Some("true");
        let oldest: f64 = get(query, "oldest").and_then(|o| o.parse().ok()).unwrap_or_default();
        let state = self.state.lock().expect("lock");
        if thread.is_some_and(|t| !state.posted.iter().any(|p| p.ts == t)) {
            return error("thread_not_found");
        }
        let mut found: Vec<Value> = state
            .posted
            .iter()
            .filter(|p| p.channel == channel && p.ts.parse::<f64>().expect("ts") >= oldest)
            .filter(|p| p.body["thread_ts"].as_str() == thread || thread == Some(&p.ts))
            .map(|p| {
                let metadata = if with_metadata { p.body["metadata"].clone() } else { Value::Null };
                json!({"type": "message", "ts": p.ts, "text": p.body["text"], "metadata": metadata})
            })
            .collect();
        found.reverse();
        let from: usize = get(query, "cursor").and_then(|c| c.parse().ok()).unwrap_or_default();
        let end = from + state.page.max(1);
        let more = end < found.len();
        let next = if more { end.to_string() } else { String::new() };
        let messages: Vec<&Value> = found.iter().take(end).skip(from).collect();
        json!({"ok": true, "messages": messages, "has_more": more, "response_metadata": {"next_cursor": next}})
    }
}

pub fn error(code: &str) -> Value {
    json!({"ok": false, "error": code})
}

fn posted(p: &Posted) -> Value {
    json!({"ok": true, "channel": p.channel, "ts": p.ts, "message": {"text": p.body["text"], "ts": p.ts}})
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let url: reqwest::Url = format!("http://x/?{query}").parse().expect("query");
    url.query_pairs().into_owned().collect()
}

fn get<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// Block Kit's limits, as far as they are documented.
fn check_blocks(body: &Value) -> Result<(), Value> {
    let units = |text: &Value| text.as_str().map_or(0, |t| t.encode_utf16().count());
    let wrong = |what: String| {
        Err(json!({"ok": false, "error": "invalid_blocks", "errors": [what], "response_metadata": {"messages": [what]}}))
    };
    let blocks = body["blocks"].as_array().cloned().unwrap_or_default();
    if units(&body["text"]) == 0 {
        return Err(error("no_text"));
    }
    if blocks.len() > 50 {
        return wrong(format!("{} blocks", blocks.len()));
    }
    for block in &blocks {
        let fine = match block["type"].as_str() {
            Some("header") => (1..=150).contains(&units(&block["text"]["text"])) && block["text"]["type"] == "plain_text",
            Some("section") => {
                let fields = block["fields"].as_array().cloned().unwrap_or_default();
                let text = units(&block["text"]["text"]);
                text <= 3000
                    && (text > 0 || !fields.is_empty())
                    && fields.len() <= 10
                    && fields.iter().all(|f| (1..=2000).contains(&units(&f["text"])))
            }
            Some("actions") => block["elements"].as_array().is_some_and(|e| {
                let fine =
                    |e: &Value| units(&e["text"]["text"]) <= 75 && units(&e["value"]) <= 2000 && units(&e["action_id"]) <= 255;
                (1..=25).contains(&e.len()) && e.iter().all(fine)
            }),
            Some("context") => block["elements"].as_array().is_some_and(|e| (1..=10).contains(&e.len())),
            _ => false,
        };
        if !fine {
            return wrong(block.to_string().chars().take(200).collect());
        }
    }
    if body["blocks"].to_string().encode_utf16().count() > 13_000 {
        return Err(error("msg_blocks_too_long"));
    }
    Ok(())
}
