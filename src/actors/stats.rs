//! What the engine counts, for metrics, readiness and the demo's screen.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::events::decision::Decision;

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct EngineStats {
    /// Facts applied live, and folded in recovery.
    pub facts: Counter,
    pub replayed: Counter,
    pub decisions: Counter,
    pub dead_letters: Counter,
    pub commits: Counter,
    pub aborts: Counter,
    pub commit_failing: Flag,
    pub snapshots: Counter,
    pub snapshots_failing: Flag,
    /// Snapshots whose checksum or version did not fit.
    pub snapshots_discarded: Counter,
    pub rebuilds: Counter,
    pub quarantines: Counter,
    pub shops: Gauge,
    /// Variants in memory, and those that are known and are not.
    pub variants: Gauge,
    pub variants_away: Gauge,
    /// Variants that left memory, and that came back.
    pub passivations: Counter,
    pub reactivations: Counter,
    /// The store does not give back what left memory; facts of those partitions wait.
    pub reactivation_failing: Flag,
    /// Offsets between what is applied and the end of the log, over the live partitions of this node.
    pub lag: Gauge,
    /// The last few decisions, newest last.
    recent: Mutex<Vec<Decision>>,
}

/// Decisions kept for the demo's screen.
const RECENT: usize = 8;

impl EngineStats {
    pub fn decided(&self, decisions: &[Decision]) {
        self.decisions.add(decisions.len() as u64);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.extend(decisions.iter().rev().take(RECENT).rev().cloned());
        let surplus = recent.len().saturating_sub(RECENT);
        recent.drain(..surplus);
    }

    pub fn recent_decisions(&self) -> Vec<Decision> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
