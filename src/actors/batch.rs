//! A batch on its way through shops and variants. Each actor that works on it holds the scope; when the last one lets go, the
//! shard is told what came of it. So a batch ends exactly once, whoever panics.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use super::reader::Wanted;
use super::shard::{Settled, Shard};
use crate::events::dead_letter::Unreadable;
use crate::events::decision::{Decision, ProposalChange};
use crate::events::ids::{CLOCK_KEY, VariantId};
use crate::events::record::{Offset, RecordBatch};
use crate::events::time::Millis;

/// Cuts a batch before its next tick, and gives the part from there on. A tick wakes those whose deadlines have passed, and a
/// deadline that a fact sets is known when the fact's batch is settled: so nothing but the end of a batch may stand before a
/// tick, or state would depend on how facts were batched (DESIGN §7.3).
pub fn cut_before_tick(batch: &mut RecordBatch) -> Option<RecordBatch> {
    let tick = 1 + batch.iter().skip(1).position(|r| r.key == Some(CLOCK_KEY))?;
    Some(batch.split_off(tick))
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
