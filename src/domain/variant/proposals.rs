//! What becomes of a variant's proposals: by people, by effects, by stock and time.

use uuid::Uuid;

use super::{Arm, Observed, ProposalChanged, VariantState};
use crate::domain::proposal::{Moved, Proposal, State};
use crate::events::fact::{EffectSettled, Move, MoveDetails, ProposalMoved, TransferObserved, TransferStage};
use crate::events::ids::{LocationId, VariantId};
use crate::events::time::Millis;

/// Closed proposals that are remembered, so that a repeated move is answered well.
const CLOSED_KEPT: usize = 4;

/// Who moves a proposal when its transfer does.
const SHOPIFY: &str = "shopify";

impl Observed {
    fn tell(&mut self, proposal: &Proposal, moved: Option<&ProposalMoved>) {
        self.changed = true;
        let proposal = proposal.clone();
        match self.proposals.iter_mut().find(|c| c.proposal.id == proposal.id) {
            Some(told) => told.proposal = proposal,
            None => self.proposals.push(ProposalChanged { proposal, moved: moved.map(|m| Box::new(m.clone())) }),
        }
    }
}

impl VariantState {
    /// When time alone may change something: a suppressed crossing whose cool-down ends, a proposal that expires or wakes.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.arms.iter().filter_map(Arm::deadline).chain(self.open_proposals().filter_map(Proposal::deadline)).min()
    }

    pub(super) fn move_proposal(&mut self, m: &ProposalMoved, observed: &mut Observed) {
        if let Some(p) = self.proposals.iter_mut().find(|p| p.id == m.proposal_id)
            && p.apply(m) == Moved::Done
        {
            observed.tell(p, Some(m));
        }
    }

    pub(super) fn settle(&mut self, outcome: &EffectSettled) -> bool {
        let Some(p) = self.proposals.iter_mut().find(|p| p.id == outcome.proposal_id && outcome.state == "done") else {
            return false;
        };
        let is_carried = outcome.transfer().is_some_and(|t| p.carried_by(t, &outcome.handler));
        p.advance(State::Sent) == Moved::Done || is_carried
    }

    /// A transfer moves the proposals that it carries out, as if its handler had been told so.
    pub(super) fn transferred(&mut self, variant_id: VariantId, seen: &TransferObserved, observed: &mut Observed) {
        for p in self.proposals.iter_mut().filter(|p| p.state.is_open()) {
            let Some(carrier) = p.carriers.iter_mut().find(|c| c.transfer == seen.transfer && !c.is_over) else { continue };
            if seen.stage.is_last() {
                carrier.is_over = true;
                observed.changed = true;
            }
            let via = carrier.handler.to_string();
            let line = seen.lines.iter().find(|(item, _)| Some(*item) == self.item).map(|(_, units)| *units);
            let (moved, quantity) = match seen.stage {
                TransferStage::ReadyToShip => (Move::Ordered, None),
                TransferStage::InProgress => (Move::InTransit, None),
                TransferStage::Complete => (Move::Received, line),
                TransferStage::Cancelled => (Move::Cancel, None),
            };
            let details = MoveDetails { quantity, ..MoveDetails::default() };
            let m = ProposalMoved { proposal_id: p.id, variant_id, moved, by: SHOPIFY.to_owned(), via, details };
            if p.apply(&m) == Moved::Done {
                observed.tell(p, Some(&m));
            }
        }
    }

    pub(super) fn close_where(&mut self, state: State, observed: &mut Observed, which: impl Fn(&Proposal) -> bool) {
        for p in self.proposals.iter_mut().filter(|p| p.state.is_open()) {
            if which(p) && p.advance(state) == Moved::Done {
                observed.tell(p, None);
            }
        }
    }

    /// Ends the snoozes whose time has come, or whose level stock has reached.
    pub(super) fn wake(&mut self, now: Millis, observed: &mut Observed) {
        for p in self.proposals.iter_mut().filter(|p| p.snooze.is_some()) {
            let available = match p.location {
                Some(location) => self.stock.at(location).and_then(|l| l.available),
                None => self.stock.available(),
            };
            if p.wake(now, available) {
                observed.tell(p, None);
            }
        }
    }

    pub(super) fn forget_closed(&mut self) {
        let mut closed = self.proposals.iter().filter(|p| !p.state.is_open()).count();
        self.proposals.retain(|p| {
            let forget = closed > CLOSED_KEPT && !p.state.is_open();
            closed -= usize::from(forget);
            !forget
        });
    }

    /// Units on their way to `location`, or to the whole shop.
    pub fn under_way(&self, location: Option<LocationId>) -> i64 {
        self.open_proposals().filter(|p| location.is_none() || p.location == location).map(Proposal::under_way).sum()
    }

    pub fn first_open(&self) -> Option<Uuid> {
        self.open_proposals().next().map(|p| p.id)
    }
}
