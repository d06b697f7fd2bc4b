//! How long to wait before the next try: of one effect ([`Backoff`]), of a whole target ([`Breaker`]).

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Exponential, with jitter in the upper half, so that what failed together does not come back together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// Of effects: with 20 attempts, about nine hours.
    pub const EFFECT: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(3600) };
    /// Of the store and the log.
    pub const SERVICE: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(10) };

    /// Wait after the `attempt`-th try, from 1; `random` in [0, 1).
    pub fn wait(&self, attempt: i32, random: f64) -> Duration {
        let doublings = attempt.clamp(1, 31) - 1;
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    /// Nothing is sent.
    Open,
    /// One send decides.
    HalfOpen,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Free,
    /// One effect, as a probe.
    Probe,
    /// Nothing, for so long.
    Shut(Duration),
    /// Nothing until the probe that is under way has its verdict.
    Probing,
}

/// The circuit breaker of one target.
#[derive(Debug, Clone)]
pub struct Breaker {
    failures: u32,
    /// How often it opened without a success in between.
    opened: i32,
    until: Option<DateTime<Utc>>,
    probing: bool,
}

impl Breaker {
    /// Failures in a row that open it.
    pub const THRESHOLD: u32 = 5;
    const OPEN: Backoff = Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(300) };

    pub fn new() -> Self {
        Breaker { failures: 0, opened: 0, until: None, probing: false }
    }

    pub fn gate(&self, now: DateTime<Utc>) -> Gate {
        match self.until {
            None => Gate::Free,
            Some(until) if now < until => Gate::Shut((until - now).to_std().unwrap_or_default()),
            Some(_) if self.probing => Gate::Probing,
            Some(_) => Gate::Probe,
        }
    }

    /// A probe is on its way.
    pub fn probe_sent(&mut self) {
        self.probing = true;
    }

    /// The probe ended without a word of the target.
    pub fn probe_dropped(&mut self) {
        self.probing = false;
    }

    pub fn success(&mut self) {
        *self = Breaker::new();
    }

    pub fn failure(&mut self, now: DateTime<Utc>, random: f64) {
        self.failures += 1;
        // Sends that were under way when it opened say nothing new.
        let shut = self.until.is_some_and(|until| now < until);
        if !shut && (self.probing || self.failures >= Breaker::THRESHOLD) {
            self.opened += 1;
            let wait = Breaker::OPEN.wait(self.opened, random);
            self.until = Some(now + wait);
            self.probing = false;
        }
    }

    pub fn state(&self, now: DateTime<Utc>) -> BreakerState {
        match self.until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).expect("time")
    }

    #[test]
    fn waits_double_with_jitter_up_to_the_longest() {
        let b = Backoff::EFFECT;
        assert_eq!(b.wait(1, 0.0), Duration::from_secs(1));
        assert_eq!(b.wait(1, 1.0), Duration::from_secs(2));
        assert_eq!(b.wait(4, 1.0), Duration::from_secs(16));
        assert_eq!(b.wait(i32::MAX, 1.0), b.longest);
        assert_eq!(b.wait(-3, 1.0), Duration::from_secs(2));
    }

    #[test]
    fn it_opens_after_failures_in_a_row_lets_one_probe_through_and_closes_on_success() {
        let mut b = Breaker::new();
        for _ in 1..Breaker::THRESHOLD {
            b.failure(at(0), 1.0);
        }
        assert_eq!(b.gate(at(0)), Gate::Free);
        b.failure(at(0), 1.0);
        assert_eq!(b.gate(at(0)), Gate::Shut(Duration::from_secs(10)));
        b.failure(at(1), 1.0);
        assert_eq!(b.gate(at(10)), Gate::Probe, "a straggler's failure does not keep it open for longer");
        b.probe_sent();
        assert_eq!(b.gate(at(10)), Gate::Probing);
        b.failure(at(11), 1.0);
        assert_eq!(b.gate(at(11)), Gate::Shut(Duration::from_secs(20)), "and waits twice as long after a failed probe");
        b.probe_sent();
        b.success();
        assert_eq!((b.gate(at(11)), b.state(at(11))), (Gate::Free, BreakerState::Closed));
    }
}
