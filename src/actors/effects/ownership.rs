//! Which decisions partitions this node dispatches, under which epoch, and what is under way for them.
//!
//! Shared by the consumer's thread (which must learn at once that a partition is gone), the planner and all senders; hence a lock
//! and no mailbox.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::events::record::Partition;
use crate::ports::snapshot_store::Epoch;

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<Partition, Slot>,
    /// (partition, token) → things under way; kept past a revocation until they end.
    under_way: BTreeMap<(Partition, Token), usize>,
    next: u64,
}

#[derive(Debug)]
struct Slot {
    token: Token,
    /// None until it is acquired in the store.
    epoch: Option<Epoch>,
}

/// Names one assignment of a partition: the next one has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

#[derive(Debug, Default)]
pub struct Ownership {
    state: Mutex<State>,
    ended: Condvar,
}

/// Something under way for a partition; a revocation waits for it to be dropped.
#[derive(Debug)]
pub struct InFlight {
    ownership: Arc<Ownership>,
    partition: Partition,
    token: Token,
    pub epoch: Epoch,
}

impl Ownership {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding this lock")
    }

    /// The group has assigned the partition; nothing is done for it before [`Ownership::take`].
    pub fn assigned(&self, partition: Partition) -> Token {
        let mut state = self.lock();
        state.next += 1;
        let token = Token(state.next);
        state.partitions.insert(partition, Slot { token, epoch: None });
        token
    }

    /// Whether the assignment still stands.
    pub fn stands(&self, partition: Partition, token: Token) -> bool {
        self.lock().partitions.get(&partition).is_some_and(|s| s.token == token)
    }

    /// The store gave the epoch. False if the assignment has gone meanwhile.
    pub fn take(&self, partition: Partition, token: Token, epoch: Epoch) -> bool {
        match self.lock().partitions.get_mut(&partition) {
            Some(slot) if slot.token == token => {
                slot.epoch = Some(epoch);
                true
            }
            _ => false,
        }
    }

    /// The group has taken the partitions away: nothing new begins for them.
    pub fn release(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        for p in partitions {
            state.partitions.remove(p);
        }
    }

    /// Somebody has a newer epoch.
    pub fn fenced(&self, partition: Partition, epoch: Epoch) {
        let mut state = self.lock();
        if state.partitions.get(&partition).is_some_and(|s| s.epoch == Some(epoch)) {
            state.partitions.remove(&partition);
        }
    }

    /// Begins something for a partition, if it is held.
    pub fn begin(self: &Arc<Self>, partition: Partition) -> Option<InFlight> {
        let mut state = self.lock();
        let slot = state.partitions.get(&partition)?;
        let (token, epoch) = (slot.token, slot.epoch?);
        *state.under_way.entry((partition, token)).or_default() += 1;
        Some(InFlight { ownership: self.clone(), partition, token, epoch })
    }

    /// Begins something for every partition that is held.
    pub fn begin_all(self: &Arc<Self>) -> BTreeMap<Partition, InFlight> {
        self.held().into_iter().filter_map(|(p, _)| Some((p, self.begin(p)?))).collect()
    }

    pub fn held(&self) -> Vec<(Partition, Epoch)> {
        self.lock().partitions.iter().filter_map(|(p, s)| Some((*p, s.epoch?))).collect()
    }

    /// Waits until nothing is under way for these partitions; false when `patience` is over. Blocks.
    pub fn drained(&self, partitions: &[Partition], patience: Duration) -> bool {
        let busy = |state: &mut State| state.under_way.keys().any(|(p, _)| partitions.contains(p));
        let waited = self.ended.wait_timeout_while(self.lock(), patience, busy);
        !waited.expect("no code panics while holding this lock").1.timed_out()
    }
}

impl Clone for InFlight {
    /// Can be had while this one lives, also when the partition was released meanwhile: what was claimed is seen through.
    fn clone(&self) -> Self {
        *self.ownership.lock().under_way.entry((self.partition, self.token)).or_default() += 1;
        InFlight { ownership: self.ownership.clone(), partition: self.partition, token: self.token, epoch: self.epoch }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.ownership.lock();
        let key = (self.partition, self.token);
        if let Some(n) = state.under_way.get_mut(&key) {
            *n -= 1;
            if *n == 0 {
                state.under_way.remove(&key);
            }
        }
        drop(state);
        self.ownership.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_waits_for_what_is_under_way_and_lets_nothing_begin() {
        let o = Arc::new(Ownership::default());
        let token = o.assigned(3);
        assert!(o.begin(3).is_none(), "not before the epoch is there");
        assert!(o.take(3, token, 7));
        let one = o.begin(3).expect("held");
        o.release(&[3]);
        let two = one.clone();
        drop(one);
        assert!(o.begin(3).is_none() && o.held().is_empty());
        assert!(!o.drained(&[3], Duration::from_millis(1)));
        assert!(o.drained(&[4], Duration::ZERO), "other partitions do not matter");
        let waiter = std::thread::spawn({
            let o = o.clone();
            move || o.drained(&[3], Duration::from_secs(60))
        });
        drop(two);
        assert!(waiter.join().expect("waiter"));
    }

    #[test]
    fn an_epoch_that_comes_after_the_revocation_is_not_taken() {
        let o = Arc::new(Ownership::default());
        let old = o.assigned(3);
        o.release(&[3]);
        let new = o.assigned(3);
        assert!(!o.stands(3, old) && !o.take(3, old, 7) && o.take(3, new, 8));
        o.fenced(3, 7);
        assert_eq!(o.held(), [(3, 8)]);
        o.fenced(3, 8);
        assert!(o.held().is_empty());
    }
}
