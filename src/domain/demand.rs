//! How fast something sells, in a small fixed state, and how likely it runs out (RULES R2).
//!
//! Two exponentially fading counts of units sold, with time constants of an hour and a week. A count with time constant τ that
//! has been kept for `age` has seen an effective window w = τ(1 − e^(−age/τ)); n units in w hours make the demand of the next H
//! hours D(H) ~ NegBin(n + ½, w/(w + H)). Transcendental functions come from `libm`, so that every machine gets the same bits.

use serde::{Deserialize, Serialize};

use crate::events::time::Millis;

const MS_PER_HOUR: f64 = 3_600_000.0;
pub const TAU_FAST_HOURS: f64 = 1.0;
pub const TAU_SLOW_HOURS: f64 = 7.0 * 24.0;
/// Fewer units say nothing about a rate.
pub const MIN_UNITS: f64 = 3.0;
/// Fast over slow rate from which sales count as accelerating.
pub const ACCELERATING: f64 = 3.0;

/// Fading counts of one level's sales, as of `at`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    fast: f64,
    slow: f64,
    /// Time of the first observation.
    since: Millis,
    at: Millis,
}

/// A rate as evaluated at some time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Units in the effective windows, and the windows in hours.
    pub fast_units: f64,
    pub fast_window: f64,
    pub slow_units: f64,
    pub slow_window: f64,
}

impl Demand {
    pub fn starting(at: Millis) -> Demand {
        Demand { fast: 0.0, slow: 0.0, since: at, at }
    }

    /// Counts `sold` units at time `at`; a time before the last one counts as the last one.
    pub fn sell(&mut self, sold: i64, at: Millis) {
        if sold > 0 {
            let (fast, slow) = self.faded(at);
            self.at = self.at.max(at);
            self.fast = fast + sold as f64;
            self.slow = slow + sold as f64;
        }
    }

    fn faded(&self, now: Millis) -> (f64, f64) {
        let hours = (now.saturating_sub(self.at)).max(0) as f64 / MS_PER_HOUR;
        if hours == 0.0 {
            return (self.fast, self.slow);
        }
        (self.fast * libm::exp(-hours / TAU_FAST_HOURS), self.slow * libm::exp(-hours / TAU_SLOW_HOURS))
    }
}

impl Rates {
    /// Rates of several levels together: counts add up, the oldest observation sets the windows.
    pub fn of<'a>(demands: impl Iterator<Item = &'a Demand>, now: Millis) -> Rates {
        let mut rates = Rates::default();
        let mut since = Millis::MAX;
        for demand in demands {
            let (fast, slow) = demand.faded(now);
            rates.fast_units += fast;
            rates.slow_units += slow;
            since = since.min(demand.since);
        }
        if since == Millis::MAX {
            return rates;
        }
        let age = now.saturating_sub(since).max(0) as f64 / MS_PER_HOUR;
        rates.fast_window = TAU_FAST_HOURS * (1.0 - libm::exp(-age / TAU_FAST_HOURS));
        rates.slow_window = TAU_SLOW_HOURS * (1.0 - libm::exp(-age / TAU_SLOW_HOURS));
        rates
    }

    /// Units per hour; 0 without a window.
    pub fn fast(&self) -> f64 {
        rate(self.fast_units, self.fast_window)
    }

    pub fn slow(&self) -> f64 {
        rate(self.slow_units, self.slow_window)
    }

    pub fn has_evidence(&self) -> bool {
        self.fast_units >= MIN_UNITS || self.slow_units >= MIN_UNITS
    }

    pub fn accelerating(&self) -> bool {
        self.fast_units >= MIN_UNITS && self.fast() >= ACCELERATING * self.slow()
    }

    /// Probability that `horizon_hours` sell `available` units or more: the larger of the two windows' that have seen at
    /// least [`MIN_UNITS`]; none without such a window.
    pub fn run_out(&self, available: i64, horizon_hours: f64) -> Option<f64> {
        let of = |units: f64, window: f64| {
            (units >= MIN_UNITS && window > 0.0).then(|| at_least(available, units + 0.5, window / (window + horizon_hours)))
        };
        match (of(self.fast_units, self.fast_window), of(self.slow_units, self.slow_window)) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }

    /// Hours until `available` units are sold at the faster rate that has evidence.
    pub fn hours_left(&self, available: i64) -> Option<f64> {
        let mut rate = 0.0f64;
        if self.fast_units >= MIN_UNITS {
            rate = rate.max(self.fast());
        }
        if self.slow_units >= MIN_UNITS {
            rate = rate.max(self.slow());
        }
        (rate > 0.0).then(|| available.max(0) as f64 / rate)
    }
}

fn rate(units: f64, window: f64) -> f64 {
    if window > 0.0 { units / window } else { 0.0 }
}

/// Pr(D ≥ k) for D ~ NegBin(r, p), the number of failures before the r-th success.
fn at_least(k: i64, r: f64, p: f64) -> f64 {
    if k <= 0 {
        return 1.0;
    }
    let q = 1.0 - p;
    let mean = r * q / p;
    let sd = libm::sqrt(mean / p);
    let k = k as f64;
    // Far out in a tail the sum is not worth its length.
    if k > mean + 40.0 * sd + 50.0 {
        return 0.0;
    }
    if k < mean - 10.0 * sd {
        return 1.0;
    }
    let log_first = r * libm::log(p);
    if log_first < -700.0 || k > 200_000.0 {
        // The first term underflows; with so much evidence the normal approximation is as good.
        return 0.5 * libm::erfc((k - 0.5 - mean) / (sd * core::f64::consts::SQRT_2));
    }
    let mut term = libm::exp(log_first);
    let mut below = term;
    let mut i = 0.0;
    while i + 1.0 < k {
        term *= (i + r) / (i + 1.0) * q;
        below += term;
        i += 1.0;
    }
    (1.0 - below).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    #[test]
    fn the_tail_of_the_negative_binomial_has_its_known_values() {
        // NegBin(1, p) is geometric: Pr(D ≥ k) = (1−p)^k.
        for k in 1..50 {
            let want = 0.7f64.powi(k);
            assert!((at_least(i64::from(k), 1.0, 0.3) - want).abs() < 1e-12, "{k}");
        }
        // NegBin(2, ½): Pr(D ≥ 2) = 1 − ¼ − ¼.
        assert!((at_least(2, 2.0, 0.5) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_count_fades_by_half_in_its_half_life() {
        let mut d = Demand::starting(0);
        d.sell(8, 0);
        let r = Rates::of([d].iter(), (HOUR as f64 * core::f64::consts::LN_2) as i64);
        assert!((r.fast_units - 4.0).abs() < 1e-5, "{r:?}");
        assert!(r.slow_units > 7.9);
    }

    #[test]
    fn without_three_units_there_is_no_probability() {
        let mut d = Demand::starting(0);
        d.sell(2, HOUR);
        assert_eq!(Rates::of([d].iter(), HOUR).run_out(1, 6.0), None);
        d.sell(1, HOUR);
        assert!(Rates::of([d].iter(), HOUR).run_out(1, 6.0).is_some());
    }

    proptest::proptest! {
        #[test]
        fn probability_falls_with_stock_and_rises_with_the_horizon(units in 3.0f64..500.0, window in 0.01f64..168.0, h in 0.5f64..200.0, a in 0i64..3000) {
            let r = Rates { fast_units: units, fast_window: window, ..Rates::default() };
            let p = r.run_out(a, h).expect("enough units");
            proptest::prop_assert!((0.0..=1.0).contains(&p));
            proptest::prop_assert!(r.run_out(a + 1, h).expect("enough") <= p + 1e-6);
            proptest::prop_assert!(r.run_out(a, h * 1.5).expect("enough") >= p - 1e-2);
        }
    }
}
