//! Straight into the log, past ingest: for benches, and for topics that someone else's producer would fill.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::events::record::NewRecord;
use crate::ports::{EventLog, LogError};
use crate::sim::delivery::{Delivery, Phase, RecordHeaders};

use super::report::Tally;
use super::{Counters, Pace, Report, Schedule, Stop, sleep_or_stop};

/// Records in one append. Appends follow each other, so that the log holds the deliveries in the order in which they came.
const BATCH: usize = 5_000;
/// How long an append may be refused before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Appends all deliveries. An append that failed is tried again, so that a log that was away for a moment may hold
/// some of them twice.
pub async fn to_log(
    log: &dyn EventLog,
    headers: RecordHeaders,
    deliveries: impl Iterator<Item = Delivery>,
    virtual_start: i64,
    pace: Pace,
    counters: &Counters,
    mut stop: Stop,
) -> Result<Report, LogError> {
    let mut tally = Tally::new("log".into());
    let mut schedule = Schedule::new(pace);
    let mut batch = Vec::with_capacity(BATCH);
    let mut live = false;
    for delivery in deliveries {
        if *stop.borrow() {
            tally.report.stopped = Some("interrupted".into());
            break;
        }
        if delivery.phase == Phase::Live {
            if !live {
                flush(log, &mut batch, counters, &mut tally, &mut stop).await?;
                schedule.begin_live();
                live = true;
            }
            if let Some(when) = schedule.wall(delivery.due, virtual_start) {
                let now = Instant::now();
                // Timers are exact to a millisecond; what is due within it goes along.
                if when > now + Duration::from_millis(1) {
                    flush(log, &mut batch, counters, &mut tally, &mut stop).await?;
                    if sleep_or_stop(when, &mut stop).await {
                        tally.report.stopped = Some("interrupted".into());
                        break;
                    }
                }
                tally.lateness.record(Instant::now().saturating_duration_since(when));
            }
            if schedule.is_over() {
                break;
            }
            tally.report.live += 1;
            counters.live.fetch_add(1, Ordering::Relaxed);
        } else {
            tally.report.catalogue += 1;
            counters.catalogue.fetch_add(1, Ordering::Relaxed);
        }
        batch.push(delivery.to_record(headers));
        if batch.len() == BATCH {
            flush(log, &mut batch, counters, &mut tally, &mut stop).await?;
        }
    }
    flush(log, &mut batch, counters, &mut tally, &mut stop).await?;
    Ok(tally.finish(if live { schedule.live_for() } else { Duration::ZERO }))
}

async fn flush(
    log: &dyn EventLog,
    batch: &mut Vec<NewRecord>,
    counters: &Counters,
    tally: &mut Tally,
    stop: &mut Stop,
) -> Result<(), LogError> {
    if batch.is_empty() {
        return Ok(());
    }
    let records = std::mem::take(batch);
    let count = records.len() as u64;
    let began = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        match log.append(records.clone()).await {
            Ok(_) => break,
            Err(LogError::Unavailable { .. } | LogError::QueueFull) if began.elapsed() < PATIENCE && !*stop.borrow() => {
                sleep_or_stop(Instant::now() + pause, stop).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Err(error) => return Err(error),
        }
    }
    tally.latency.record(began.elapsed());
    tally.report.accepted += count;
    counters.accepted.fetch_add(count, Ordering::Relaxed);
    Ok(())
}
