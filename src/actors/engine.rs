//! The root: starts the tree of actors in order, and stops it in the opposite one.

use std::sync::Arc;

use actix::prelude::*;

use super::clock::Clock;
use super::commit::Commit;
use super::queries::EngineQueries;
use super::settings::EngineSettings;
use super::snapshotter::Snapshotter;
use super::stats::EngineStats;
use super::supervisor::{Ready, ShardSink, Supervisor};
use super::table::ShardTable;
use crate::events::record::Topic;
use crate::ports::event_log::{Group, GroupHandle};
use crate::ports::{EventLog, LogError, SnapshotStore};

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("a thread of the engine cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

pub struct Engine {
    pub queries: Arc<EngineQueries>,
    pub stats: Arc<EngineStats>,
    consumer: Arc<dyn GroupHandle>,
    arbiters: Vec<Arbiter>,
}

impl Engine {
    /// Joins the group and begins to work; recovery goes on after it returns. Called inside an actix system whose runtime is
    /// `runtime`. `on_fatal` is told when the process cannot go on.
    pub async fn start(
        log: Arc<dyn EventLog>,
        store: Arc<dyn SnapshotStore>,
        settings: EngineSettings,
        runtime: tokio::runtime::Handle,
        on_fatal: Box<dyn Fn(String) + Send>,
    ) -> Result<Engine, EngineError> {
        let stats = Arc::<EngineStats>::default();
        let table = Arc::<ShardTable>::default();
        let arbiters: Vec<Arbiter> = (0..settings.arbiters.max(1)).map(|_| Arbiter::new()).collect();
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        let supervisor = Supervisor::new(
            log.clone(),
            store.clone(),
            settings.clone(),
            table.clone(),
            stats.clone(),
            runtime.clone(),
            handles,
            on_fatal,
        )
        .start();
        let sink = ShardSink { supervisor: supervisor.clone(), table: table.clone(), drain_deadline: settings.drain_deadline };
        let joining = log.clone();
        let (consumer, writer) = blocking(move || {
            let consumer = joining.join(Group::Shards, Topic::Facts, Box::new(sink))?;
            let writer = joining.writer(consumer.clone())?;
            Ok((consumer, writer))
        })
        .await?;
        let commit =
            Commit::new(settings.commit_interval, log.clone(), writer, table.clone(), supervisor.clone(), stats.clone())?.start();
        let snapshotter = Snapshotter {
            store,
            table: table.clone(),
            supervisor: supervisor.clone(),
            stats: stats.clone(),
            runtime: runtime.clone(),
        }
        .start();
        supervisor.do_send(Ready { consumer: consumer.clone(), commit, snapshotter });
        Clock {
            log: log.clone(),
            table: table.clone(),
            interval: settings.tick_interval,
            clock: settings.clock,
            runtime,
            stats: stats.clone(),
            looking: Arc::default(),
        }
        .start();
        let queries = Arc::new(EngineQueries { table, stats: stats.clone(), partitions: log.partitions() });
        Ok(Engine { queries, stats, consumer, arbiters })
    }

    /// Leaves the group: shards drain, commit and snapshot (within their deadline) before this returns.
    pub async fn stop(self) {
        let consumer = self.consumer.clone();
        let left = blocking(move || {
            consumer.leave();
            Ok(())
        });
        if let Err(e) = left.await {
            tracing::warn!(error = %e, "leaving the consumer group failed");
        }
        for arbiter in self.arbiters {
            arbiter.stop();
        }
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|e| LogError::Unavailable { during: "joining the consumer group".to_owned(), reason: e.to_string() })?
}
