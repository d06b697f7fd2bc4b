//! Room in memory: who is idle leaves before a batch, who has work in it is brought back, all of them in one read.

use std::time::Duration;

use actix::prelude::*;

use super::{Released, Shard, Surveyed};
use crate::actors::batch::{Outcome, Scope};
use crate::actors::commit::Flush;
use crate::actors::reader::ReadError;
use crate::actors::residency::{Release, Survey, cut};
use crate::actors::shop::{Count, LetGo, Return};
use crate::actors::supervisor::Spoiled;
use crate::actors::table::Phase;

/// When a collection may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// When snapshots have had no more than their share of the time.
    Spared,
    Now,
}

/// Between two tries to read what a batch needs.
const RETRY: Duration = Duration::from_millis(500);

impl Shard {
    pub(super) fn pace(&self) -> Pace {
        if self.draining.is_some() { Pace::Now } else { Pace::Spared }
    }

    /// Sees to it that the next batch finds room; true: it has to wait.
    ///
    /// Whoever is idle and saved leaves. If that is not enough, a snapshot is taken, after which more can leave; a batch waits
    /// for it only when the bound itself is reached, so no batch begins above it (DESIGN §7.9).
    pub(super) fn make_room(&mut self, ctx: &mut Context<Self>) -> bool {
        if self.residency.surplus() == 0 {
            return false;
        }
        if !self.swept {
            self.swept = true;
            self.is_sweeping = true;
            let survey = Survey::new(ctx.address());
            for entry in self.shops.values() {
                // Bounded: one sweep is under way.
                entry.addr.do_send(Count(survey.clone()));
            }
            return true;
        }
        let is_full = self.residency.is_full();
        if self.collecting.is_none() {
            let pace = if is_full { Pace::Now } else { self.pace() };
            if !self.begin_collection(pace, ctx) {
                return false;
            }
            if is_full && !self.progress.is_committed() {
                self.deps.commit.do_send(Flush);
            }
            return true;
        }
        is_full
    }

    /// Reads the variants that the batch under way waits for and hands them to their shops.
    pub(super) fn bring_back(&mut self, mut outcome: Outcome, ctx: &mut Context<Self>) {
        let missing = std::mem::take(&mut outcome.missing);
        let (reader, wanted) = (self.deps.reader.clone(), missing.clone());
        let read = async move { reader.read(wanted).await };
        ctx.spawn(read.into_actor(self).map(move |result, shard, ctx| match result {
            Ok(states) => {
                shard.deps.stats.reactivation_failing.set(false);
                let scope = Scope::new(shard.mode, shard.number, ctx.address(), outcome);
                for (shop, states) in states {
                    if let Some(entry) = shard.shops.get(&shop) {
                        // Bounded: one batch is under way.
                        entry.addr.do_send(Return { scope: scope.clone(), states });
                    }
                }
            }
            Err(ReadError::Spoiled(why)) => shard.discard_snapshots(why, ctx),
            // Discarded meanwhile: nobody waits for the batch.
            Err(ReadError::Store(_)) if shard.phase.is_closed() => ctx.stop(),
            Err(ReadError::Store(e)) => {
                shard.deps.stats.reactivation_failing.set(true);
                tracing::warn!(partition = shard.partition, error = %e, "facts wait for variants that the store does not give back");
                outcome.missing = missing;
                ctx.run_later(RETRY, |shard, ctx| shard.bring_back(outcome, ctx));
            }
        }));
    }

    /// Not what was saved: the partition is recovered, without its snapshots if nobody else can have written them.
    pub(super) fn discard_snapshots(&mut self, reason: String, ctx: &mut Context<Self>) {
        self.deps.supervisor.do_send(Spoiled { partition: self.partition, epoch: self.epoch, reason });
        self.phase.send_replace(Phase::Recovering);
        ctx.stop();
    }
}

impl Handler<Surveyed> for Shard {
    type Result = ();

    fn handle(&mut self, Surveyed(idle): Surveyed, ctx: &mut Self::Context) {
        let release = Release::new(ctx.address(), cut(&idle, self.residency.surplus()));
        for entry in self.shops.values() {
            // Bounded: one sweep is under way.
            entry.addr.do_send(LetGo(release.clone()));
        }
    }
}

impl Handler<Released> for Shard {
    type Result = ();

    fn handle(&mut self, _: Released, ctx: &mut Self::Context) {
        self.is_sweeping = false;
        self.step(ctx);
    }
}
