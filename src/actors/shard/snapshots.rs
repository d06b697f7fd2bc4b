//! Snapshots between batches, and the drain that ends with one.

use std::sync::Arc;

use actix::prelude::*;
use rustc_hash::FxHashMap;

use super::room::Pace;
use super::{Collected, Collecting, Committed, Drain, Saved, Shard};
use crate::actors::batch::Mode;
use crate::actors::collect::Collection;
use crate::actors::commit::Flush;
use crate::actors::shop::{CollectShop, Kept};
use crate::actors::snapshotter::Save;
use crate::actors::table::Phase;
use crate::domain::snapshot;
use crate::ports::snapshot_store::{Columns, Entity};

impl Shard {
    /// Begins to collect dirty states if it is time; true if it did.
    pub(super) fn begin_collection(&mut self, pace: Pace, ctx: &mut Context<Self>) -> bool {
        if !self.is_dirty() {
            self.want_snapshot = false;
            return false;
        }
        if self.collecting.is_some() || (pace == Pace::Spared && self.wall_clock() < self.next_snapshot) {
            return false;
        }
        self.want_snapshot = false;
        let collection = Collection::new(self.partition, self.epoch, self.fold.now().unwrap_or(0), ctx.address());
        if self.dirty {
            self.dirty = false;
            collection.add("", Entity::Shard, self.last, snapshot::encode(&self.fold.state()), Columns::default());
        }
        let mut shops = Vec::new();
        for (name, entry) in self.shops.iter_mut().filter(|(_, e)| e.dirty) {
            entry.dirty = false;
            shops.push(name.clone());
            // Bounded: one collection is under way.
            entry.addr.do_send(CollectShop(collection.clone()));
        }
        self.collecting = Some(Collecting {
            checkpoint: self.progress.checkpoint(),
            shops,
            snapshots: None,
            stored: Vec::new(),
            since: self.wall_clock(),
        });
        true
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty || self.shops.values().any(|s| s.dirty)
    }

    /// Tells the shops that what was collected of them is in the store.
    fn tell_kept(&mut self, collected: Collecting) {
        let mut stored: FxHashMap<Arc<str>, Vec<_>> = collected.shops.into_iter().map(|shop| (shop, Vec::new())).collect();
        for (shop, variant, of) in collected.stored {
            stored.entry(shop).or_default().push((variant, of));
        }
        for (shop, stored) in stored {
            if let Some(entry) = self.shops.get(&shop) {
                // Bounded: one collection is under way.
                entry.addr.do_send(Kept(stored));
            }
        }
        self.swept = false;
    }

    /// Hands a collection to the store once what it holds is committed.
    pub(super) fn save_if_committed(&mut self) {
        if let Some(c) = &mut self.collecting
            && self.progress.covers(&c.checkpoint)
            && let Some(snapshots) = c.snapshots.as_mut().map(std::mem::take)
            && !(snapshots.is_empty())
        {
            let (partition, epoch, checkpoint) = (self.partition, self.epoch, c.checkpoint);
            self.deps.snapshotter.do_send(Save { partition, epoch, checkpoint, snapshots });
        }
    }

    /// One step of a drain; every event on the way calls it again.
    pub(super) fn drain(&mut self, ctx: &mut Context<Self>) {
        self.queue.clear();
        if !self.progress.is_committed() {
            self.deps.commit.do_send(Flush);
            return;
        }
        if self.collecting.is_some() {
            return;
        }
        if self.is_dirty() {
            self.begin_collection(Pace::Now, ctx);
            return;
        }
        if let Some(done) = self.draining.take() {
            // Whoever asked may have given up at its deadline.
            let _ = done.send(());
        }
        self.phase.send_replace(Phase::Stopped);
        ctx.stop();
    }
}

impl Handler<Collected> for Shard {
    type Result = ();

    fn handle(&mut self, Collected(found): Collected, ctx: &mut Self::Context) {
        if let Some(mut c) = self.collecting.take() {
            if found.snapshots.is_empty() {
                self.tell_kept(c);
            } else {
                (c.snapshots, c.stored) = (Some(found.snapshots), found.stored);
                self.collecting = Some(c);
            }
        }
        self.save_if_committed();
        self.step(ctx);
    }
}

impl Handler<Committed> for Shard {
    type Result = ();

    fn handle(&mut self, c: Committed, ctx: &mut Self::Context) {
        self.progress.committed(c.next_offset, c.decisions);
        self.save_if_committed();
        self.step(ctx);
    }
}

impl Handler<Saved> for Shard {
    type Result = ();

    fn handle(&mut self, saved: Saved, ctx: &mut Self::Context) {
        // Another life of the partition may have saved what this one is still collecting.
        if saved.epoch == self.epoch
            && let Some(c) = self.collecting.take()
        {
            // At most a fifth of the time goes into snapshots.
            let now = self.wall_clock();
            self.next_snapshot = now + (now - c.since).max(0) * 4;
            self.tell_kept(c);
        }
        self.step(ctx);
    }
}

impl Handler<Drain> for Shard {
    type Result = ();

    fn handle(&mut self, Drain(done): Drain, ctx: &mut Self::Context) {
        if self.mode == Mode::Replay {
            // Nothing of it is ours to save yet.
            let _ = done.send(());
            self.phase.send_replace(Phase::Stopped);
            ctx.stop();
            return;
        }
        self.draining = Some(done);
        self.want_snapshot = false;
        self.step(ctx);
    }
}
