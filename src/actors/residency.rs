//! How many variants are in memory, and which of them leave (DESIGN §2, §7.9).
//!
//! The bound of the node is divided evenly among the shards that it owns. So it holds without one shard's waiting for another,
//! and a partition with very many variants cannot drive those of the others out. The price: what a small partition leaves
//! unused is not lent.
//!
//! Room is made between batches, in two steps over the shops of a shard: a [`Survey`] counts who may leave by the batch that
//! used them last, a [`Release`] lets the oldest go. Both end when the last shop lets go of them, as a batch does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use super::shard::{Released, Shard, Surveyed};
use super::stats::EngineStats;
use crate::domain::snapshot;
use crate::domain::variant::VariantState;
use crate::events::ids::ProductId;
use crate::events::record::Offset;

/// The node's bound.
#[derive(Debug)]
pub struct Bound {
    variants: usize,
    shards: AtomicUsize,
}

impl Bound {
    pub fn new(variants: usize) -> Bound {
        Bound { variants, shards: AtomicUsize::new(1) }
    }

    pub fn set_shards(&self, shards: usize) {
        self.shards.store(shards.max(1), Ordering::Relaxed);
    }

    pub fn share(&self) -> usize {
        (self.variants / self.shards.load(Ordering::Relaxed)).max(1)
    }

    /// Room for a shard that begins: others may still hold more than their share.
    pub fn room(&self, stats: &EngineStats) -> usize {
        self.share().min(self.variants.saturating_sub(usize::try_from(stats.variants.get()).unwrap_or(0)))
    }
}

/// The residents of one shard.
#[derive(Debug)]
pub struct Residency {
    bound: Arc<Bound>,
    stats: Arc<EngineStats>,
    here: AtomicUsize,
}

impl Residency {
    pub fn new(bound: Arc<Bound>, stats: Arc<EngineStats>) -> Residency {
        Residency { bound, stats, here: AtomicUsize::new(0) }
    }

    pub fn came(&self, variants: usize) {
        self.here.fetch_add(variants, Ordering::Relaxed);
        self.stats.variants.add(variants as i64);
    }

    pub fn left(&self, variants: usize) {
        self.here.fetch_sub(variants, Ordering::Relaxed);
        self.stats.variants.add(-(variants as i64));
    }

    pub fn here(&self) -> usize {
        self.here.load(Ordering::Relaxed)
    }

    pub fn has_room(&self) -> bool {
        self.here() < self.bound.share()
    }

    /// Whether a batch has to wait until somebody has left.
    pub fn is_full(&self) -> bool {
        self.here() > self.bound.share()
    }

    /// How many should leave. Room is made early and generously, so that batches seldom wait and the shops are seldom asked.
    pub fn surplus(&self) -> usize {
        let share = self.bound.share();
        let here = self.here();
        if here > share - share / 8 { here - (share - share / 4) } else { 0 }
    }
}

/// What a shop remembers of a variant that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Of the stored state; no other is taken back.
    pub offset: Offset,
    pub product: ProductId,
    pub open_proposals: u32,
    /// Version of the shop's context under which it was found not at risk; none: it has to be looked at. A variant that no
    /// fact reaches gets safer with time, never riskier: counts of sales fade.
    pub safe_under: Option<u32>,
    /// Deleted or quarantined: time and rules change nothing of it.
    pub inert: bool,
}

impl Stored {
    pub fn of(state: &VariantState) -> Stored {
        Stored {
            offset: state.last,
            product: state.product,
            open_proposals: state.open_proposals().count() as u32,
            safe_under: None,
            inert: state.deleted || state.quarantined.is_some(),
        }
    }
}

/// A variant in memory as it was saved. After a start most of them have nothing to do for hours, and this takes a third of the room.
#[derive(Debug)]
pub struct Packed {
    version: i16,
    state: Box<[u8]>,
}

impl Packed {
    /// Of a state that was read, so that it is known to be whole.
    pub fn new(version: i16, state: Vec<u8>) -> Packed {
        Packed { version, state: state.into() }
    }

    pub fn unpack(&self) -> VariantState {
        snapshot::read(self.version, &self.state).expect("these bytes were decoded before they were packed")
    }
}

/// Counts the variants that may leave, by the batch that used them last.
pub struct Survey {
    shard: Addr<Shard>,
    idle: Mutex<BTreeMap<u64, usize>>,
}

impl Survey {
    pub fn new(shard: Addr<Shard>) -> Arc<Survey> {
        Arc::new(Survey { shard, idle: Mutex::default() })
    }

    pub fn add(&self, used: impl Iterator<Item = u64>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in used {
            *idle.entry(batch).or_default() += 1;
        }
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.shard.do_send(Surveyed(idle));
    }
}

/// Who leaves: all that were used last before a batch, and some of that batch.
pub struct Release {
    shard: Addr<Shard>,
    before: u64,
    some: AtomicUsize,
}

impl Release {
    pub fn new(shard: Addr<Shard>, (before, some): (u64, usize)) -> Arc<Release> {
        Arc::new(Release { shard, before, some: AtomicUsize::new(some) })
    }

    pub fn takes(&self, used: u64) -> bool {
        used < self.before
            || (used == self.before && self.some.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.shard.do_send(Released);
    }
}

/// The batch up to which `wanted` variants have been idle, and how many of that batch's are among them.
pub fn cut(idle: &BTreeMap<u64, usize>, wanted: usize) -> (u64, usize) {
    let mut left = wanted;
    for (batch, count) in idle {
        if *count >= left {
            return (*batch, left);
        }
        left -= count;
    }
    (u64::MAX, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_idle_for_longest_are_cut_off_first_and_no_more_than_wanted() {
        let idle = BTreeMap::from([(3, 10), (5, 4), (9, 100)]);
        assert_eq!(cut(&idle, 7), (3, 7));
        assert_eq!(cut(&idle, 10), (3, 10));
        assert_eq!(cut(&idle, 12), (5, 2));
        assert_eq!(cut(&idle, 15), (9, 1));
        assert_eq!(cut(&idle, 1_000), (u64::MAX, 0), "all of them");
    }

    #[test]
    fn shares_follow_the_number_of_shards_and_surplus_is_counted_from_below_the_bound() {
        let bound = Arc::new(Bound::new(1_000));
        let residency = Residency::new(bound.clone(), Arc::default());
        residency.came(875);
        assert_eq!((residency.surplus(), residency.is_full(), residency.has_room()), (0, false, true));
        residency.came(126);
        assert_eq!((residency.surplus(), residency.is_full(), residency.has_room()), (251, true, false));
        bound.set_shards(4);
        assert_eq!(residency.surplus(), 1_001 - 188);
    }
}
