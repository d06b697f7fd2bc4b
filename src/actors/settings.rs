//! What the engine is told at its start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::events::ids::VariantId;
use crate::events::record::Offset;
use crate::events::time::Millis;

/// Called before each fact of a variant. Tests make it panic, to prove supervision; nothing else sets it.
#[derive(Clone)]
pub struct FaultProbe(pub Arc<dyn Fn(VariantId, Offset) + Send + Sync>);

impl FaultProbe {
    pub fn strike(&self, variant: VariantId, offset: Offset) {
        (self.0)(variant, offset);
    }
}

impl fmt::Debug for FaultProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultProbe")
    }
}

/// The wall clock, Unix milliseconds. The engine uses it for ticks and waiting only, never for state (DESIGN §2).
pub type WallClock = Arc<dyn Fn() -> Millis + Send + Sync>;

#[derive(Clone)]
pub struct EngineSettings {
    pub node: String,
    pub commit_interval: Duration,
    pub snapshot_interval: Duration,
    pub tick_interval: Duration,
    /// Variants that may be in memory at a time (DESIGN §7.9).
    pub max_resident_variants: usize,
    /// Threads that run shards.
    pub arbiters: usize,
    /// How long a revoked partition may take to drain, commit and snapshot.
    pub drain_deadline: Duration,
    /// Deaths by the same fact until it is a dead letter and the variant quarantined.
    pub deaths_until_quarantine: u32,
    pub clock: WallClock,
    pub probe: Option<FaultProbe>,
}
