//! A stand-in for Shopify's Admin API that keeps what the real one keeps: idempotency keys with their variables for a day, transfers, a
//! search index that lags, issued tokens. What goes wrong is scripted.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use stockwarden::actors::effects::Clock;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::harness::TestClock;
use crate::support::stand_in::{Request, read};

pub const TOKEN: &str = "shpat_stored_0123456789";
pub const CLIENT_SECRET: &str = "app & secret=1";

/// What becomes of one mutation.
#[derive(Debug, Clone)]
pub enum Fault {
    CommitThenDrop,
    CommitThenHang,
    DropBefore,
    /// The key is dead from then on.
    FailInside,
    UserError(&'static str),
    Denied,
    /// Points that are missing, restored at 100 a second.
    Throttle(i64),
    Status(&'static str, &'static [(&'static str, &'static str)], &'static str),
    Body(&'static str),
    /// The token sent is no longer valid.
    Revoke,
}

struct Kept {
    variables: Value,
    /// None: it failed inside.
    answer: Option<Value>,
    at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct Transfer {
    pub gid: String,
    pub tags: Vec<String>,
    pub status: &'static str,
    pub input: Value,
    at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    pub json: Value,
}

pub struct State {
    pub tokens: BTreeSet<String>,
    pub issued: u32,
    /// Answers of the token's address, before it issues one.
    pub token_script: VecDeque<&'static str>,
    /// Mutations meet these, in order.
    pub script: VecDeque<Fault>,
    /// Searches answer so, before they search.
    pub search_script: VecDeque<&'static str>,
    pub transfers: Vec<Transfer>,
    keys: BTreeMap<String, Kept>,
    pub mutations: Vec<Asked>,
    pub searches: Vec<Asked>,
    pub index_lag: TimeDelta,
    /// Answers with this version, whatever is asked for.
    pub speaks: Option<&'static str>,
    /// Scopes that the shop has granted.
    pub granted: Vec<&'static str>,
    /// Its locations, and whether they are active.
    pub locations: BTreeMap<&'static str, bool>,
}

#[derive(Clone)]
pub struct Shopify {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    clock: TestClock,
}

enum Reply {
    Status(&'static str, Vec<(String, String)>, String),
    Drop,
    Hang,
}

impl Shopify {
    pub async fn start(clock: &TestClock, script: impl IntoIterator<Item = Fault>) -> Shopify {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let state = State {
            tokens: BTreeSet::from([TOKEN.to_owned()]),
            issued: 0,
            token_script: VecDeque::new(),
            script: script.into_iter().collect(),
            search_script: VecDeque::new(),
            transfers: Vec::new(),
            keys: BTreeMap::new(),
            mutations: Vec::new(),
            searches: Vec::new(),
            index_lag: TimeDelta::seconds(30),
            speaks: None,
            granted: vec!["write_inventory_transfers", "read_inventory_transfers", "read_locations"],
            locations: BTreeMap::from([("gid://shopify/Location/1", true), ("gid://shopify/Location/3", false)]),
        };
        let address = listener.local_addr().expect("address");
        let shopify = Shopify { address, state: Arc::new(Mutex::new(state)), clock: clock.clone() };
        let serving = shopify.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        shopify
    }

    pub fn admin_url(&self) -> String {
        format!("http://{}/{{shop}}/admin/api/{{version}}/graphql.json", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }

    /// Mutations asked for, transfers made, tokens issued.
    pub fn counts(&self) -> (usize, usize, u32) {
        let state = self.state();
        (state.mutations.len(), state.transfers.len(), state.issued)
    }

    async fn serve(self, mut stream: TcpStream) {
        let Some(request) = read(&mut stream).await else { return };
        match self.answer(&request) {
            Reply::Drop => drop(stream),
            Reply::Hang => std::future::pending().await,
            Reply::Status(status, headers, body) => {
                let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
                let text =
                    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let now = self.clock.now();
        let mut state = self.state();
        let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path.ends_with("/admin/oauth/access_token") {
            return state.issue(&String::from_utf8_lossy(&request.body));
        }
        let Ok(json) = serde_json::from_slice::<Value>(&request.body) else { return status("400 Bad Request", "no JSON") };
        let asked = Asked { path: path.clone(), headers: request.headers.clone(), body: request.body.clone(), json };
        let token = request.headers.get("x-shopify-access-token").cloned().unwrap_or_default();
        let query = asked.json["query"].as_str().unwrap_or_default().to_owned();
        let search = query.contains("inventoryTransfers(");
        let probe = query.contains("currentAppInstallation") || query.contains("nodes(");
        match search {
            true => state.searches.push(asked.clone()),
            false if probe => {}
            false => state.mutations.push(asked.clone()),
        }
        if !search && !probe && matches!(state.script.front(), Some(Fault::Revoke)) {
            state.script.pop_front();
            state.tokens.remove(&token);
        }
        if !state.tokens.contains(&token) {
            // The real one does not repeat the token; a careless proxy may.
            return status("401 Unauthorized", &json!({"errors": format!("Invalid access token {token}")}).to_string());
        }
        let version = path.split('/').nth_back(1).unwrap_or_default();
        let version = vec![("x-shopify-api-version".to_owned(), state.speaks.unwrap_or(version).to_owned())];
        match search {
            _ if probe => Reply::Status("200 OK", version, state.probe(&query, &asked.json["variables"]).to_string()),
            true => state.search(&asked.json, now, version),
            false => state.mutate(&query, &asked.json["variables"], now, version),
        }
    }
}

fn status(status: &'static str, body: &str) -> Reply {
    Reply::Status(status, Vec::new(), body.to_owned())
}

fn error(message: &str, code: &str, data: Value) -> Value {
    json!({"errors": [{"message": message, "extensions": {"code": code, "requiredAccess": "`write_inventory_transfers` access scope."}}],
        "data": data})
}

impl State {
    fn issue(&mut self, form: &str) -> Reply {
        if let Some(scripted) = self.token_script.pop_front() {
            return status(scripted, "client_secret=app+%26+secret%3D1 was not taken");
        }
        if form != "grant_type=client_credentials&client_id=the-app&client_secret=app+%26+secret%3D1" {
            return status("400 Bad Request", "{\"error\":\"invalid_client\"}");
        }
        self.issued += 1;
        let token = format!("shpat_issued_{}", self.issued);
        self.tokens.insert(token.clone());
        status("200 OK", &json!({"access_token": token, "scope": "write_inventory_transfers", "expires_in": 86399}).to_string())
    }

    fn probe(&self, query: &str, variables: &Value) -> Value {
        if query.contains("currentAppInstallation") {
            let scopes: Vec<Value> = self.granted.iter().map(|s| json!({"handle": s})).collect();
            return json!({"data": {"currentAppInstallation": {"accessScopes": scopes}}});
        }
        let details = variables["details"] == true;
        let allowed = self.granted.contains(&"read_locations") || (!details && self.granted.contains(&"read_inventory"));
        if !allowed {
            return error("Access denied for nodes field.", "ACCESS_DENIED", json!({"nodes": null}));
        }
        let node = |id: &Value| match self.locations.get_key_value(id.as_str().unwrap_or_default()) {
            Some((id, active)) if details => json!({"id": id, "isActive": active}),
            Some((id, _)) => json!({"id": id}),
            None => Value::Null,
        };
        let nodes: Vec<Value> = variables["ids"].as_array().into_iter().flatten().map(node).collect();
        json!({"data": {"nodes": nodes}})
    }

    fn search(&mut self, request: &Value, now: DateTime<Utc>, headers: Vec<(String, String)>) -> Reply {
        if let Some(scripted) = self.search_script.pop_front() {
            return status(scripted, "");
        }
        let query = request["variables"]["query"].as_str().unwrap_or_default();
        let tag = query.strip_prefix("tag:").unwrap_or_default().to_lowercase();
        let hit = |t: &&Transfer| t.tags.iter().any(|t| t.to_lowercase() == tag) && now - t.at >= self.index_lag;
        let nodes: Vec<Value> = self
            .transfers
            .iter()
            .filter(hit)
            .map(|t| json!({"id": t.gid, "name": "#T0001", "status": t.status, "tags": t.tags}))
            .collect();
        Reply::Status("200 OK", headers, json!({"data": {"inventoryTransfers": {"nodes": nodes}}}).to_string())
    }

    fn mutate(&mut self, query: &str, variables: &Value, now: DateTime<Utc>, headers: Vec<(String, String)>) -> Reply {
        let answer = |value: Value| Reply::Status("200 OK", headers.clone(), value.to_string());
        let field =
            if query.contains("AsReadyToShip(") { "inventoryTransferCreateAsReadyToShip" } else { "inventoryTransferCreate" };
        let refuse = |code: &str| {
            answer(json!({"data": {field: {"inventoryTransfer": null,
                "userErrors": [{"field": ["input"], "message": "It says no.", "code": code}]}}}))
        };
        if !query.contains("@idempotent(key: $key)") {
            return answer(error("The @idempotent directive is required for this mutation", "BAD_REQUEST", Value::Null));
        }
        let key = variables["key"].as_str().unwrap_or_default().to_owned();
        let fault = self.script.pop_front();
        match &fault {
            Some(Fault::DropBefore) => return Reply::Drop,
            Some(Fault::UserError(code)) => return refuse(code),
            Some(Fault::Denied) => return answer(error("Access denied for the field.", "ACCESS_DENIED", json!({field: null}))),
            Some(Fault::Throttle(missing)) => {
                return answer(json!({"errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
                    "extensions": {"cost": {"requestedQueryCost": missing + 5, "actualQueryCost": null,
                        "throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": 5, "restoreRate": 100.0}}}}));
            }
            Some(Fault::Status(code, headers, body)) => {
                let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
                return Reply::Status(code, headers, (*body).to_owned());
            }
            Some(Fault::Body(body)) => return Reply::Status("200 OK", Vec::new(), (*body).to_owned()),
            _ => {}
        }
        // Forgotten after a day.
        self.keys.retain(|_, kept| now - kept.at < TimeDelta::hours(24));
        match self.keys.get(&key) {
            Some(Kept { variables: kept, .. }) if kept != variables => return refuse("IDEMPOTENCY_KEY_PARAMETER_MISMATCH"),
            Some(Kept { answer: None, .. }) => return refuse("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"),
            Some(Kept { answer: Some(kept), .. }) => return answer(kept.clone()),
            None => {}
        }
        if matches!(fault, Some(Fault::FailInside)) {
            self.keys.insert(key, Kept { variables: variables.clone(), answer: None, at: now });
            return answer(error("Something went wrong", "INTERNAL_SERVER_ERROR", Value::Null));
        }
        let made = self.make(field, variables, now);
        self.keys.insert(key, Kept { variables: variables.clone(), answer: Some(made.clone()), at: now });
        match fault {
            Some(Fault::CommitThenDrop) => Reply::Drop,
            Some(Fault::CommitThenHang) => Reply::Hang,
            _ => answer(made),
        }
    }

    fn make(&mut self, field: &str, variables: &Value, now: DateTime<Utc>) -> Value {
        let input = variables["input"].clone();
        let tags = input["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let gid = format!("gid://shopify/InventoryTransfer/{}", 2_921_201 + self.transfers.len());
        let status = if field.ends_with("AsReadyToShip") { "READY_TO_SHIP" } else { "DRAFT" };
        self.transfers.push(Transfer { gid: gid.clone(), tags, status, input, at: now });
        json!({"data": {field: {"inventoryTransfer": {"id": gid, "name": "#T0001", "status": status}, "userErrors": []}},
            "extensions": {"cost": {"requestedQueryCost": 12, "actualQueryCost": 10,
                "throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": 1990, "restoreRate": 100.0}}}})
    }
}
