//! A variant under its rules: when they fire, what they order, when a proposal closes.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use uuid::Uuid;

use super::gradient::{self, Sales};
use super::input::{Rule, Trigger};
use super::proposal::Proposal;
use super::shop::{Item, Level, Product, Stamp};
use super::{ChangeOutcome, DecisionOutcome, Made, VariantOutcome};

/// DESIGN §10: a fixed namespace.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0c_4a52_7c5e_5b1f_9a3e_2f6b_8a41_c0de);

/// (kind, scope, location replenished): what has one open proposal at most.
type Slot = (String, String, Option<u64>);

#[derive(Clone, Copy)]
pub struct At {
    pub partition: i32,
    pub offset: i64,
    pub event_time: i64,
    pub now: i64,
}

/// What rules are run over.
pub enum Subjects {
    /// A level changed: its location, what it held before, and the variant's sum before.
    Level { location: u64, before: Option<i64>, total_before: Option<i64> },
    /// The catalogue said something.
    Listed { total_before: Option<i64> },
    /// Only what a rule looks at for the first time.
    NewRules,
    /// Only what waits for a time that has come.
    Due,
}

pub struct Surroundings<'a> {
    pub organisation: &'a str,
    pub shop: &'a str,
    pub id: u64,
    pub product: &'a Product,
    pub item: Option<&'a Item>,
}

#[derive(Default)]
pub struct Variant {
    pub product: u64,
    pub item: Option<u64>,
    pub sku: Option<String>,
    /// The product's own count.
    pub quantity: Option<(i64, Stamp, Sales)>,
    /// By rule and location.
    marks: HashMap<(u64, Option<u64>), Mark>,
    open: BTreeMap<Slot, Proposal>,
    /// Closed by the fact under way.
    closed: Vec<Proposal>,
}

#[derive(Clone, Copy)]
struct Mark {
    armed: bool,
    /// Crossed while it had to cool down.
    pending: bool,
    cool_until: i64,
}

/// A location, or the shop's sum: before and after.
struct Place {
    location: Option<u64>,
    before: Option<i64>,
    after: Option<i64>,
}

fn connected(item: Option<&Item>) -> impl Iterator<Item = (u64, &Level)> + Clone {
    item.into_iter().flat_map(|i| &i.levels).filter(|(_, l)| !l.gone).map(|(k, l)| (*k, l))
}

impl Variant {
    /// No level known: the product's own count; else the sum over connected locations that say a number.
    pub fn available(&self, item: Option<&Item>) -> Option<i64> {
        match connected(item).next() {
            None => self.quantity.as_ref().map(|q| q.0),
            Some(_) => connected(item).filter_map(|(_, l)| l.available).fold(None, |sum, a| Some(sum.unwrap_or(0) + a)),
        }
    }

    pub fn begin_anew(&mut self) {
        self.marks.clear();
    }

    pub fn forget_rules_but(&mut self, rules: &[Rule]) {
        self.marks.retain(|(uid, _), _| rules.iter().any(|r| r.uid == *uid));
    }

    /// The outcome of an effect: whether it made the proposal sent.
    pub fn settled(&mut self, body: &Value) -> bool {
        let proposal = self.open.values_mut().find(|p| body["proposal_id"] == p.is.id && body["state"] == "done");
        proposal.is_some_and(|p| p.carried_by(body) | p.sent())
    }

    /// A transfer has come so far. Gives the moves that it made, and whether anything is different.
    pub fn transferred(&mut self, transfer: &str, name: &str, lines: &Value) -> (Vec<Value>, bool) {
        let (mut moves, mut differs) = (Vec::new(), false);
        let item = self.item.unwrap_or_default();
        let line = lines.as_array().into_iter().flatten().find(|l| {
            let id = &l["inventory_item_id"];
            id.as_u64() == Some(item) || *id == format!("gid://shopify/InventoryItem/{item}")
        });
        for p in self.open.values_mut() {
            let Some(at) = p.carriers.iter().position(|c| c.0 == transfer && !c.2) else { continue };
            let mut m = json!({"proposal_id": p.is.id, "move": name, "by": "shopify", "via": p.carriers[at].1});
            if let Some(units) = line.filter(|_| name == "received").and_then(|l| l["quantity"].as_i64()) {
                m["quantity"] = json!(units);
            }
            if name == "received" || name == "cancel" {
                p.carriers[at].2 = true;
                differs = true;
            }
            if p.take(&m) {
                moves.push(m);
            }
        }
        self.put_away();
        differs |= !moves.is_empty();
        (moves, differs)
    }

    /// A move: whether it did anything.
    pub fn moved(&mut self, body: &Value) -> bool {
        let done = self.open.values_mut().find(|p| body["proposal_id"] == p.is.id).is_some_and(|p| p.take(body));
        self.put_away();
        done
    }

    /// What has expired meanwhile, closes: whether anything did.
    pub fn time_passes(&mut self, now: i64) -> bool {
        let expired = self.open.values_mut().filter_map(|p| p.expire(now).then_some(())).count() > 0;
        self.put_away();
        expired
    }

    pub fn close(&mut self, state: &str, which: impl Fn(&Slot) -> bool) {
        self.open.iter_mut().filter(|(slot, _)| which(slot)).for_each(|(_, p)| _ = p.go(state));
        self.put_away();
    }

    fn put_away(&mut self) {
        let closed: Vec<Slot> = self.open.iter().filter(|(_, p)| !p.is_open()).map(|(slot, _)| slot.clone()).collect();
        self.closed.extend(closed.iter().filter_map(|slot| self.open.remove(slot)));
    }

    /// Ends the fact: who is to be woken, is; and what differs from what was told last is a change.
    pub fn tell(&mut self, around: &Surroundings<'_>, at: At, moved: &[Value], made: &mut Made) {
        let total = self.available(around.item);
        for (slot, p) in &mut self.open {
            let level = connected(around.item).find(|(k, _)| Some(*k) == slot.2).and_then(|(_, l)| l.available);
            p.wake(at.now, if slot.2.is_some() { level } else { total });
        }
        for p in self.closed.iter_mut().chain(self.open.values_mut()) {
            let moved = moved.iter().find(|m| m["proposal_id"] == p.is.id);
            if p.is == p.told && moved.is_none() {
                continue;
            }
            p.told = p.is.clone();
            let word = |m: &Value, name: &str| m[name].as_str().unwrap_or_default().to_owned();
            made.changes.push(ChangeOutcome {
                organisation: around.organisation.to_owned(),
                shop: around.shop.to_owned(),
                variant: around.id,
                proposal: p.is.clone(),
                note: p.note.clone(),
                moved: moved.map(|m| (word(m, "move"), word(m, "by"), word(m, "via"))),
                changed_at: at.now,
            });
        }
        self.closed.clear();
    }

    pub fn judge(&mut self, around: &Surroundings<'_>, rules: &[Rule], over: &Subjects, at: At, made: &mut Made) {
        if around.item.and_then(|i| i.tracked) == Some(false) {
            self.marks.clear();
            return;
        }
        let places = self.places(around.item, over);
        if !matches!(over, Subjects::NewRules | Subjects::Due) {
            self.resolve(around.item, &places, at.now);
        }
        for rule in rules {
            if self.is_under(rule, around) {
                for place in places.iter().filter(|p| p.location.is_some() == (rule.scope == "location")) {
                    self.judge_place(around, rule, place, over, at, made);
                }
            } else {
                // Should it select the variant again, it sees it for the first time.
                self.marks.retain(|(uid, _), _| *uid != rule.uid);
            }
        }
    }

    /// What the rules are to look at.
    fn places(&self, item: Option<&Item>, over: &Subjects) -> Vec<Place> {
        let total = self.available(item);
        let level = |l: u64| connected(item).find(|(k, _)| *k == l).and_then(|(_, l)| l.available);
        match *over {
            Subjects::Level { location, before, total_before } => vec![
                Place { location: Some(location), before, after: level(location) },
                Place { location: None, before: total_before, after: total },
            ],
            Subjects::Listed { .. } | Subjects::NewRules | Subjects::Due => {
                let before = if let Subjects::Listed { total_before } = *over { total_before } else { total };
                let locations =
                    connected(item).map(|(k, l)| Place { location: Some(k), before: l.available, after: l.available });
                locations.chain([Place { location: None, before, after: total }]).collect()
            }
        }
    }

    fn is_under(&self, rule: &Rule, around: &Surroundings<'_>) -> bool {
        rule.takes("shop", around.shop)
            && rule.takes("vendor", &around.product.vendor)
            && rule.takes("product_type", &around.product.product_type)
            && rule.takes_one_of("tag", &around.product.tags)
            && rule.takes("sku", self.sku.as_deref().unwrap_or_default())
            && rule.takes("variant", &around.id.to_string())
    }

    /// (the trigger holds, it is past the re-arm level).
    fn reading(&self, item: Option<&Item>, rule: &Rule, location: Option<u64>, available: i64, now: i64) -> (bool, bool) {
        match rule.trigger {
            Trigger::Constant { threshold } => (available <= threshold, available as f64 >= rule.rearm),
            Trigger::Gradient { probability, horizon_hours } => {
                let series: Vec<&Sales> = match location {
                    Some(l) => connected(item).filter(|(k, _)| *k == l).map(|(_, l)| &l.sales).collect(),
                    None if connected(item).next().is_some() => connected(item).map(|(_, l)| &l.sales).collect(),
                    None => self.quantity.iter().map(|q| &q.2).collect(),
                };
                let p = gradient::run_out(series.into_iter(), now, available, horizon_hours);
                (p.is_some_and(|p| p >= probability), p.is_none_or(|p| p < rule.rearm))
            }
        }
    }

    /// Proposals that nobody acted on close when stock is back.
    fn resolve(&mut self, item: Option<&Item>, places: &[Place], now: i64) {
        let over: Vec<Slot> = self
            .open
            .iter()
            .filter(|(slot, p)| {
                let after = places.iter().find(|place| place.location == slot.2).and_then(|place| place.after);
                !p.is_acted_on() && after.is_some_and(|a| self.reading(item, &p.rule, slot.2, a, now).1)
            })
            .map(|(slot, _)| slot.clone())
            .collect();
        self.close("resolved", |slot| over.contains(slot));
    }

    fn judge_place(&mut self, around: &Surroundings<'_>, rule: &Rule, place: &Place, over: &Subjects, at: At, made: &mut Made) {
        if place.location.is_some_and(|l| !rule.takes("location", &l.to_string())) {
            return;
        }
        let key = (rule.uid, place.location);
        let Some(available) = place.after else {
            self.marks.remove(&key);
            return;
        };
        let known = self.marks.get(&key).copied();
        match over {
            Subjects::NewRules if known.is_some() => return,
            Subjects::Due if !known.is_some_and(|m| m.pending && at.now >= m.cool_until) => return,
            _ => {}
        }
        let (holds, clear) = self.reading(around.item, rule, place.location, available, at.now);
        let mut mark = known.unwrap_or(Mark { armed: !holds || rule.propose_first, pending: false, cool_until: i64::MIN });
        if clear {
            mark.armed = true;
            mark.pending = false;
        }
        if mark.armed && holds {
            if at.now < mark.cool_until {
                mark.pending = true;
            } else {
                mark.armed = false;
                mark.pending = false;
                if let Some(decision) = self.propose(around, rule, place, available, at) {
                    mark.cool_until = at.now.saturating_add(rule.cool_down_ms);
                    made.decisions.push(decision);
                }
            }
        }
        self.marks.insert(key, mark);
    }

    /// Opens a proposal, unless one is open or nothing needs to be ordered.
    fn propose(
        &mut self,
        around: &Surroundings<'_>,
        rule: &Rule,
        place: &Place,
        available: i64,
        at: At,
    ) -> Option<DecisionOutcome> {
        let slot: Slot = (rule.kind.clone(), rule.scope.clone(), place.location);
        if self.open.contains_key(&slot) {
            return None;
        }
        let under_way: i64 =
            self.open.iter().filter(|(s, _)| place.location.is_none() || s.2 == place.location).map(|(_, p)| p.under_way()).sum();
        let quantity = rule.order(available + under_way).ok()?;
        let identity = json!([
            around.organisation,
            around.shop,
            around.id.to_string(),
            null,
            place.location.map(|l| l.to_string()),
            rule.id,
            rule.kind,
            null,
            "stock-facts",
            at.partition,
            at.offset
        ]);
        let id = Uuid::new_v5(&NAMESPACE, identity.to_string().as_bytes());
        let expires_at = at.now.saturating_add(rule.expire_ms);
        self.open.insert(slot, Proposal::open(id.to_string(), rule.clone(), quantity, expires_at));
        Some(DecisionOutcome {
            decision_id: id.to_string(),
            organisation: around.organisation.to_owned(),
            shop: around.shop.to_owned(),
            variant: around.id,
            location: place.location,
            rule: rule.id.clone(),
            kind: rule.kind.clone(),
            quantity,
            available,
            previous: place.before,
            decided_at: at.event_time,
        })
    }

    pub fn outcome(&self, item: Option<&Item>) -> VariantOutcome {
        VariantOutcome {
            item: self.item,
            sku: self.sku.clone(),
            available: self.available(item),
            levels: connected(item).map(|(k, l)| (k, l.available)).collect(),
            open: self.open.iter().map(|(slot, p)| (slot.clone(), p.is.clone())).collect(),
        }
    }
}
