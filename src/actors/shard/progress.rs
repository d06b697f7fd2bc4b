//! How far a shard has come: what is applied, what of it is committed, what may be saved. Pure: [`super::Shard`] drives it, and so
//! does the seeded simulation (tests/suite/simulation).

use std::collections::VecDeque;

use crate::events::record::Offset;
use crate::ports::snapshot_store::Checkpoint;

/// Batches processed but not yet committed; past it the shard waits (DESIGN §7.9).
const UNCOMMITTED_BATCHES: usize = 16;

#[derive(Debug)]
pub struct Progress {
    /// Offsets after what is applied, and after what is committed.
    applied: Offset,
    committed: Offset,
    /// Ends of processed batches that are not committed yet.
    uncommitted: VecDeque<Offset>,
    /// Decisions caused by facts at or past `committed` stand at or past this offset.
    decisions: Offset,
}

impl Progress {
    pub fn new(from: Offset, decisions: Offset) -> Progress {
        Progress { applied: from, committed: from, uncommitted: VecDeque::new(), decisions }
    }

    /// A batch of the tail begins; decisions caused by later facts stand at or past `decisions`.
    pub fn replays(&mut self, decisions: Offset) {
        self.decisions = decisions;
    }

    /// It is folded. Only committed facts are replayed.
    pub fn replayed(&mut self, next_offset: Offset) {
        self.applied = next_offset;
        self.committed = next_offset;
    }

    /// The tail is folded; what comes now is decided.
    pub fn goes_live(&mut self, committed: Offset, decisions: Offset) {
        self.applied = committed;
        self.committed = committed;
        self.decisions = decisions;
    }

    /// A batch is decided; what came of it is on its way into a transaction.
    pub fn processed(&mut self, next_offset: Offset) {
        self.uncommitted.push_back(next_offset);
        self.applied = next_offset;
    }

    /// A transaction is in the log; its last decision, where that is known, stands before `decisions`.
    pub fn committed(&mut self, next_offset: Offset, decisions: Option<Offset>) {
        self.committed = self.committed.max(next_offset);
        while self.uncommitted.front().is_some_and(|end| *end <= self.committed) {
            self.uncommitted.pop_front();
        }
        if let Some(end) = decisions {
            self.decisions = self.decisions.max(end);
        }
    }

    pub fn applied(&self) -> Offset {
        self.applied
    }

    /// Whether another batch may be processed before the next commit.
    pub fn has_room(&self) -> bool {
        self.uncommitted.len() < UNCOMMITTED_BATCHES
    }

    pub fn is_committed(&self) -> bool {
        self.committed >= self.applied
    }

    /// Of the states as they are now.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { facts: self.applied, decisions: self.decisions }
    }

    /// Whether states of then may be saved: no snapshot holds a fact at or past the committed offset (DESIGN §3).
    pub fn covers(&self, then: &Checkpoint) -> bool {
        then.facts <= self.committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_may_be_saved_once_everything_in_them_is_committed() {
        let mut progress = Progress::new(0, 0);
        progress.replays(3);
        progress.replayed(10);
        assert!(progress.covers(&progress.checkpoint()), "what is replayed is committed");
        progress.goes_live(10, 4);
        progress.processed(15);
        let then = progress.checkpoint();
        progress.processed(20);
        assert_eq!(then, Checkpoint { facts: 15, decisions: 4 });
        assert!(!progress.covers(&then));
        progress.committed(15, Some(9));
        assert!(progress.covers(&then) && !progress.covers(&progress.checkpoint()) && !progress.is_committed());
        progress.committed(20, None);
        assert_eq!(progress.checkpoint(), Checkpoint { facts: 20, decisions: 9 });
        assert!(progress.covers(&progress.checkpoint()) && progress.is_committed());
    }

    #[test]
    fn a_commit_that_is_heard_of_late_takes_nothing_back() {
        let mut progress = Progress::new(0, 0);
        (1..=20).for_each(|end| progress.processed(end));
        assert!(!progress.has_room());
        progress.committed(12, Some(7));
        progress.committed(5, Some(2));
        assert!(progress.has_room());
        assert_eq!((progress.checkpoint().decisions, progress.covers(&Checkpoint { facts: 12, decisions: 0 })), (7, true));
    }
}
