//! A streamed read of very many rows: at no time are more than a few blocks of them in memory, and a server that falls
//! silent ends the stream with an error.

use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use tokio::sync::mpsc;

use super::PostgresStore;
use super::copy::{self, Tuple};
use crate::adapters::sql::Fault;
use crate::ports::snapshot_store::StoreError;

/// Silence of the server within a stream after which it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Rows passed on together, and such blocks on their way at most.
const BLOCK: usize = 256;
const BLOCKS: usize = 4;

/// What is read, and how a row is.
pub(super) enum Source<T> {
    Statement(Query<'static, Postgres, PgArguments>, fn(&PgRow) -> Result<T, Fault>),
    /// A `copy … to stdout (format binary)`: a third of the work for us and less for the server, but it takes no parameters.
    Copy(String, fn(&mut Tuple<'_>) -> Result<T, Fault>),
}

impl PostgresStore {
    /// Streams rows. They are read by a task of their own, which ends when the stream is dropped; its connection is then closed,
    /// for the rest of the rows would still come.
    pub(super) fn stream<T: Send + 'static>(
        &self,
        during: &'static str,
        source: Source<T>,
    ) -> BoxStream<'static, Result<T, StoreError>> {
        let store = self.clone();
        let start = async move {
            let (to, from) = mpsc::channel(BLOCKS);
            tokio::spawn(async move {
                if let Err(e) = store.send_rows(during, source, &to).await {
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
        source: Source<T>,
        to: &mpsc::Sender<Result<Vec<T>, StoreError>>,
    ) -> Result<(), StoreError> {
        let mut lease = self.lease(during).await?;
        let is_done = match source {
            Source::Statement(statement, read) => {
                let rows = statement.fetch(lease.connection());
                pump(during, rows.map(|row| read(&row?).map(Some)), to).await?
            }
            Source::Copy(statement, read) => {
                let start = async { Ok(lease.connection().copy_out_raw(&statement).await?) };
                let messages = super::within(during, SILENCE, start).await?;
                let rows = messages.map(|message| copy::tuple(&message?)?.map(|mut tuple| read(&mut tuple)).transpose());
                pump(during, rows, to).await?
            }
        };
        if is_done { lease.end(Ok(())) } else { Ok(()) }
    }
}

/// Passes rows on, block by block; whether all were.
async fn pump<T>(
    during: &'static str,
    rows: impl Stream<Item = Result<Option<T>, Fault>>,
    to: &mpsc::Sender<Result<Vec<T>, StoreError>>,
) -> Result<bool, StoreError> {
    let mut blocks = std::pin::pin!(rows.ready_chunks(BLOCK));
    loop {
        let Some(block) = super::within(during, SILENCE, async { Ok(blocks.next().await) }).await? else { return Ok(true) };
        let mut rows = Vec::with_capacity(block.len());
        for row in block {
            rows.extend(row.map_err(|f| f.during(during))?);
        }
        if to.send(Ok(rows)).await.is_err() {
            return Ok(false);
        }
    }
}
