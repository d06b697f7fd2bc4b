//! Proves at the end, from the raw topics, plain SQL, the API's answers and what the targets have, that nothing was lost, sent twice
//! unseen, or left in doubt.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::Row as _;

use super::script::{Kind, Sent, bodies};
use super::targets::Effect;
use crate::reference::Record;

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub decision: String,
    pub route: String,
    pub handler: String,
    pub state: String,
    pub reference: Option<String>,
    pub possible_duplicate: bool,
}

pub async fn ledger(connection: &mut sqlx::PgConnection) -> Vec<Row> {
    let query = "select decision_id::text, route_id, handler, state, reference, possible_duplicate from effect";
    let rows = sqlx::query(query).fetch_all(connection).await.expect("the ledger answers");
    let row = |r: &sqlx::postgres::PgRow| Row {
        decision: r.get(0),
        route: r.get(1),
        handler: r.get(2),
        state: r.get(3),
        reference: r.get(4),
        possible_duplicate: r.get(5),
    };
    rows.iter().map(row).collect()
}

/// What the API shows of each route of a reorder, as a row.
pub fn shown(reorder: &Value) -> Vec<Row> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let row = |r: &Value| Row {
        decision: text(&reorder["reorder_id"]),
        route: text(&r["route_id"]),
        handler: text(&r["handler"]),
        state: text(&r["state"]),
        reference: r["reference"].as_str().map(str::to_owned),
        possible_duplicate: r["possible_duplicate"] == true,
    };
    reorder["routes"].as_array().into_iter().flatten().map(row).collect()
}

/// What a run left behind.
pub struct Remains {
    pub facts: Vec<Record>,
    pub decisions: Vec<Record>,
    pub dead_letters: Vec<Record>,
    pub ledger: Vec<Row>,
    pub shown: Vec<Row>,
    pub effects: BTreeMap<Kind, Vec<Effect>>,
    pub sent: Vec<Sent>,
}

/// Ids of the decisions about each variant, in the order in which they were decided.
fn decided(remains: &Remains, wrong: &mut Vec<String>) -> BTreeMap<u64, Vec<(String, String)>> {
    let (mut ids, mut decided) = (BTreeSet::new(), BTreeMap::<u64, Vec<(String, String)>>::new());
    for record in remains.decisions.iter().filter(|r| r.headers.get("record").is_none_or(|kind| kind != "proposal")) {
        let d: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        let (Some(id), Some(rule)) = (d["decision_id"].as_str(), d["rule_id"].as_str()) else {
            wrong.push(format!("what is at {}:{} of the decisions is none: {d}", record.partition, record.offset));
            continue;
        };
        if !ids.insert(id.to_owned()) {
            wrong.push(format!("the decision {id} is there twice"));
        }
        let variant = d["variant_id"].as_str().and_then(|v| v.parse().ok()).unwrap_or_default();
        decided.entry(variant).or_default().push((id.to_owned(), rule.to_owned()));
    }
    decided
}

/// Everything that is not as it has to be. `variants`: each has crossed the thresholds of both rules once.
pub fn check(remains: &Remains, variants: &BTreeSet<u64>, rules: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    let decided = decided(remains, &mut wrong);
    let crossed = |v: &u64| decided.get(v).map(|d| d.iter().map(|(_, rule)| rule.as_str()).collect::<Vec<_>>());
    wrong.extend(
        variants.iter().filter(|v| crossed(v).as_deref() != Some(rules)).map(|v| format!("variant {v}: {:?}", decided.get(v))),
    );
    let ids: BTreeSet<&str> = decided.values().flatten().map(|(id, _)| id.as_str()).collect();
    rows(remains, &ids, &mut wrong);
    for (kind, effects) in &remains.effects {
        of_kind(*kind, effects, &ids, remains, &mut wrong);
    }
    order(&decided, &remains.sent, &mut wrong);
    let changed = bodies(&remains.sent).into_iter().filter(|(_, bodies)| bodies.len() > 1);
    wrong.extend(changed.map(|((kind, id), bodies)| format!("{kind:?} of {id} was sent with {} different bodies", bodies.len())));
    if let Some(letter) = remains.dead_letters.first() {
        wrong.push(format!("a dead letter: {}", String::from_utf8_lossy(&letter.value)));
    }
    wrong
}

/// Of each decision and route one row, done, shown by the API as it is, with its outcome in the log.
fn rows(remains: &Remains, ids: &BTreeSet<&str>, wrong: &mut Vec<String>) {
    let mut found: Vec<(&str, &str)> = remains.ledger.iter().map(|r| (r.decision.as_str(), r.handler.as_str())).collect();
    found.sort_unstable();
    let expected: Vec<(&str, &str)> = ids.iter().flat_map(|id| Kind::ALL.map(|kind| (*id, kind.handler()))).collect();
    if found != expected {
        wrong.push(format!("{} rows in the ledger, {} effects of decisions", found.len(), expected.len()));
    }
    let outcomes = super::super::checker::outcomes(&remains.facts);
    for row in &remains.ledger {
        if row.state != "done" {
            wrong.push(format!("not done: {row:?}"));
        }
        if !remains.shown.contains(row) {
            wrong.push(format!("the API does not show {row:?}"));
        }
        match outcomes.get(&format!("{}/{}", row.decision, row.route)) {
            None => wrong.push(format!("no outcome in the log: {row:?}")),
            Some(told) if row.possible_duplicate && !told => wrong.push(format!("the log does not tell the doubt: {row:?}")),
            Some(_) => {}
        }
    }
}

/// Invariant 6.
fn of_kind(kind: Kind, effects: &[Effect], ids: &BTreeSet<&str>, remains: &Remains, wrong: &mut Vec<String>) {
    if let Some(stray) = effects.iter().find(|e| !ids.contains(e.decision.as_str())) {
        wrong.push(format!("{kind:?} has an effect of no decision: {stray:?}"));
    }
    for row in remains.ledger.iter().filter(|r| r.handler == kind.handler()) {
        let found: Vec<&Effect> = effects.iter().filter(|e| e.decision == row.decision && !e.closed).collect();
        let carried_out = remains.sent.iter().filter(|s| s.kind == kind && s.decision == row.decision && s.done).count();
        let allowed = match kind {
            // One, whatever happens: by the key, by the tag, by the sweep.
            Kind::Erp | Kind::Jira | Kind::Transfer => found.len() == 1,
            // More than one is possible, and shown.
            Kind::Mail | Kind::Slack => found.len() == 1 || (found.len() > 1 && row.possible_duplicate),
        };
        if !allowed {
            wrong.push(format!("{kind:?} has {} effects of {row:?}", found.len()));
        }
        // Nobody tells Stockwarden whether the target heeded the key, so that it was sent twice must be seen.
        if kind == Kind::Erp && carried_out > 1 && !row.possible_duplicate {
            wrong.push(format!("the ERP had {carried_out} requests, unseen: {row:?}"));
        }
        if kind != Kind::Erp && !found.iter().any(|e| e.reference == row.reference) {
            wrong.push(format!("{kind:?} has {found:?}, and the ledger refers to something else: {row:?}"));
        }
    }
}

/// Once a send of a later decision about a variant has begun, none of an earlier one follows.
fn order(decided: &BTreeMap<u64, Vec<(String, String)>>, sent: &[Sent], wrong: &mut Vec<String>) {
    let mut places: BTreeMap<(Kind, &str), (usize, usize)> = BTreeMap::new();
    for (at, s) in sent.iter().enumerate() {
        places.entry((s.kind, &s.decision)).or_insert((at, at)).1 = at;
    }
    for (variant, decisions) in decided {
        for (kind, pair) in Kind::ALL.into_iter().flat_map(|kind| decisions.windows(2).map(move |pair| (kind, pair))) {
            let place = |n: usize| places.get(&(kind, pair[n].0.as_str()));
            if let (Some((_, last)), Some((first, _))) = (place(0), place(1))
                && last > first
            {
                wrong.push(format!("{kind:?} of variant {variant}: send {last} is of the first decision, {first} of the second"));
            }
        }
    }
}

/// Effects that both nodes have sent.
fn by_both(sent: &[Sent]) -> usize {
    let mut nodes: BTreeMap<(Kind, &str), BTreeSet<usize>> = BTreeMap::new();
    for s in sent {
        nodes.entry((s.kind, &s.decision)).or_default().insert(s.node);
    }
    nodes.values().filter(|nodes| nodes.len() > 1).count()
}

/// For people.
pub fn summary(remains: &Remains) -> String {
    let faults = remains.sent.iter().filter(|s| s.fate != super::script::Fate::Fine).count();
    let doubtful = remains.sent.iter().filter(|s| s.fate.leaves_doubt()).count();
    let mut told = format!(
        "{} sends, {faults} with a fault ({:.0} %), {doubtful} that left their sender in doubt;",
        remains.sent.len(),
        100.0 * faults as f64 / remains.sent.len().max(1) as f64
    );
    let taken_over = by_both(&remains.sent);
    told.push_str(&format!(" {taken_over} effects begun by one node and sent again by the other;"));
    for (kind, effects) in &remains.effects {
        let rows: Vec<&Row> = remains.ledger.iter().filter(|r| r.handler == kind.handler()).collect();
        let closed = effects.iter().filter(|e| e.closed).count();
        let marked = rows.iter().filter(|r| r.possible_duplicate).count();
        let repeats = effects.len() - closed - rows.len().min(effects.len() - closed);
        told.push_str(&format!(
            " {}: {} effects, {repeats} repeats, {closed} closed as duplicates, {marked} marked;",
            kind.handler(),
            effects.len()
        ));
    }
    told
}
