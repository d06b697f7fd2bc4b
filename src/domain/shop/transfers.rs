//! Which variants' proposals a Shopify transfer carries out. Its webhooks name no proposal, and mostly no item either: what its handler said
//! when it was made (`effect/settled`) is all there is to find them by.

use super::{Shop, Steps};
use crate::domain::variant::VariantFact;
use crate::events::fact::{At, TransferObserved};
use crate::events::ids::{TransferId, VariantId};

/// Transfers under way that are remembered, per shop, and those that are not known to be ours. The oldest go first.
const MAX_TRANSFERS: usize = 50_000;
const MAX_UNCLAIMED: usize = 256;

impl Shop {
    /// Remembers whose transfer it is, and what was told of it before.
    pub(super) fn claim(&mut self, transfer: TransferId, variant: VariantId, at: At, steps: &mut Steps) -> bool {
        if !self.by_variant.contains_key(&variant) {
            return false;
        }
        let variants = self.state.transfers.entry(transfer).or_default();
        if variants.contains(&variant) {
            return false;
        }
        variants.push(variant);
        // Ids ascend: the first one is the oldest.
        if self.state.transfers.len() > MAX_TRANSFERS {
            self.state.transfers.pop_first();
        }
        if let Some(stage) = self.state.unclaimed.remove(&transfer) {
            self.observe_transfer(&TransferObserved { transfer, stage, lines: Vec::new() }, at, steps);
        }
        true
    }

    pub(super) fn observe_transfer(&mut self, seen: &TransferObserved, at: At, steps: &mut Steps) -> bool {
        let Some(variants) = self.state.transfers.get(&seen.transfer) else {
            return self.keep_unclaimed(seen);
        };
        for variant in variants {
            self.pass_on(*variant, VariantFact::Transfer(Box::new(seen.clone())), at, steps);
        }
        seen.stage.is_last() && self.state.transfers.remove(&seen.transfer).is_some()
    }

    fn keep_unclaimed(&mut self, seen: &TransferObserved) -> bool {
        let known = self.state.unclaimed.get(&seen.transfer).copied();
        // Forward only, as the proposal goes.
        if known.is_some_and(|k| k >= seen.stage) {
            return false;
        }
        self.state.unclaimed.insert(seen.transfer, seen.stage);
        if self.state.unclaimed.len() > MAX_UNCLAIMED {
            self.state.unclaimed.pop_first();
        }
        true
    }
}
