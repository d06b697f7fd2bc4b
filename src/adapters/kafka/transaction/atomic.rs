//! Appends that are all seen or none: transactions without offsets, one after another on a thread that the first starts.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use futures::channel::oneshot;

use super::super::errors;
use super::super::producer::refuse;
use super::super::settings::KafkaSettings;
use super::{Failure, Transactor};
use crate::events::record::{NewRecord, Position};
use crate::ports::event_log::LogError;

const DURING: &str = "appending in a transaction";
/// Calls that may wait; rare acts of administration.
const WAITING: usize = 64;

type Appended = Result<Vec<Position>, LogError>;
type Request = (Vec<NewRecord>, oneshot::Sender<Appended>);

pub(in super::super) struct AtomicAppender {
    settings: Arc<KafkaSettings>,
    requests: Mutex<Option<mpsc::SyncSender<Request>>>,
}

impl AtomicAppender {
    pub(in super::super) fn new(settings: Arc<KafkaSettings>) -> Self {
        AtomicAppender { settings, requests: Mutex::default() }
    }

    pub(in super::super) async fn append(&self, records: Vec<NewRecord>) -> Appended {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        refuse(&self.settings, &records)?;
        let (reply, answer) = oneshot::channel();
        match self.requests()?.try_send((records, reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(errors::unavailable(DURING, "its thread has ended"))),
            Err(mpsc::TrySendError::Full(_)) => Err(LogError::QueueFull),
            Err(mpsc::TrySendError::Disconnected(_)) => {
                self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(errors::unavailable(DURING, "its thread has ended"))
            }
        }
    }

    fn requests(&self) -> Result<mpsc::SyncSender<Request>, LogError> {
        let mut slot = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = &*slot {
            return Ok(requests.clone());
        }
        let (requests, queue) = mpsc::sync_channel(WAITING);
        let settings = self.settings.clone();
        std::thread::Builder::new()
            .name("kafka-atomic".into())
            .spawn(move || serve(&settings, &queue))
            .map_err(|e| errors::unavailable(DURING, e.to_string()))?;
        *slot = Some(requests.clone());
        Ok(requests)
    }
}

fn serve(settings: &Arc<KafkaSettings>, queue: &mpsc::Receiver<Request>) {
    // An id of this process alone: two commands that run at the same time do not fence each other. What a killed one left open
    // ends at its timeout.
    let id = format!("{}-{}-admin-{}", settings.group_id, settings.node_name, uuid::Uuid::new_v4().simple());
    let mut open: Option<Transactor> = None;
    while let Ok((records, reply)) = queue.recv() {
        let result = match open.take().map_or_else(|| Transactor::open(settings.clone(), id.clone()), Ok) {
            Err(error) => Err(error),
            Ok(mut transactor) => match transactor.commit(&records, None) {
                Ok(positions) => {
                    open = Some(transactor);
                    Ok(positions)
                }
                // No ownership is at stake: the next call opens the id anew.
                Err(Failure::Superseded(why)) => Err(errors::unavailable(DURING, why)),
                Err(Failure::Unknown(why)) => {
                    open = Some(transactor);
                    Err(errors::unavailable(DURING, format!("it is unknown whether it was written: {why}")))
                }
                Err(Failure::Aborted(why) | Failure::OldGeneration(why) | Failure::Expelled(why)) => {
                    open = Some(transactor);
                    Err(errors::unavailable(DURING, why))
                }
            },
        };
        // Who asked may have gone away.
        let _ = reply.send(result);
    }
}
