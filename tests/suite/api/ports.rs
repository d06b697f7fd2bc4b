//! The real log and store behind a switch: away, full, slow; and counters of what was asked of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use stockwarden::adapters::embedded::log::EmbeddedLog;
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::events::record::{NewRecord, Offset, Partition, Position, Topic};
use stockwarden::ports::event_log::{Group, GroupHandle, GroupSink, PartitionReader, TransactionalWriter};
use stockwarden::ports::registry::{ShopEntry, TokenEntry};
use stockwarden::ports::{EventLog, LogError, Registry, StoreError};
use tokio::sync::watch;

/// A log that fails, refuses or holds on demand.
pub struct Log {
    pub inner: Arc<EmbeddedLog>,
    pub fault: Mutex<Option<LogError>>,
    /// Records larger than this are refused.
    pub takes: AtomicUsize,
    /// While true, appends wait.
    pub hold: watch::Sender<bool>,
    pub waiting: watch::Sender<usize>,
    pub probes: AtomicUsize,
}

impl Log {
    pub fn new(inner: Arc<EmbeddedLog>) -> Self {
        Log {
            inner,
            fault: Mutex::default(),
            takes: AtomicUsize::new(usize::MAX),
            hold: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            probes: AtomicUsize::new(0),
        }
    }

    pub fn set_fault(&self, fault: Option<LogError>) {
        *self.fault.lock().expect("lock") = fault;
    }

    fn check(&self) -> Result<(), LogError> {
        self.fault.lock().expect("lock").clone().map_or(Ok(()), Err)
    }
}

impl EventLog for Log {
    fn prepare(&self, timeout: Duration) -> Result<(), LogError> {
        self.inner.prepare(timeout)
    }

    fn partitions(&self) -> i32 {
        self.inner.partitions()
    }

    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            self.waiting.send_modify(|n| *n += 1);
            self.hold.subscribe().wait_for(|held| !held).await.expect("held by self");
            self.waiting.send_modify(|n| *n -= 1);
            self.check()?;
            let size = records.iter().map(|r| r.value.as_ref().map_or(0, Vec::len)).max().unwrap_or(0);
            if size > self.takes.load(Ordering::SeqCst) {
                return Err(LogError::Refused { size, reason: "too large for this test".into() });
            }
            self.inner.append(records).await
        })
    }

    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.inner.append_atomically(records)
    }

    fn join(&self, group: Group, topic: Topic, sink: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        self.inner.join(group, topic, sink)
    }

    fn writer(&self, member: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        self.inner.writer(member)
    }

    fn reader(&self, topic: Topic, partition: Partition, from: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        self.inner.reader(topic, partition, from)
    }

    fn watermarks(&self, topic: Topic, partition: Partition) -> Result<(Offset, Offset), LogError> {
        self.inner.watermarks(topic, partition)
    }

    fn committed(&self, group: Group, topic: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        self.inner.committed(group, topic)
    }

    fn probe(&self, timeout: Duration) -> Result<(), LogError> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        self.inner.probe(timeout)
    }
}

/// A store that can be away, and holds look-ups on demand.
pub struct Store {
    pub inner: SqliteStore,
    pub away: AtomicBool,
    /// While true, look-ups of single shops wait.
    pub hold: watch::Sender<bool>,
    pub waiting: watch::Sender<usize>,
    pub most_waiting: AtomicUsize,
}

impl Store {
    pub fn new(inner: SqliteStore) -> Self {
        Store {
            inner,
            away: AtomicBool::new(false),
            hold: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            most_waiting: AtomicUsize::new(0),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { during: "testing".into(), reason: "it is away".into() });
        }
        Ok(())
    }
}

macro_rules! forwarded {
    ($self:ident . $call:ident ( $($arg:ident),* )) => {
        Box::pin(async move {
            $self.check()?;
            $self.inner.$call($($arg),*).await
        })
    };
}

impl Registry for Store {
    fn add_organisation<'a>(&'a self, name: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        forwarded!(self.add_organisation(name, now))
    }

    fn organisations(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        forwarded!(self.organisations())
    }

    fn put_shop(&self, shop: ShopEntry) -> BoxFuture<'_, Result<(), StoreError>> {
        forwarded!(self.put_shop(shop))
    }

    fn remove_shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        forwarded!(self.remove_shop(shop))
    }

    fn shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Option<ShopEntry>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            self.waiting.send_modify(|n| {
                *n += 1;
                self.most_waiting.fetch_max(*n, Ordering::SeqCst);
            });
            self.hold.subscribe().wait_for(|held| !held).await.expect("held by self");
            self.waiting.send_modify(|n| *n -= 1);
            self.inner.shop(shop).await
        })
    }

    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopEntry>, StoreError>> {
        forwarded!(self.shops())
    }

    fn add_token(&self, token: TokenEntry) -> BoxFuture<'_, Result<(), StoreError>> {
        forwarded!(self.add_token(token))
    }

    fn revoke_token<'a>(&'a self, id: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        forwarded!(self.revoke_token(id, now))
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<TokenEntry>, StoreError>> {
        forwarded!(self.tokens())
    }

    fn token_by_hash<'a>(&'a self, hash: &'a [u8; 32]) -> BoxFuture<'a, Result<Option<TokenEntry>, StoreError>> {
        forwarded!(self.token_by_hash(hash))
    }

    fn next_rule_version<'a>(
        &'a self,
        organisation: &'a str,
        digest: &'a [u8; 32],
    ) -> BoxFuture<'a, Result<(i64, bool), StoreError>> {
        forwarded!(self.next_rule_version(organisation, digest))
    }
}
