//! What happens by the wall clock: ticks, which the owner of a partition writes into it, so that state depends on the log alone
//! (DESIGN §2, §10); and a look at how far behind the node is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;

use super::settings::WallClock;
use super::stats::EngineStats;
use super::table::{Phase, ShardRef, ShardTable};
use crate::events::fact::{self, FactType, header};
use crate::events::ids::CLOCK_KEY;
use crate::events::record::{NewRecord, Partition, Topic};
use crate::events::time;
use crate::ports::EventLog;

pub struct Clock {
    pub log: Arc<dyn EventLog>,
    pub table: Arc<ShardTable>,
    pub interval: Duration,
    pub clock: WallClock,
    pub runtime: tokio::runtime::Handle,
    pub stats: Arc<EngineStats>,
    /// A look at the lag is under way.
    pub looking: Arc<AtomicBool>,
}

const LOOK_AT_LAG: Duration = Duration::from_secs(1);

impl Actor for Clock {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1);
        ctx.run_interval(self.interval, |clock, _| clock.tick());
        ctx.run_interval(LOOK_AT_LAG, |clock, _| clock.look_at_lag());
    }
}

impl Clock {
    fn look_at_lag(&self) {
        if self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (log, stats, looking) = (self.log.clone(), self.stats.clone(), self.looking.clone());
        let shards = self.table.all();
        self.runtime.spawn_blocking(move || {
            let behind = |s: &Arc<ShardRef>| {
                // A log that does not answer is told by readiness.
                let (_, end) = log.watermarks(Topic::Facts, s.partition).ok()?;
                Some((end - *s.applied.borrow()).max(0))
            };
            stats.lag.set(shards.iter().filter_map(behind).sum());
            looking.store(false, Ordering::Release);
        });
    }

    fn tick(&self) {
        let at = time::format((self.clock)());
        let live = self.table.all().into_iter().filter(|s| *s.phase.borrow() == Phase::Live);
        let records: Vec<_> = live.map(|s| tick_record(s.partition, &at)).collect();
        if records.is_empty() {
            return;
        }
        let log = self.log.clone();
        self.runtime.spawn(async move {
            if let Err(e) = log.append(records).await {
                // The next one makes up for it.
                tracing::warn!(error = %e, "a tick is not written");
            }
        });
    }
}

fn tick_record(partition: Partition, at: &str) -> NewRecord {
    NewRecord {
        topic: Topic::Facts,
        partition: Some(partition),
        key: Some(CLOCK_KEY.to_vec()),
        headers: vec![
            (header::FACT, FactType::Tick.as_str().as_bytes().to_vec()),
            (header::VERSION, fact::VERSION.to_string().into_bytes()),
            (header::SOURCE, b"clock".to_vec()),
            (header::EVENT_TIME, at.as_bytes().to_vec()),
        ],
        value: Some(format!("{{\"at\":\"{at}\"}}").into_bytes()),
    }
}
