//! Where deliveries go, open loop: each is sent when it is due, whatever the answers to those before it. A sender that
//! waits for answers measures a system that is never late; shops do not wait.
//!
//! The catalogue has no schedule: it goes as fast as the target takes it, and is through before anything live is sent.

mod http;
mod log;
mod report;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use http::{HttpSink, HttpSinkError};
pub use log::to_log;
pub use report::Report;

/// How virtual time passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Virtual seconds a second; `None`: no schedule, as fast as the target takes it.
    pub speedup: Option<f64>,
    /// Stop after so long, whatever is left.
    pub at_most: Option<Duration>,
}

/// Counted while a run goes on; for whoever shows progress.
#[derive(Debug, Default)]
pub struct Counters {
    pub catalogue: AtomicU64,
    pub live: AtomicU64,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
}

/// True once the run is to end early.
pub type Stop = watch::Receiver<bool>;

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Maps due times to the wall.
struct Schedule {
    pace: Pace,
    began: Instant,
    /// Set with the first live delivery.
    live: Option<(Instant, i64)>,
}

impl Schedule {
    fn new(pace: Pace) -> Schedule {
        Schedule { pace, began: Instant::now(), live: None }
    }

    /// When a live delivery is to be sent; `None`: now.
    fn wall(&mut self, due: i64, virtual_start: i64) -> Option<Instant> {
        let speedup = self.pace.speedup?;
        let (began, origin) = *self.live.get_or_insert_with(|| (Instant::now(), virtual_start));
        let after = Duration::from_nanos(u64::try_from(due - origin).unwrap_or(0));
        // Past a year the exact instant is of no interest; it only must not overflow.
        Some(began + after.div_f64(speedup).min(Duration::from_secs(31_536_000)))
    }

    fn begin_live(&mut self) {
        self.began = Instant::now();
    }

    fn is_over(&self) -> bool {
        self.pace.at_most.is_some_and(|most| self.live_for() > most)
    }

    fn live_for(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Sleeps until `when` or until the run is stopped; true if stopped.
async fn sleep_or_stop(when: Instant, stop: &mut Stop) -> bool {
    tokio::select! {
        () = tokio::time::sleep_until(when) => false,
        // A stop whose sender is gone never comes.
        Ok(_) = stop.wait_for(|s| *s) => true,
    }
}
