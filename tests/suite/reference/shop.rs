//! A shop: its catalogue and its levels, as the newest observations say.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::gradient::Sales;
use super::input::{Event, Rule};
use super::variant::{At, Subjects, Surroundings, Variant};
use super::{Counts, Made, VariantOutcome};

pub type Stamp = (i64, i64, i64);

pub struct Shop {
    pub domain: String,
    pub organisation: String,
    products: HashMap<u64, Product>,
    variants: HashMap<u64, Variant>,
    /// Levels stay with the item, known or not.
    items: HashMap<u64, Item>,
    variant_of: HashMap<u64, u64>,
}

#[derive(Default)]
pub struct Product {
    stamp: Option<Stamp>,
    pub vendor: String,
    pub product_type: String,
    pub tags: Vec<String>,
}

#[derive(Default)]
pub struct Item {
    pub levels: BTreeMap<u64, Level>,
    pub tracked: Option<bool>,
}

pub struct Level {
    pub available: Option<i64>,
    stamp: Stamp,
    pub gone: bool,
    pub sales: Sales,
}

impl Shop {
    pub fn new(domain: &str, organisation: &str) -> Shop {
        Shop {
            domain: domain.to_owned(),
            organisation: organisation.to_owned(),
            products: HashMap::new(),
            variants: HashMap::new(),
            items: HashMap::new(),
            variant_of: HashMap::new(),
        }
    }

    pub fn variant_ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.variants.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub fn take(&mut self, rules: &[Rule], e: &Event, at: At, made: &mut Made, counts: &mut Counts) {
        let id = |name: &str| e.body[name].as_u64().unwrap_or_default();
        match e.kind.as_str() {
            "inventory_levels/update" | "inventory_levels/connect" | "inventory_levels/disconnect" => {
                let gone = e.kind.ends_with("disconnect");
                let stamp = if gone { (e.event_time, e.triggered_at, e.offset) } else { e.stamp() };
                let (item, location) = (id("inventory_item_id"), id("location_id"));
                let variant = self.variant_of.get(&item).copied();
                let total_before = variant.and_then(|v| self.available(v));
                let expired = variant.is_some_and(|v| self.time_passes(v, at));
                let known_before = self.observe(item, location, e.body["available"].as_i64(), stamp, gone, at);
                counts.stale_levels += u64::from(known_before.is_none());
                let Some(v) = variant else { return };
                match known_before {
                    Some(before) => {
                        if gone && let Some(variant) = self.variants.get_mut(&v) {
                            variant.close("cancelled", |slot| slot.2 == Some(location));
                        }
                        self.judge(rules, v, &Subjects::Level { location, before, total_before }, at, made);
                    }
                    None if expired => self.judge(rules, v, &Subjects::Due, at, made),
                    None => {}
                }
                self.tell(v, at, None, made);
            }
            "products/create" | "products/update" => self.list(rules, e, at, made),
            "products/delete" => {
                for v in self.variant_ids() {
                    if let Some(variant) = self.variants.get_mut(&v).filter(|v| v.product == id("id")) {
                        variant.time_passes(at.now);
                        variant.close("cancelled", |_| true);
                        self.tell(v, at, None, made);
                    }
                }
                self.variants.retain(|_, v| v.product != id("id"));
                let known = &self.variants;
                self.variant_of.retain(|_, v| known.contains_key(v));
                self.products.remove(&id("id"));
            }
            "inventory_items/update" => {
                let tracked = e.body["tracked"].as_bool();
                let item = self.items.entry(id("id")).or_default();
                if tracked.is_some() && item.tracked != tracked {
                    item.tracked = tracked;
                    if let Some(v) = self.variant_of.get(&id("id")).and_then(|v| self.variants.get_mut(v)) {
                        v.begin_anew();
                    }
                }
            }
            // Sent is not acted on; but the variant has changed, and what waited for the end of a cool-down is looked at.
            "proposal/moved" | "effect/settled" => {
                let told = &e.body["variant_id"];
                let id = told.as_u64().or_else(|| told.as_str()?.parse().ok()).unwrap_or_default();
                let expired = self.time_passes(id, at);
                let Some(variant) = self.variants.get_mut(&id) else { return };
                let is_move = e.kind == "proposal/moved";
                let done = if is_move { variant.moved(&e.body) } else { variant.settled(&e.body) };
                if done || expired {
                    self.judge(rules, id, &Subjects::Due, at, made);
                }
                self.tell(id, at, Some(&e.body).filter(|_| is_move && done), made);
            }
            // All else is stored and folded by nobody yet.
            _ => {}
        }
    }

    /// The newest observation of (item, location) wins. `None`: it changed nothing. Else what was there before.
    #[expect(clippy::option_option, reason = "nothing changed, there was nothing before, there was a number before")]
    fn observe(
        &mut self,
        item: u64,
        location: u64,
        available: Option<i64>,
        stamp: Stamp,
        gone: bool,
        at: At,
    ) -> Option<Option<i64>> {
        let levels = &mut self.items.entry(item).or_default().levels;
        let Some(level) = levels.get_mut(&location) else {
            levels.insert(location, Level { available, stamp, gone, sales: Sales::beginning(at.event_time) });
            return Some(None);
        };
        let again = (stamp.0, stamp.1) == (level.stamp.0, level.stamp.1) && level.available == available && level.gone == gone;
        if stamp < level.stamp || again {
            return None;
        }
        let before = level.available.filter(|_| !level.gone);
        match (before, available) {
            (Some(b), Some(a)) => level.sales.sold(b - a, at.event_time),
            (None, Some(_)) => level.sales = Sales::beginning(at.event_time),
            _ => {}
        }
        (level.available, level.stamp, level.gone) = (available, stamp, gone);
        Some(before)
    }

    fn list(&mut self, rules: &[Rule], e: &Event, at: At, made: &mut Made) {
        let product_id = e.body["id"].as_u64().unwrap_or_default();
        let Some(variants) = e.body["variants"].as_array() else { return };
        let stamp = e.stamp();
        let product = self.products.entry(product_id).or_default();
        if product.stamp.is_some_and(|known| stamp < known) {
            return;
        }
        product.stamp = Some(stamp);
        let text = |v: &Value| v.as_str().map(str::to_owned);
        product.vendor = text(&e.body["vendor"]).unwrap_or(std::mem::take(&mut product.vendor));
        product.product_type = text(&e.body["product_type"]).unwrap_or(std::mem::take(&mut product.product_type));
        if let Some(tags) = e.body["tags"].as_str() {
            product.tags = tags.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect();
        }
        for listed in variants {
            let Some(id) = listed["id"].as_u64() else { continue };
            let total_before = self.available(id);
            self.time_passes(id, at);
            let variant = self.variants.entry(id).or_default();
            variant.product = product_id;
            variant.sku = text(&listed["sku"]).filter(|s| !s.is_empty());
            if let Some(item) = listed["inventory_item_id"].as_u64() {
                variant.item = Some(item);
                self.variant_of.insert(item, id);
            }
            if let Some(q) = listed["inventory_quantity"].as_i64() {
                let mut sales = Sales::beginning(at.event_time);
                if let Some((before, _, series)) = variant.quantity.take() {
                    sales = series;
                    sales.sold(before - q, at.event_time);
                }
                variant.quantity = Some((q, stamp, sales));
            }
            self.judge(rules, id, &Subjects::Listed { total_before }, at, made);
            self.tell(id, at, None, made);
        }
    }

    fn available(&self, variant: u64) -> Option<i64> {
        let v = self.variants.get(&variant)?;
        v.available(v.item.and_then(|i| self.items.get(&i)))
    }

    /// Runs the rules over a variant.
    pub fn judge(&mut self, rules: &[Rule], id: u64, over: &Subjects, at: At, made: &mut Made) {
        self.with(id, |variant, around| variant.judge(around, rules, over, at, made));
    }

    /// A tick, for a variant.
    pub fn tick(&mut self, rules: &[Rule], id: u64, at: At, made: &mut Made) {
        self.time_passes(id, at);
        self.judge(rules, id, &Subjects::Due, at, made);
        self.tell(id, at, None, made);
    }

    pub fn time_passes(&mut self, id: u64, at: At) -> bool {
        self.variants.get_mut(&id).is_some_and(|v| v.time_passes(at.now))
    }

    /// Ends a fact about a variant; `moved` is the move that it was, if it did anything.
    pub fn tell(&mut self, id: u64, at: At, moved: Option<&Value>, made: &mut Made) {
        self.with(id, |variant, around| variant.tell(around, at, moved, made));
    }

    fn with(&mut self, id: u64, act: impl FnOnce(&mut Variant, &Surroundings<'_>)) {
        let Some(variant) = self.variants.get_mut(&id) else { return };
        let nobody = Product::default();
        let around = Surroundings {
            organisation: &self.organisation,
            shop: &self.domain,
            id,
            product: self.products.get(&variant.product).unwrap_or(&nobody),
            item: variant.item.and_then(|i| self.items.get(&i)),
        };
        act(variant, &around);
    }

    pub fn forget_rules_but(&mut self, rules: &[Rule]) {
        self.variants.values_mut().for_each(|v| v.forget_rules_but(rules));
    }

    pub fn variants_out(&self) -> impl Iterator<Item = (u64, VariantOutcome)> + '_ {
        self.variants.iter().map(|(id, v)| (*id, v.outcome(v.item.and_then(|i| self.items.get(&i)))))
    }

    /// Items with levels that no catalogue names.
    pub fn waiting(&self) -> u64 {
        self.items.iter().filter(|(id, i)| !i.levels.is_empty() && !self.variant_of.contains_key(id)).count() as u64
    }
}
