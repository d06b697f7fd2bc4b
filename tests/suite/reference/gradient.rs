//! RULES R2: fading counts of sales and the probability of selling out.

/// Time constants in hours: an hour, seven days.
const TAU: [f64; 2] = [1.0, 168.0];

/// Units sold, fading.
#[derive(Debug, Clone)]
pub struct Sales {
    counts: [f64; 2],
    /// Times in Unix milliseconds.
    began: i64,
    last: i64,
}

fn hours(ms: i64) -> f64 {
    ms.max(0) as f64 / 3_600_000.0
}

impl Sales {
    pub fn beginning(at: i64) -> Sales {
        Sales { counts: [0.0; 2], began: at, last: at }
    }

    pub fn sold(&mut self, units: i64, at: i64) {
        if units > 0 {
            self.counts = self.at(at).map(|c| c + units as f64);
            self.last = self.last.max(at);
        }
    }

    fn at(&self, now: i64) -> [f64; 2] {
        let dt = hours(now - self.last);
        [0, 1].map(|i| self.counts[i] * (-dt / TAU[i]).exp())
    }
}

/// Pr(D(H) ≥ available), the larger of the windows that have seen at least three units. Several levels are one series: counts
/// add up, the first observation of all is its beginning.
pub fn run_out<'a>(series: impl Iterator<Item = &'a Sales>, now: i64, available: i64, horizon_hours: f64) -> Option<f64> {
    let (mut n, mut began) = ([0.0; 2], i64::MAX);
    for sales in series {
        let counts = sales.at(now);
        n = [n[0] + counts[0], n[1] + counts[1]];
        began = began.min(sales.began);
    }
    let age = hours(now.saturating_sub(began));
    let of_window = |i: usize| {
        let w = TAU[i] * (1.0 - (-age / TAU[i]).exp());
        (n[i] >= 3.0 && w > 0.0).then(|| at_least(available, n[i] + 0.5, w / (w + horizon_hours)))
    };
    [of_window(0), of_window(1)].into_iter().flatten().reduce(f64::max)
}

/// Pr(D ≥ k), D ~ NegBin(r, p): one minus the sum of Γ(i+r)/(i! Γ(r)) p^r (1−p)^i below k, in logarithms.
fn at_least(k: i64, r: f64, p: f64) -> f64 {
    if k <= 0 {
        return 1.0;
    }
    let (mean, sd) = (r * (1.0 - p) / p, (r * (1.0 - p)).sqrt() / p);
    if k as f64 > mean + 60.0 * sd + 100.0 {
        return 0.0;
    }
    let mut log_term = r * p.ln();
    let mut below = 0.0;
    for i in 0..k {
        below += log_term.exp();
        log_term += ((i as f64 + r) / (i as f64 + 1.0)).ln() + (1.0 - p).ln();
    }
    (1.0 - below).max(0.0)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn the_tail_is_that_of_the_negative_binomial() {
        // Computed with log-gamma functions elsewhere.
        for (k, r, p, want) in [(1, 1.0, 0.3, 0.7), (10, 3.5, 0.2, 0.660_976_434), (40, 5.5, 0.1, 0.631_794_399)] {
            let got = at_least(k, r, p);
            assert!((got - want).abs() < 1e-6, "Pr(D >= {k}), r = {r}, p = {p}: {got}, not {want}");
        }
        assert_eq!(at_least(0, 3.0, 0.5), 1.0);
    }

    #[test]
    fn two_units_say_nothing_and_old_sales_fade() {
        let mut s = Sales::beginning(0);
        s.sold(2, 3_600_000);
        assert_eq!(run_out([&s].into_iter(), 3_600_000, 5, 6.0), None);
        s.sold(4, 3_600_000);
        let soon = run_out([&s].into_iter(), 3_600_000, 5, 6.0).expect("six units");
        let later = run_out([&s].into_iter(), 40 * 3_600_000, 5, 6.0).expect("the slow window remembers");
        assert!(soon > 0.99 && later < 0.2, "{soon} {later}");
    }
}
