//! Triggers: when a rule fires, when it arms again (RULES R1, R2; DESIGN §10).

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{Context, Observed, Subject, VariantState};
use crate::domain::proposal::{Proposal, ResolvesAt, State};
use crate::domain::rules::{ActiveRule, Initial, Rule, Scope, Trigger};
use crate::domain::stock::Change;
use crate::events::decision::Decision;
use crate::events::fact::At;
use crate::events::ids::LocationId;
use crate::events::time::Millis;

/// Whether a rule may fire for one thing that it looks at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Arm {
    /// [`ActiveRule::uid`].
    rule: u64,
    location: Option<LocationId>,
    state: ArmState,
    /// No decision of this rule before.
    cool_until: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ArmState {
    Armed,
    /// Low when first seen: shown, not proposed.
    Low,
    /// Has fired; arms again past the re-arm level.
    Fired,
    /// Crossed during the cool-down; fires at its end if it still holds.
    Pending,
}

impl Arm {
    pub(super) fn deadline(&self) -> Option<Millis> {
        (self.state == ArmState::Pending).then_some(self.cool_until)
    }
}

/// A trigger that fired: what a decision is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Fired {
    pub rule: std::sync::Arc<ActiveRule>,
    pub location: Option<LocationId>,
    pub previous: Option<i64>,
    pub available: i64,
    /// Gradient: probability of running out.
    pub probability: Option<f64>,
}

/// How a trigger stands.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Holds,
    Between,
    /// Past the re-arm level.
    Clear,
}

impl VariantState {
    /// Fits `arms` to the rules that match now: unchanged rules keep theirs, new ones start as first seen on what is known
    /// already. A function of the state before the fact, so it may happen at the variant's next fact instead of at the rules'.
    pub(super) fn adopt_rules(&mut self, ctx: &Context<'_>, at: At, fired: &mut SmallVec<[Fired; 1]>) -> bool {
        if self.rules_key == ctx.matched.key || self.deleted || self.tracked == Some(false) {
            return false;
        }
        self.rules_key = ctx.matched.key;
        self.arms.retain(|arm| ctx.matched_rules().any(|r| r.uid == arm.rule));
        for active in ctx.matched_rules() {
            for subject in self.subjects(&active.rule) {
                self.evaluate_one(active, subject, at, fired);
            }
        }
        true
    }

    /// Runs the rules over what a fact changed.
    pub(super) fn evaluate(
        &mut self,
        ctx: &Context<'_>,
        total_before: Option<i64>,
        moved: Option<Change>,
        at: At,
        observed: &mut Observed,
    ) {
        if self.tracked == Some(false) {
            observed.changed |= !self.arms.is_empty();
            self.arms.clear();
            self.rules_key = 0;
            return;
        }
        let total = Subject { location: None, before: total_before, after: self.stock.available() };
        self.resolve(total, at.now, observed);
        if let Some(change) = moved {
            self.resolve(change.into(), at.now, observed);
        }
        let Observed { changed, fired, .. } = observed;
        for active in ctx.matched_rules() {
            match (active.rule.scope, moved) {
                (Scope::Location, Some(change)) => *changed |= self.evaluate_one(active, change.into(), at, fired),
                // Time alone: what waits for the end of a cool-down.
                (Scope::Location, None) => {
                    for subject in self.subjects(&active.rule) {
                        *changed |= self.evaluate_one(active, subject, at, fired);
                    }
                }
                (Scope::Shop | Scope::Sku, _) => *changed |= self.evaluate_one(active, total, at, fired),
            }
        }
    }

    /// What a rule looks at, as it stands.
    fn subjects(&self, rule: &Rule) -> SmallVec<[Subject; 2]> {
        match rule.scope {
            Scope::Location => self
                .stock
                .connected()
                .map(|l| Subject { location: Some(l.location), before: l.available, after: l.available })
                .collect(),
            Scope::Shop | Scope::Sku => {
                let total = self.stock.available();
                SmallVec::from_iter([Subject { location: None, before: total, after: total }])
            }
        }
    }

    fn evaluate_one(
        &mut self,
        active: &std::sync::Arc<ActiveRule>,
        subject: Subject,
        at: At,
        fired: &mut SmallVec<[Fired; 1]>,
    ) -> bool {
        let rule = &active.rule;
        if subject.location.is_some_and(|l| !rule.select.takes_location(l)) {
            return false;
        }
        let index = self.arms.iter().position(|a| a.rule == active.uid && a.location == subject.location);
        let Some(available) = subject.after else {
            // Untracked or unknown: the next number is a first one.
            return index.map(|i| self.arms.remove(i)).is_some();
        };
        let (reading, probability) = self.read(rule, subject.location, available, at.now);
        let arm = |state, cool_until| Arm { rule: active.uid, location: subject.location, state, cool_until };
        let (before, cool_until) = match index {
            Some(i) => (Some(self.arms[i].state), self.arms[i].cool_until),
            None => (None, Millis::MIN),
        };
        let crossed = match (before, reading) {
            (None, Reading::Holds) => rule.initial == Initial::Propose,
            (Some(ArmState::Armed), Reading::Holds) => true,
            (Some(ArmState::Pending), Reading::Holds) => at.now >= cool_until,
            _ => false,
        };
        let after = match (before, reading) {
            _ if crossed && at.now < cool_until => ArmState::Pending,
            _ if crossed => {
                if !self.is_covered(active, subject.location, fired) {
                    fired.push(Fired {
                        rule: active.clone(),
                        location: subject.location,
                        previous: subject.before,
                        available,
                        probability,
                    });
                }
                ArmState::Fired
            }
            (None, Reading::Holds) => ArmState::Low,
            (None, _) => ArmState::Armed,
            (Some(_), Reading::Clear) => ArmState::Armed,
            (Some(ArmState::Pending), Reading::Between) => ArmState::Pending,
            (Some(state), _) => state,
        };
        match index {
            Some(i) if self.arms[i].state == after => false,
            Some(i) => {
                self.arms[i].state = after;
                true
            }
            None => {
                self.arms.push(arm(after, cool_until));
                true
            }
        }
    }

    fn read(&self, rule: &Rule, location: Option<LocationId>, available: i64, now: Millis) -> (Reading, Option<f64>) {
        match &rule.trigger {
            Trigger::Constant { threshold } if available <= *threshold => (Reading::Holds, None),
            Trigger::Constant { threshold } if available >= rule.rearm_level(*threshold) => (Reading::Clear, None),
            Trigger::Constant { .. } => (Reading::Between, None),
            Trigger::Gradient { probability, horizon } => {
                let p = self.stock.rates(location, now).run_out(available, rule.horizon_hours(*horizon));
                let reading = match p {
                    Some(p) if p >= *probability => Reading::Holds,
                    Some(p) if p >= rule.rearm_probability() => Reading::Between,
                    _ => Reading::Clear,
                };
                (reading, p)
            }
        }
    }

    /// One open proposal per (kind, rule scope, item, location replenished) (DESIGN §4).
    fn is_covered(&self, active: &ActiveRule, location: Option<LocationId>, fired: &[Fired]) -> bool {
        let (kind, scope) = (active.rule.kind(), active.rule.scope);
        self.open_proposals().any(|p| p.kind == kind && p.scope == scope && p.location == location)
            || fired.iter().any(|f| f.rule.rule.kind() == kind && f.rule.rule.scope == scope && f.location == location)
    }

    /// Closes proposals that nobody has acted on and whose reason is gone.
    fn resolve(&mut self, subject: Subject, now: Millis, observed: &mut Observed) {
        let (location, Some(available)) = (subject.location, subject.after) else { return };
        if !self.open_proposals().any(|p| p.location == location) {
            return;
        }
        let rates = self.stock.rates(location, now);
        self.close_where(State::Resolved, observed, |p| {
            p.location == location
                && !p.state.is_acted_on()
                && match p.resolves_at {
                    ResolvesAt::Level(level) => available >= level,
                    ResolvesAt::RunOut { below, horizon_hours } => {
                        rates.run_out(available, horizon_hours).is_none_or(|p| p < below)
                    }
                }
        });
    }

    /// After a decision: no other of this rule before the cool-down ends.
    pub(super) fn note_fired(&mut self, active: &ActiveRule, location: Option<LocationId>, now: Millis) {
        let cool_until = now.saturating_add(active.rule.cool_down.0);
        match self.arms.iter_mut().find(|a| a.rule == active.uid && a.location == location) {
            Some(arm) => {
                arm.state = ArmState::Fired;
                arm.cool_until = cool_until;
            }
            None => self.arms.push(Arm { rule: active.uid, location, state: ArmState::Fired, cool_until }),
        }
    }
}

/// The proposal that a decision opens.
pub(super) fn opened(active: &ActiveRule, decision: &Decision, at: At) -> Proposal {
    let rule = &active.rule;
    Proposal {
        id: decision.proposal_id,
        rule_id: decision.rule_id.as_str().into(),
        rule_version: decision.rule_version,
        kind: decision.kind,
        scope: rule.scope,
        location: decision.location_id,
        quantity: decision.quantity,
        received: 0,
        state: State::Proposed,
        opened_at: decision.decided_at,
        opened_by: at.offset,
        resolves_at: match &rule.trigger {
            Trigger::Constant { threshold } => ResolvesAt::Level(rule.rearm_level(*threshold)),
            Trigger::Gradient { horizon, .. } => {
                ResolvesAt::RunOut { below: rule.rearm_probability(), horizon_hours: rule.horizon_hours(*horizon) }
            }
        },
        expires_at: at.now.saturating_add(rule.expire_after.0),
        assigned_to: None,
        snooze: None,
        eta: None,
        reference: None,
        note: None,
        carriers: Vec::new(),
        receipts: Vec::new(),
    }
}
