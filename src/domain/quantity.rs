//! How much to order, and what changed the number on the way (RULES R3, R4).

use super::demand::Rates;
use super::rules::{Lot, Quantity};

/// Units to order and the adjustments made, none if nothing is needed. `position`: available + under way.
pub fn to_order(quantity: &Quantity, position: i64, rates: &Rates, lead_time_days: f64) -> Option<(i64, Vec<String>)> {
    let wanted = match quantity {
        Quantity::Fixed { units, .. } => *units,
        Quantity::UpTo { level, .. } => level - position,
        Quantity::DaysOfCover { days, .. } => {
            let per_day = rates.slow().max(0.0) * 24.0;
            libm::ceil(per_day * (lead_time_days + days)) as i64 - position
        }
    };
    (wanted > 0).then(|| fit(wanted, &quantity.lot()))
}

/// Minimum first, then whole packs, then the maximum, which is met in whole packs too.
fn fit(wanted: i64, lot: &Lot) -> (i64, Vec<String>) {
    let mut units = wanted;
    let mut adjustments = Vec::new();
    let mut adjust = |units: &mut i64, to: i64, why: &str| {
        if to != *units {
            adjustments.push(format!("{why}: {} to {to}", *units));
            *units = to;
        }
    };
    if let Some(minimum) = lot.minimum {
        let to = units.max(minimum);
        adjust(&mut units, to, "minimum");
    }
    let pack = lot.pack.unwrap_or(1).max(1);
    let to = (units + pack - 1) / pack * pack;
    adjust(&mut units, to, "pack");
    if let Some(maximum) = lot.maximum {
        let to = units.min(maximum / pack * pack);
        adjust(&mut units, to, "maximum");
    }
    (units, adjustments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(level: i64, pack: Option<i64>, minimum: Option<i64>, maximum: Option<i64>) -> Quantity {
        Quantity::UpTo { level, pack, minimum, maximum }
    }

    #[test]
    fn the_order_fills_up_in_packs_within_minimum_and_maximum() {
        let q = |quantity: &Quantity, position| to_order(quantity, position, &Rates::default(), 7.0).map(|(n, _)| n);
        assert_eq!(q(&up_to(60, Some(6), Some(12), None), 10), Some(54));
        assert_eq!(q(&up_to(60, Some(6), Some(12), None), 57), Some(12));
        assert_eq!(q(&up_to(60, None, None, None), -5), Some(65));
        assert_eq!(q(&up_to(60, None, None, None), 60), None);
        assert_eq!(q(&up_to(60, Some(7), None, Some(50)), 0), Some(49));
        assert_eq!(q(&Quantity::Fixed { units: 5, pack: Some(4), minimum: None, maximum: None }, 1000), Some(8));
    }

    #[test]
    fn each_adjustment_is_told() {
        let (_, told) = to_order(&up_to(60, Some(7), Some(12), Some(13)), 57, &Rates::default(), 7.0).expect("needed");
        assert_eq!(told, ["minimum: 3 to 12", "pack: 12 to 14", "maximum: 14 to 7"]);
    }
}
