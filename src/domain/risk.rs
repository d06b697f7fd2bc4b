//! How near a variant is to selling out (DESIGN §10).

use super::demand::Rates;
use super::rules::{ActiveRule, Scope, Trigger};
use super::variant::VariantState;
use super::views::RiskView;
use crate::events::decision::RiskLevel;
use crate::events::time::Millis;

/// Under so many hours left a variant is critical.
const CRITICAL_HOURS: f64 = 6.0;
/// Horizon of the probability where no gradient rule names one.
const HORIZON_HOURS: f64 = 24.0;

/// The risk of one thing that a rule looks at, or of the whole variant.
pub fn level_of(available: Option<i64>, rates: &Rates, triggered: bool, below: bool) -> RiskLevel {
    match available {
        None => RiskLevel::None,
        Some(a) if a <= 0 => RiskLevel::Out,
        Some(a) if rates.hours_left(a).is_some_and(|h| h < CRITICAL_HOURS) => RiskLevel::Critical,
        Some(_) if triggered => RiskLevel::Warning,
        Some(_) if below => RiskLevel::Low,
        Some(_) => RiskLevel::None,
    }
}

/// The risk of a variant at domain time `now`, under the rules that match it.
pub fn of<'r>(state: &VariantState, rules: impl Iterator<Item = &'r ActiveRule>, now: Millis) -> RiskView {
    let available = state.stock.available();
    if available.is_none() || state.tracked == Some(false) {
        return RiskView { level: RiskLevel::None, probability: None, hours_left: None };
    }
    let rates = state.stock.rates(None, now);
    let (mut triggered, mut below, mut horizon) = (false, false, None);
    for active in rules {
        let rule = &active.rule;
        match &rule.trigger {
            Trigger::Constant { threshold } => {
                let is_below = match rule.scope {
                    Scope::Location => state
                        .stock
                        .connected()
                        .any(|l| rule.select.takes_location(l.location) && l.available.is_some_and(|a| a <= *threshold)),
                    _ => available.is_some_and(|a| a <= *threshold),
                };
                below |= is_below;
                triggered |= is_below && state.open_proposals().any(|p| *p.rule_id == *rule.id);
            }
            Trigger::Gradient { probability, horizon: named } => {
                let hours = rule.horizon_hours(*named);
                horizon.get_or_insert(hours);
                triggered |= available.and_then(|a| rates.run_out(a, hours)).is_some_and(|p| p >= *probability);
            }
        }
    }
    RiskView {
        level: level_of(available, &rates, triggered, below),
        probability: available.and_then(|a| rates.run_out(a, horizon.unwrap_or(HORIZON_HOURS))),
        hours_left: available.and_then(|a| rates.hours_left(a)),
    }
}
