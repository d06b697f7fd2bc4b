//! What this node knows of who owns which partition: read from the store, kept for a short time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::actors::settings::WallClock;
use crate::events::record::Partition;
use crate::events::time::Millis;
use crate::ports::Owners;
use crate::ports::owners::Owner;

pub type Known = Arc<BTreeMap<Partition, Owner>>;

/// How long the store may take; then what was known before has to do.
const WITHIN: Duration = Duration::from_millis(300);
/// After a failure the store is left alone that long.
const PAUSE: Millis = 1_000;

#[derive(Default)]
struct Read {
    at: Millis,
    owners: Option<Known>,
    failed_at: Option<Millis>,
}

pub struct OwnersCache {
    store: Arc<dyn Owners>,
    clock: WallClock,
    runtime: Handle,
    read: RwLock<Read>,
    /// One read at a time; who waits for it takes what it brought.
    reading: Mutex<()>,
}

impl OwnersCache {
    pub fn new(store: Arc<dyn Owners>, clock: WallClock, runtime: Handle) -> OwnersCache {
        OwnersCache { store, clock, runtime, read: RwLock::default(), reading: Mutex::default() }
    }

    /// What is known, if it is not older than that (a clock that was set back makes it older).
    pub fn at_hand(&self, at_most: Millis) -> Option<Known> {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let age = (self.clock)() - read.at;
        read.owners.clone().filter(|_| (0..=at_most).contains(&age))
    }

    /// As [`OwnersCache::at_hand`], read anew if need be. While the store is away, what was known last; none if that is nothing.
    pub async fn not_older(&self, at_most: Millis) -> Option<Known> {
        let asked = (self.clock)();
        if let Some(known) = self.at_hand(at_most) {
            return Some(known);
        }
        let _one = self.reading.lock().await;
        {
            let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
            let since = read.at >= asked;
            let failing = read.failed_at.is_some_and(|at| (0..PAUSE).contains(&((self.clock)() - at)));
            if since || failing {
                return read.owners.clone();
            }
        }
        let at = (self.clock)();
        let store = self.store.clone();
        // A task of its own, which ends in its own time: a query of a pool is not dropped halfway (PITFALLS 18).
        let reading = self.runtime.spawn(async move { store.owners().await });
        let owners = match tokio::time::timeout(WITHIN, reading).await {
            Ok(Ok(Ok(owners))) => Some(owners),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "who owns the partitions cannot be read");
                None
            }
            _ => None,
        };
        let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
        match owners {
            Some(owners) => {
                let owners = owners.into_iter().map(|o| (o.partition, o)).collect();
                *read = Read { at, owners: Some(Arc::new(owners)), failed_at: None };
            }
            None => read.failed_at = Some((self.clock)()),
        }
        read.owners.clone()
    }
}
