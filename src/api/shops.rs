//! The shops this node knows, with their secrets opened, so that a webhook costs no query and comes in while the store is away.
//!
//! The whole list is read again every second or so; what it does not hold is looked up in the store, a few at a time, so that
//! a shop that another process has just added is accepted at once and unknown shops cannot flood the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::ports::registry::{Registry, ShopEntry, ShopKind};
use crate::ports::snapshot_store::StoreError;
use crate::vault::Vault;

const REFRESH: Duration = Duration::from_secs(1);
/// The share of time that reading the list may take is one part in this many.
const REFRESH_SHARE: u32 = 10;
const LOOK_UPS_AT_ONCE: usize = 4;
const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);
/// A shop whose signature fails is read again at most this often: its secret may have been changed a moment ago.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// A registered shop. No `Debug`: it holds secrets.
pub struct Shop {
    pub organisation: String,
    pub kind: ShopKind,
    /// Opened secrets, the newest first.
    pub secrets: Vec<Vec<u8>>,
    /// Why a secret does not open, if one does not.
    pub shut: Option<String>,
    sealed: Vec<Vec<u8>>,
    read_at: Instant,
    /// When it was last read again because of a bad signature.
    looked_at: Mutex<Option<Instant>>,
}

type Shops = HashMap<String, Arc<Shop>>;

pub struct ShopDirectory {
    registry: Arc<dyn Registry>,
    vault: Vault,
    /// Queries run on the node's runtime and to their end, whatever becomes of the request (PITFALLS 18).
    runtime: Handle,
    known: ArcSwap<Shops>,
    /// Guards `known` against two writers; readers never wait.
    writing: Mutex<()>,
    loaded: AtomicBool,
    look_ups: Semaphore,
    stop: Notify,
}

impl ShopDirectory {
    pub fn new(registry: Arc<dyn Registry>, vault: Vault, runtime: Handle) -> Arc<Self> {
        Arc::new(ShopDirectory {
            registry,
            vault,
            runtime,
            known: ArcSwap::default(),
            writing: Mutex::new(()),
            loaded: AtomicBool::new(false),
            look_ups: Semaphore::new(LOOK_UPS_AT_ONCE),
            stop: Notify::new(),
        })
    }

    /// Reads the list again and again until [`ShopDirectory::stop`].
    pub async fn refresh_forever(self: Arc<Self>, told: impl Fn(usize)) {
        let mut away = false;
        loop {
            let began = Instant::now();
            match self.registry.shops().await {
                Ok(entries) => {
                    told(entries.len());
                    self.replace(entries, began);
                    if std::mem::take(&mut away) {
                        tracing::info!("the list of shops is read again");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(%error, "the list of shops cannot be read; going on with the {} known", self.known.load().len());
                    }
                }
            }
            let pause = REFRESH.max(began.elapsed() * REFRESH_SHARE);
            tokio::select! {
                () = self.stop.notified() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Whether the list has been read at least once.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// What is known without asking the store.
    pub fn known(&self, shop: &str) -> Option<Arc<Shop>> {
        self.known.load().get(shop).cloned()
    }

    /// A shop, looked up in the store if it is not known.
    pub async fn find(self: &Arc<Self>, shop: &str) -> Result<Option<Arc<Shop>>, StoreError> {
        match self.known(shop) {
            Some(known) => Ok(Some(known)),
            None => self.look_up(shop).await,
        }
    }

    /// Reads a shop again whose signature failed, unless that was done a moment ago; none if it has nothing new to say.
    pub async fn second_look(self: &Arc<Self>, shop: &str, seen: &Shop) -> Option<Arc<Shop>> {
        {
            let mut last = seen.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|at| at.elapsed() < SECOND_LOOK) || self.look_ups.available_permits() == 0 {
                return None;
            }
            *last = Some(Instant::now());
        }
        let found = self.look_up(shop).await.ok().flatten()?;
        (found.sealed != seen.sealed).then_some(found)
    }

    async fn look_up(self: &Arc<Self>, shop: &str) -> Result<Option<Arc<Shop>>, StoreError> {
        let unavailable =
            |reason: &str| StoreError::Unavailable { during: "looking up a shop".to_owned(), reason: reason.to_owned() };
        let _permit = tokio::time::timeout(LOOK_UP_WITHIN, self.look_ups.acquire())
            .await
            .map_err(|_| unavailable("too many unknown shops are being looked up at once"))?
            .map_err(|_| unavailable("the node is stopping"))?;
        let (directory, name) = (Arc::clone(self), shop.to_owned());
        let query = self.runtime.spawn(async move {
            let began = Instant::now();
            let entry = directory.registry.shop(&name).await?;
            Ok(directory.put(&name, entry, began))
        });
        match tokio::time::timeout(LOOK_UP_WITHIN, query).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(unavailable("the query was given up")),
            Err(_) => Err(unavailable("the store does not answer")),
        }
    }

    fn put(&self, name: &str, entry: Option<ShopEntry>, read_at: Instant) -> Option<Arc<Shop>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known.load_full();
        let shop = entry.map(|e| self.open(e, before.get(name), read_at).1);
        let mut shops = Shops::clone(&before);
        match &shop {
            Some(shop) => shops.insert(name.to_owned(), Arc::clone(shop)),
            None => shops.remove(name),
        };
        self.known.store(Arc::new(shops));
        shop
    }

    fn replace(&self, entries: Vec<ShopEntry>, read_at: Instant) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known.load_full();
        let mut shops: Shops = entries
            .into_iter()
            .map(|e| {
                let known = before.get(&e.shop).cloned();
                self.open(e, known.as_ref(), read_at)
            })
            .collect();
        // A look-up that began after this list was read knows better.
        for (name, shop) in before.iter().filter(|(_, s)| s.read_at > read_at) {
            shops.insert(name.clone(), Arc::clone(shop));
        }
        self.known.store(Arc::new(shops));
        self.loaded.store(true, Ordering::Release);
    }

    /// Opens an entry's secrets, unless they are the ones already open.
    fn open(&self, entry: ShopEntry, known: Option<&Arc<Shop>>, read_at: Instant) -> (String, Arc<Shop>) {
        let ShopEntry { shop, organisation, kind, webhook_secrets: sealed, .. } = entry;
        if let Some(k) = known
            && k.sealed == sealed
            && k.organisation == organisation
            && k.kind == kind
        {
            return (shop, Arc::clone(k));
        }
        let mut shut = None;
        let secrets = sealed
            .iter()
            .filter_map(|s| {
                self.vault
                    .open(&shop, s)
                    .inspect_err(|e| {
                        tracing::error!(shop, error = %e, "a webhook secret does not open");
                        shut = Some(e.to_string());
                    })
                    .ok()
            })
            .collect();
        (shop, Arc::new(Shop { organisation, kind, secrets, shut, sealed, read_at, looked_at: Mutex::default() }))
    }
}
