//! Takes partitions of `reorder-decisions` over and plans what they hold: rows first, then the group's offset, so that a crash in between
//! plans the same rows again, which changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::plan::Plan;
use crate::actors::effects::{Backoff, Environment, Health, InFlight, Ownership, Token};
use crate::events::record::{NewRecord, Offset, Partition, RecordBatch, Topic};
use crate::handlers::Handlers;
use crate::ports::event_log::{Assigned, EventLog, GroupHandle, LogError};
use crate::ports::ledger::{EffectState, Ledger};
use crate::ports::snapshot_store::StoreError;

const PART: &str = "planning";

#[derive(Clone)]
pub struct Intake {
    pub log: Arc<dyn EventLog>,
    pub ledger: Arc<dyn Ledger>,
    pub ownership: Arc<Ownership>,
    pub env: Environment,
    pub health: Arc<Health>,
    /// Name of this node.
    pub node: String,
    /// They say who is told of changes, and who takes digests.
    pub handlers: Handlers,
}

/// The partition is somebody else's meanwhile.
#[derive(Debug)]
struct Gone;

impl Intake {
    /// Takes the dispatch epoch and says where reading starts; none if the partition is gone meanwhile. Waits for a store that is away.
    pub async fn take_over(&self, assigned: Assigned, token: Token) -> Option<Offset> {
        let partition = assigned.partition;
        let stands = || self.ownership.stands(partition, token);
        let from = match assigned.committed {
            Some(offset) => offset,
            None => self.until_well(stands, || self.first_offset(partition)).await.ok()?,
        };
        let acquire = || async { self.ledger.acquire_dispatch_epoch(partition, &self.node).await };
        let epoch = self.until_well(stands, acquire).await.ok()?;
        if !self.ownership.take(partition, token, epoch) {
            return None;
        }
        tracing::info!(partition, epoch, from, "dispatching a partition");
        Some(from)
    }

    async fn first_offset(&self, partition: Partition) -> Result<Offset, LogError> {
        let log = self.log.clone();
        let ask = move || log.watermarks(Topic::Decisions, partition).map(|(first, _)| first);
        blocking("reading where the decisions begin", ask).await
    }

    /// Plans a batch and commits its offset; returns the handlers that have something to do. A batch of a partition that is not held any
    /// more is dropped: its new owner reads it again.
    pub async fn plan(&self, batch: &RecordBatch, group: &Arc<dyn GroupHandle>) -> BTreeSet<String> {
        let Some(held) = self.ownership.begin(batch.partition) else { return BTreeSet::new() };
        let plan = Plan::of(batch, &self.handlers, self.env.clock.now());
        match self.carry_out(batch, &plan, &held, group).await {
            Ok(()) => plan.handlers(),
            Err(Gone) => BTreeSet::new(),
        }
    }

    async fn carry_out(
        &self,
        batch: &RecordBatch,
        plan: &Plan,
        held: &InFlight,
        group: &Arc<dyn GroupHandle>,
    ) -> Result<(), Gone> {
        let partition = batch.partition;
        let stands = || self.ownership.held().contains(&(partition, held.epoch));
        if !plan.dead.is_empty() {
            let append = || self.append(&plan.dead);
            self.until_well(stands, append).await?;
            tracing::warn!(partition, records = plan.dead.len(), "unreadable decisions went to the dead letters");
        }
        if !plan.batch.is_empty() {
            let insert = || async { self.ledger.plan(partition, held.epoch, &plan.batch).await };
            self.until_well(stands, insert).await?;
        }
        let commit = || {
            let (group, offset) = (group.clone(), batch.next_offset);
            blocking("committing what is planned", move || group.commit(&[(partition, offset)]))
        };
        self.until_well(stands, commit).await
    }

    async fn append(&self, records: &[NewRecord]) -> Result<(), LogError> {
        match self.log.append(records.to_vec()).await {
            // Too large with its wrapping: the original is in the log, at the position that this line tells.
            Err(LogError::Refused { size, reason }) => {
                tracing::error!(size, reason, "a dead letter is refused by the log; its record stays where it is");
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Handlers that have unfinished rows, whether they are configured or not.
    pub async fn handlers_with_work(&self, partition: Partition, token: Token) -> BTreeSet<String> {
        let open = |state: EffectState| !matches!(state, EffectState::Done | EffectState::Failed);
        let counts = self.until_well(|| self.ownership.stands(partition, token), || self.ledger.counts()).await;
        counts.unwrap_or_default().into_iter().filter(|(_, state, n)| open(*state) && *n > 0).map(|(name, ..)| name).collect()
    }

    /// Repeats `act` while it fails and `stands` holds.
    async fn until_well<T, E, F>(&self, stands: impl Fn() -> bool, mut act: impl FnMut() -> F) -> Result<T, Gone>
    where
        E: Trouble,
        F: Future<Output = Result<T, E>>,
    {
        let mut attempt = 0;
        while stands() {
            match act().await {
                Ok(value) => {
                    self.health.well(PART);
                    return Ok(value);
                }
                Err(e) => {
                    if let Some((partition, epoch)) = e.fenced() {
                        tracing::warn!(partition, epoch, "another dispatcher has taken the partition");
                        self.ownership.fenced(partition, epoch);
                        return Err(Gone);
                    }
                    attempt += 1;
                    self.health.problem(PART, e);
                    self.env.clock.sleep(Backoff::SERVICE.wait(attempt, (self.env.random)())).await;
                }
            }
        }
        Err(Gone)
    }
}

/// Errors of store and log, as far as they are treated alike.
trait Trouble: ToString {
    fn fenced(&self) -> Option<(Partition, i64)>;
}

impl Trouble for StoreError {
    fn fenced(&self) -> Option<(Partition, i64)> {
        match self {
            StoreError::Fenced { partition, ours, .. } => Some((*partition, *ours)),
            _ => None,
        }
    }
}

impl Trouble for LogError {
    fn fenced(&self) -> Option<(Partition, i64)> {
        None
    }
}

/// Runs a call that blocks on a thread made for it.
pub(super) async fn blocking<T: Send + 'static>(
    during: &'static str,
    call: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let broken = |e: tokio::task::JoinError| LogError::Unavailable { during: during.to_owned(), reason: e.to_string() };
    tokio::task::spawn_blocking(call).await.map_err(broken)?
}
