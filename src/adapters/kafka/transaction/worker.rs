//! One transactional producer and its thread.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

use super::super::producer::to_base;
use super::super::settings::{KafkaSettings, Role};
use super::super::{client, errors};
use super::{Failure, GroupOffsets};
use crate::events::record::{NewRecord, Position};
use crate::ports::event_log::LogError;

/// Between two looks for delivery reports. rdkafka's own timed poll stays until its time is over even when all is delivered
/// (PITFALLS 26), and spins through its last millisecond.
const STEP: Duration = Duration::from_millis(1);
const IDLE: Duration = Duration::from_secs(1);

/// How far a job has come, so that a caller who gives up knows what can have happened.
mod stage {
    pub(super) const WORKING: u8 = 0;
    /// The broker may have been told to commit.
    pub(super) const COMMITTING: u8 = 1;
    /// The caller is gone; nothing may be committed any more.
    pub(super) const ABANDONED: u8 = 2;
}

pub(super) struct Job {
    records: Vec<NewRecord>,
    offsets: Option<GroupOffsets>,
    /// To have committed, and to have aborted what did not commit.
    deadline: Instant,
    last: Instant,
    stage: Arc<AtomicU8>,
}

impl Job {
    pub(super) fn new(records: Vec<NewRecord>, offsets: Option<GroupOffsets>, deadline: Instant, last: Instant) -> Self {
        Job { records, offsets, deadline, last, stage: Arc::new(AtomicU8::new(stage::WORKING)) }
    }
}

pub(super) enum Answer {
    Committed(Vec<Position>),
    /// The producer goes on.
    Failed(Failure),
    /// The producer is of no use any more.
    Broken(Failure),
    /// The broker knows a newer producer of this id. Nothing was committed.
    Fenced(String),
}

/// Dropping it ends the thread, now or when the call it hangs in returns.
pub(super) struct Worker {
    jobs: mpsc::Sender<(Job, mpsc::Sender<Answer>)>,
}

impl Worker {
    pub(super) fn open(settings: &Arc<KafkaSettings>, id: &str, patience: Duration) -> Result<Worker, LogError> {
        let during = format!("opening the transactional producer {id}");
        let (jobs, queue) = mpsc::channel();
        let (opened, open) = mpsc::channel();
        let (settings, role) = (settings.clone(), Role::Transactional { id: id.to_owned() });
        let deadline = Instant::now() + patience;
        let life = move || match begin(&settings, &role, deadline) {
            Ok(producer) => {
                if opened.send(Ok(())).is_ok() {
                    serve(&settings, &producer, &queue);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let spawned = std::thread::Builder::new().name("kafka-transactions".into()).spawn(life);
        spawned.map_err(|e| errors::unavailable(&during, e.to_string()))?;
        match open.recv_timeout(patience + ABANDON) {
            Ok(Ok(())) => Ok(Worker { jobs }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(errors::unavailable(&during, format!("no answer within {patience:?}"))),
        }
    }

    pub(super) fn run(&self, job: Job) -> Answer {
        let (last, stage) = (job.last, job.stage.clone());
        let (reply, answer) = mpsc::channel();
        if self.jobs.send((job, reply)).is_err() {
            return Answer::Broken(Failure::Aborted("the producer's thread has ended".into()));
        }
        let patience = last.saturating_duration_since(Instant::now()) + ABANDON;
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(_) => {
                let now = stage.compare_exchange(stage::WORKING, stage::ABANDONED, Ordering::AcqRel, Ordering::Acquire);
                Answer::Broken(match now {
                    Ok(_) => Failure::Aborted("a call did not return in time; nothing had been committed".into()),
                    Err(_) => Failure::Unknown("the commit did not return in time".into()),
                })
            }
        }
    }
}

/// Grace past a deadline that librdkafka was told, before it is given up.
const ABANDON: Duration = Duration::from_millis(500);

fn begin(settings: &KafkaSettings, role: &Role, deadline: Instant) -> Result<BaseProducer<Reports>, LogError> {
    let producer: BaseProducer<Reports> = settings.create(role, |c| c.create_with_context(Reports::default()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match producer.init_transactions(left.max(STEP)) {
            Ok(()) => return Ok(producer),
            Err(KafkaError::Transaction(e)) if e.is_retriable() && !left.is_zero() => {}
            Err(e) => {
                let during = format!("opening a transactional producer on Kafka at {}", settings.bootstrap_servers);
                return Err(errors::map(&during, &e));
            }
        }
    }
}

fn serve(settings: &KafkaSettings, producer: &BaseProducer<Reports>, jobs: &mpsc::Receiver<(Job, mpsc::Sender<Answer>)>) {
    loop {
        match jobs.recv_timeout(IDLE) {
            Ok((job, reply)) => {
                let answer = Transaction { settings, producer, job: &job }.run();
                let broken = matches!(answer, Answer::Broken(_) | Answer::Fenced(_));
                if reply.send(answer).is_err() || broken {
                    return;
                }
            }
            // Log lines and errors queue up until somebody polls.
            Err(mpsc::RecvTimeoutError::Timeout) => take_events(producer),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Serves what is there; each poll takes one event.
fn take_events(producer: &BaseProducer<Reports>) {
    (0..64).for_each(|_| producer.poll(Duration::ZERO));
}

fn wait_for_events(producer: &BaseProducer<Reports>) {
    std::thread::sleep(STEP);
    take_events(producer);
}

struct Transaction<'a> {
    settings: &'a KafkaSettings,
    producer: &'a BaseProducer<Reports>,
    job: &'a Job,
}

impl Transaction<'_> {
    fn run(&self) -> Answer {
        self.producer.context().begin(self.job.records.len());
        if let Err(e) = self.producer.begin_transaction() {
            return match self.abort(&e) {
                // "Nothing was begun" is no reason to keep a producer that cannot begin.
                Answer::Failed(failure) => Answer::Broken(failure),
                other => other,
            };
        }
        if let Err(e) = self.write() {
            return self.abort(&e);
        }
        let positions = match self.delivered() {
            Ok(positions) => positions,
            Err(e) => return self.abort(&e),
        };
        let stage = &self.job.stage;
        if stage.compare_exchange(stage::WORKING, stage::COMMITTING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Answer::Broken(Failure::Aborted("given up before the commit".into()));
        }
        match self.retried(|left| self.producer.commit_transaction(left)) {
            Ok(()) => Answer::Committed(positions),
            Err(e) => self.after_commit(&e),
        }
    }

    /// Offsets first: while the broker still ends the transaction before, librdkafka tries them again after
    /// `retry.backoff.ms`, but the partitions of records only after a fixed 20 ms.
    fn write(&self) -> KafkaResult<()> {
        if let Some(o) = &self.job.offsets {
            self.retried(|left| self.producer.send_offsets_to_transaction(&o.list, &o.metadata, left))?;
        }
        for (index, record) in self.job.records.iter().enumerate() {
            let mut base = to_base(self.settings, record, index);
            while let Err((error, back)) = self.producer.send(base) {
                if error.rdkafka_error_code() != Some(Code::QueueFull) || self.left().is_zero() {
                    return Err(error);
                }
                wait_for_events(self.producer);
                base = back;
            }
        }
        Ok(())
    }

    /// `flush` would sit out 100 ms (PITFALLS 26).
    fn delivered(&self) -> KafkaResult<Vec<Position>> {
        take_events(self.producer);
        while self.producer.in_flight_count() > 0 {
            if self.left().is_zero() {
                return Err(KafkaError::MessageProduction(Code::MessageTimedOut));
            }
            wait_for_events(self.producer);
        }
        self.producer.context().positions()
    }

    fn retried(&self, call: impl Fn(Duration) -> KafkaResult<()>) -> KafkaResult<()> {
        loop {
            let left = self.left();
            match call(left.max(STEP)) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !e.txn_requires_abort() && !left.is_zero() => {}
                other => return other,
            }
        }
    }

    /// Nothing was committed yet, so whatever becomes of the abort, the outcome is sure.
    fn abort(&self, cause: &KafkaError) -> Answer {
        if fatal(cause) {
            return ended(cause);
        }
        match self.end() {
            Ok(()) => Answer::Failed(kind(cause)),
            Err(e) if fatal(&e) && superseded(&e) => Answer::Fenced(e.to_string()),
            Err(e) => Answer::Broken(Failure::Aborted(format!("{cause}; and aborting failed: {e}"))),
        }
    }

    /// The commit may have reached the broker. An abort that the broker accepts proves that it did not happen: of a
    /// committed transaction it is refused.
    fn after_commit(&self, cause: &KafkaError) -> Answer {
        let abortable = matches!(cause, KafkaError::Transaction(e) if e.txn_requires_abort());
        if abortable && self.end().is_ok() {
            return Answer::Failed(kind(cause));
        }
        if superseded(cause) {
            return Answer::Fenced(cause.to_string());
        }
        Answer::Broken(Failure::Unknown(cause.to_string()))
    }

    /// Aborting waits until librdkafka has reported each purged record, and reports are served by polling only; so
    /// somebody else has to poll meanwhile.
    fn end(&self) -> KafkaResult<()> {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    wait_for_events(self.producer);
                }
            });
            let result = self.abort_transaction();
            ended.store(true, Ordering::Release);
            result
        })
    }

    fn abort_transaction(&self) -> KafkaResult<()> {
        loop {
            let left = self.job.last.saturating_duration_since(Instant::now());
            match self.producer.abort_transaction(left.max(STEP)) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !left.is_zero() => {}
                other => return other,
            }
        }
    }

    fn left(&self) -> Duration {
        self.job.deadline.saturating_duration_since(Instant::now())
    }
}

fn fatal(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(e) => e.is_fatal(),
        other => matches!(other.rdkafka_error_code(), Some(Code::Fatal | Code::Fenced)),
    }
}

fn superseded(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch))
}

fn ended(cause: &KafkaError) -> Answer {
    if superseded(cause) { Answer::Fenced(cause.to_string()) } else { Answer::Broken(Failure::Aborted(cause.to_string())) }
}

/// What an abortable error says about the membership. A stale member epoch can hit a live owner (PITFALLS 9).
fn kind(cause: &KafkaError) -> Failure {
    let text = cause.to_string();
    match cause.rdkafka_error_code() {
        Some(Code::UnknownMemberId | Code::FencedInstanceId | Code::FencedMemberEpoch) => Failure::Expelled(text),
        Some(Code::IllegalGeneration) => Failure::OldGeneration(text),
        _ => Failure::Aborted(text),
    }
}

/// Delivery reports of the transaction under way.
#[derive(Default)]
struct Reports {
    state: Mutex<(Vec<Option<Position>>, Option<KafkaError>)>,
}

impl Reports {
    fn begin(&self, records: usize) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (vec![None; records], None);
    }

    fn positions(&self) -> KafkaResult<Vec<Position>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.1 {
            Some(error) => Err(error.clone()),
            None => state.0.iter().copied().collect::<Option<_>>().ok_or(KafkaError::Canceled),
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", %error, reason, "transactional producer error");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(m) => {
                if let Some(slot) = state.0.get_mut(index) {
                    *slot = Some(Position { partition: m.partition(), offset: m.offset() });
                }
            }
            Err((error, _)) => state.1 = state.1.take().or_else(|| Some(error.clone())),
        }
    }
}
