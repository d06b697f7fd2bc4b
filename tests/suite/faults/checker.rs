//! Proves after a round that nothing is lost, doubled or made up: from the raw topics, the plain fold, plain SQL and what the target
//! has received; nothing of the engine's own reading.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::load::{Acknowledged, routes};
use super::target::Received;
use crate::reference::{
    ChangeKey, ChangeOutcome, DecisionKey, DecisionOutcome, Outcome, Record, Reference, VariantKey, VariantOutcome,
    first_difference,
};

/// What a round left behind.
pub struct Remains {
    pub acknowledged: Vec<Acknowledged>,
    pub facts: Vec<Record>,
    pub decisions: Vec<Record>,
    pub dead_letters: Vec<Record>,
    pub ledger: Vec<Row>,
    pub received: BTreeMap<String, Received>,
    pub views: BTreeMap<VariantKey, VariantOutcome>,
    /// What the nodes' answers said about themselves that they must not.
    pub owners: Vec<String>,
}

impl Remains {
    /// The topics as text, a record a line; what a person needs who asks why.
    pub fn keep(&self, folder: &std::path::Path) {
        for (name, records) in [("facts", &self.facts), ("decisions", &self.decisions), ("dead-letters", &self.dead_letters)] {
            let line = |r: &Record| {
                let (at, key) = (format!("{}:{}", r.partition, r.offset), r.key.as_deref().unwrap_or("-"));
                let fact = r.headers.get("fact").map_or("-", String::as_str);
                let triggered = r.headers.get("triggered_at").map_or("-", String::as_str);
                let value = String::from_utf8_lossy(&r.value);
                format!("{at}\t{}\t{key}\t{fact}\t{triggered}\t{value}\n", r.append_time_ms)
            };
            let text: String = records.iter().map(line).collect();
            std::fs::write(folder.join(format!("{name}.tsv")), text).expect("a topic is kept");
        }
    }
}

#[derive(Debug, Clone)]
pub struct Row {
    pub decision: String,
    pub route: String,
    pub state: String,
    pub possible_duplicate: bool,
}

pub async fn ledger(connection: &mut sqlx::PgConnection) -> Result<Vec<Row>, sqlx::Error> {
    let query = "select decision_id::text, route_id, state, possible_duplicate from effect";
    let rows = sqlx::query(query).fetch_all(connection).await?;
    let row =
        |r: &sqlx::postgres::PgRow| Row { decision: r.get(0), route: r.get(1), state: r.get(2), possible_duplicate: r.get(3) };
    Ok(rows.iter().map(row).collect())
}

/// Everything that differs from what it has to be.
pub fn check(remains: &Remains) -> Vec<String> {
    let mut wrong = remains.owners.clone();
    acknowledged(remains, &mut wrong);
    let (expected, unreadable) = fold(&remains.facts);
    dead_letters(remains, &unreadable, &mut wrong);
    wrong.extend(first_difference("variants", &expected.variants, &remains.views));
    let decided = decisions(&remains.decisions, &mut wrong);
    wrong.extend(first_difference("decisions", &expected.decisions, &decided));
    let changed = changes(&remains.decisions, &mut wrong);
    wrong.extend(first_difference("changes of proposals", &expected.changes, &changed));
    effects(remains, &decided, &mut wrong);
    wrong
}

/// Invariant 1 of DESIGN §7.
fn acknowledged(remains: &Remains, wrong: &mut Vec<String>) {
    let at: BTreeMap<(i32, i64), &Record> = remains.facts.iter().map(|r| ((r.partition, r.offset), r)).collect();
    let mut lost = 0;
    for a in &remains.acknowledged {
        let position = (a.position.partition, a.position.offset);
        let there = at.get(&position).is_some_and(|r| match r.headers.get("payload_sha256") {
            Some(digest) => *digest == hex::encode(a.digest),
            None => <[u8; 32]>::from(Sha256::digest(&r.value)) == a.digest,
        });
        if !there {
            lost += 1;
            if lost <= 3 {
                wrong.push(format!("acknowledged at {}, and not there: {:?}", a.position, at.get(&position)));
            }
        }
    }
    if lost > 3 {
        wrong.push(format!("{lost} of {} acknowledged facts are not where they were said to be", remains.acknowledged.len()));
    }
}

fn fold(facts: &[Record]) -> (Outcome, BTreeSet<(i32, i64)>) {
    let mut reference = Reference::new(&[]);
    let mut unreadable = BTreeSet::new();
    for record in facts {
        let before = reference.counts().unreadable;
        reference.take(record);
        if reference.counts().unreadable > before {
            unreadable.insert((record.partition, record.offset));
        }
    }
    (reference.outcome(), unreadable)
}

fn dead_letters(remains: &Remains, unreadable: &BTreeSet<(i32, i64)>, wrong: &mut Vec<String>) {
    let mut found = BTreeSet::new();
    for record in &remains.dead_letters {
        let letter: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        let origin = &letter["origin"];
        let Some(at) = origin["partition"].as_i64().zip(origin["offset"].as_i64()) else {
            wrong.push(format!("a dead letter without its origin: {letter}"));
            continue;
        };
        if !found.insert((at.0 as i32, at.1)) {
            wrong.push(format!("two dead letters of the fact {}:{}", at.0, at.1));
        }
    }
    if found != *unreadable {
        let differing: Vec<_> = found.symmetric_difference(unreadable).take(5).collect();
        wrong.push(format!("{} dead letters, {} unreadable facts; for example {differing:?}", found.len(), unreadable.len()));
    }
}

/// Invariant 4: each once.
fn decisions(records: &[Record], wrong: &mut Vec<String>) -> BTreeMap<DecisionKey, DecisionOutcome> {
    let mut decided = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for record in records.iter().filter(|r| r.headers.get("record").is_none_or(|kind| kind != "proposal")) {
        let place = format!("{}:{}", record.partition, record.offset);
        let Some((key, outcome)) = serde_json::from_slice(&record.value).ok().as_ref().and_then(decision) else {
            wrong.push(format!("what is at {place} of the decisions is none: {}", String::from_utf8_lossy(&record.value)));
            continue;
        };
        if key.0 != record.partition {
            wrong.push(format!("the decision at {place} was caused in partition {}", key.0));
        }
        if let Some(first) = ids.insert(outcome.decision_id.clone(), place.clone()) {
            wrong.push(format!("the decision {} is at {first} and at {place}", outcome.decision_id));
        }
        if let Some(other) = decided.insert(key, outcome).filter(|o| decided[&key].decision_id != o.decision_id) {
            wrong.push(format!("two decisions of one place {key:?}: {other:?}"));
        }
    }
    decided
}

/// The same of what became of proposals.
fn changes(records: &[Record], wrong: &mut Vec<String>) -> BTreeMap<ChangeKey, ChangeOutcome> {
    let mut changed = BTreeMap::new();
    for (key, change) in records.iter().filter_map(ChangeOutcome::read) {
        if changed.insert(key.clone(), change).is_some() {
            wrong.push(format!("the change {key:?} is there twice"));
        }
    }
    changed
}

fn decision(d: &Value) -> Option<(DecisionKey, DecisionOutcome)> {
    let text = |name: &str| d[name].as_str().map(str::to_owned);
    let cause = &d["caused_by"];
    let key = (cause["partition"].as_i64()? as i32, cause["offset"].as_i64()?, d["seq"].as_u64().unwrap_or(0) as u32);
    let decided_at = chrono::DateTime::parse_from_rfc3339(d["decided_at"].as_str()?).ok()?.timestamp_millis();
    let outcome = DecisionOutcome {
        decision_id: text("decision_id")?,
        organisation: text("organisation")?,
        shop: text("shop")?,
        variant: text("variant_id")?.parse().ok()?,
        location: text("location_id").and_then(|l| l.parse().ok()),
        rule: text("rule_id")?,
        kind: text("kind")?,
        quantity: d["quantity"].as_i64(),
        available: d["available"].as_i64()?,
        previous: d["inputs"]["previous"].as_i64(),
        decided_at,
    };
    Some((key, outcome))
}

/// Invariant 6: rows = decisions × routes; each effect arrived, and twice only where its row says so.
fn effects(remains: &Remains, decided: &BTreeMap<DecisionKey, DecisionOutcome>, wrong: &mut Vec<String>) {
    let before = wrong.len();
    let mut expected: BTreeSet<(String, String)> = BTreeSet::new();
    for d in decided.values() {
        expected.extend(routes(&d.rule).iter().map(|r| (d.decision_id.clone(), (*r).to_owned())));
    }
    let settled = outcomes(&remains.facts);
    let mut received = remains.received.clone();
    let mut rows = BTreeSet::new();
    for row in &remains.ledger {
        let name = format!("{}/{}", row.decision, row.route);
        if !rows.insert((row.decision.clone(), row.route.clone())) {
            wrong.push(format!("two rows of the effect {name}"));
        }
        if row.state != "done" {
            wrong.push(format!("the effect {name} is {}", row.state));
        }
        let (done, bodies) = received.remove(&name).map_or((0, 0), |r| (r.done, r.bodies.len()));
        if done == 0 {
            wrong.push(format!("the effect {name} is {} and never arrived", row.state));
        }
        if done > 1 && !row.possible_duplicate {
            wrong.push(format!("the effect {name} arrived {done} times, and its row does not say so"));
        }
        if bodies > 1 {
            wrong.push(format!("the effect {name} was sent with {bodies} different bodies"));
        }
        match settled.get(&name) {
            None => wrong.push(format!("the effect {name} has no outcome in the log")),
            Some(told) if row.possible_duplicate && !told => {
                wrong.push(format!("the effect {name} may be a duplicate, and its outcome in the log does not say so"));
            }
            _ => {}
        }
    }
    if rows != expected {
        let differing: Vec<_> = rows.symmetric_difference(&expected).take(3).collect();
        wrong.push(format!(
            "{} rows in the ledger, {} effects of decisions; for example {differing:?}",
            rows.len(),
            expected.len()
        ));
    }
    if let Some((name, _)) = received.iter().find(|(_, r)| r.done > 0) {
        wrong.push(format!("{} effects arrived that are in no ledger, for example {name}", received.len()));
    }
    if wrong.len() > before + 10 {
        let more = wrong.len() - before - 10;
        wrong.truncate(before + 10);
        wrong.push(format!("and {more} more about effects"));
    }
}

/// Effects with a final outcome in the log, and whether it says that they may have happened twice.
pub fn outcomes(facts: &[Record]) -> BTreeMap<String, bool> {
    let mut settled: BTreeMap<String, bool> = BTreeMap::new();
    for record in facts.iter().filter(|r| r.headers.get("fact").is_some_and(|f| f == "effect/settled")) {
        let fact: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        if fact["state"] == "done"
            && let (Some(decision), Some(route)) = (fact["decision_id"].as_str(), fact["route_id"].as_str())
        {
            *settled.entry(format!("{decision}/{route}")).or_default() |= fact["possible_duplicate"] == true;
        }
    }
    settled
}
