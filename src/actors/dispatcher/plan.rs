//! From records of `reorder-decisions` to rows of the ledger and what the list of reorders shows. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::digest::{Delivery, delivery};
use crate::events::dead_letter::{DeadLetter, Origin, Reason, Unreadable};
use crate::events::decision::{self, Decision, ProposalChange, Recorded, Route};
use crate::events::record::{NewRecord, RecordBatch, RecordRef, Topic};
use crate::events::time::Millis;
use crate::handlers::{Handlers, Instance};
use crate::ports::ledger::{Batch, EffectId, Planned};
use crate::ports::reorders::{Change, Opening};

/// What a batch comes to.
#[derive(Debug, Default)]
pub struct Plan {
    pub batch: Batch,
    pub dead: Vec<NewRecord>,
}

impl Plan {
    /// `handlers` say who follows the changes of what they told, and who takes digests.
    pub fn of(batch: &RecordBatch, handlers: &Handlers, now: DateTime<Utc>) -> Plan {
        let mut plan = Plan::default();
        for record in batch.iter() {
            match Recorded::read(&record) {
                Ok(Recorded::Decision(decision)) => {
                    plan.batch.opened.push(opening(&record, &decision));
                    plan.batch.rows.extend(rows(&record, &decision, handlers, now));
                }
                Ok(Recorded::Proposal(changed)) => plan.batch.changes.push(change(&record, &changed, handlers, now)),
                // Quarantines concern the shards; what a newer version adds may concern nobody here.
                Ok(Recorded::Quarantine(_) | Recorded::Other) => {}
                Err(e) => plan.dead.push(dead_letter(&record, e.to_string())),
            }
        }
        plan
    }

    pub fn handlers(&self) -> BTreeSet<String> {
        let told = self.batch.changes.iter().flat_map(|c| c.tell.iter().cloned());
        self.batch.rows.iter().map(|r| r.handler.clone()).chain(told).collect()
    }
}

fn opening(record: &RecordRef<'_>, decision: &Decision) -> Opening {
    Opening {
        proposal_id: decision.proposal_id,
        organisation: storable(&decision.organisation),
        shop: log_key(record, decision),
        variant_id: decision.variant_id,
        caused_by: decision.caused_by.offset,
        vendor: decision.vendor.as_deref().map(storable),
        opened_at: time_of(decision.decided_at),
        decision: text(record),
    }
}

/// Everybody who has told the proposal is told what became of it, but for the one who said so, unless that one shows it by this alone.
fn change(record: &RecordRef<'_>, change: &ProposalChange, handlers: &Handlers, now: DateTime<Utc>) -> Change {
    let news = |i: &Instance| change.via.as_deref() != Some(&i.name) || i.handler.follows_its_own();
    Change {
        proposal_id: change.proposal_id,
        version: change.caused_by.offset,
        state: storable(&change.state),
        changed_at: time_of(change.changed_at),
        change: text(record),
        offset: record.offset,
        tell: handlers.iter().filter(|i| i.handler.follows(change) && news(i)).map(|i| i.name.clone()).collect(),
        due_at: now,
    }
}

/// As recorded, so that who reads it later gets also what this version does not know.
fn text(record: &RecordRef<'_>) -> String {
    String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned()
}

fn time_of(ms: Millis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// One row a route.
fn rows(record: &RecordRef<'_>, decision: &Decision, handlers: &Handlers, now: DateTime<Utc>) -> Vec<Planned> {
    let key = log_key(record, decision);
    let variant = decision.variant_id.map(|v| v.to_string());
    let subject = variant.or_else(|| decision.sku.clone()).unwrap_or_default();
    let text = text(record);
    let mut taken = BTreeSet::new();
    let mut rows = Vec::with_capacity(decision.routes.len());
    for (index, route) in decision.routes.iter().enumerate() {
        let Delivery { due_at, digest } = delivery(decision, route, handlers, now);
        rows.push(Planned {
            id: EffectId { decision_id: decision.decision_id, route_id: route_id(route, index, &mut taken) },
            handler: storable(&route.to),
            organisation: storable(&decision.organisation),
            shop: key.clone(),
            order_key: storable(&format!("{key}/{subject}")),
            partition: record.partition,
            offset: record.offset,
            decision: text.clone(),
            route: serde_json::to_string(route).expect("a route is plain data"),
            due_at,
            digest: digest.as_deref().map(storable),
        });
    }
    rows
}

fn log_key(record: &RecordRef<'_>, decision: &Decision) -> String {
    let written = record.key.and_then(|k| std::str::from_utf8(k).ok()).filter(|k| !k.is_empty()).map(str::to_owned);
    let key = written.or_else(|| decision.shop.clone());
    storable(&key.unwrap_or_else(|| format!("{}|{}", decision.organisation, decision.sku.as_deref().unwrap_or_default())))
}

/// The route's name, or its index. Two routes of one name would be one effect, and the second would never be sent; so it is told apart by
/// its index.
fn route_id(route: &Route, index: usize, taken: &mut BTreeSet<String>) -> String {
    let mut id = storable(&route.id.clone().unwrap_or_else(|| index.to_string()));
    while !taken.insert(id.clone()) {
        id = format!("{id}#{index}");
    }
    id
}

/// Postgres takes no NUL in a text; a record that holds one must not hold up its partition (DESIGN §7.8).
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn dead_letter(record: &RecordRef<'_>, message: String) -> NewRecord {
    let value = record.value.unwrap_or_default();
    let newer = record.headers.text("version").and_then(|v| v.parse::<u16>().ok()).is_some_and(|v| v > decision::VERSION);
    let reason = if value.is_empty() {
        Reason::EmptyRecord
    } else if newer {
        Reason::NewerVersion
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(value).is_err() {
        Reason::InvalidJson
    } else {
        Reason::WrongType
    };
    let origin = Origin {
        topic: Topic::Decisions.default_name().to_owned(),
        partition: Some(record.partition),
        offset: Some(record.offset),
    };
    let letter = DeadLetter::new(origin, None, value, &Unreadable::new(reason, message), record.append_time_ms);
    letter.into_record(record.key.map(<[u8]>::to_vec), Some(record.partition))
}
