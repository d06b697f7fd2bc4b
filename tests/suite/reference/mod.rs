//! An independent reading of the log: what the state and the decisions have to be, computed the obvious way.
//!
//! One thread, hash maps, `serde_json::Value`, nothing of `src/domain` or of the codec. It follows DESIGN §2, §4, §10 and RULES
//! R1, R2; where those leave a choice it was settled with a look at what the engine does (see below), the code is its own.
//! Where it and the engine differ, one of them is wrong.
//!
//! Where the design leaves a choice, it reads:
//! - A crossing during a cool-down waits for its end, and fires with the next fact about the same level, the first outcome
//!   that makes a proposal of the variant sent, or the next tick, if it still holds. A crossing that an open proposal covers is spent.
//! - Decisions of one fact see each other: what the first one proposes is supply for the second ("at once", DESIGN §4).
//! - "Acted on" is acknowledged or later; what was merely sent still resolves. To assign or snooze is an attribute, so it is not.
//! - A repeat changes nothing. A move that says something else than is known (assigned to another, snoozed otherwise, ordered with
//!   another quantity, date or reference) is none. A quantity below one is refused, as is a snooze without an end.
//! - What arrived in part had been ordered. Less than ordered stays open with the rest under way.
//! - A snooze ends with the first fact about the variant, or tick, at which its time has come or `available` (of the location
//!   replenished) is at or below its level; and when the proposal closes. The note is the last move's.
//! - One change a proposal and fact, with the state that the fact left; its opening and its being sent are none.
//! - What was a move changes the variant, so what waited for the end of a cool-down is looked at.
//! - Sales count at their event time, rates are read at domain time.
//! - `maximum` caps the order in whole packs; an order of nothing is no decision, and spends the crossing.
//!
//! It does not know: deletion of single variants from a product, pooled stock (scope `sku`), other triggers.

mod fold;
mod gradient;
mod input;
mod proposal;
mod shop;
pub mod story;
#[cfg(test)]
mod tests;
mod variant;

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

pub use fold::Reference;
pub use input::Record;

/// (shop, variant id).
pub type VariantKey = (String, u64);
/// (partition, offset, order within the fact).
pub type DecisionKey = (i32, i64, u32);
/// (partition, offset, proposal id): a fact changes a proposal once.
pub type ChangeKey = (i32, i64, String);

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub variants: BTreeMap<VariantKey, VariantOutcome>,
    pub decisions: BTreeMap<DecisionKey, DecisionOutcome>,
    /// What became of proposals, but for their being sent.
    pub changes: BTreeMap<ChangeKey, ChangeOutcome>,
    /// Items with levels that no catalogue names, by shop.
    pub waiting: BTreeMap<String, u64>,
    pub counts: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: u64,
    /// Level facts that changed nothing: older than what is known, or the same again.
    pub stale_levels: u64,
    /// What should be in `dead-letters`.
    pub unreadable: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct VariantOutcome {
    pub item: Option<u64>,
    pub sku: Option<String>,
    pub available: Option<i64>,
    pub levels: BTreeMap<u64, Option<i64>>,
    /// Open proposals by (kind, scope, location).
    pub open: BTreeMap<(String, String, Option<u64>), ProposalOutcome>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProposalOutcome {
    pub id: String,
    pub state: String,
    pub quantity: Option<i64>,
    pub received: i64,
    pub assigned_to: Option<String>,
    /// Unix milliseconds.
    pub snoozed_until: Option<i64>,
    pub snoozed_level: Option<i64>,
    pub eta: Option<i64>,
    pub reference: Option<String>,
}

impl ProposalOutcome {
    /// From a view of it, or from a change: both have these fields.
    pub fn of(p: &Value) -> ProposalOutcome {
        let text = |name: &str| p[name].as_str().map(str::to_owned);
        ProposalOutcome {
            id: text("proposal_id").unwrap_or_default(),
            state: text("state").unwrap_or_default(),
            quantity: p["quantity"].as_i64(),
            received: p["received"].as_i64().unwrap_or(i64::MIN),
            assigned_to: text("assigned_to"),
            snoozed_until: input::time_ms(&p["snoozed_until"]),
            snoozed_level: p["snoozed_level"].as_i64(),
            eta: input::time_ms(&p["eta"]),
            reference: text("reference"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ChangeOutcome {
    pub organisation: String,
    pub shop: String,
    pub variant: u64,
    /// As the fact left it.
    pub proposal: ProposalOutcome,
    pub note: Option<String>,
    /// What was done, by whom, and where; nothing where stock or time did it.
    pub moved: Option<(String, String, String)>,
    /// Domain time, Unix milliseconds.
    pub changed_at: i64,
}

impl ChangeOutcome {
    /// From a record of `reorder-decisions`; `None` if it is no change.
    pub fn read(record: &Record) -> Option<(ChangeKey, ChangeOutcome)> {
        if record.headers.get("record").is_none_or(|r| r != "proposal") {
            return None;
        }
        let c: Value = serde_json::from_slice(&record.value).expect("a change is JSON");
        let text = |name: &str| c[name].as_str().map(str::to_owned);
        let cause = &c["caused_by"];
        assert_eq!((cause["partition"].as_i64(), &record.key), (Some(record.partition.into()), &text("shop")), "{c}");
        let change = ChangeOutcome {
            organisation: text("organisation").expect("an organisation"),
            shop: text("shop").expect("a shop"),
            variant: text("variant_id").and_then(|v| v.parse().ok()).expect("a variant"),
            proposal: ProposalOutcome::of(&c),
            note: text("note"),
            moved: text("move").map(|m| (m, text("by").unwrap_or_default(), text("via").unwrap_or_default())),
            changed_at: input::time_ms(&c["changed_at"]).expect("a time"),
        };
        let offset = cause["offset"].as_i64().expect("an offset");
        Some(((record.partition, offset, change.proposal.id.clone()), change))
    }
}

/// What a fact makes.
#[derive(Default)]
struct Made {
    decisions: Vec<DecisionOutcome>,
    changes: Vec<ChangeOutcome>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DecisionOutcome {
    pub decision_id: String,
    pub organisation: String,
    pub shop: String,
    pub variant: u64,
    pub location: Option<u64>,
    pub rule: String,
    pub kind: String,
    pub quantity: Option<i64>,
    pub available: i64,
    /// Available before the fact.
    pub previous: Option<i64>,
    /// Unix milliseconds.
    pub decided_at: i64,
}

/// The first key at which two maps differ, for people; `None` if they are equal.
pub fn first_difference<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
) -> Option<String> {
    let differing = expected.keys().chain(actual.keys()).filter(|k| expected.get(k) != actual.get(k));
    let count = differing.clone().collect::<std::collections::BTreeSet<_>>().len();
    let key = differing.min()?;
    let side = |v: Option<&V>| v.map_or("nothing".to_owned(), |v| format!("{v:#?}"));
    Some(format!(
        "{what}: {count} of {} differ; the first is {key:?}\nexpected: {}\nactual: {}",
        expected.len().max(actual.len()),
        side(expected.get(key)),
        side(actual.get(key))
    ))
}
