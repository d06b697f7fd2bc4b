//! The variant: its state, and the three steps of a fact through it (DESIGN §2).
//!
//! - [`VariantState::observe`] takes a fact in and says which triggers fired. It changes state the same way whether the
//!   decisions are computed now or were recorded long ago.
//! - [`decide`] turns a fired trigger into a decision. It changes nothing. Replay does not call it.
//! - [`VariantState::record`] takes a decision in, computed or read back.

mod decide;
mod proposals;
mod triggers;
mod v1;
mod v2;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub use decide::decide;
use triggers::Arm;
pub use triggers::Fired;

use super::proposal::{Proposal, State};
use super::rules::{ActiveRule, EffectiveRules};
use super::shop::ProductInfo;
use super::stock::{Change, Stock};
use crate::events::decision::Decision;
use crate::events::fact::{At, EffectSettled, ProposalMoved, Stamp, TransferObserved};
use crate::events::ids::{ItemId, LocationId, ProductId, VariantId};
use crate::events::record::{Offset, Partition};

/// All that is known of a variant. A function of the facts up to `last` (DESIGN §7.3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantState {
    pub product: ProductId,
    pub item: Option<ItemId>,
    pub sku: Option<Box<str>>,
    pub title: Box<str>,
    pub continue_selling: bool,
    /// What the inventory item said.
    pub tracked: Option<bool>,
    pub item_stamp: Stamp,
    pub stock: Stock,
    arms: SmallVec<[Arm; 1]>,
    /// Which rules `arms` belongs to (see [`Matched::key`]).
    rules_key: u64,
    pub proposals: Vec<Proposal>,
    /// Offset of the last fact that changed anything.
    pub last: Offset,
    pub deleted: bool,
    /// Why it takes no more facts.
    pub quarantined: Option<Box<str>>,
}

/// A fact as far as it concerns one variant.
#[derive(Debug, Clone, PartialEq)]
pub enum VariantFact {
    /// The catalogue names it or describes it anew.
    Listed(Box<Listed>),
    Deleted,
    Level {
        location: LocationId,
        available: Option<i64>,
        stamp: Stamp,
    },
    LevelGone {
        location: LocationId,
        stamp: Stamp,
    },
    Item {
        sku: Option<Box<str>>,
        tracked: Option<bool>,
        stamp: Stamp,
    },
    EffectSettled(Box<EffectSettled>),
    ProposalMoved(Box<ProposalMoved>),
    /// What happened to a Shopify transfer that carries out a proposal.
    Transfer(Box<TransferObserved>),
    /// Time has passed, or the rules have changed.
    Touch,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub item: Option<ItemId>,
    pub sku: Option<Box<str>>,
    pub title: Option<Box<str>>,
    pub continue_selling: Option<bool>,
    pub quantity: Option<i64>,
    pub stamp: Stamp,
    /// Observations that waited for the catalogue to name the item.
    pub waiting: Vec<WaitingLevel>,
}

/// A level of an item that no catalogue has named yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingLevel {
    pub location: LocationId,
    pub available: Option<i64>,
    pub stamp: Stamp,
    pub gone: bool,
}

/// The rules that match a variant, as indexes into the shop's effective rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matched {
    indexes: SmallVec<[u16; 4]>,
    /// Changes with the set of (rule id, content, since).
    pub key: u64,
}

impl Matched {
    pub fn of(rules: &EffectiveRules, variant: VariantId, sku: Option<&str>, product: &ProductInfo) -> Matched {
        let mut matched = Matched::default();
        for (i, active) in rules.rules.iter().enumerate() {
            if active.rule.select.takes(variant, sku, product) {
                matched.indexes.push(i as u16);
                matched.key = (matched.key.rotate_left(5) ^ active.uid).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
        }
        matched
    }
}

/// What a variant has to know of its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub organisation: &'a str,
    pub shop: &'a str,
    pub partition: Partition,
    pub variant: VariantId,
    pub product: &'a ProductInfo,
    pub rules: &'a EffectiveRules,
    pub matched: &'a Matched,
}

impl<'a> Context<'a> {
    pub fn matched_rules(&self) -> impl Iterator<Item = &'a Arc<ActiveRule>> + use<'a> {
        let rules = &self.rules.rules;
        self.matched.indexes.iter().filter_map(|i| rules.get(usize::from(*i)))
    }
}

/// What a fact did.
#[derive(Debug, Default, PartialEq)]
pub struct Observed {
    /// Whether the state differs from before.
    pub changed: bool,
    pub fired: SmallVec<[Fired; 1]>,
    /// Proposals that it changed, each once; nothing is allocated for none. That a route is done is not among them.
    pub proposals: Vec<ProposalChanged>,
}

/// A proposal as a fact left it, and the move that did it; none: stock or time did.
#[derive(Debug, PartialEq)]
pub struct ProposalChanged {
    pub proposal: Proposal,
    pub moved: Option<Box<ProposalMoved>>,
}

impl VariantState {
    pub fn new(product: ProductId) -> VariantState {
        VariantState {
            product,
            item: None,
            sku: None,
            title: "".into(),
            continue_selling: false,
            tracked: None,
            item_stamp: Stamp::NEVER,
            stock: Stock::default(),
            arms: SmallVec::new(),
            rules_key: 0,
            proposals: Vec::new(),
            last: -1,
            deleted: false,
            quarantined: None,
        }
    }

    pub fn open_proposals(&self) -> impl Iterator<Item = &Proposal> {
        self.proposals.iter().filter(|p| p.state.is_open())
    }

    /// Takes a fact in. Total: any fact in any state (DESIGN §7.8).
    pub fn observe(&mut self, ctx: &Context<'_>, fact: &VariantFact, at: At) -> Observed {
        let mut observed = Observed::default();
        if self.quarantined.is_some() {
            return observed;
        }
        let total_before = self.stock.available();
        // First: what has expired covers nothing, whether or not a tick has said so yet.
        self.close_where(State::Expired, &mut observed, |p| !p.state.is_acted_on() && at.now >= p.expires_at);
        observed.changed |= self.adopt_rules(ctx, at, &mut observed.fired);
        let mut moved = None;
        match fact {
            VariantFact::Listed(listed) => observed.changed |= self.list(listed, at),
            VariantFact::Deleted => self.delete(&mut observed),
            VariantFact::Level { location, available, stamp } => {
                moved = self.stock.observe_level(*location, *available, *stamp, at.event_time);
            }
            VariantFact::LevelGone { location, stamp } => {
                moved = self.stock.observe_gone(*location, *stamp, at.event_time);
                if moved.is_some() {
                    self.close_where(State::Cancelled, &mut observed, |p| p.location == Some(*location));
                }
            }
            VariantFact::Item { sku, tracked, stamp } => observed.changed |= self.observe_item(sku, *tracked, *stamp),
            VariantFact::EffectSettled(outcome) => observed.changed |= self.settle(outcome),
            VariantFact::ProposalMoved(m) => self.move_proposal(m, &mut observed),
            VariantFact::Transfer(seen) => self.transferred(ctx.variant, seen, &mut observed),
            VariantFact::Touch => {}
        }
        observed.changed |= moved.is_some();
        if self.deleted {
            observed.fired.clear();
        } else if observed.changed || matches!(fact, VariantFact::Touch) {
            self.evaluate(ctx, total_before, moved, at, &mut observed);
        }
        self.wake(at.now, &mut observed);
        if observed.changed {
            self.last = at.offset;
            self.forget_closed();
        }
        observed
    }

    /// Takes a decision in, whether it was computed just now or is read from the log.
    pub fn record(&mut self, ctx: &Context<'_>, decision: &Decision, at: At) {
        let Some(active) = ctx.rules.find(&decision.rule_id) else {
            // The rules of that offset are folded before it; a decision without its rule can only be somebody else's.
            return;
        };
        if self.proposals.iter().any(|p| p.id == decision.proposal_id) {
            return;
        }
        self.note_fired(active, decision.location_id, at.now);
        self.proposals.push(triggers::opened(active, decision, at));
        self.last = self.last.max(at.offset);
    }

    /// Marks the variant as taking no more facts.
    pub fn quarantine(&mut self, message: &str, offset: Offset) {
        self.quarantined = Some(message.chars().take(200).collect::<String>().into());
        self.last = self.last.max(offset);
    }

    fn list(&mut self, listed: &Listed, at: At) -> bool {
        let mut changed = self.deleted || self.last < 0;
        self.deleted = false;
        let mut set = |differs: bool| changed |= differs;
        if listed.item.is_some() {
            set(self.item != listed.item);
            self.item = listed.item;
        }
        if let Some(title) = &listed.title {
            set(self.title != *title);
            self.title.clone_from(title);
        }
        if let Some(policy) = listed.continue_selling {
            set(self.continue_selling != policy);
            self.continue_selling = policy;
        }
        if listed.sku.is_some() || listed.title.is_some() {
            set(self.sku != listed.sku);
            self.sku.clone_from(&listed.sku);
        }
        for w in &listed.waiting {
            let moved = if w.gone {
                self.stock.observe_gone(w.location, w.stamp, at.event_time)
            } else {
                self.stock.observe_level(w.location, w.available, w.stamp, at.event_time)
            };
            changed |= moved.is_some();
        }
        match listed.quantity {
            Some(quantity) => self.stock.observe_product(quantity, listed.stamp, at.event_time) || changed,
            None => changed,
        }
    }

    fn delete(&mut self, observed: &mut Observed) {
        observed.changed |= !self.deleted;
        self.deleted = true;
        self.arms.clear();
        self.rules_key = 0;
        self.close_where(State::Cancelled, observed, |_| true);
    }

    /// What the SKU is with the fact: rules that select by it are matched before the fact is observed, so that they see it.
    pub fn sku_after<'a>(&'a self, fact: &'a VariantFact) -> Option<&'a str> {
        match fact {
            VariantFact::Listed(listed) if listed.sku.is_some() || listed.title.is_some() => listed.sku.as_deref(),
            VariantFact::Item { sku: Some(sku), stamp, .. } if *stamp > self.item_stamp => Some(sku),
            _ => self.sku.as_deref(),
        }
    }

    fn observe_item(&mut self, sku: &Option<Box<str>>, tracked: Option<bool>, stamp: Stamp) -> bool {
        if stamp <= self.item_stamp {
            return false;
        }
        if tracked.is_some() && tracked != self.tracked {
            self.tracked = tracked;
            // A new epoch begins (RULES, "tracked toggles").
            self.arms.clear();
            self.rules_key = 0;
        }
        if sku.is_some() {
            self.sku.clone_from(sku);
        }
        // Also where nothing differs: an older one that comes late must not count as news.
        self.item_stamp = stamp;
        true
    }
}

/// The stock that a trigger looks at, before and after a fact.
#[derive(Debug, Clone, Copy)]
struct Subject {
    location: Option<LocationId>,
    before: Option<i64>,
    after: Option<i64>,
}

impl From<Change> for Subject {
    fn from(c: Change) -> Subject {
        Subject { location: Some(c.location), before: c.before, after: c.after }
    }
}

#[cfg(test)]
mod tests;
