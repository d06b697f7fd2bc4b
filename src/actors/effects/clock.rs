//! Time and randomness, passed in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> DateTime<Utc>;
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[derive(Clone)]
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    /// Evenly distributed in [0, 1).
    pub random: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Environment {
    /// The real ones.
    pub fn system() -> Result<Environment, getrandom::Error> {
        let mut seed = [0u8; 8];
        getrandom::fill(&mut seed)?;
        let rng = Mutex::new(SmallRng::seed_from_u64(u64::from_le_bytes(seed)));
        let random = move || rng.lock().expect("no code panics while holding this lock").random::<f64>();
        Ok(Environment { clock: Arc::new(SystemClock), random: Arc::new(random) })
    }

    pub(super) fn random(&self) -> f64 {
        (self.random)()
    }
}
