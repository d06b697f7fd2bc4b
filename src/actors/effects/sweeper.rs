//! Now and then, the search for effects that happened twice ([`Sweep`]): what of them stays is what the ledger refers to.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::sender::Shared;
use crate::events::record::Partition;
use crate::handlers::{Instance, Sweep, Twins};
use crate::ports::ledger::{EffectFilter, EffectState};
use crate::ports::snapshot_store::StoreError;

/// Whoever dispatches this partition sweeps, so that one node does.
const SWEEPS: Partition = 0;
/// More routes a decision does not have.
const ROUTES: i64 = 1000;

/// Never returns. Faults are logged, and the next time finds what this one did not.
pub async fn run(instance: &Instance, shared: &Shared) {
    let Some(sweep) = instance.handler.clone().sweep() else { return std::future::pending().await };
    loop {
        shared.env.clock.sleep(sweep.every()).await;
        if !shared.ownership.held().iter().any(|(partition, _)| *partition == SWEEPS) {
            continue;
        }
        match AssertUnwindSafe(once(&sweep, instance, shared)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                let reason = instance.redactor.clean(&reason);
                tracing::warn!(handler = instance.name, reason, "the search for duplicates did not work");
            }
            Err(_) => tracing::error!(handler = instance.name, "the search for duplicates broke down"),
        }
    }
}

async fn once(sweep: &Arc<dyn Sweep>, instance: &Instance, shared: &Shared) -> Result<(), String> {
    for twins in sweep.twins(shared.env.clock.now()).await? {
        // Without a reference in the ledger the effect is not done: its own resolution will see them.
        if let Some(keep) = known(&twins, instance, shared).await.map_err(|e| e.to_string())? {
            sweep.keep(&twins, &keep, shared.env.clock.now()).await?;
        }
    }
    Ok(())
}

/// The reference that the ledger has of the effect, if it is one of the twins.
async fn known(twins: &Twins, instance: &Instance, shared: &Shared) -> Result<Option<String>, StoreError> {
    let filter = EffectFilter {
        decision_id: Some(twins.effect.decision_id),
        handler: Some(instance.name.clone()),
        state: Some(EffectState::Done),
        limit: ROUTES,
        ..EffectFilter::default()
    };
    let rows = shared.ledger.list(filter).await?;
    let row = rows.into_iter().find(|row| row.planned.id == twins.effect);
    Ok(row.and_then(|row| row.reference).filter(|reference| twins.references.contains(reference)))
}
