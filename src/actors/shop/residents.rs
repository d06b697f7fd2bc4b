//! Which variants of the shop are in memory: they leave when idle and saved, and come back with the next fact or query.

use std::sync::Arc;

use actix::prelude::*;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Shop;
use crate::actors::batch::{Mode, Scope};
use crate::actors::collect::Collection;
use crate::actors::reader::{ReadError, States};
use crate::actors::residency::{Packed, Release, Stored, Survey};
use crate::actors::variant::{Apply, Collect, ShopContext, Step, Variant};
use crate::domain::shop::{ProductInfo, Shop as ShopFold};
use crate::domain::variant::VariantState;
use crate::events::ids::VariantId;

/// A variant in memory. It is unpacked for its first work or query. Its actor begins with its first live work or the first query: a
/// replay that sent each of a million variants a message would spend as much on messages as on folding, and most of them have
/// nothing to do for hours.
enum Life {
    Packed(Packed),
    /// Taken out only to wake it.
    Asleep(Option<Box<Variant>>),
    Awake(Addr<Variant>),
}

pub(super) struct Child {
    life: Life,
    /// Place of its steps in the work of the batch under way, counted from one; 0: it has none.
    pub work: u32,
    /// Version of the context that it has.
    pub context: u32,
    /// Has had work since its state was collected last.
    pub is_dirty: bool,
    /// Its state is on its way to the store.
    pub is_saving: bool,
    /// Its state in the store; the state in memory if it is neither dirty nor being saved.
    pub stored: Option<Stored>,
    /// Number of the batch that used it last.
    pub used: u64,
}

impl Child {
    pub fn asleep(variant: Variant, context: u32, stored: Option<Stored>) -> Child {
        Child::new(Life::Asleep(Some(Box::new(variant))), context, stored)
    }

    pub fn packed(packed: Packed, stored: Stored) -> Child {
        Child::new(Life::Packed(packed), 0, Some(stored))
    }

    fn new(life: Life, context: u32, stored: Option<Stored>) -> Child {
        Child { life, work: 0, context, is_dirty: false, is_saving: false, stored, used: 0 }
    }

    /// Before its first work or query: it begins under the rules and the product that hold then.
    pub fn unpack(&mut self, id: VariantId, context: &Arc<ShopContext>, fold: &ShopFold) {
        if let Life::Packed(packed) = &self.life {
            let state = packed.unpack();
            let variant = Variant::new(id, context.clone(), fold.info(state.product), state);
            self.life = Life::Asleep(Some(Box::new(variant)));
            self.context = context.version;
        }
    }

    /// Wakes it.
    pub fn addr(&mut self) -> &Addr<Variant> {
        if let Life::Asleep(variant) = &mut self.life {
            let variant = variant.take().expect("it is there until it is woken, here and only once");
            self.life = Life::Awake(variant.start());
        }
        match &self.life {
            Life::Awake(addr) => addr,
            Life::Asleep(_) | Life::Packed(_) => unreachable!("unpacked before, woken just now"),
        }
    }

    /// Has it work off a part of a batch. Bounded: one batch is under way. A variant that died has said so, and took the shard with it.
    pub fn give(&mut self, apply: Apply) {
        match &mut self.life {
            Life::Asleep(Some(variant)) if apply.scope.mode == Mode::Replay => drop(variant.work_off(apply)),
            _ => self.addr().do_send(apply),
        }
    }

    /// Has it tell its state. Bounded: one collection is under way. None may be lost: the checkpoint stands on it.
    pub fn collect(&mut self, collection: &Arc<Collection>) {
        match &mut self.life {
            Life::Asleep(Some(variant)) => variant.collect(collection),
            _ => self.addr().do_send(Collect(collection.clone())),
        }
    }

    /// What is in the store of it, if that is all that there is.
    fn spare(&self) -> Option<Stored> {
        self.stored.filter(|_| !self.is_dirty && !self.is_saving && self.work == 0)
    }
}

/// Work for a variant that is away. It begins under the rules and the product that held at its first step.
pub(super) struct Waiting {
    pub stored: Stored,
    pub steps: SmallVec<[Step; 1]>,
    pub context: u32,
    began: Arc<ShopContext>,
    info: Arc<ProductInfo>,
}

impl Waiting {
    pub fn new(stored: Stored, context: &Arc<ShopContext>, info: Option<&Arc<ProductInfo>>) -> Waiting {
        Waiting {
            stored,
            steps: SmallVec::new(),
            context: context.version,
            began: context.clone(),
            info: info.cloned().unwrap_or_default(),
        }
    }
}

/// Adds a step, after the context if that is newer than the one the variant has.
pub(super) fn add_step(steps: &mut SmallVec<[Step; 1]>, has: &mut u32, context: &Arc<ShopContext>, step: Step) {
    if *has != context.version {
        *has = context.version;
        steps.push(Step::Context(context.clone()));
    }
    steps.push(step);
}

/// The variants that the batch under way waits for.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Return {
    pub scope: Arc<Scope>,
    pub states: Vec<(VariantId, VariantState)>,
}

/// The states collected last are in the store; these are the ones that had changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Kept(pub Vec<(VariantId, Stored)>);

/// A query for a variant that is away.
pub(super) struct Asked {
    pub variant: VariantId,
    pub answer: oneshot::Sender<Found>,
}

pub(super) enum Found {
    Here(Addr<Variant>),
    /// There is no room for it.
    Alone(Box<Variant>),
}

impl Shop {
    fn come_back(&mut self, scope: &Arc<Scope>, states: Vec<(VariantId, VariantState)>) {
        for (id, state) in states {
            let Some(waiting) = self.waiting.remove(&id) else { continue };
            if state.last != waiting.stored.offset {
                let (is, was) = (state.last, waiting.stored.offset);
                let why = format!("the snapshot of {} {id} is of offset {is}, but {was} was saved", self.name);
                return scope.with(|o| o.spoiled = Some(why));
            }
            let variant = Variant::new(id, waiting.began, waiting.info, state);
            let mut child = Child::asleep(variant, waiting.context, Some(waiting.stored));
            child.give(Apply { scope: scope.clone(), steps: waiting.steps });
            child.is_dirty = true;
            self.settle_in(id, child);
        }
    }

    fn settle_in(&mut self, id: VariantId, mut child: Child) {
        child.used = self.batch;
        self.away.remove(&id);
        self.children.insert(id, child);
        self.shared.residency.came(1);
        self.shared.stats.variants_away.add(-1);
        self.shared.stats.reactivations.add(1);
    }

    /// Reads what queries wait for, unless a read is under way; the next one takes all that came meanwhile.
    pub(super) fn read_asked(&mut self, ctx: &mut Context<Self>) {
        if self.is_reading || self.asked.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut self.asked);
        let mut wanted: Vec<_> = asked.iter().filter_map(|a| Some((a.variant, self.away.get(&a.variant)?.offset))).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.is_reading = true;
        let (reader, shop) = (self.shared.reader.clone(), self.name.clone());
        let read = async move { reader.read(vec![(shop, wanted)]).await };
        ctx.spawn(read.into_actor(self).map(|result, shop, ctx| {
            shop.is_reading = false;
            shop.answer(asked, result);
            shop.read_asked(ctx);
        }));
    }

    /// Who gets no answer asks again.
    fn answer(&mut self, asked: Vec<Asked>, result: Result<States, ReadError>) {
        let mut states: rustc_hash::FxHashMap<_, _> = match result {
            Ok(states) => states.into_iter().flat_map(|(_, states)| states).collect(),
            Err(e) => return tracing::warn!(shop = &*self.name, error = %e, "a query finds no snapshot"),
        };
        for Asked { variant, answer } in asked {
            if let Some(child) = self.children.get_mut(&variant) {
                child.unpack(variant, &self.context, &self.fold);
                let _ = answer.send(Found::Here(child.addr().clone()));
                continue;
            }
            // It may have been back and away again meanwhile: then this state is an old one.
            let Some(stored) = self.away.get(&variant).copied() else { continue };
            let Some(state) = states.remove(&variant).filter(|s| s.last == stored.offset) else { continue };
            let found = Variant::new(variant, self.context.clone(), self.fold.info(state.product), state);
            // The batch under way brings it back itself.
            let found = if self.shared.residency.has_room() && !self.waiting.contains_key(&variant) {
                let mut child = Child::asleep(found, self.context.version, Some(stored));
                let addr = child.addr().clone();
                self.settle_in(variant, child);
                Found::Here(addr)
            } else {
                Found::Alone(Box::new(found))
            };
            let _ = answer.send(found);
        }
    }
}

impl Handler<Return> for Shop {
    type Result = ();

    fn handle(&mut self, Return { scope, states }: Return, _: &mut Self::Context) {
        self.come_back(&scope, states);
    }
}

impl Handler<Kept> for Shop {
    type Result = ();

    fn handle(&mut self, Kept(stored): Kept, _: &mut Self::Context) {
        for id in std::mem::take(&mut self.saving) {
            if let Some(child) = self.children.get_mut(&id) {
                child.is_saving = false;
            }
        }
        for (id, stored) in stored {
            if let Some(child) = self.children.get_mut(&id) {
                child.stored = Some(stored);
            }
        }
    }
}

/// Counts who could leave.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Count(pub Arc<Survey>);

impl Handler<Count> for Shop {
    type Result = ();

    fn handle(&mut self, Count(survey): Count, _: &mut Self::Context) {
        survey.add(self.children.values().filter(|c| c.spare().is_some()).map(|c| c.used));
    }
}

/// Lets go who is meant to leave.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LetGo(pub Arc<Release>);

impl Handler<LetGo> for Shop {
    type Result = ();

    fn handle(&mut self, LetGo(release): LetGo, _: &mut Self::Context) {
        let before = self.children.len();
        let away = &mut self.away;
        // An actor without addresses ends by itself; a query that still holds one is answered.
        self.children.retain(|id, child| match child.spare() {
            Some(stored) if release.takes(child.used) => {
                away.insert(*id, stored);
                false
            }
            _ => true,
        });
        let left = before - self.children.len();
        if self.children.len() < self.children.capacity() / 4 {
            self.children.shrink_to_fit();
        }
        self.shared.residency.left(left);
        self.shared.stats.variants_away.add(left as i64);
        self.shared.stats.passivations.add(left as u64);
    }
}
