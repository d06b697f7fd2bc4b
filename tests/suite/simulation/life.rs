//! A shard's life on a node: its book-keeping mirrors src/actors/shard.

use std::collections::{BTreeMap, VecDeque};

use stockwarden::actors::protocol::{Decisions, Mode, Progress, dead_letter, records};
use stockwarden::events::decision;
use stockwarden::events::record::{NewRecord, Offset, Partition, RecordBatch};
use stockwarden::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};

use super::Broken;
use super::fold::{Fold, Made};
use super::log::Reader;

const QUEUED_BATCHES: usize = 4;

pub enum ToShard {
    Deliver(RecordBatch),
    Committed { next_offset: Offset, decisions: Option<Offset> },
    Saved(Epoch),
    Drain,
    Discard,
}

/// What a step of a shard asks others for.
pub enum Effect {
    Processed { next_offset: Offset, records: Vec<NewRecord> },
    Flush,
    Save { checkpoint: Checkpoint, snapshots: Vec<Snapshot> },
    Drained,
    Discarded,
}

pub struct Collecting {
    pub checkpoint: Checkpoint,
    snapshots: Vec<Snapshot>,
}

/// The way from the checkpoint to the committed offset.
pub struct Tail {
    pub from: Offset,
    pub until: Offset,
    pub decisions_from: Offset,
    /// None until it has begun.
    pub merge: Option<Merge>,
    /// Read, and waiting for its decisions.
    pub held: VecDeque<RecordBatch>,
}

pub struct Merge {
    pub facts: Reader,
    pub decisions: Decisions,
    /// The decisions' high watermark.
    pub high: Offset,
}

pub struct Life {
    pub partition: Partition,
    pub epoch: Epoch,
    pub fold: Fold,
    pub mode: Mode,
    pub tail: Option<Tail>,
    pub mail: VecDeque<ToShard>,
    queue: VecDeque<RecordBatch>,
    current: Option<(RecordBatch, Made)>,
    pub progress: Progress,
    pub want_snapshot: bool,
    pub collecting: Option<Collecting>,
    pub draining: bool,
    pub stopped: bool,
    pub broken: Broken,
}

impl Life {
    pub fn new(partition: Partition, epoch: Epoch, fold: Fold, tail: Tail, broken: Broken) -> Life {
        Life {
            partition,
            epoch,
            fold,
            mode: Mode::Replay,
            progress: Progress::new(tail.from, tail.decisions_from),
            tail: Some(tail),
            mail: VecDeque::new(),
            queue: VecDeque::new(),
            current: None,
            want_snapshot: false,
            collecting: None,
            draining: false,
            stopped: false,
            broken,
        }
    }

    pub fn has_room(&self) -> bool {
        let under_way = self.mail.iter().filter(|m| matches!(m, ToShard::Deliver(_))).count();
        self.mode == Mode::Live && !self.stopped && self.queue.len() + under_way < QUEUED_BATCHES
    }

    pub fn has_current(&self) -> bool {
        self.current.is_some()
    }

    /// A batch of the tail, folded silently.
    pub fn replay(&mut self, batch: &RecordBatch, recorded: BTreeMap<Offset, Vec<decision::Recorded>>) {
        let mut made = self.fold.apply(batch, recorded, Mode::Replay);
        self.fold.settle(&mut made);
        self.progress.replayed(batch.next_offset);
    }

    pub fn go_live(&mut self, committed: Offset, decisions: Offset) -> Vec<Effect> {
        self.tail = None;
        self.mode = Mode::Live;
        self.progress.goes_live(committed, decisions);
        self.want_snapshot = self.fold.is_dirty();
        self.step()
    }

    pub fn take_mail(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.mail.pop_front() {
            None => return effects,
            Some(ToShard::Deliver(batch)) => {
                if self.draining || batch.next_offset <= self.progress.applied() {
                    return effects;
                }
                self.queue.push_back(batch);
            }
            Some(ToShard::Committed { next_offset, decisions }) => {
                self.progress.committed(next_offset, decisions);
                effects.extend(self.save_if_committed());
            }
            Some(ToShard::Saved(epoch)) => {
                self.collecting.take_if(|_| epoch == self.epoch);
            }
            Some(ToShard::Discard) => {
                effects.push(Effect::Discarded);
                return effects;
            }
            Some(ToShard::Drain) => {
                if self.mode == Mode::Replay {
                    self.stopped = true;
                    effects.push(Effect::Drained);
                    return effects;
                }
                self.draining = true;
                self.want_snapshot = false;
            }
        }
        effects.extend(self.step());
        effects
    }

    pub fn step(&mut self) -> Vec<Effect> {
        if self.current.is_some() || self.mode == Mode::Replay || self.stopped {
            return Vec::new();
        }
        if self.want_snapshot
            && let Some(effects) = self.collect()
        {
            return effects;
        }
        if self.draining {
            return self.drain();
        }
        if self.progress.has_room()
            && let Some(batch) = self.queue.pop_front()
        {
            let made = self.fold.apply(&batch, BTreeMap::new(), Mode::Live);
            self.current = Some((batch, made));
        }
        Vec::new()
    }

    /// The batch under way is done.
    pub fn settle(&mut self) -> Vec<Effect> {
        let Some((batch, mut made)) = self.current.take() else { return Vec::new() };
        self.fold.settle(&mut made);
        let mut records = records(self.partition, &made.decisions, &[]);
        records.extend(made.unreadable.iter().map(|(offset, why)| dead_letter(&batch, *offset, why)));
        self.progress.processed(batch.next_offset);
        let mut effects = vec![Effect::Processed { next_offset: batch.next_offset, records }];
        effects.extend(self.step());
        effects
    }

    /// None: not now.
    pub fn collect(&mut self) -> Option<Vec<Effect>> {
        if !self.fold.is_dirty() {
            self.want_snapshot = false;
            return None;
        }
        if self.collecting.is_some() {
            return None;
        }
        self.want_snapshot = false;
        let snapshots = self.fold.collect(self.epoch);
        if !snapshots.is_empty() {
            self.collecting = Some(Collecting { checkpoint: self.progress.checkpoint(), snapshots });
        }
        let mut effects: Vec<_> = self.save_if_committed().into_iter().collect();
        effects.extend(self.step());
        Some(effects)
    }

    fn save_if_committed(&mut self) -> Option<Effect> {
        let c = self.collecting.as_mut()?;
        let early = self.broken == Broken::SnapshotBeforeCommit;
        if !(self.progress.covers(&c.checkpoint) || early) || c.snapshots.is_empty() {
            return None;
        }
        Some(Effect::Save { checkpoint: c.checkpoint, snapshots: std::mem::take(&mut c.snapshots) })
    }

    fn drain(&mut self) -> Vec<Effect> {
        self.queue.clear();
        if !self.progress.is_committed() {
            return vec![Effect::Flush];
        }
        if self.collecting.is_some() {
            return Vec::new();
        }
        if self.fold.is_dirty() {
            return self.collect().unwrap_or_default();
        }
        self.stopped = true;
        vec![Effect::Drained]
    }
}
