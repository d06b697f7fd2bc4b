//! A shop put together from its snapshots and the tail of the log, to be looked at once. The same pure folds as in the
//! actors ([`crate::actors::shop`]), nothing decided.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::tail::{Entry, Tail};
use crate::actors::recovery::decode;
use crate::actors::shop::shop_view;
use crate::actors::variant::{ShopContext, Variant, View};
use crate::domain::shard::{ShardFold, ShardState};
use crate::domain::shop::{ProductInfo, Shop, ShopState, Steps, Work};
use crate::domain::snapshot::SnapshotError;
use crate::domain::variant::{Context, Matched, VariantFact, VariantState};
use crate::domain::views::{Provenance, ShopView, VariantView};
use crate::events::decision::{Recorded, RiskLevel};
use crate::events::fact::{At, Fact};
use crate::events::ids::VariantId;
use crate::events::record::Partition;
use crate::events::time::Millis;
use crate::ports::queries::{Answer, QueryError, Question, VariantPage};
use crate::ports::snapshot_store::{Entity, Snapshot};

struct Held {
    product: Arc<ProductInfo>,
    state: VariantState,
    matched: Matched,
    /// Which context `matched` belongs to.
    context: u32,
}

pub struct Replica {
    name: Arc<str>,
    partition: Partition,
    shard: ShardFold,
    fold: Shop,
    /// Whether anything tells of the shop.
    known: bool,
    context: Arc<ShopContext>,
    variants: FxHashMap<VariantId, Held>,
    /// The only variant that is looked at; the others are not kept.
    only: Option<VariantId>,
    now: Millis,
}

impl Replica {
    /// As the snapshots have it.
    pub fn new(
        partition: Partition,
        name: &str,
        shard: ShardState,
        rows: &[Snapshot],
        only: Option<VariantId>,
    ) -> Result<Replica, SnapshotError> {
        let mut fold = Shop::default();
        for row in rows.iter().filter(|r| r.entity == Entity::Shop) {
            fold = Shop::from_state(decode::<ShopState>(partition, row)?);
        }
        let shard = ShardFold::from_state(shard);
        let context = ShopContext::new(0, name.into(), "", partition, None, fold.own_rules(), None);
        let now = shard.now().unwrap_or(0);
        let mut replica = Replica {
            name: name.into(),
            partition,
            shard,
            fold,
            known: !rows.is_empty(),
            context,
            variants: FxHashMap::default(),
            only,
            now,
        };
        replica.renew_context();
        for row in rows {
            let Entity::Variant(id) = row.entity else { continue };
            if replica.looks_at(VariantId(id)) {
                let state: VariantState = decode(partition, row)?;
                let product = replica.fold.product(state.product).map(|p| p.info.clone()).unwrap_or_default();
                replica.hold(VariantId(id), product, state);
            }
        }
        Ok(replica)
    }

    /// Folds what came after.
    pub fn follow(&mut self, tail: &Tail) {
        for entry in &tail.entries {
            if entry.shop.as_ref().is_none_or(|s| *s == self.name) {
                let recorded = tail.recorded.get(&entry.at.offset).map_or(&[][..], Vec::as_slice);
                self.take(entry, recorded);
            }
        }
        self.now = tail.now();
    }

    fn looks_at(&self, variant: VariantId) -> bool {
        self.only.is_none_or(|only| only == variant)
    }

    fn hold(&mut self, id: VariantId, product: Arc<ProductInfo>, state: VariantState) {
        let matched = Matched::of(&self.context.rules, id, state.sku.as_deref(), &product);
        self.variants.insert(id, Held { product, state, matched, context: self.context.version });
    }

    fn renew_context(&mut self) {
        let organisation = self.fold.state().organisation.clone();
        let theirs = self.shard.rules(&organisation);
        self.context = ShopContext::new(
            self.context.version + 1,
            self.name.clone(),
            &organisation,
            self.partition,
            theirs,
            self.fold.own_rules(),
            None,
        );
    }

    fn take(&mut self, entry: &Entry, recorded: &[Arc<Recorded>]) {
        let at = entry.at;
        let mut skipped = false;
        for q in recorded.iter().filter_map(|r| match &**r {
            Recorded::Quarantine(q) if *q.shop == *self.name => Some(q),
            _ => None,
        }) {
            match q.variant_id {
                Some(variant) => {
                    if let Some(held) = self.variants.get_mut(&variant) {
                        held.state.quarantine(&q.message, at.offset);
                    }
                }
                None => skipped = true,
            }
        }
        match (&entry.shop, &entry.fact) {
            (Some(_), fact) if !skipped => self.take_own(fact.clone(), at),
            (Some(_), _) => {}
            (None, Fact::Rules(set)) => {
                if let Ok(effect) = self.shard.apply_rules(set, at)
                    && effect.changed
                    && *set.organisation == *self.fold.state().organisation
                {
                    self.renew_context();
                    if effect.proposes_at_once {
                        self.touch(at, |_| true);
                    }
                }
            }
            (None, _) => self.touch(at, |state| state.next_deadline().is_some_and(|due| due <= at.now)),
        }
        for r in recorded {
            if let Recorded::Decision(decision) = &**r
                && decision.shop.as_deref() == Some(&*self.name)
                && let Some(variant) = decision.variant_id
            {
                self.with(variant, |state, context| state.record(context, decision, at));
            }
        }
    }

    fn take_own(&mut self, fact: Fact, at: At) {
        self.known = true;
        let moves = matches!(fact, Fact::ShopRegistered(_));
        let mut steps = Steps::new();
        // What a shop refuses is a dead letter and changes nothing.
        let rules_changed = self.fold.observe(fact, at, &mut steps).is_ok_and(|effect| effect.rules_changed);
        if rules_changed || moves {
            self.renew_context();
        }
        for (variant, work) in steps {
            if self.looks_at(variant) {
                self.work(variant, work);
            }
        }
    }

    fn work(&mut self, variant: VariantId, work: Work) {
        match work {
            Work::Product(product, info) => match self.variants.get_mut(&variant) {
                Some(held) => {
                    held.state.product = product;
                    held.product = info;
                    // Matched anew by the next step.
                    held.context = 0;
                }
                None => self.hold(variant, info, VariantState::new(product)),
            },
            Work::Fact(at, fact) => self.observe(variant, &fact, at),
            // Shops give none: recorded decisions come with the tail.
            Work::Recorded(..) => {}
        }
    }

    fn observe(&mut self, variant: VariantId, fact: &VariantFact, at: At) {
        if let Some(held) = self.variants.get_mut(&variant) {
            let sku = held.state.sku_after(fact);
            if sku != held.state.sku.as_deref() {
                held.matched = Matched::of(&self.context.rules, variant, sku, &held.product);
                held.context = self.context.version;
            }
        }
        self.with(variant, |state, context| {
            // What fired is decided by the owner, or recorded already.
            let _ = state.observe(context, fact, at);
        });
    }

    fn touch(&mut self, at: At, which: impl Fn(&VariantState) -> bool) {
        let due: Vec<_> = self.variants.iter().filter(|(_, h)| which(&h.state)).map(|(id, _)| *id).collect();
        for variant in due {
            self.observe(variant, &VariantFact::Touch, at);
        }
    }

    fn with(&mut self, variant: VariantId, act: impl FnOnce(&mut VariantState, &Context<'_>)) {
        let Some(held) = self.variants.get_mut(&variant) else { return };
        if held.context != self.context.version {
            held.matched = Matched::of(&self.context.rules, variant, held.state.sku.as_deref(), &held.product);
            held.context = self.context.version;
        }
        let context = Context {
            organisation: &self.context.organisation,
            shop: &self.context.shop,
            partition: self.partition,
            variant,
            product: &held.product,
            rules: &self.context.rules,
            matched: &held.matched,
        };
        act(&mut held.state, &context);
    }

    /// None if it does not know the shop.
    pub fn answer(self, question: &Question, provenance: Provenance) -> Result<Option<Answer>, QueryError> {
        if !self.known {
            return Ok(None);
        }
        Ok(Some(match question {
            Question::Shop => match self.shop_view(&provenance) {
                Some(view) => Answer::Shop(view),
                None => return Ok(None),
            },
            Question::Variant(id) => match self.view(*id, &provenance) {
                Some(view) => Answer::Variant(Box::new(view)),
                None => return Err(QueryError::NoVariant { shop: self.name.to_string(), variant: *id }),
            },
            Question::Variants(filter) => {
                let mut ids: Vec<_> = self.fold.variants().filter(|v| filter.cursor.is_none_or(|c| *v > c)).collect();
                ids.sort_unstable();
                let mut page = VariantPage::default();
                for view in ids.into_iter().filter_map(|id| self.view(id, &provenance)) {
                    if !page.add(filter, view) {
                        break;
                    }
                }
                Answer::Variants(page)
            }
        }))
    }

    fn view(&self, id: VariantId, provenance: &Provenance) -> Option<VariantView> {
        let stale_since = self.fold.product_of(id)?.stale_since;
        let held = self.variants.get(&id)?;
        let variant = Variant::new(id, self.context.clone(), held.product.clone(), held.state.clone());
        variant.view(View { context: None, now: self.now, stale_since, provenance: provenance.clone() })
    }

    fn shop_view(&self, provenance: &Provenance) -> Option<ShopView> {
        if self.fold.state().removed {
            return None;
        }
        let mut shop = shop_view(&self.context, &self.fold, provenance.clone());
        for view in self.fold.variants().filter_map(|id| self.view(id, provenance)) {
            shop.at_risk += u64::from(view.risk.level != RiskLevel::None);
            shop.open_proposals += view.open_proposals.len() as u64;
        }
        Some(shop)
    }
}
