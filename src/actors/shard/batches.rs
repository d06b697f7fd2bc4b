//! Batches: facts are read and handed to the shops, and what came of them is settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;

use super::{Settled, Shard, letters};
use crate::actors::batch::{Mode, Outcome, Scope};
use crate::actors::commit::Processed;
use crate::actors::shop::{Item, ShopBatch};
use crate::actors::supervisor::Died;
use crate::actors::table::Phase;
use crate::events::codec::{self, Subject};
use crate::events::decision::Recorded;
use crate::events::fact::{At, Fact};
use crate::events::ids::VariantId;
use crate::events::record::{Offset, RecordBatch};
use crate::events::time::Millis;

impl Shard {
    /// Reads a batch and hands it to the shops.
    pub(super) fn process(&mut self, batch: RecordBatch, mut recorded: BTreeMap<Offset, Vec<Recorded>>, ctx: &mut Context<Self>) {
        let mut outcome = Outcome::default();
        for record in batch.iter() {
            let after = recorded.remove(&record.offset).unwrap_or_default();
            let skipped = self.quarantine(&record, &after);
            match codec::read(&record) {
                Ok(read) => {
                    let mut at = read.at;
                    self.fold.advance(&mut at);
                    self.last = at.offset;
                    self.dirty = true;
                    match read.subject {
                        Subject::Shop(shop) if skipped.iter().any(|s| **s == *shop) => {}
                        Subject::Shop(shop) => self.take(shop, at, read.fact),
                        Subject::Partition => self.take_for_all(at, read.fact, &mut outcome),
                    }
                    for r in after {
                        if let Recorded::Decision(d) = &r
                            && let Some(shop) = d.shop.clone()
                        {
                            self.push(&shop, Item::Recorded(at, Arc::new(r)));
                        }
                    }
                }
                // The record's own dead letter is in the log already if this is replay.
                Err(unreadable) => outcome.unreadable.push((record.offset, "".into(), unreadable)),
            }
        }
        if self.mode == Mode::Live {
            self.deps.stats.facts.add(batch.len() as u64);
        }
        self.number += 1;
        let scope = Scope::new(self.mode, self.number, ctx.address(), outcome);
        for name in std::mem::take(&mut self.touched) {
            let Some(entry) = self.shops.get_mut(&name) else { continue };
            let items = std::mem::take(&mut entry.pending);
            // Bounded: one batch is under way. A shop that died has said so, and took the shard with it.
            entry.addr.do_send(ShopBatch { scope: scope.clone(), items });
        }
        self.current = Some(batch);
    }

    fn take(&mut self, shop: &str, at: At, fact: Fact) {
        let moved_to = match &fact {
            Fact::ShopRegistered(r) => Some(r.organisation.clone()),
            _ => None,
        };
        self.push(shop, Item::Fact(at, fact));
        if let Some(organisation) = moved_to {
            let rules = self.fold.rules(&organisation).cloned().map(Arc::new);
            self.entry(shop).organisation = organisation.into();
            self.push(shop, Item::Rules(at, rules));
        }
    }

    fn take_for_all(&mut self, at: At, fact: Fact, outcome: &mut Outcome) {
        match fact {
            Fact::Rules(set) => match self.fold.apply_rules(&set, at) {
                Ok(effect) if effect.changed => {
                    let rules = self.fold.rules(&set.organisation).cloned().map(Arc::new);
                    let theirs: Vec<_> =
                        self.shops.iter().filter(|(_, e)| *e.organisation == *set.organisation).map(|(n, _)| n.clone()).collect();
                    for shop in theirs {
                        self.push(&shop, Item::Rules(at, rules.clone()));
                        if effect.proposes_at_once {
                            self.push(&shop, Item::Touch(at, None));
                        }
                    }
                }
                Ok(_) => {}
                Err(unreadable) => outcome.unreadable.push((at.offset, "".into(), unreadable)),
            },
            _ => {
                // A tick wakes only those whose time has come (DESIGN §10).
                while let Some((due, shop, variant)) = self.deadlines.first().cloned().filter(|d| d.0 <= at.now) {
                    self.deadlines.remove(&(due, shop.clone(), variant));
                    self.deadline_of.remove(&(shop.clone(), variant));
                    self.push(&shop, Item::Touch(at, Some(variant)));
                }
            }
        }
    }

    pub(super) fn set_deadline(&mut self, shop: &Arc<str>, variant: VariantId, at: Option<Millis>) {
        let key = (shop.clone(), variant);
        let before = match at {
            Some(at) => {
                self.deadlines.insert((at, shop.clone(), variant));
                self.deadline_of.insert(key, at)
            }
            None => self.deadline_of.remove(&key),
        };
        if let Some(before) = before.filter(|b| Some(*b) != at) {
            self.deadlines.remove(&(before, shop.clone(), variant));
        }
    }

    fn settle(&mut self, mut outcome: Outcome, ctx: &mut Context<Self>) {
        if !outcome.deaths.is_empty() {
            self.deps.supervisor.do_send(Died { partition: self.partition, deaths: outcome.deaths });
            self.phase.send_replace(Phase::Recovering);
            ctx.stop();
            return;
        }
        if let Some(why) = outcome.spoiled.take() {
            return self.discard_snapshots(why, ctx);
        }
        if !outcome.missing.is_empty() {
            return self.bring_back(outcome, ctx);
        }
        let Some(batch) = self.current.take() else { return };
        for (shop, variant, at) in outcome.deadlines {
            self.set_deadline(&shop, variant, at);
        }
        if self.mode == Mode::Live {
            let mut decisions = outcome.decisions;
            letters::number(&mut decisions);
            let mut records = letters::records(self.partition, &decisions, &outcome.changes);
            for (offset, _, unreadable) in &outcome.unreadable {
                records.push(self.dead_letter(&batch, *offset, unreadable));
            }
            records.extend(self.quarantine_records(&batch));
            self.deps.stats.decided(&decisions);
            self.deps.stats.dead_letters.add(outcome.unreadable.len() as u64);
            self.uncommitted.push_back(batch.next_offset);
            let (partition, next_offset, shard) = (self.partition, batch.next_offset, ctx.address());
            self.deps.commit.do_send(Processed { partition, next_offset, records, shard });
            self.queue_gate.leave(self.partition, &*self.deps.consumer);
        }
        if self.mode == Mode::Replay {
            // Only committed facts are replayed.
            self.committed = batch.next_offset;
        }
        self.applied = batch.next_offset;
        self.applied_to.send_replace(self.applied);
        self.step(ctx);
    }
}

impl Handler<Settled> for Shard {
    type Result = ();

    fn handle(&mut self, Settled(outcome): Settled, ctx: &mut Self::Context) {
        self.settle(outcome, ctx);
    }
}
