//! The way to the writer. Appends are bounded by bytes; group members and probes are not, because each of them waits for
//! its answer and so has at most one request here: ingest cannot shut out the commits that let it go on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::frame::Draft;
use super::group::Membership;
use super::state::lock;
use crate::events::record::Offset;

/// Bytes that may wait.
pub const LIMIT: usize = 64 << 20;
/// What one fsync should cover at most, so that a full queue still gives answers steadily.
const BATCH: usize = 8 << 20;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Full,
    NotWritten(String),
    /// It may or may not come to be durable. What [`Work::Settle`] shows later is the truth.
    Unknown(String),
    Fenced,
}

/// First offset of each run.
pub type Outcome = Result<Vec<Offset>, Failure>;

pub enum Work {
    Append(Draft),
    /// On behalf of a group's member; refused once it has left.
    Commit(Draft, Arc<Membership>),
    /// Nothing to write: answered once the outcome of all before it is certain.
    Settle,
    /// Nothing to write either, but after a failed write it tries whether writing works again.
    Probe,
}

pub struct Request {
    pub work: Work,
    /// Lets a waiter withdraw what the writer has not begun.
    claim: Arc<AtomicU8>,
    done: Box<dyn FnOnce(Outcome) + Send>,
}

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Request {
    pub fn new(work: Work, done: impl FnOnce(Outcome) + Send + 'static) -> Request {
        Request { work, claim: Arc::default(), done: Box::new(done) }
    }

    pub fn answer(self, outcome: Outcome) {
        (self.done)(outcome);
    }

    fn bytes(&self) -> usize {
        match &self.work {
            Work::Append(d) | Work::Commit(d, _) => d.bytes.len(),
            Work::Settle | Work::Probe => 0,
        }
    }
}

#[derive(Default)]
pub struct Queue {
    inside: Mutex<Inside>,
    ready: Condvar,
}

#[derive(Default)]
struct Inside {
    requests: VecDeque<Request>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// All or none of `requests`; there is room if there is any.
    pub fn append(&self, requests: Vec<Request>) -> Result<(), Failure> {
        let mut inside = lock(&self.inside);
        if inside.bytes >= LIMIT {
            return Err(Failure::Full);
        }
        self.push(&mut inside, requests)
    }

    fn push(&self, inside: &mut Inside, requests: Vec<Request>) -> Result<(), Failure> {
        if inside.closed {
            return Err(Failure::NotWritten("the log is closed".into()));
        }
        inside.bytes += requests.iter().map(Request::bytes).sum::<usize>();
        inside.requests.extend(requests);
        self.ready.notify_one();
        Ok(())
    }

    /// Hands in `work` and waits for its answer, never past `deadline`.
    pub fn settle(&self, work: Work, deadline: Duration) -> Outcome {
        let (tx, rx) = mpsc::sync_channel(1);
        let request = Request::new(work, move |outcome| {
            let _gone_is_fine = tx.send(outcome);
        });
        let claim = request.claim.clone();
        self.push(&mut lock(&self.inside), vec![request])?;
        match rx.recv_timeout(deadline) {
            Ok(outcome) => outcome,
            Err(_) if claim.compare_exchange(WAITING, WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst).is_ok() => {
                Err(Failure::NotWritten(format!("the disk did not take it within {deadline:?}")))
            }
            Err(_) => Err(Failure::Unknown(format!("the disk did not answer within {deadline:?}"))),
        }
    }

    /// The next requests, blocking until there are some; none when the log is closed and all is done.
    pub fn take(&self) -> Option<Vec<Request>> {
        let idle = |i: &mut Inside| i.requests.is_empty() && !i.closed;
        let mut inside = self.ready.wait_while(lock(&self.inside), idle).unwrap_or_else(PoisonError::into_inner);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = inside.requests.front() {
            if bytes > 0 && bytes + next.bytes() > BATCH {
                break;
            }
            let next = inside.requests.pop_front().expect("just seen");
            bytes += next.bytes();
            if next.claim.compare_exchange(WAITING, TAKEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                taken.push(next);
            }
        }
        inside.bytes -= bytes;
        (!taken.is_empty() || !inside.closed || !inside.requests.is_empty()).then_some(taken)
    }

    /// Closes, and drops what waits: its waiters are told.
    pub fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut lock(&self.inside).requests);
        drop(dropped);
    }

    pub fn close(&self) {
        lock(&self.inside).closed = true;
        self.ready.notify_one();
    }
}
