//! From a trigger that fired to a decision. Pure, and never called in replay (DESIGN §2).

use super::{Context, Fired, VariantState};
use crate::domain::quantity;
use crate::domain::risk;
use crate::domain::rules::Trigger;
use crate::events::decision::{CausedBy, Decision, Identity, Inputs, Kind};
use crate::events::fact::At;
use crate::events::record::Topic;

/// The decision, none if nothing needs to be ordered. `seq` is given by the caller that knows all decisions of the fact.
pub fn decide(state: &VariantState, ctx: &Context<'_>, fired: &Fired, at: At) -> Option<Decision> {
    let rule = &fired.rule.rule;
    let kind = rule.kind();
    let rates = state.stock.rates(fired.location, at.now);
    let position = fired.available.saturating_add(state.under_way(fired.location));
    let (quantity, adjustments) = match &rule.quantity {
        Some(q) => {
            let (units, adjustments) = quantity::to_order(q, position, &rates, rule.lead_time_days)?;
            (Some(units), adjustments)
        }
        None => (None, Vec::new()),
    };
    let hours_left = rates.hours_left(fired.available).map(rounded);
    let mut inputs = Inputs {
        previous: fired.previous,
        position: (kind == Kind::Reorder).then_some(position),
        lead_time_days: (kind == Kind::Reorder).then_some(rule.lead_time_days),
        hours_left,
        adjustments,
        ..Inputs::default()
    };
    if rates.has_evidence() {
        inputs.rate_fast = Some(rounded(rates.fast()));
        inputs.rate_slow = Some(rounded(rates.slow()));
        inputs.accelerating = Some(rates.accelerating());
    }
    let place = match fired.location {
        Some(location) => format!(" at location {location}"),
        None => String::new(),
    };
    let reason = match &rule.trigger {
        Trigger::Constant { threshold } => {
            inputs.threshold = Some(*threshold);
            format!("{} available{place}, at or below the threshold of {threshold}", fired.available)
        }
        Trigger::Gradient { horizon, .. } => {
            let hours = rule.horizon_hours(*horizon);
            inputs.probability = fired.probability.map(rounded);
            inputs.horizon_hours = Some(hours);
            let pace = if rates.accelerating() { ", selling faster than usual" } else { "" };
            format!(
                "{} available{place}; sells out within {hours} h with a probability of {:.0} %{pace}",
                fired.available,
                100.0 * fired.probability.unwrap_or(1.0)
            )
        }
    };
    let identity = Identity {
        organisation: ctx.organisation,
        shop: Some(ctx.shop),
        variant: Some(ctx.variant),
        sku: None,
        location: fired.location,
        rule: &rule.id,
        kind,
        donor: None,
        partition: ctx.partition,
        offset: at.offset,
    };
    let id = identity.decision_id();
    let title = match (&*ctx.product.title, &*state.title) {
        ("", "") => None,
        (product, "" | "Default Title") => Some(product.to_owned()),
        (product, variant) => Some(format!("{product} - {variant}")),
    };
    Some(Decision {
        decision_id: id,
        proposal_id: id,
        organisation: ctx.organisation.to_owned(),
        shop: Some(ctx.shop.to_owned()),
        variant_id: Some(ctx.variant),
        inventory_item_id: state.item,
        location_id: fired.location,
        sku: state.sku.as_deref().map(str::to_owned),
        title,
        vendor: Some(ctx.product.vendor.to_string()).filter(|v| !v.is_empty()),
        rule_id: rule.id.clone(),
        rule_version: fired.rule.version,
        kind,
        severity: risk::level_of(Some(fired.available), &rates, true, true),
        quantity,
        available: fired.available,
        inputs,
        reason,
        caused_by: CausedBy { topic: Topic::Facts.default_name().to_owned(), partition: ctx.partition, offset: at.offset },
        seq: 0,
        decided_at: at.event_time,
        routes: rule.routes.clone(),
    })
}

/// To a millionth: what is beyond says nothing and reads badly.
fn rounded(x: f64) -> f64 {
    libm::round(x * 1e6) / 1e6
}
