//! Plain appends: one idempotent producer, whose delivery reports complete a call's future. No task, and one small
//! allocation, a record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::settings::{APPEND_TIMEOUT_MS, KafkaSettings, Role};
use super::{client, errors};
use crate::events::record::{NewRecord, Position};
use crate::ports::event_log::LogError;

const DURING: &str = "appending";

type Appended = Result<Vec<Position>, LogError>;

pub(super) struct Appender {
    settings: Arc<KafkaSettings>,
    live: Mutex<Arc<Live>>,
}

struct Live {
    producer: ThreadedProducer<Deliveries>,
    /// Set when librdkafka declared it dead or did not write in time; the next append opens another. An idempotent producer that met
    /// a broker's restart with records under way can wait for its sequence to be mended for minutes, and time out all that comes.
    spent: Arc<AtomicBool>,
}

impl Appender {
    pub(super) fn open(settings: Arc<KafkaSettings>) -> Result<Self, LogError> {
        let live = Mutex::new(Arc::new(Live::open(&settings)?));
        Ok(Appender { settings, live })
    }

    pub(super) async fn append(&self, records: Vec<NewRecord>) -> Appended {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        refuse(&self.settings, &records)?;
        let reports = self.send(&records)?;
        drop(records);
        reports.await.unwrap_or_else(|_| Err(errors::unavailable(DURING, "the producer was closed")))
    }

    fn send(&self, records: &[NewRecord]) -> Result<oneshot::Receiver<Appended>, LogError> {
        let live = self.live()?;
        let (call, reports) = Call::new(records.len());
        for (index, record) in records.iter().enumerate() {
            let mark = Box::new(Mark { call: call.clone(), index });
            live.producer.send(to_base(&self.settings, record, mark)).map_err(|(e, _)| {
                if is_spent(&e) {
                    live.spent.store(true, Ordering::Release);
                }
                refused(&e, size(record))
            })?;
        }
        Ok(reports)
    }

    fn live(&self) -> Result<Arc<Live>, LogError> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.spent.load(Ordering::Acquire) {
            tracing::warn!("the producer gave up, or did not write in time, and is opened anew");
            let spent = std::mem::replace(&mut *live, Arc::new(Live::open(&self.settings)?));
            // What it still has may yet be written; nobody here waits for that.
            let retire = move || drop(spent.producer.flush(Duration::from_millis(APPEND_TIMEOUT_MS.into())));
            let _ = std::thread::Builder::new().name("kafka-retired".into()).spawn(retire);
        }
        Ok(live.clone())
    }
}

impl Live {
    fn open(settings: &KafkaSettings) -> Result<Self, LogError> {
        let spent = Arc::new(AtomicBool::new(false));
        let producer = settings.create(&Role::Append, |c| c.create_with_context(Deliveries { spent: spent.clone() }))?;
        Ok(Live { producer, spent })
    }
}

fn is_spent(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::Fatal | Code::MessageTimedOut))
}

/// Refuses what the broker would refuse, before any record of the call is written. A partition of -1 it would not even
/// refuse: that means any.
pub(super) fn refuse(settings: &KafkaSettings, records: &[NewRecord]) -> Result<(), LogError> {
    let limit = settings.max_record_bytes;
    for record in records {
        let size = size(record);
        if size > limit {
            return Err(LogError::Refused { size, reason: format!("max_record_bytes is {limit}") });
        }
        if let Some(partition) = record.partition.filter(|p| !(0..settings.partitions).contains(p)) {
            let reason = format!("there is no partition {partition}; there are {}", settings.partitions);
            return Err(LogError::Refused { size, reason });
        }
    }
    Ok(())
}

/// Key, value and headers, as `max_record_bytes` counts them.
fn size(record: &NewRecord) -> usize {
    let bytes = |b: &Option<Vec<u8>>| b.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    bytes(&record.key) + bytes(&record.value) + headers
}

pub(super) fn to_base<'a, D: rdkafka::util::IntoOpaque>(
    settings: &'a KafkaSettings,
    record: &'a NewRecord,
    mark: D,
) -> BaseRecord<'a, [u8], [u8], D> {
    let mut base = BaseRecord::with_opaque_to(settings.topics.of(record.topic), mark);
    base.partition = record.partition;
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: Some(value.as_slice()) });
        }
        base.headers = Some(headers);
    }
    base
}

fn refused(error: &KafkaError, size: usize) -> LogError {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize | Code::InvalidRecord) => {
            LogError::Refused { size, reason: error.to_string() }
        }
        _ => errors::map(DURING, error),
    }
}

/// One call of `append`, shared by the marks of its records.
struct Call {
    state: Mutex<CallState>,
}

struct CallState {
    positions: Vec<Position>,
    left: usize,
    failed: Option<LogError>,
    done: Option<oneshot::Sender<Appended>>,
}

impl Call {
    fn new(records: usize) -> (Arc<Call>, oneshot::Receiver<Appended>) {
        let (done, reports) = oneshot::channel();
        let unknown = Position { partition: -1, offset: -1 };
        let state = CallState { positions: vec![unknown; records], left: records, failed: None, done: Some(done) };
        (Arc::new(Call { state: Mutex::new(state) }), reports)
    }

    fn report(&self, index: usize, result: Result<Position, LogError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.left -= 1;
        match result {
            Ok(position) => state.positions[index] = position,
            Err(error) => state.failed = state.failed.take().or(Some(error)),
        }
        if state.left == 0
            && let Some(done) = state.done.take()
        {
            let result = match state.failed.take() {
                Some(error) => Err(error),
                None => Ok(std::mem::take(&mut state.positions)),
            };
            // Who asked may have gone away.
            let _ = done.send(result);
        }
    }
}

struct Mark {
    call: Arc<Call>,
    index: usize,
}

struct Deliveries {
    spent: Arc<AtomicBool>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if is_spent(&error) {
            self.spent.store(true, Ordering::Release);
        }
        tracing::debug!(target: "kafka", %error, reason, "producer error");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Mark>;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: Box<Mark>) {
        let outcome = match result {
            Ok(m) => Ok(Position { partition: m.partition(), offset: m.offset() }),
            Err((error, m)) => {
                if is_spent(error) {
                    self.spent.store(true, Ordering::Release);
                }
                Err(refused(error, m.payload_len() + m.key_len()))
            }
        };
        mark.call.report(mark.index, outcome);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Reports of what is still in flight must reach their calls; a purged record counts as failed.
        let _ = self.producer.flush(Duration::from_millis(200));
    }
}
