//! The log: partitions with transactions as Kafka has them, and the group's offsets.
//!
//! A transaction is decided by its coordinator and becomes visible partition by partition, when the marker is written there; the
//! group's offsets are one of those places. So a reader can see the committed offset before the decisions. Markers take offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stockwarden::events::record::{NewRecord, Offset, Partition, Position, RecordBatch, Topic};
use stockwarden::ports::LogError;
use stockwarden::ports::event_log::PartitionReader;

use super::rng::Rng;

pub const PARTITIONS: Partition = 2;
pub type TxnId = usize;
pub type Place = (Topic, Partition);

struct Stored {
    txn: Option<TxnId>,
    /// None: a marker.
    record: Option<NewRecord>,
    time: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    /// Decided; markers are being written.
    Ending {
        commit: bool,
    },
    Ended {
        commit: bool,
    },
}

pub struct Txn {
    pub producer: usize,
    epoch: u32,
    pub state: State,
    pub offsets: BTreeMap<Partition, Offset>,
    offsets_unmarked: bool,
    unmarked: BTreeSet<Place>,
}

/// A newer producer of the same id exists, or the broker has ended the transaction itself.
#[derive(Debug)]
pub struct ProducerFenced;

#[derive(Default)]
pub struct Log {
    places: BTreeMap<Place, Vec<Stored>>,
    pub txns: Vec<Txn>,
    producers: BTreeMap<usize, u32>,
    committed: BTreeMap<Partition, Offset>,
    /// Whether the group's offset ever went back; DESIGN §7.5.
    pub went_back: Option<String>,
    pub now: i64,
}

impl Log {
    pub fn append(&mut self, partition: Partition, record: NewRecord) -> Offset {
        let time = self.now;
        let place = self.places.entry((record.topic, partition)).or_default();
        place.push(Stored { txn: None, record: Some(record), time });
        place.len() as Offset - 1
    }

    pub fn end(&self, place: Place) -> Offset {
        self.places.get(&place).map_or(0, |p| p.len() as Offset)
    }

    /// A producer of this id; ends what a former one has left open, and fences it.
    pub fn init(&mut self, producer: usize) -> u32 {
        let open: Vec<TxnId> = self
            .txns
            .iter()
            .enumerate()
            .filter(|(_, t)| t.producer == producer && t.state == State::Open)
            .map(|(i, _)| i)
            .collect();
        for txn in open {
            self.decide(txn, false);
        }
        let epoch = self.producers.entry(producer).or_default();
        *epoch += 1;
        *epoch
    }

    pub fn has_open(&self, producer: usize) -> bool {
        self.txns.iter().any(|t| t.producer == producer && t.state == State::Open)
    }

    pub fn is_settled(&self, producer: usize) -> bool {
        self.txns.iter().all(|t| t.producer != producer || matches!(t.state, State::Ended { .. }))
    }

    pub fn begin(&mut self, producer: usize, epoch: u32) -> TxnId {
        self.txns.push(Txn {
            producer,
            epoch,
            state: State::Open,
            offsets: BTreeMap::new(),
            offsets_unmarked: false,
            unmarked: BTreeSet::new(),
        });
        self.txns.len() - 1
    }

    fn check(&self, txn: TxnId) -> Result<(), ProducerFenced> {
        let t = &self.txns[txn];
        let current = self.producers.get(&t.producer).copied().unwrap_or_default();
        if t.epoch == current && t.state == State::Open { Ok(()) } else { Err(ProducerFenced) }
    }

    pub fn add_offsets(&mut self, txn: TxnId, offsets: &BTreeMap<Partition, Offset>) -> Result<(), ProducerFenced> {
        self.check(txn)?;
        self.txns[txn].offsets = offsets.clone();
        self.txns[txn].offsets_unmarked = true;
        Ok(())
    }

    pub fn write(&mut self, txn: TxnId, partition: Partition, record: NewRecord) -> Result<Position, ProducerFenced> {
        self.check(txn)?;
        let place = (record.topic, partition);
        self.txns[txn].unmarked.insert(place);
        let time = self.now;
        let stored = self.places.entry(place).or_default();
        stored.push(Stored { txn: Some(txn), record: Some(record), time });
        Ok(Position { partition, offset: stored.len() as Offset - 1 })
    }

    pub fn end_txn(&mut self, txn: TxnId, commit: bool) -> Result<(), ProducerFenced> {
        self.check(txn)?;
        self.decide(txn, commit);
        Ok(())
    }

    /// The broker's own end of a transaction that takes too long.
    pub fn time_out(&mut self, txn: TxnId) {
        if self.txns[txn].state == State::Open {
            self.decide(txn, false);
            *self.producers.entry(self.txns[txn].producer).or_default() += 1;
        }
    }

    fn decide(&mut self, txn: TxnId, commit: bool) {
        let t = &mut self.txns[txn];
        let nothing = !t.offsets_unmarked && t.unmarked.is_empty();
        t.state = if nothing { State::Ended { commit } } else { State::Ending { commit } };
    }

    /// Writes one marker of a transaction that is decided; what it did, for the trace.
    pub fn mark_one(&mut self, rng: &mut Rng, calm: bool) -> Option<String> {
        let ending: Vec<TxnId> = (0..self.txns.len()).filter(|t| matches!(self.txns[*t].state, State::Ending { .. })).collect();
        let txn = *rng.pick(&ending)?;
        let State::Ending { commit } = self.txns[txn].state else { return None };
        let mut places: Vec<Option<Place>> = self.txns[txn].unmarked.iter().copied().map(Some).collect();
        places.extend(self.txns[txn].offsets_unmarked.then_some(None));
        let place = *rng.pick(&places)?;
        // Records wait longer for theirs, so that the group's offset is often seen first.
        if place.is_some() && !calm && !rng.one_in(5) {
            return None;
        }
        let time = self.now;
        match place {
            Some(place) => {
                self.txns[txn].unmarked.remove(&place);
                self.places.entry(place).or_default().push(Stored { txn: Some(txn), record: None, time });
            }
            None => {
                self.txns[txn].offsets_unmarked = false;
                if commit {
                    for (partition, offset) in self.txns[txn].offsets.clone() {
                        let before = self.committed.insert(partition, offset);
                        if before.is_some_and(|b| b > offset) {
                            self.went_back = Some(format!("partition {partition}: committed {before:?}, then {offset}"));
                        }
                    }
                }
            }
        }
        let t = &mut self.txns[txn];
        if t.unmarked.is_empty() && !t.offsets_unmarked {
            t.state = State::Ended { commit };
        }
        Some(format!("marker of t{txn} ({}) at {place:?}", if commit { "commit" } else { "abort" }))
    }

    fn is_visible(&self, stored: &Stored) -> bool {
        let commit = |t: TxnId| matches!(self.txns[t].state, State::Ending { commit: true } | State::Ended { commit: true });
        stored.record.is_some() && stored.txn.is_none_or(commit)
    }

    /// Offset before which everything is decided and marked.
    pub fn last_stable(&self, place: Place) -> Offset {
        let stored = self.places.get(&place).map(Vec::as_slice).unwrap_or_default();
        stored.iter().position(|s| s.txn.is_some_and(|t| self.txns[t].unmarked.contains(&place))).unwrap_or(stored.len())
            as Offset
    }

    /// What a read_committed reader gets, `most` entries at a time: none once `from` has reached `until`.
    pub fn read(&self, place: Place, from: Offset, until: Offset, most: usize) -> Result<Option<RecordBatch>, LogError> {
        if from >= until {
            return Ok(None);
        }
        let end = until.min(self.last_stable(place)).min(from.saturating_add(most as Offset));
        if from >= end {
            return Err(LogError::Unavailable { during: "reading".into(), reason: "not stable yet".into() });
        }
        let mut batch = RecordBatch::new(place.1, from);
        for (stored, offset) in self.places[&place][from as usize..end as usize].iter().zip(from..) {
            self.push(&mut batch, stored, offset);
        }
        batch.next_offset = end;
        Ok(Some(batch))
    }

    /// Everything that is committed, marked or not, as one batch: what a reader will have got in the end.
    pub fn read_all(&self, place: Place) -> RecordBatch {
        let mut batch = RecordBatch::new(place.1, 0);
        for (stored, offset) in self.places.get(&place).map(Vec::as_slice).unwrap_or_default().iter().zip(0..) {
            self.push(&mut batch, stored, offset);
        }
        batch.next_offset = self.end(place);
        batch
    }

    fn push(&self, batch: &mut RecordBatch, stored: &Stored, offset: Offset) {
        if let Some(record) = stored.record.as_ref().filter(|_| self.is_visible(stored)) {
            let headers = record.headers.iter().map(|(n, v)| (*n, v.as_slice()));
            batch.push(offset, stored.time, record.key.as_deref(), record.value.as_deref(), headers);
        }
    }

    /// The group's stable committed offset; none yet while a transaction with an offset of it is undecided or unmarked.
    pub fn stable_committed(&self, partition: Partition) -> Option<Option<Offset>> {
        let pending = self.txns.iter().any(|t| t.offsets_unmarked && t.offsets.contains_key(&partition));
        (!pending).then(|| self.committed(partition))
    }

    /// Whether a committed offset is to be seen whose decisions are not.
    pub fn shows_offset_first(&self, partition: Partition) -> bool {
        let place = (Topic::Decisions, partition);
        self.txns.iter().any(|t| t.offsets.contains_key(&partition) && !t.offsets_unmarked && t.unmarked.contains(&place))
    }

    /// Without regard to what is under way.
    pub fn committed(&self, partition: Partition) -> Option<Offset> {
        self.committed.get(&partition).copied()
    }

    /// What is sure to be committed, marked or not.
    pub fn decided(&self, partition: Partition) -> Offset {
        let ending = self.txns.iter().filter(|t| t.state == State::Ending { commit: true });
        let offsets = ending.filter_map(|t| t.offsets.get(&partition).copied());
        offsets.chain(self.committed(partition)).max().unwrap_or(0)
    }
}

pub type SharedLog = Arc<Mutex<Log>>;

/// A reader for the real merge of recorded decisions. Where the real one would wait it says that it is unavailable, and the step
/// is taken again later.
pub struct Reader {
    pub log: SharedLog,
    pub place: Place,
    pub position: Offset,
    pub most: usize,
}

impl PartitionReader for Reader {
    fn next(&mut self, until: Offset, _: Duration) -> Result<Option<RecordBatch>, LogError> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = log.read(self.place, self.position, until, self.most)?;
        if let Some(batch) = &batch {
            self.position = batch.next_offset;
        }
        Ok(batch)
    }

    fn position(&self) -> Offset {
        self.position
    }
}
