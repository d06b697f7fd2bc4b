//! Durations counted in buckets of 3 % width: percentiles of millions of requests in a fixed few kB.

use std::time::Duration;

use serde::Serialize;

/// Buckets for each doubling.
const STEPS: u32 = 32;

#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        // From a microsecond over 40 doublings: some twelve days.
        Histogram { buckets: vec![0; 40 * STEPS as usize], count: 0, max: Duration::ZERO }
    }
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Percentiles {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let micros = value.as_micros().max(1) as f64;
        let bucket = (micros.log2() * f64::from(STEPS)) as usize;
        let last = self.buckets.len() - 1;
        self.buckets[bucket.min(last)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The upper edge of the bucket in which the share `p` of all values lies.
    pub fn percentile(&self, p: f64) -> Duration {
        let rank = (self.count as f64 * p).ceil() as u64;
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank.max(1) {
                let edge = ((i + 1) as f64 / f64::from(STEPS)).exp2();
                return Duration::from_secs_f64(edge / 1e6).min(self.max);
            }
        }
        self.max
    }

    pub fn percentiles(&self) -> Percentiles {
        let ms = |d: Duration| (d.as_secs_f64() * 1e5).round() / 100.0;
        Percentiles {
            p50_ms: ms(self.percentile(0.5)),
            p90_ms: ms(self.percentile(0.9)),
            p99_ms: ms(self.percentile(0.99)),
            max_ms: ms(self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let mut h = Histogram::default();
        for ms in 1..=1000 {
            h.record(Duration::from_millis(ms));
        }
        let p = h.percentiles();
        for (got, want) in [(p.p50_ms, 500.0), (p.p90_ms, 900.0), (p.p99_ms, 990.0), (p.max_ms, 1000.0)] {
            assert!((got / want - 1.0).abs() < 0.04, "{got} is not about {want}");
        }
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}
