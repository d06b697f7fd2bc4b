//! The variant's actor: a shell round [`VariantState`]. One message a batch, not one a fact (PITFALLS 25).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actix::prelude::*;
use smallvec::SmallVec;

use super::batch::{Death, Mode, Scope, panic_message};
use super::collect::Collection;
use super::residency::Stored;
use super::settings::FaultProbe;
use crate::domain::risk;
use crate::domain::rules::{EffectiveRules, RuleSet};
use crate::domain::shop::{ProductInfo, Work};
use crate::domain::snapshot;
use crate::domain::variant::{Context as VariantContext, Matched, ProposalChanged, VariantFact, VariantState, decide};
use crate::domain::views::{LevelView, ProposalView, Provenance, VariantView};
use crate::events::decision::{CausedBy, ProposalChange, Recorded, RiskLevel};
use crate::events::fact::At;
use crate::events::ids::VariantId;
use crate::events::record::{Offset, Partition, Topic};
use crate::events::time::Millis;
use crate::ports::snapshot_store::Columns;

/// What a shop's variants have in common. Replaced as a whole when rules or organisation change.
#[derive(Debug)]
pub struct ShopContext {
    /// Grows with each new one of the shop.
    pub version: u32,
    pub shop: Arc<str>,
    pub organisation: Box<str>,
    pub partition: Partition,
    pub rules: EffectiveRules,
    pub probe: Option<FaultProbe>,
}

impl ShopContext {
    pub fn new(
        version: u32,
        shop: Arc<str>,
        organisation: &str,
        partition: Partition,
        theirs: Option<&RuleSet>,
        own: &RuleSet,
        probe: Option<FaultProbe>,
    ) -> Arc<Self> {
        let rules = EffectiveRules::of(&shop, theirs, own);
        Arc::new(ShopContext { version, shop, organisation: organisation.into(), partition, rules, probe })
    }
}

/// One step of a batch.
pub enum Step {
    /// From here on these rules hold.
    Context(Arc<ShopContext>),
    Work(Work),
    /// A fact of this offset kills it.
    Quarantine(Offset, Arc<str>),
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Apply {
    pub scope: Arc<Scope>,
    pub steps: SmallVec<[Step; 1]>,
}

/// Asks for the state, if it is newer than the last one saved.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Collect(pub Arc<Collection>);

/// Asks for a view at domain time `now`.
#[derive(Message)]
#[rtype(result = "Option<VariantView>")]
pub struct View {
    /// The rules of now, if the variant has not had them yet.
    pub context: Option<Arc<ShopContext>>,
    pub now: Millis,
    pub stale_since: Option<Millis>,
    pub provenance: Provenance,
}

pub struct Variant {
    id: VariantId,
    context: Arc<ShopContext>,
    product: Arc<ProductInfo>,
    matched: Matched,
    state: VariantState,
    /// `state.last` of the newest collected state.
    collected: Offset,
    deadline: Option<Millis>,
    /// Another product names it; the fact that did so follows.
    has_moved: bool,
    /// Offset of the fact under way, for the report of a death.
    current: Offset,
}

/// Messages besides queries: at most one batch and one collection are under way.
const MAILBOX: usize = 4;

impl Variant {
    pub fn new(id: VariantId, context: Arc<ShopContext>, product: Arc<ProductInfo>, state: VariantState) -> Variant {
        let collected = state.last;
        // The shard knows it already: from before, or from recovery.
        let deadline = state.next_deadline();
        let matched = Matched::default();
        let mut variant = Variant { id, context, product, matched, state, collected, deadline, has_moved: false, current: -1 };
        variant.rematch();
        variant
    }

    fn rematch(&mut self) {
        self.matched = Matched::of(&self.context.rules, self.id, self.state.sku.as_deref(), &self.product);
    }

    fn apply(&mut self, scope: &Scope, steps: SmallVec<[Step; 1]>) {
        for step in steps {
            match step {
                Step::Context(context) => {
                    self.context = context;
                    self.rematch();
                }
                Step::Work(Work::Product(id, info)) => {
                    self.has_moved |= self.state.product != id && self.state.last >= 0;
                    self.state.product = id;
                    self.product = info;
                    self.rematch();
                }
                Step::Work(Work::Fact(at, fact)) => self.observe(scope, &fact, at),
                Step::Work(Work::Recorded(at, recorded)) => {
                    if let Recorded::Decision(decision) = &*recorded {
                        let (state, ctx) = self.split();
                        state.record(&ctx, decision, at);
                    }
                }
                Step::Quarantine(offset, message) => self.state.quarantine(&message, offset),
            }
        }
        let deadline = self.state.next_deadline();
        if deadline != self.deadline {
            self.deadline = deadline;
            scope.with(|o| o.deadlines.push((self.context.shop.clone(), self.id, deadline)));
        }
    }

    fn observe(&mut self, scope: &Scope, fact: &VariantFact, at: At) {
        self.current = at.offset;
        if self.state.quarantined.is_none()
            && let Some(probe) = &self.context.probe
        {
            probe.strike(self.id, at.offset);
        }
        let sku = self.state.sku_after(fact);
        if sku != self.state.sku.as_deref() {
            self.matched = Matched::of(&self.context.rules, self.id, sku, &self.product);
        }
        let moved = std::mem::take(&mut self.has_moved);
        let (state, ctx) = self.split();
        let observed = state.observe(&ctx, fact, at);
        if moved {
            // Not part of a fact of the variant's own, but of its state: it has to be in the next snapshot.
            state.last = state.last.max(at.offset);
        }
        if scope.mode == Mode::Live {
            for fired in &observed.fired {
                if let Some(decision) = decide(state, &ctx, fired, at) {
                    state.record(&ctx, &decision, at);
                    scope.with(|o| o.decisions.push(decision));
                }
            }
            for changed in observed.proposals {
                let change = self.change(changed, at);
                scope.with(|o| o.changes.push(change));
            }
        }
    }

    fn change(&self, ProposalChanged { proposal, moved }: ProposalChanged, at: At) -> ProposalChange {
        let text = |t: Option<Box<str>>| t.map(String::from);
        let (by, via) = moved.as_ref().map(|m| (m.by.clone(), m.via.clone())).unzip();
        ProposalChange {
            proposal_id: proposal.id,
            organisation: self.context.organisation.to_string(),
            shop: self.context.shop.to_string(),
            variant_id: self.id,
            state: proposal.state.as_str().to_owned(),
            quantity: proposal.quantity,
            received: proposal.received,
            assigned_to: text(proposal.assigned_to),
            snoozed_until: proposal.snooze.and_then(|s| s.until),
            snoozed_level: proposal.snooze.and_then(|s| s.level),
            moved: moved.map(|m| m.moved),
            by,
            via,
            note: text(proposal.note),
            eta: proposal.eta,
            reference: text(proposal.reference),
            caused_by: CausedBy {
                topic: Topic::Facts.default_name().to_owned(),
                partition: self.context.partition,
                offset: at.offset,
            },
            changed_at: at.now,
        }
    }

    fn split(&mut self) -> (&mut VariantState, VariantContext<'_>) {
        let ctx = VariantContext {
            organisation: &self.context.organisation,
            shop: &self.context.shop,
            partition: self.context.partition,
            variant: self.id,
            product: &self.product,
            rules: &self.context.rules,
            matched: &self.matched,
        };
        (&mut self.state, ctx)
    }

    fn rules(&self) -> impl Iterator<Item = &crate::domain::rules::ActiveRule> {
        let ctx = VariantContext {
            organisation: &self.context.organisation,
            shop: &self.context.shop,
            partition: self.context.partition,
            variant: self.id,
            product: &self.product,
            rules: &self.context.rules,
            matched: &self.matched,
        };
        ctx.matched_rules().map(|r| &**r)
    }

    pub fn view(&self, ask: View) -> Option<VariantView> {
        let s = &self.state;
        if s.deleted {
            return None;
        }
        let title = match (&*self.product.title, &*s.title) {
            (product, "" | "Default Title") => product.to_owned(),
            ("", variant) => variant.to_owned(),
            (product, variant) => format!("{product} - {variant}"),
        };
        let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        Some(VariantView {
            shop: self.context.shop.to_string(),
            variant_id: self.id,
            inventory_item_id: s.item,
            product_id: s.product,
            sku: s.sku.as_deref().map(str::to_owned),
            title,
            product_title: self.product.title.to_string(),
            variant_title: s.title.to_string(),
            vendor: text(&self.product.vendor),
            product_type: text(&self.product.product_type),
            tags: self.product.tags.iter().map(|t| t.to_string()).collect(),
            available: s.stock.available(),
            tracked: s.tracked,
            levels: s
                .stock
                .connected()
                .map(|l| LevelView { location_id: l.location, available: l.available, updated_at: l.stamp.updated_at })
                .collect(),
            levels_complete: false,
            stale_since: ask.stale_since,
            risk: risk::of(s, self.rules(), ask.now),
            open_proposals: s.open_proposals().map(ProposalView::of).collect(),
            quarantined: s.quarantined.as_deref().map(str::to_owned),
            provenance: ask.provenance,
        })
    }
}

impl Actor for Variant {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Apply> for Variant {
    type Result = ();

    fn handle(&mut self, Apply { scope, steps }: Apply, ctx: &mut Self::Context) {
        // actix restarts nothing and catches nothing (PITFALLS 7): a panic is reported, and the supervisor rebuilds.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.apply(&scope, steps))) {
            let death = Death {
                shop: self.context.shop.clone(),
                variant: Some(self.id),
                offset: self.current,
                message: panic_message(&*panic),
            };
            scope.with(|o| o.deaths.push(death));
            ctx.stop();
        }
    }
}

impl Handler<Collect> for Variant {
    type Result = ();

    fn handle(&mut self, Collect(collection): Collect, _: &mut Self::Context) {
        if self.state.last == self.collected {
            return;
        }
        self.collected = self.state.last;
        let columns = Columns {
            sku: self.state.sku.as_deref().map(str::to_owned),
            vendor: Some(self.product.vendor.to_string()),
            available: self.state.stock.available(),
            risk: Some(risk::of(&self.state, self.rules(), collection.now).level.as_str()),
            open_proposal: self.state.first_open(),
        };
        let is_safe = columns.risk == Some(RiskLevel::None.as_str());
        let stored = Stored { safe_under: is_safe.then_some(self.context.version), ..Stored::of(&self.state) };
        collection.add_variant(&self.context.shop, self.id, stored, snapshot::encode(&self.state), columns);
    }
}

impl Handler<View> for Variant {
    type Result = MessageResult<View>;

    fn handle(&mut self, mut ask: View, _: &mut Self::Context) -> Self::Result {
        if let Some(context) = ask.context.take() {
            self.context = context;
            self.rematch();
        }
        MessageResult(self.view(ask))
    }
}
