//! Time and randomness, passed in.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> DateTime<Utc>;
    /// Resolves when the clock has reached `at`.
    fn sleep_until(&self, at: DateTime<Utc>) -> BoxFuture<'static, ()>;

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }
}

/// Evenly distributed in [0, 1).
pub type Random = Arc<dyn Fn() -> f64 + Send + Sync>;

#[derive(Clone)]
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    pub random: Random,
}

impl Environment {
    /// With the timers of the runtime, and a clock and a generator of the caller's.
    pub fn live(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static, random: Random) -> Environment {
        Environment { clock: Arc::new(Live(now)), random }
    }

    pub(super) fn random(&self) -> f64 {
        (self.random)()
    }
}

struct Live<F>(F);

impl<F: Fn() -> DateTime<Utc> + Send + Sync + 'static> Clock for Live<F> {
    fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }

    fn sleep_until(&self, at: DateTime<Utc>) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep((at - self.now()).to_std().unwrap_or_default()))
    }
}
