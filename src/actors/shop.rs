//! The shop's actor: routes facts to its variants and knows the rules that hold for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::prelude::*;
use futures::future::join_all;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::batch::{Death, Scope, panic_message};
use super::collect::Collection;
use super::settings::FaultProbe;
use super::stats::EngineStats;
use super::variant::{self, Apply, ShopContext, Step, Variant};
use crate::domain::rules::RuleSet;
use crate::domain::shop::{Shop as ShopFold, Steps, Work};
use crate::domain::snapshot;
use crate::domain::variant::{VariantFact, VariantState};
use crate::domain::views::{Provenance, ShopView, VariantView};
use crate::events::decision::{Recorded, RiskLevel};
use crate::events::fact::{At, Fact};
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition};
use crate::events::time::Millis;
use crate::ports::queries::{VariantFilter, VariantPage};
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

#[derive(Message)]
#[rtype(result = "Option<VariantView>")]
pub struct GetVariant {
    pub variant: VariantId,
    pub now: Millis,
    pub provenance: Provenance,
}

#[derive(Message)]
#[rtype(result = "VariantPage")]
pub struct ListVariants {
    pub filter: VariantFilter,
    pub now: Millis,
    pub provenance: Provenance,
}

#[derive(Message)]
#[rtype(result = "Option<ShopView>")]
pub struct GetShop {
    pub now: Millis,
    pub provenance: Provenance,
}

struct Child {
    addr: Addr<Variant>,
    steps: SmallVec<[Step; 1]>,
    /// Which context it has.
    context: u32,
    dirty: bool,
}

/// What a shop has from its shard.
pub struct ShopShared {
    pub partition: Partition,
    pub stats: Arc<EngineStats>,
    pub probe: Option<FaultProbe>,
}

pub struct Shop {
    name: Arc<str>,
    shared: ShopShared,
    fold: ShopFold,
    theirs: Option<Arc<RuleSet>>,
    context: Arc<ShopContext>,
    /// Grows with each new context.
    context_version: u32,
    children: FxHashMap<VariantId, Child>,
    /// Variants with steps in the batch under way.
    touched: Vec<VariantId>,
    steps: Steps,
    /// Offset of the last fact that changed the shop's own state, and of the newest collected one.
    last: Offset,
    collected: Offset,
    /// Offset under way, for the report of a death.
    current: Offset,
}

/// Messages besides queries: one batch and one collection are under way at most.
const MAILBOX: usize = 16;

impl Shop {
    pub fn new(
        name: Arc<str>,
        shared: ShopShared,
        fold: ShopFold,
        last: Offset,
        theirs: Option<Arc<RuleSet>>,
        variants: Vec<(VariantId, VariantState)>,
    ) -> Shop {
        let context = ShopContext::new(
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
            context_version: 0,
            children: FxHashMap::default(),
            touched: Vec::new(),
            steps: Vec::new(),
            last,
            collected: last,
            current: -1,
        };
        shop.shared.stats.variants.add(variants.len() as i64);
        for (id, state) in variants {
            let info = shop.fold.product(state.product).map(|p| p.info.clone()).unwrap_or_default();
            let addr = Variant::new(id, shop.context.clone(), info, state).start();
            shop.children.insert(id, Child { addr, steps: SmallVec::new(), context: 0, dirty: false });
        }
        shop
    }

    fn apply(&mut self, scope: &Arc<Scope>, items: Vec<Item>) {
        for item in items {
            self.current = item.offset();
            match item {
                Item::Fact(at, fact) => {
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
                Item::Rules(_, theirs) => {
                    self.theirs = theirs;
                    self.renew_context();
                }
                Item::Touch(at, Some(variant)) => self.queue(variant, Step::Work(Work::Fact(at, VariantFact::Touch))),
                Item::Touch(at, None) => {
                    let all: Vec<_> = self.children.keys().copied().collect();
                    for variant in all {
                        self.queue(variant, Step::Work(Work::Fact(at, VariantFact::Touch)));
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
        for variant in std::mem::take(&mut self.touched) {
            let Some(child) = self.children.get_mut(&variant) else { continue };
            let apply = Apply { scope: scope.clone(), steps: std::mem::take(&mut child.steps) };
            child.dirty = true;
            // Bounded: one batch is under way. A variant that died has said so, and took the shard with it.
            child.addr.do_send(apply);
        }
    }

    fn renew_context(&mut self) {
        self.context = ShopContext::new(
            self.name.clone(),
            &self.fold.state().organisation,
            self.shared.partition,
            self.theirs.as_deref(),
            self.fold.own_rules(),
            self.shared.probe.clone(),
        );
        self.context_version += 1;
    }

    fn queue(&mut self, variant: VariantId, step: Step) {
        let child = match self.children.get_mut(&variant) {
            Some(child) => child,
            None => {
                let Step::Work(Work::Product(product, info)) = &step else { return };
                let actor = Variant::new(variant, self.context.clone(), info.clone(), VariantState::new(*product));
                let child = Child { addr: actor.start(), steps: SmallVec::new(), context: self.context_version, dirty: false };
                self.shared.stats.variants.add(1);
                self.children.entry(variant).or_insert(child)
            }
        };
        if child.steps.is_empty() {
            self.touched.push(variant);
        }
        if child.context != self.context_version {
            child.context = self.context_version;
            child.steps.push(Step::Context(self.context.clone()));
        }
        child.steps.push(step);
    }

    fn stale_since(&self, variant: VariantId) -> Option<Millis> {
        self.fold.product_of(variant).and_then(|p| p.stale_since)
    }

    /// Whom to ask for a view.
    fn target(&self, variant: VariantId) -> Option<Target> {
        let child = self.children.get(&variant)?;
        Some(Target { addr: child.addr.clone(), stale_since: self.stale_since(variant) })
    }
}

struct Target {
    addr: Addr<Variant>,
    stale_since: Option<Millis>,
}

/// Queries under way to a shop's variants at a time.
const CHUNK: usize = 256;

/// Asks in chunks until `take` says that it has enough.
async fn ask(targets: Vec<Target>, now: Millis, provenance: Provenance, mut take: impl FnMut(VariantView) -> bool) {
    for chunk in targets.chunks(CHUNK) {
        let asked =
            chunk.iter().map(|t| t.addr.send(variant::View { now, stale_since: t.stale_since, provenance: provenance.clone() }));
        for view in join_all(asked).await.into_iter().flatten().flatten() {
            if !take(view) {
                return;
            }
        }
    }
}

impl Actor for Shop {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shared.stats.variants.add(-(self.children.len() as i64));
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
        for child in self.children.values_mut().filter(|c| c.dirty) {
            child.dirty = false;
            // Bounded: one collection is under way. None may be lost: the checkpoint stands on it.
            child.addr.do_send(variant::Collect(collection.clone()));
        }
    }
}

impl Handler<GetVariant> for Shop {
    type Result = ResponseFuture<Option<VariantView>>;

    fn handle(&mut self, get: GetVariant, _: &mut Self::Context) -> Self::Result {
        let target = self.fold.product_of(get.variant).and_then(|_| self.target(get.variant));
        Box::pin(async move {
            let mut found = None;
            ask(target.into_iter().collect(), get.now, get.provenance, |view| {
                found = Some(view);
                false
            })
            .await;
            found
        })
    }
}

impl Handler<ListVariants> for Shop {
    type Result = ResponseFuture<VariantPage>;

    fn handle(&mut self, list: ListVariants, _: &mut Self::Context) -> Self::Result {
        let filter = list.filter;
        let mut ids: Vec<_> = self.fold.variants().filter(|v| filter.cursor.is_none_or(|c| *v > c)).collect();
        ids.sort_unstable();
        let targets = ids.iter().filter_map(|v| self.target(*v)).collect();
        Box::pin(async move {
            let mut page = VariantPage { variants: Vec::new(), next: None };
            ask(targets, list.now, list.provenance, |view| {
                if filter_takes(&filter, &view) {
                    if page.variants.len() == filter.limit {
                        page.next = page.variants.last().map(|v| v.variant_id);
                        return false;
                    }
                    page.variants.push(view);
                }
                true
            })
            .await;
            page
        })
    }
}

pub fn filter_takes(filter: &VariantFilter, view: &VariantView) -> bool {
    filter.at_risk.is_none_or(|want| want == (view.risk.level != RiskLevel::None))
        && filter.vendor.as_ref().is_none_or(|v| view.vendor.as_ref() == Some(v))
        && filter.sku.as_ref().is_none_or(|s| view.sku.as_ref() == Some(s))
}

impl Handler<GetShop> for Shop {
    type Result = ResponseFuture<Option<ShopView>>;

    fn handle(&mut self, get: GetShop, _: &mut Self::Context) -> Self::Result {
        let state = self.fold.state();
        let removed = state.removed;
        let mut view = ShopView {
            shop: self.name.to_string(),
            organisation: state.organisation.to_string(),
            kind: state.kind.to_string(),
            variants: self.fold.variant_count() as u64,
            at_risk: 0,
            open_proposals: 0,
            waiting_items: self.fold.waiting_items() as u64,
            rule_version: self.context.rules.rules.iter().map(|r| r.version).max(),
            provenance: get.provenance.clone(),
        };
        let targets = self.fold.variants().filter_map(|v| self.target(v)).collect();
        Box::pin(async move {
            if removed {
                return None;
            }
            ask(targets, get.now, get.provenance, |v| {
                view.at_risk += u64::from(v.risk.level != RiskLevel::None);
                view.open_proposals += v.open_proposals.len() as u64;
                true
            })
            .await;
            Some(view)
        })
    }
}
