//! A batch on its way through shops and variants. Each actor that works on it holds the scope; when the last one lets go, the
//! shard is told what came of it. So a batch ends exactly once, whoever panics.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;
use rustc_hash::FxHashMap;

use super::reader::Wanted;
use super::shard::{Settled, Shard};
use crate::events::dead_letter::Unreadable;
use crate::events::decision::{Decision, ProposalChange};
use crate::events::ids::{CLOCK_KEY, VariantId};
use crate::events::record::{Offset, RecordBatch};
use crate::events::time::Millis;

/// Facts of one shop in a batch that holds others' as well. Decisions leave with the whole batch, so without a quota a shop's
/// decision would wait for all that a hot shop has in it (DESIGN §10, Fairness).
pub const SHOP_QUOTA: usize = 256;

/// Cuts a batch before its next tick, and gives the part from there on. A tick wakes those whose deadlines have passed, and a
/// deadline that a fact sets is known when the fact's batch is settled: so nothing but the end of a batch may stand before a
/// tick, or state would depend on how facts were batched (DESIGN §7.3).
pub fn cut_before_tick(batch: &mut RecordBatch) -> Option<RecordBatch> {
    let at = next_tick(batch)?;
    Some(batch.split_off(at))
}

/// Cuts a live batch before its next tick or where a shop has used up its quota, and gives the part from there on.
pub fn cut_live(batch: &mut RecordBatch) -> Option<RecordBatch> {
    let at = next_tick(batch).into_iter().chain(past_quota(batch)).min()?;
    Some(batch.split_off(at))
}

fn next_tick(batch: &RecordBatch) -> Option<usize> {
    batch.iter().skip(1).position(|r| r.key == Some(CLOCK_KEY)).map(|i| i + 1)
}

/// The first record that is one too many of its shop, if there are others to wait for it.
fn past_quota(batch: &RecordBatch) -> Option<usize> {
    if batch.len() <= SHOP_QUOTA {
        return None;
    }
    let mut counts = FxHashMap::<Option<&[u8]>, usize>::default();
    for (i, record) in batch.iter().enumerate() {
        let count = counts.entry(record.key).or_default();
        *count += 1;
        if *count > SHOP_QUOTA {
            let has_others = counts.len() > 1 || batch.iter().skip(i).any(|r| r.key != record.key);
            return has_others.then_some(i);
        }
    }
    None
}

/// Whether decisions are computed or read back (DESIGN §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Live,
    /// Decisions come recorded; nothing is decided and nothing leaves the shard.
    Replay,
}

/// A fact that killed an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    pub shop: Arc<str>,
    /// None: the shop itself died of it.
    pub variant: Option<VariantId>,
    pub offset: Offset,
    pub message: String,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    pub decisions: Vec<Decision>,
    /// What became of proposals.
    pub changes: Vec<ProposalChange>,
    pub unreadable: Vec<(Offset, Arc<str>, Unreadable)>,
    pub deaths: Vec<Death>,
    /// Variants that time alone may change, and when; none takes an earlier one back.
    pub deadlines: Vec<(Arc<str>, VariantId, Option<Millis>)>,
    /// Variants with work in the batch that are not in memory: it goes on when they are.
    pub missing: Wanted,
    /// What came back from the store is not what was put there.
    pub spoiled: Option<String>,
}

pub struct Scope {
    pub mode: Mode,
    /// Counts the shard's batches; who was used last in an early one leaves memory first.
    pub number: u64,
    shard: Addr<Shard>,
    outcome: Mutex<Outcome>,
}

impl Scope {
    pub fn new(mode: Mode, number: u64, shard: Addr<Shard>, outcome: Outcome) -> Arc<Scope> {
        Arc::new(Scope { mode, number, shard, outcome: Mutex::new(outcome) })
    }

    pub fn with(&self, add: impl FnOnce(&mut Outcome)) {
        // A poisoned lock holds what was added before the panic, which is what is wanted.
        add(&mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let outcome = std::mem::take(self.outcome.get_mut().unwrap_or_else(PoisonError::into_inner));
        // Bounded: a shard has one batch under way. A shard that is gone needs no answer.
        self.shard.do_send(Settled(outcome));
    }
}

/// The words of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(keys: &[&str]) -> RecordBatch {
        let mut batch = RecordBatch::new(0, 0);
        for (offset, key) in keys.iter().enumerate() {
            batch.push(offset as Offset, 0, Some(key.as_bytes()), Some(b"{}"), std::iter::empty());
        }
        batch
    }

    fn parts(mut batch: RecordBatch, cut: fn(&mut RecordBatch) -> Option<RecordBatch>) -> Vec<usize> {
        let mut lengths = Vec::new();
        loop {
            let rest = cut(&mut batch);
            lengths.push(batch.len());
            match rest {
                Some(rest) => batch = rest,
                None => return lengths,
            }
        }
    }

    #[test]
    fn a_hot_shop_has_a_quota_of_a_live_batch_and_nobody_else_waits_for_more() {
        let mut keys = vec!["hot"; 1_000];
        keys[3] = "cold";
        keys.push("cold");
        // Alone with itself it needs none.
        assert_eq!(parts(batch(&keys), cut_live), [257, 256, 256, 232]);
        assert_eq!(parts(batch(&["hot"; 1_000]), cut_live), [1_000]);
        // Others only after it: they do not wait for all of it.
        let mut keys = vec!["hot"; 600];
        keys.push("cold");
        assert_eq!(parts(batch(&keys), cut_live), [256, 256, 89]);
        // Many shops, none of them hot.
        let names: Vec<String> = (0..40).map(|n| format!("shop-{n}")).collect();
        let many: Vec<&str> = (0..1_000).map(|i| names[i % 40].as_str()).collect();
        assert_eq!(parts(batch(&many), cut_live), [1_000]);
        assert_eq!(parts(batch(&keys), cut_before_tick), [601], "what is replayed decides nothing, and nobody waits for it");
    }

    #[test]
    fn a_tick_begins_a_batch_live_and_in_replay() {
        let mut keys = vec!["shop"; 10];
        keys[4] = "~clock";
        for cut in [cut_live, cut_before_tick] {
            assert_eq!(parts(batch(&keys), cut), [4, 6]);
        }
    }
}
