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
//! - "Acted on" is acknowledged or later; what was merely sent still resolves.
//! - Sales count at their event time, rates are read at domain time.
//! - `maximum` caps the order in whole packs; an order of nothing is no decision, and spends the crossing.
//!
//! It does not know: deletion of single variants from a product, pooled stock (scope `sku`), other triggers.

mod fold;
mod gradient;
mod input;
mod shop;
#[cfg(test)]
mod tests;
mod variant;

use std::collections::BTreeMap;
use std::fmt::Debug;

pub use fold::Reference;
pub use input::Record;

/// (shop, variant id).
pub type VariantKey = (String, u64);
/// (partition, offset, order within the fact).
pub type DecisionKey = (i32, i64, u32);

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub variants: BTreeMap<VariantKey, VariantOutcome>,
    pub decisions: BTreeMap<DecisionKey, DecisionOutcome>,
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
    /// Open proposals: (kind, scope, location) → (proposal id, quantity).
    pub open: BTreeMap<(String, String, Option<u64>), (String, Option<i64>)>,
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
