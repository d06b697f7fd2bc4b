//! A streamed read of very many rows: at no time are more than a few blocks of them in memory, and a server that falls
//! silent ends the stream with an error.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use tokio::sync::mpsc;

use super::PostgresStore;
use crate::adapters::sql::Fault;
use crate::ports::snapshot_store::StoreError;

/// Silence of the server within a stream after which it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Rows passed on together, and such blocks on their way at most.
const BLOCK: usize = 256;
const BLOCKS: usize = 4;

type Statement = Query<'static, Postgres, PgArguments>;

impl PostgresStore {
    /// Streams a statement's rows. They are read by a task of their own, which ends when the stream is dropped; its
    /// connection is then closed, for the rest of the rows would still come.
    pub(super) fn stream<T: Send + 'static>(
        &self,
        during: &'static str,
        statement: Statement,
        read: fn(&PgRow) -> Result<T, Fault>,
    ) -> BoxStream<'static, Result<T, StoreError>> {
        let store = self.clone();
        let start = async move {
            let (to, from) = mpsc::channel(BLOCKS);
            tokio::spawn(async move {
                if let Err(e) = store.send_rows(during, statement, read, &to).await {
                    // Nobody is left to be told if this fails.
                    let _ = to.send(Err(e)).await;
                }
            });
            stream::unfold(from, |mut from| async move { from.recv().await.map(|block| (block, from)) })
        };
        stream::once(start)
            .flatten()
            .flat_map(|block: Result<Vec<T>, StoreError>| match block {
                Ok(rows) => stream::iter(rows).map(Ok).left_stream(),
                Err(e) => stream::once(std::future::ready(Err(e))).right_stream(),
            })
            .boxed()
    }

    async fn send_rows<T>(
        &self,
        during: &'static str,
        statement: Statement,
        read: fn(&PgRow) -> Result<T, Fault>,
        to: &mpsc::Sender<Result<Vec<T>, StoreError>>,
    ) -> Result<(), StoreError> {
        let mut lease = self.lease(during).await?;
        let mut rows = statement.fetch(lease.connection());
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            let row = super::within(during, SILENCE, async { Ok(rows.next().await.transpose()?) }).await?;
            let Some(row) = row else { break };
            block.push(read(&row).map_err(|f| f.during(during))?);
            if block.len() == BLOCK {
                let full = std::mem::replace(&mut block, Vec::with_capacity(BLOCK));
                if to.send(Ok(full)).await.is_err() {
                    return Ok(());
                }
            }
        }
        drop(rows);
        let _ = to.send(Ok(block)).await;
        lease.end(Ok(()))
    }
}
