//! The shop's actor: routes facts to its variants and knows the rules that hold for them.
//!
//! It knows all variants of its catalogue; of those that are not in memory only what is in [`Stored`]. Their work waits here
//! until the shard has read them back, see [`residents`]. To queries it answers from [`views`].

mod residents;
mod views;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use residents::{Asked, Child, Waiting, add_step};
pub use residents::{Count, Kept, LetGo, Return};
pub use views::{GetShop, GetVariant, ListVariants, shop_view};

use super::batch::{Death, Scope, panic_message};
use super::collect::Collection;
use super::reader::Reader;
use super::residency::{Packed, Residency, Stored};
use super::settings::FaultProbe;
use super::stats::EngineStats;
use super::variant::{Apply, ShopContext, Step, Variant};
use crate::domain::rules::RuleSet;
use crate::domain::shop::{Shop as ShopFold, Steps, Work};
use crate::domain::snapshot;
use crate::domain::variant::{VariantFact, VariantState};
use crate::events::decision::Recorded;
use crate::events::fact::{At, Fact};
use crate::events::ids::{ProductId, VariantId};
use crate::events::record::{Offset, Partition};
use crate::ports::snapshot_store::{Columns, Entity};

/// One item of a batch for a shop.
pub enum Item {
    Fact(At, Fact),
    /// The organisation's rules from here on.
    Rules(At, Option<Arc<RuleSet>>),
    /// Time has come for a variant, or for all.
    Touch(At, Option<VariantId>),
    Recorded(At, Arc<Recorded>),
    Quarantine(Offset, VariantId, Arc<str>),
}

impl Item {
    fn offset(&self) -> Offset {
        match self {
            Item::Fact(at, _) | Item::Rules(at, _) | Item::Touch(at, _) | Item::Recorded(at, _) => at.offset,
            Item::Quarantine(offset, ..) => *offset,
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct ShopBatch {
    pub scope: Arc<Scope>,
    pub items: Vec<Item>,
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct CollectShop(pub Arc<Collection>);

/// What a shop has from its shard.
pub struct ShopShared {
    pub partition: Partition,
    pub stats: Arc<EngineStats>,
    pub residency: Arc<Residency>,
    pub reader: Reader,
    pub probe: Option<FaultProbe>,
}

/// What recovery found of a shop.
#[derive(Default)]
pub struct RecoveredShop {
    pub fold: ShopFold,
    /// Of the shop's own snapshot.
    pub offset: Offset,
    pub variants: Vec<(VariantId, Stored, Packed)>,
    /// Those for which there was no room.
    pub away: Vec<(VariantId, Stored)>,
}

pub struct Shop {
    name: Arc<str>,
    shared: ShopShared,
    fold: ShopFold,
    theirs: Option<Arc<RuleSet>>,
    context: Arc<ShopContext>,
    /// The variants in memory, and all others.
    children: FxHashMap<VariantId, Child>,
    away: FxHashMap<VariantId, Stored>,
    /// Work of the batch under way for variants that are away.
    waiting: FxHashMap<VariantId, Waiting>,
    /// Work of the batch under way for variants in memory, in the order of their first steps.
    work: Vec<(VariantId, SmallVec<[Step; 1]>)>,
    steps: Steps,
    /// Offset of the last fact that changed the shop's own state, and of the newest collected one.
    last: Offset,
    collected: Offset,
    /// Variants whose states are on their way to the store.
    saving: Vec<VariantId>,
    /// Queries for variants that are away; one read is under way at a time, and takes all that came until then.
    asked: Vec<Asked>,
    is_reading: bool,
    /// Number of the last batch.
    batch: u64,
    /// Offset under way, for the report of a death.
    current: Offset,
}

/// Messages besides queries: a batch, a collection and a sweep are under way at most.
const MAILBOX: usize = 16;

impl Shop {
    pub fn new(name: Arc<str>, shared: ShopShared, theirs: Option<Arc<RuleSet>>, recovered: RecoveredShop) -> Shop {
        let RecoveredShop { fold, offset, variants, away } = recovered;
        let context = ShopContext::new(
            0,
            name.clone(),
            &fold.state().organisation,
            shared.partition,
            theirs.as_deref(),
            fold.own_rules(),
            shared.probe.clone(),
        );
        let mut shop = Shop {
            name,
            shared,
            fold,
            theirs,
            context,
            children: FxHashMap::default(),
            away: away.into_iter().collect(),
            waiting: FxHashMap::default(),
            work: Vec::new(),
            steps: Vec::new(),
            last: offset,
            collected: offset,
            saving: Vec::new(),
            asked: Vec::new(),
            is_reading: false,
            batch: 0,
            current: -1,
        };
        shop.shared.residency.came(variants.len());
        shop.shared.stats.variants_away.add(shop.away.len() as i64);
        shop.children.reserve(variants.len());
        shop.children.extend(variants.into_iter().map(|(id, stored, packed)| (id, Child::packed(packed, stored))));
        shop
    }

    fn apply(&mut self, scope: &Arc<Scope>, items: Vec<Item>) {
        self.batch = scope.number;
        for item in items {
            self.current = item.offset();
            match item {
                Item::Fact(at, fact) => self.apply_fact(scope, at, fact),
                Item::Rules(_, theirs) => {
                    self.theirs = theirs;
                    self.renew_context();
                }
                Item::Touch(at, Some(variant)) => self.queue(variant, touch(at)),
                Item::Touch(at, None) => {
                    let here = self.children.keys().copied();
                    let away = self.away.iter().filter(|(_, stored)| !stored.inert).map(|(v, _)| *v);
                    for variant in here.chain(away).collect::<Vec<_>>() {
                        self.queue(variant, touch(at));
                    }
                }
                Item::Recorded(at, recorded) => {
                    if let Recorded::Decision(d) = &*recorded
                        && let Some(variant) = d.variant_id
                    {
                        self.queue(variant, Step::Work(Work::Recorded(at, recorded)));
                    }
                }
                Item::Quarantine(offset, variant, message) => self.queue(variant, Step::Quarantine(offset, message)),
            }
        }
        let mut work = std::mem::take(&mut self.work);
        for (variant, steps) in work.drain(..) {
            let Some(child) = self.children.get_mut(&variant) else { continue };
            child.work = 0;
            child.is_dirty = true;
            child.used = scope.number;
            child.give(Apply { scope: scope.clone(), steps });
        }
        self.work = work;
        if !self.waiting.is_empty() {
            let wanted = self.waiting.iter().map(|(v, w)| (*v, w.stored.offset)).collect();
            scope.with(|o| o.missing.push((self.name.clone(), wanted)));
        }
    }

    fn apply_fact(&mut self, scope: &Scope, at: At, fact: Fact) {
        let mut steps = std::mem::take(&mut self.steps);
        match self.fold.observe(fact, at, &mut steps) {
            Ok(effect) => {
                if effect.changed {
                    self.last = at.offset;
                }
                if effect.rules_changed {
                    self.renew_context();
                }
            }
            Err(unreadable) => scope.with(|o| o.unreadable.push((at.offset, self.name.clone(), unreadable))),
        }
        for (variant, work) in steps.drain(..) {
            self.queue(variant, Step::Work(work));
        }
        self.steps = steps;
    }

    fn renew_context(&mut self) {
        self.context = ShopContext::new(
            self.context.version + 1,
            self.name.clone(),
            &self.fold.state().organisation,
            self.shared.partition,
            self.theirs.as_deref(),
            self.fold.own_rules(),
            self.shared.probe.clone(),
        );
    }

    /// A step for a variant: in memory, away, or new with this very step.
    fn queue(&mut self, variant: VariantId, step: Step) {
        if let Some(child) = self.children.get_mut(&variant) {
            if child.work == 0 {
                child.unpack(variant, &self.context, &self.fold);
                self.work.push((variant, SmallVec::new()));
                child.work = self.work.len() as u32;
            }
            let (_, steps) = &mut self.work[child.work as usize - 1];
            return add_step(steps, &mut child.context, &self.context, step);
        }
        if let Some(stored) = self.away.get(&variant).copied() {
            let info = self.fold.product(stored.product).map(|p| &p.info);
            let waiting = self.waiting.entry(variant).or_insert_with(|| Waiting::new(stored, &self.context, info));
            return add_step(&mut waiting.steps, &mut waiting.context, &self.context, step);
        }
        let (product, info) = match &step {
            Step::Work(Work::Product(product, info)) => (*product, info.clone()),
            // It died of the fact that brings it.
            Step::Quarantine(..) => (ProductId(0), Arc::default()),
            _ => return,
        };
        let new = Variant::new(variant, self.context.clone(), info, VariantState::new(product));
        let mut child = Child::asleep(new, self.context.version, None);
        self.work.push((variant, SmallVec::from_iter([step])));
        child.work = self.work.len() as u32;
        self.children.insert(variant, child);
        self.shared.residency.came(1);
    }
}

fn touch(at: At) -> Step {
    Step::Work(Work::Fact(at, VariantFact::Touch))
}

impl Actor for Shop {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shared.residency.left(self.children.len());
        self.shared.stats.variants_away.add(-(self.away.len() as i64));
    }
}

impl Handler<ShopBatch> for Shop {
    type Result = ();

    fn handle(&mut self, ShopBatch { scope, items }: ShopBatch, ctx: &mut Self::Context) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.apply(&scope, items))) {
            let death = Death { shop: self.name.clone(), variant: None, offset: self.current, message: panic_message(&*panic) };
            scope.with(|o| o.deaths.push(death));
            ctx.stop();
        }
    }
}

impl Handler<CollectShop> for Shop {
    type Result = ();

    fn handle(&mut self, CollectShop(collection): CollectShop, _: &mut Self::Context) {
        if self.last > self.collected {
            self.collected = self.last;
            let state = snapshot::encode(self.fold.state());
            collection.add(&self.name, Entity::Shop, self.last, state, Columns::default());
        }
        for (id, child) in self.children.iter_mut().filter(|(_, c)| c.is_dirty) {
            child.is_dirty = false;
            child.is_saving = true;
            self.saving.push(*id);
            child.collect(&collection);
        }
    }
}
