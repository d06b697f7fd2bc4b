//! Places between the steps of an effect where a test can stop a node, and a ledger that has them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use stockwarden::events::record::Partition;
use stockwarden::ports::ledger::{Batch, Count, Effect, EffectFilter, EffectId, Ledger, Settled};
use stockwarden::ports::snapshot_store::{Epoch, StoreError};
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    AfterClaim,
    AfterFreeze,
    BeforeSend,
    AfterSend,
    BeforeFact,
    AfterFact,
    AfterSettle,
}

impl Step {
    pub const ALL: [Step; 7] = [
        Step::AfterClaim,
        Step::AfterFreeze,
        Step::BeforeSend,
        Step::AfterSend,
        Step::BeforeFact,
        Step::AfterFact,
        Step::AfterSettle,
    ];
}

/// Holds whoever comes to the chosen step, for ever, and says so.
#[derive(Clone, Default)]
pub struct Tap {
    stop_at: Arc<Mutex<Option<Step>>>,
    /// Of the next call of this step the answer is lost; it is carried out.
    lose: Arc<Mutex<Option<Step>>>,
    reached: Arc<Notify>,
}

impl Tap {
    pub fn stopping_at(step: Step) -> Tap {
        Tap { stop_at: Arc::new(Mutex::new(Some(step))), ..Tap::default() }
    }

    pub fn losing_the_answer(step: Step) -> Tap {
        Tap { lose: Arc::new(Mutex::new(Some(step))), ..Tap::default() }
    }

    fn answer(&self, step: Step) -> Result<(), StoreError> {
        match self.lose.lock().expect("lock").take_if(|lost| *lost == step) {
            Some(_) => Err(StoreError::Unavailable { during: format!("{step:?}"), reason: "the connection broke".into() }),
            None => Ok(()),
        }
    }

    pub async fn at(&self, step: Step) {
        let stop = *self.stop_at.lock().expect("lock") == Some(step);
        if stop {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }

    pub async fn reached(&self) {
        self.reached.notified().await;
    }
}

/// A ledger over a real one: stops at steps, and is away for so many calls.
pub struct TappedLedger {
    pub inner: Arc<dyn Ledger>,
    pub tap: Tap,
    pub away: Arc<AtomicUsize>,
}

impl TappedLedger {
    fn answer(&self) -> Result<(), StoreError> {
        match self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Err(StoreError::Unavailable { during: "anything".into(), reason: "the test says so".into() }),
            Err(_) => Ok(()),
        }
    }
}

impl Ledger for TappedLedger {
    fn acquire_dispatch_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        Box::pin(async move {
            self.answer()?;
            self.inner.acquire_dispatch_epoch(partition, node).await
        })
    }

    fn plan<'a>(&'a self, partition: Partition, epoch: Epoch, batch: &'a Batch) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            self.answer()?;
            self.inner.plan(partition, epoch, batch).await
        })
    }

    fn claim<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        now: DateTime<Utc>,
        limit: i64,
    ) -> BoxFuture<'a, Result<Vec<Effect>, StoreError>> {
        Box::pin(async move {
            let rows = self.inner.claim(handler, partitions, now, limit).await?;
            if !rows.is_empty() {
                self.tap.at(Step::AfterClaim).await;
                self.tap.answer(Step::AfterClaim)?;
            }
            Ok(rows)
        })
    }

    fn release<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        under_way: &'a [EffectId],
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        self.inner.release(handler, partitions, under_way, now)
    }

    fn freeze<'a>(&'a self, id: &'a EffectId, epoch: Epoch, request: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            self.answer()?;
            let bytes = self.inner.freeze(id, epoch, request).await?;
            self.tap.at(Step::AfterFreeze).await;
            Ok(bytes)
        })
    }

    fn settle<'a>(
        &'a self,
        id: &'a EffectId,
        epoch: Epoch,
        how: Settled,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.answer()?;
            self.inner.settle(id, epoch, how, now).await?;
            self.tap.at(Step::AfterSettle).await;
            self.tap.answer(Step::AfterSettle)
        })
    }

    fn retry<'a>(&'a self, id: &'a EffectId, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.inner.retry(id, now)
    }

    fn by_reference<'a>(&'a self, handler: &'a str, reference: &'a str) -> BoxFuture<'a, Result<Option<EffectId>, StoreError>> {
        self.inner.by_reference(handler, reference)
    }

    fn list(&self, filter: EffectFilter) -> BoxFuture<'_, Result<Vec<Effect>, StoreError>> {
        self.inner.list(filter)
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, StoreError>> {
        self.inner.counts()
    }
}
