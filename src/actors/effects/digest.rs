//! Effects that several rows share: one request, one send, one outcome, and a fact for each row.

use crate::handlers::{Handler, Job};
use crate::ports::ledger::Effect;

use chrono::{DateTime, Utc};

/// The rows that `effect` is sent for beside its own. What cannot be read fails the whole digest before anything is sent.
pub(super) fn others(effect: &Effect) -> Result<Vec<Job>, String> {
    effect.shared_by.iter().map(Job::read).collect()
}

/// The request for all of them.
pub(super) fn prepare(handler: &dyn Handler, effect: &Effect, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
    if effect.planned.digest.is_none() {
        return handler.prepare(job, now);
    }
    let mut jobs = vec![job.clone()];
    jobs.extend(others(effect)?);
    handler.prepare_digest(&jobs, now)
}
