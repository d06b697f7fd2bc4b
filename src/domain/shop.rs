//! The shop: its catalogue, and which variants a fact concerns.

mod transfers;
mod v1;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::rules::{self, ActiveRule, RuleSet};
use super::variant::{Listed, VariantFact, WaitingLevel};
use crate::events::dead_letter::{Reason, Unreadable};
use crate::events::decision::Recorded;
use crate::events::fact::{At, Fact, ItemObserved, ProductObserved, RulesApplied, Stamp, TransferStage, VariantListed};
use crate::events::ids::{DEFAULT_ORGANISATION, ItemId, ProductId, TransferId, VariantId};
use crate::events::time::Millis;

/// Items with levels that no catalogue has named, per shop; more go to dead letters (DESIGN §7.9).
pub const MAX_WAITING_ITEMS: usize = 50_000;
/// Locations of one waiting item.
const MAX_WAITING_LEVELS: usize = 1_000;

/// What rules select by, common to a product's variants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductInfo {
    pub title: Box<str>,
    pub vendor: Box<str>,
    pub product_type: Box<str>,
    pub tags: Vec<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    pub info: Arc<ProductInfo>,
    pub stamp: Stamp,
    /// In the order of the payload; deleted ones are gone from here.
    pub variants: Vec<(VariantId, Option<ItemId>)>,
    pub deleted: bool,
    /// Since when it is known to have changed in a way that nobody told.
    pub stale_since: Option<Millis>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Waiting {
    levels: Vec<WaitingLevel>,
    item: Option<(Option<Box<str>>, Option<bool>, Stamp)>,
}

/// Stored form: what cannot be derived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShopState {
    pub organisation: Box<str>,
    pub kind: Box<str>,
    pub removed: bool,
    products: BTreeMap<ProductId, Product>,
    waiting: BTreeMap<ItemId, Waiting>,
    own_version: i64,
    own_rules: Vec<ActiveRule>,
    /// Shopify transfers that carry out proposals of these variants, until they are over.
    transfers: BTreeMap<TransferId, Vec<VariantId>>,
    /// Transfers that nobody has claimed: Shopify may tell of one before who made it does.
    unclaimed: BTreeMap<TransferId, TransferStage>,
}

impl Default for ShopState {
    fn default() -> Self {
        ShopState {
            organisation: DEFAULT_ORGANISATION.into(),
            kind: "shopify".into(),
            removed: false,
            products: BTreeMap::new(),
            waiting: BTreeMap::new(),
            own_version: 0,
            own_rules: Vec::new(),
            transfers: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
        }
    }
}

/// The shop as it lives: the state and its indexes.
#[derive(Debug, Clone, Default)]
pub struct Shop {
    state: ShopState,
    /// An item can belong to several variants (contracts/apis.md §1).
    by_item: FxHashMap<ItemId, SmallVec<[VariantId; 1]>>,
    by_variant: FxHashMap<VariantId, ProductId>,
    own_rules: RuleSet,
}

/// One step for a variant.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Its product is described like this from here on.
    Product(ProductId, Arc<ProductInfo>),
    Fact(At, VariantFact),
    /// A recorded decision or quarantine of the fact before.
    Recorded(At, Arc<Recorded>),
}

/// Receives the steps, in order.
pub type Steps = Vec<(VariantId, Work)>;

/// What a fact did to the shop itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effect {
    pub changed: bool,
    /// Organisation or own rules: the effective rules have to be computed anew.
    pub rules_changed: bool,
}

impl Shop {
    pub fn from_state(state: ShopState) -> Shop {
        let mut shop = Shop {
            own_rules: RuleSet { version: state.own_version, rules: state.own_rules.iter().cloned().map(Arc::new).collect() },
            ..Shop::default()
        };
        let variants = state.products.values().map(|p| p.variants.len()).sum();
        shop.by_variant.reserve(variants);
        shop.by_item.reserve(variants);
        for (product, p) in state.products.iter().filter(|(_, p)| !p.deleted) {
            for (variant, item) in &p.variants {
                shop.by_variant.insert(*variant, *product);
                if let Some(item) = item {
                    shop.by_item.entry(*item).or_default().push(*variant);
                }
            }
        }
        shop.state = state;
        shop
    }

    pub fn state(&self) -> &ShopState {
        &self.state
    }

    pub fn own_rules(&self) -> &RuleSet {
        &self.own_rules
    }

    pub fn product(&self, id: ProductId) -> Option<&Product> {
        self.state.products.get(&id)
    }

    /// What rules select the product's variants by; nothing of one that is gone.
    pub fn info(&self, id: ProductId) -> Arc<ProductInfo> {
        self.product(id).map(|p| p.info.clone()).unwrap_or_default()
    }

    pub fn product_of(&self, variant: VariantId) -> Option<&Product> {
        self.by_variant.get(&variant).and_then(|p| self.product(*p))
    }

    pub fn waiting_items(&self) -> usize {
        self.state.waiting.len()
    }

    pub fn variants(&self) -> impl Iterator<Item = VariantId> + '_ {
        self.by_variant.keys().copied()
    }

    pub fn variant_count(&self) -> usize {
        self.by_variant.len()
    }

    /// Whether a fact concerns variants, and which; the hot path of level facts.
    pub fn observe(&mut self, fact: Fact, at: At, steps: &mut Steps) -> Result<Effect, Unreadable> {
        let mut effect = Effect::default();
        match fact {
            Fact::Level(level) => {
                let seen = WaitingLevel { location: level.location, available: level.available, stamp: level.stamp, gone: false };
                effect.changed = self.observe_level(level.item, seen, at, steps)?;
            }
            Fact::LevelGone { item, location, stamp } => {
                let seen = WaitingLevel { location, available: None, stamp, gone: true };
                effect.changed = self.observe_level(item, seen, at, steps)?;
            }
            Fact::Product(product) => effect.changed = self.observe_product(*product, at, steps),
            Fact::ProductGone { product, stamp } => effect.changed = self.observe_product_gone(product, stamp, at, steps),
            Fact::Item(item) => effect.changed = self.observe_item(*item, at, steps)?,
            Fact::EffectSettled(outcome) => {
                let (variant, transfer) = (outcome.variant_id, outcome.transfer());
                self.pass_on(variant, VariantFact::EffectSettled(outcome), at, steps);
                effect.changed = transfer.is_some_and(|t| self.claim(t, variant, at, steps));
            }
            Fact::ProposalMoved(moved) => {
                let variant = moved.variant_id;
                self.pass_on(variant, VariantFact::ProposalMoved(moved), at, steps);
            }
            Fact::Transfer(seen) => effect.changed = self.observe_transfer(&seen, at, steps),
            Fact::ShopRegistered(registered) => {
                effect.rules_changed = *registered.organisation != *self.state.organisation;
                effect.changed = effect.rules_changed || self.state.removed || *registered.kind != *self.state.kind;
                self.state.organisation = registered.organisation.into();
                self.state.kind = registered.kind.into();
                self.state.removed = false;
            }
            Fact::ShopRemoved => {
                effect.changed = !self.state.removed;
                self.state.removed = true;
            }
            Fact::ShopRules(set) => {
                effect.changed = self.apply_own_rules(&set, at)?;
                effect.rules_changed = effect.changed;
            }
            Fact::Rules(_) | Fact::Tick | Fact::Stored => {}
        }
        Ok(effect)
    }

    fn pass_on(&self, variant: VariantId, fact: VariantFact, at: At, steps: &mut Steps) {
        if self.by_variant.contains_key(&variant) {
            steps.push((variant, Work::Fact(at, fact)));
        }
    }

    fn observe_level(&mut self, item: ItemId, seen: WaitingLevel, at: At, steps: &mut Steps) -> Result<bool, Unreadable> {
        if let Some(variants) = self.by_item.get(&item) {
            let fact = if seen.gone {
                VariantFact::LevelGone { location: seen.location, stamp: seen.stamp }
            } else {
                VariantFact::Level { location: seen.location, available: seen.available, stamp: seen.stamp }
            };
            for variant in variants {
                steps.push((*variant, Work::Fact(at, fact.clone())));
            }
            return Ok(false);
        }
        let waiting = self.waiting(item)?;
        let full = waiting.levels.len() >= MAX_WAITING_LEVELS;
        match waiting.levels.iter_mut().find(|l| l.location == seen.location) {
            Some(known) if seen.stamp <= known.stamp => Ok(false),
            Some(known)
                if seen.stamp.same_event(&known.stamp) && known.available == seen.available && known.gone == seen.gone =>
            {
                Ok(false)
            }
            Some(known) => {
                *known = seen;
                Ok(true)
            }
            None if full => Err(waiting_full()),
            None => {
                waiting.levels.push(seen);
                waiting.levels.sort_unstable_by_key(|l| l.location);
                Ok(true)
            }
        }
    }

    fn waiting(&mut self, item: ItemId) -> Result<&mut Waiting, Unreadable> {
        let full = self.state.waiting.len() >= MAX_WAITING_ITEMS;
        match self.state.waiting.entry(item) {
            std::collections::btree_map::Entry::Vacant(_) if full => Err(waiting_full()),
            entry => Ok(entry.or_default()),
        }
    }

    fn observe_item(&mut self, item: ItemObserved, at: At, steps: &mut Steps) -> Result<bool, Unreadable> {
        if let Some(variants) = self.by_item.get(&item.item) {
            for variant in variants {
                let fact = VariantFact::Item { sku: item.sku.clone(), tracked: item.tracked, stamp: item.stamp };
                steps.push((*variant, Work::Fact(at, fact)));
            }
            return Ok(false);
        }
        let waiting = self.waiting(item.item)?;
        if waiting.item.as_ref().is_some_and(|(_, _, known)| item.stamp <= *known) {
            return Ok(false);
        }
        waiting.item = Some((item.sku, item.tracked, item.stamp));
        Ok(true)
    }

    fn observe_product(&mut self, seen: ProductObserved, at: At, steps: &mut Steps) -> bool {
        let known = self.state.products.get(&seen.id);
        if known.is_some_and(|k| seen.stamp < k.stamp) {
            return false;
        }
        if seen.stub {
            // Nothing is known but that something changed.
            return match self.state.products.get_mut(&seen.id) {
                Some(product) if product.stale_since.is_none() => {
                    product.stale_since = Some(at.event_time);
                    true
                }
                _ => false,
            };
        }
        let info = Arc::new(info_of(&seen, known.map(|k| &*k.info)));
        let unchanged_info = known.is_some_and(|k| k.info == info);
        let info = if unchanged_info { known.map_or(info, |k| k.info.clone()) } else { info };
        let before = known.map(|k| k.variants.clone()).unwrap_or_default();
        let was_deleted = known.is_some_and(|k| k.deleted);
        let mut after = before.clone();
        let listed = seen.variants.unwrap_or_default();
        if was_deleted {
            after.clear();
        }
        // The payload describes the first 100 at most; where it names all ids, the others are gone.
        let complete = (!listed.is_empty() && listed.len() < 100).then(|| listed.iter().map(|v| v.id).collect::<Vec<_>>());
        if let Some(all) = seen.all_variants.filter(|all| !all.is_empty()).or(complete) {
            after.retain(|(v, _)| all.contains(v) || listed.iter().any(|l| l.id == *v));
        }
        for v in &listed {
            match after.iter_mut().find(|(id, _)| *id == v.id) {
                Some((_, item)) => *item = v.item.or(*item),
                None => after.push((v.id, v.item)),
            }
        }
        let gone: Vec<_> = before.iter().filter(|(v, _)| !after.iter().any(|(a, _)| a == v)).copied().collect();
        self.unlink(&before);
        for (variant, _) in &gone {
            steps.push((*variant, Work::Fact(at, VariantFact::Deleted)));
        }
        self.link(seen.id, &after);
        for (variant, _) in after.iter().filter(|(v, _)| !unchanged_info || !before.iter().any(|(b, _)| b == v)) {
            steps.push((*variant, Work::Product(seen.id, info.clone())));
            if !listed.iter().any(|l| l.id == *variant) {
                steps.push((*variant, Work::Fact(at, VariantFact::Touch)));
            }
        }
        for v in listed {
            self.list(v, seen.stamp, at, steps);
        }
        let next = Product { info, stamp: seen.stamp, variants: after, deleted: false, stale_since: None };
        let product = self.state.products.entry(seen.id);
        match product {
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let old = entry.get();
                // The same delivery again leaves no trace.
                let same = old.stamp.same_event(&next.stamp) && Product { stamp: next.stamp, ..old.clone() } == next;
                if !same {
                    entry.insert(next);
                }
                !same
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(next);
                true
            }
        }
    }

    fn list(&mut self, v: VariantListed, stamp: Stamp, at: At, steps: &mut Steps) {
        let waiting = v.item.and_then(|item| self.state.waiting.remove(&item)).unwrap_or_default();
        let listed = Listed {
            item: v.item,
            sku: v.sku,
            title: v.title,
            continue_selling: v.continue_selling,
            quantity: v.quantity,
            stamp,
            waiting: waiting.levels,
        };
        if let Some((sku, tracked, stamp)) = waiting.item {
            steps.push((v.id, Work::Fact(at, VariantFact::Item { sku, tracked, stamp })));
        }
        steps.push((v.id, Work::Fact(at, VariantFact::Listed(Box::new(listed)))));
    }

    fn observe_product_gone(&mut self, id: ProductId, stamp: Stamp, at: At, steps: &mut Steps) -> bool {
        let product = self.state.products.entry(id).or_insert_with(|| Product {
            info: Arc::default(),
            stamp: Stamp::NEVER,
            variants: Vec::new(),
            deleted: false,
            stale_since: None,
        });
        if product.deleted || stamp < product.stamp {
            return false;
        }
        product.deleted = true;
        product.stamp = stamp;
        let variants = std::mem::take(&mut product.variants);
        self.unlink(&variants);
        for (variant, _) in variants {
            steps.push((variant, Work::Fact(at, VariantFact::Deleted)));
        }
        true
    }

    fn unlink(&mut self, variants: &[(VariantId, Option<ItemId>)]) {
        for (variant, item) in variants {
            self.by_variant.remove(variant);
            if let Some(list) = item.and_then(|i| self.by_item.get_mut(&i)) {
                list.retain(|v| v != variant);
                if list.is_empty() {
                    self.by_item.remove(&item.expect("looked up just now"));
                }
            }
        }
    }

    fn link(&mut self, product: ProductId, variants: &[(VariantId, Option<ItemId>)]) {
        for (variant, item) in variants {
            self.by_variant.insert(*variant, product);
            if let Some(item) = item {
                let list = self.by_item.entry(*item).or_default();
                if !list.contains(variant) {
                    list.push(*variant);
                }
            }
        }
    }

    fn apply_own_rules(&mut self, set: &RulesApplied, at: At) -> Result<bool, Unreadable> {
        if set.rule_version <= self.own_rules.version {
            return Ok(false);
        }
        let rules = read_rules(set)?;
        self.own_rules = self.own_rules.replaced_by(set.rule_version, rules, at.offset);
        self.state.own_version = self.own_rules.version;
        self.state.own_rules = self.own_rules.rules.iter().map(|r| (**r).clone()).collect();
        Ok(true)
    }
}

/// Reads the rules of a fact that may come from elsewhere than our own command.
pub fn read_rules(set: &RulesApplied) -> Result<Vec<rules::Rule>, Unreadable> {
    rules::from_facts(&set.rules).map_err(|problems| {
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Unreadable::new(Reason::WrongType, format!("the rule set is not valid: {}", told.join("; ")))
    })
}

/// What is absent from the payload stays as it was.
fn info_of(seen: &ProductObserved, known: Option<&ProductInfo>) -> ProductInfo {
    let or = |new: &Option<Box<str>>, old: fn(&ProductInfo) -> &Box<str>| {
        new.clone().or_else(|| known.map(|k| old(k).clone())).unwrap_or_default()
    };
    ProductInfo {
        title: or(&seen.title, |k| &k.title),
        vendor: or(&seen.vendor, |k| &k.vendor),
        product_type: or(&seen.product_type, |k| &k.product_type),
        tags: seen.tags.clone().or_else(|| known.map(|k| k.tags.clone())).unwrap_or_default(),
    }
}

fn waiting_full() -> Unreadable {
    Unreadable::new(
        Reason::WaitingFull,
        format!(
            "the shop has more than {MAX_WAITING_ITEMS} items with levels that no product names; import its catalogue, then retry the dead letter"
        ),
    )
}

#[cfg(test)]
mod tests;
