//! Reading topics outside of any group. All of it blocks.

use std::time::{Duration, Instant};

use super::AdminError;
use crate::events::record::{Offset, Partition, RecordRef, Topic};
use crate::ports::{EventLog, LogError};

/// How long a reader may stand still before the log counts as away.
const PATIENCE: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(500);

/// Records read at first when looking backwards; each further step is twice as large.
const FIRST_LOOK: Offset = 1_000;

pub struct Found<T> {
    pub append_time_ms: i64,
    pub value: T,
}

/// Hands every committed record of `[from, until)` to `visit`, which says whether to go on. Returns the offset after the last
/// one visited.
pub fn forward(
    log: &dyn EventLog,
    topic: Topic,
    partition: Partition,
    from: Offset,
    until: Offset,
    mut visit: impl FnMut(&RecordRef<'_>) -> bool,
) -> Result<Offset, AdminError> {
    if from >= until {
        return Ok(from);
    }
    let mut reader = log.reader(topic, partition, from)?;
    let mut last_step = Instant::now();
    while let Some(batch) = reader.next(until, STEP)? {
        for record in batch.iter() {
            if !visit(&record) {
                return Ok(record.offset + 1);
            }
        }
        if !batch.is_empty() {
            last_step = Instant::now();
        } else if last_step.elapsed() > PATIENCE {
            return Err(AdminError::Log(LogError::Unavailable {
                during: format!("reading {} {partition}:{}", topic.default_name(), reader.position()),
                reason: format!("no record came for {} s", PATIENCE.as_secs()),
            }));
        }
    }
    Ok(until)
}

/// The newest record that `wanted` takes, looked for from the end backwards, at most `look_back` offsets far.
pub fn newest<T>(
    log: &dyn EventLog,
    topic: Topic,
    partition: Partition,
    look_back: Option<Offset>,
    wanted: impl Fn(&RecordRef<'_>) -> Option<T>,
) -> Result<Option<Found<T>>, AdminError> {
    let (low, high) = log.watermarks(topic, partition)?;
    let floor = look_back.map_or(low, |n| low.max(high - n));
    let (mut until, mut step) = (high, FIRST_LOOK);
    while until > floor {
        let from = floor.max(until - step);
        let mut found = None;
        forward(log, topic, partition, from, until, |record| {
            if let Some(value) = wanted(record) {
                found = Some(Found { append_time_ms: record.append_time_ms, value });
            }
            true
        })?;
        if found.is_some() {
            return Ok(found);
        }
        (until, step) = (from, step * 2);
    }
    Ok(None)
}
