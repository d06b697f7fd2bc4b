//! What an instance and a route may say, checked before anything is sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Jira;
use super::api::Api;
use super::issue::{LABEL, OURS};
use crate::config::SecretRef;
use crate::events::decision::{RiskLevel, Route};
use crate::events::fact::Move;
use crate::handlers::registry::{duration_text, read_config};
use crate::handlers::target::Template;
use crate::handlers::{Context, Handler, http};

/// Keys that a route may have for this kind.
const ROUTE_KEYS: [&str; 6] = ["project", "issue_type", "priority", "labels", "fields", "transitions"];
/// Severities of decisions.
const SEVERITIES: [RiskLevel; 5] = [RiskLevel::None, RiskLevel::Low, RiskLevel::Warning, RiskLevel::Critical, RiskLevel::Out];
/// States of a proposal that can be told.
const STATES: [&str; 7] = ["acknowledged", "ordered", "in_transit", "received", "cancelled", "expired", "resolved"];
/// Moves that a status can mean.
const MOVES: [Move; 5] = [Move::Acknowledge, Move::Ordered, Move::InTransit, Move::Received, Move::Cancel];
const IGNORE: &str = "ignore";
/// Jira's own bound.
const LABEL_LIMIT: usize = 255;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    base_url: String,
    email: String,
    token: SecretRef,
    webhook_secret: Option<SecretRef>,
    project: Option<String>,
    #[serde(default = "default_issue_type")]
    issue_type: String,
    priority_map: Option<BTreeMap<String, String>>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    fields: Map<String, Value>,
    #[serde(default)]
    transitions: BTreeMap<String, String>,
    #[serde(default)]
    status_map: BTreeMap<String, String>,
    #[serde(default = "default_index_lag", deserialize_with = "duration_text")]
    index_lag: Duration,
    #[serde(default = "default_sweep", deserialize_with = "duration_text")]
    sweep_every: Duration,
    #[serde(default = "default_timeout", deserialize_with = "duration_text")]
    timeout: Duration,
    #[serde(default)]
    allow_private_addresses: bool,
}

fn default_issue_type() -> String {
    "Task".to_owned()
}

fn default_index_lag() -> Duration {
    Duration::from_secs(180)
}

fn default_sweep() -> Duration {
    Duration::from_secs(300)
}

fn default_timeout() -> Duration {
    Duration::from_secs(20)
}

/// What an instance says, checked.
pub struct Settings {
    pub project: Option<String>,
    pub issue_type: String,
    priorities: BTreeMap<&'static str, String>,
    labels: Vec<String>,
    fields: Map<String, Value>,
    transitions: BTreeMap<String, String>,
    pub statuses: StatusMap,
    pub index_lag: Duration,
    pub sweep_every: Duration,
    pub timeout: Duration,
    pub public_url: Option<String>,
}

/// What holds for one route.
#[derive(Debug)]
pub struct OfRoute {
    pub project: Option<String>,
    pub issue_type: String,
    /// For all severities, else by severity.
    pub priority: Option<String>,
    pub priorities: BTreeMap<&'static str, String>,
    pub labels: Vec<String>,
    pub fields: Template,
    /// State of the proposal → id or name of the transition.
    pub transitions: BTreeMap<String, String>,
}

pub fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    let url = http::checked_url("base_url", &config.base_url, config.allow_private_addresses)?;
    if url.scheme() != "https" && !config.allow_private_addresses {
        return Err("base_url: the token would travel unencrypted; use https://".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("base_url is the address of the site, such as https://example.atlassian.net".to_owned());
    }
    if config.email.is_empty() || config.email.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(format!("email = \"{}\" is not the address of an account", config.email.escape_debug()));
    }
    let token = context.secret("token", &config.token)?;
    let mut secrets = vec![token.clone(), STANDARD.encode(format!("{}:{token}", config.email))];
    let webhook_secret = config.webhook_secret.as_ref().map(|s| context.secret("webhook_secret", s)).transpose()?;
    secrets.extend(webhook_secret.clone());
    let client = http::client(config.timeout, config.allow_private_addresses, context)?;
    let api = Api::new(client, url.as_str(), config.email.clone(), token);
    let settings = Settings {
        statuses: StatusMap::new(&config.status_map)?,
        priorities: priorities(config.priority_map)?,
        labels: labels("labels", config.labels)?,
        fields: fields("fields", config.fields)?,
        transitions: transitions("transitions", config.transitions)?,
        project: config.project.map(|p| name("project", p)).transpose()?,
        issue_type: name("issue_type", config.issue_type)?,
        index_lag: config.index_lag,
        sweep_every: config.sweep_every,
        timeout: config.timeout,
        public_url: context.public_url.clone(),
    };
    Ok(Arc::new(Jira {
        name: context.name.clone(),
        api,
        settings,
        webhook_secret: webhook_secret.map(String::into_bytes),
        silent_until: Mutex::new(HashMap::new()),
        swept_at: Mutex::new(None),
        secrets,
    }))
}

impl Settings {
    /// The route's settings over the instance's. The error is for people.
    pub fn of(&self, route: &Route) -> Result<OfRoute, String> {
        let at = |key: &str| format!("the route's {key}");
        if let Some((key, near)) = route.settings.keys().find_map(|key| misspelt(key)) {
            return Err(format!("the route has no use for {key}; did you mean \"{near}\"?"));
        }
        let text = |key: &str| match route.settings.get(key) {
            None => Ok(None),
            // An id may be written as a number.
            Some(Value::Number(n)) => Ok(Some(n.to_string())),
            Some(Value::String(s)) => name(&at(key), s.clone()).map(Some),
            Some(other) => Err(format!("{} = {other} is not a text", at(key))),
        };
        let mut all_labels = self.labels.clone();
        if let Some(more) = setting::<Vec<String>>(route, "labels", "a list of labels, such as [\"urgent\"]")? {
            all_labels.extend(labels(&at("labels"), more)?);
        }
        let mut all_fields = self.fields.clone();
        if let Some(more) = setting::<Map<String, Value>>(route, "fields", "a table of fields")? {
            all_fields.extend(fields(&at("fields"), more)?);
        }
        let mut all_transitions = self.transitions.clone();
        if let Some(more) = setting(route, "transitions", "a table from states to transitions")? {
            all_transitions.extend(transitions(&at("transitions"), more)?);
        }
        Ok(OfRoute {
            project: text("project")?.or_else(|| self.project.clone()),
            issue_type: text("issue_type")?.unwrap_or_else(|| self.issue_type.clone()),
            priority: text("priority")?,
            priorities: self.priorities.clone(),
            labels: all_labels,
            fields: Template::new(Value::Object(all_fields)).map_err(|e| format!("fields: {e}"))?,
            transitions: all_transitions,
        })
    }
}

fn setting<T: for<'de> Deserialize<'de>>(route: &Route, key: &str, what: &str) -> Result<Option<T>, String> {
    let Some(value) = route.settings.get(key) else { return Ok(None) };
    T::deserialize(value).map(Some).map_err(|_| format!("the route's {key} = {value} is not {what}"))
}

/// A key that nearly is one of ours. Others are not for this kind to judge.
fn misspelt(key: &str) -> Option<(&str, &'static str)> {
    if ROUTE_KEYS.contains(&key) {
        return None;
    }
    crate::config::nearest(key, ROUTE_KEYS).map(|near| (key, near))
}

fn name(at: &str, text: String) -> Result<String, String> {
    match text.trim().is_empty() || text.contains(char::is_control) {
        true => Err(format!("{at} = \"{}\" is neither a name nor an id", text.escape_debug())),
        false => Ok(text.trim().to_owned()),
    }
}

fn labels(at: &str, labels: Vec<String>) -> Result<Vec<String>, String> {
    for label in &labels {
        let bad = label.is_empty() || label.len() > LABEL_LIMIT || label.contains(|c: char| c.is_whitespace() || c.is_control());
        if bad {
            return Err(format!("{at}: \"{}\" is not a label; labels hold no spaces", label.escape_debug()));
        }
        if label.starts_with(LABEL) {
            return Err(format!("{at}: labels that begin with \"{LABEL}\" are made by Stockwarden itself"));
        }
    }
    Ok(labels)
}

fn fields(at: &str, fields: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if let Some(ours) = fields.keys().find(|f| OURS.contains(&f.as_str())) {
        return Err(format!(
            "{at}.{ours} is set by Stockwarden itself; there are keys for project, issue_type, priority and labels"
        ));
    }
    Template::new(Value::Object(fields.clone())).map_err(|e| format!("{at}: {e}"))?;
    Ok(fields)
}

fn transitions(at: &str, map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    for (state, transition) in &map {
        if !STATES.contains(&state.as_str()) {
            return Err(format!("{at}.{state}: there is no such state{}", hint(state, &STATES)));
        }
        name(&format!("{at}.{state}"), transition.clone())?;
    }
    Ok(map)
}

fn hint(text: &str, all: &[&str]) -> String {
    match crate::config::nearest(text, all.iter().copied()) {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None => format!("; there are {}", all.join(", ")),
    }
}

/// Jira's own names, unless it was told otherwise.
fn priorities(map: Option<BTreeMap<String, String>>) -> Result<BTreeMap<&'static str, String>, String> {
    let Some(map) = map else {
        let known = [("out", "Highest"), ("critical", "High"), ("warning", "Medium"), ("low", "Low")];
        return Ok(known.into_iter().map(|(severity, name)| (severity, name.to_owned())).collect());
    };
    let severities = SEVERITIES.map(RiskLevel::as_str);
    let mut priorities = BTreeMap::new();
    for (key, priority) in map {
        let Some(severity) = severities.iter().find(|s| **s == key) else {
            return Err(format!("priority_map.{key}: there is no such severity{}", hint(&key, &severities)));
        };
        priorities.insert(*severity, name(&format!("priority_map.{key}"), priority)?);
    }
    Ok(priorities)
}

/// What a status means: by its id, else its name, else its category.
#[derive(Debug)]
pub struct StatusMap {
    /// Ids and lower-case names; none: it changes nothing.
    known: BTreeMap<String, Option<Move>>,
}

impl StatusMap {
    fn new(map: &BTreeMap<String, String>) -> Result<StatusMap, String> {
        let mut known =
            BTreeMap::from([("indeterminate".to_owned(), Some(Move::Acknowledge)), ("done".to_owned(), Some(Move::Ordered))]);
        for (status, text) in map {
            let moved = MOVES.into_iter().find(|m| m.as_str() == text.replace('_', "-"));
            if moved.is_none() && text != IGNORE {
                let all: Vec<&str> = MOVES.iter().map(|m| m.as_str()).chain([IGNORE]).collect();
                return Err(format!("status_map.{status} = \"{text}\": there is no such move{}", hint(text, &all)));
            }
            known.insert(name("status_map", status.clone())?.to_lowercase(), moved);
        }
        Ok(StatusMap { known })
    }

    /// By id or name.
    pub fn by_name(&self, id: &str, name: &str) -> Option<Option<Move>> {
        self.known.get(id).or_else(|| self.known.get(&name.to_lowercase())).copied()
    }

    pub fn by_category(&self, key: &str) -> Option<Move> {
        self.known.get(key).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_known_by_id_then_name_then_category() {
        let map = [("10007", "cancel"), ("In Transit", "in_transit"), ("done", "ignore")];
        let map = map.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let statuses = StatusMap::new(&map).expect("map");
        assert_eq!(statuses.by_name("10007", "Won't do"), Some(Some(Move::Cancel)));
        assert_eq!(statuses.by_name("5", "in transit"), Some(Some(Move::InTransit)));
        assert_eq!(statuses.by_name("6", "Working"), None);
        assert_eq!(statuses.by_category("indeterminate"), Some(Move::Acknowledge), "the default stays for what is not named");
        assert_eq!((statuses.by_category("done"), statuses.by_category("new")), (None, None));
    }
}
