//! A shard's life on a node: its book-keeping mirrors src/actors/shard.

use std::collections::{BTreeMap, VecDeque};

use stockwarden::actors::recovery::Decisions;
use stockwarden::events::dead_letter::{DeadLetter, Origin};
use stockwarden::events::decision::{self, Decision};
use stockwarden::events::record::{NewRecord, Offset, Partition, RecordBatch, Topic};
use stockwarden::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};

use super::Broken;
use super::fold::{Fold, Made, Mode};

const UNCOMMITTED_BATCHES: usize = 16;
const QUEUED_BATCHES: usize = 4;

pub enum ToShard {
    Deliver(RecordBatch),
    Committed { next_offset: Offset, decisions: Option<Offset> },
    Saved,
    Drain,
}

/// What a step of a shard asks others for.
pub enum Effect {
    Processed { next_offset: Offset, records: Vec<NewRecord> },
    Flush,
    Save { checkpoint: Checkpoint, snapshots: Vec<Snapshot> },
    Drained,
}

pub struct Collecting {
    pub facts: Offset,
    decisions: Offset,
    snapshots: Vec<Snapshot>,
}

/// The way from the checkpoint to the committed offset.
pub struct Tail {
    pub from: Offset,
    pub until: Offset,
    pub decisions_from: Offset,
    /// The merge and the decisions' high watermark, once it has begun.
    pub merge: Option<(Decisions, Offset)>,
    /// Read, and waiting for its decisions.
    pub held: Option<RecordBatch>,
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
    pub applied: Offset,
    pub committed: Offset,
    uncommitted: VecDeque<Offset>,
    pub decisions: Offset,
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
            applied: tail.from,
            committed: tail.from,
            decisions: tail.decisions_from,
            tail: Some(tail),
            mail: VecDeque::new(),
            queue: VecDeque::new(),
            current: None,
            uncommitted: VecDeque::new(),
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
        self.applied = batch.next_offset;
    }

    pub fn go_live(&mut self, committed: Offset, decisions: Offset) -> Vec<Effect> {
        self.tail = None;
        self.mode = Mode::Live;
        self.applied = committed;
        self.committed = committed;
        self.decisions = decisions;
        self.want_snapshot = self.fold.is_dirty();
        self.step()
    }

    pub fn take_mail(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.mail.pop_front() {
            None => return effects,
            Some(ToShard::Deliver(batch)) => {
                if self.draining || batch.next_offset <= self.applied {
                    return effects;
                }
                self.queue.push_back(batch);
            }
            Some(ToShard::Committed { next_offset, decisions }) => {
                self.committed = self.committed.max(next_offset);
                while self.uncommitted.front().is_some_and(|end| *end <= self.committed) {
                    self.uncommitted.pop_front();
                }
                self.decisions = self.decisions.max(decisions.unwrap_or(0));
                effects.extend(self.save_if_committed());
            }
            Some(ToShard::Saved) => self.collecting = None,
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
        if self.uncommitted.len() < UNCOMMITTED_BATCHES
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
        let mut records: Vec<_> = made.decisions.iter().map(|d| decision_record(self.partition, d)).collect();
        for (offset, why) in &made.unreadable {
            let record = batch.iter().find(|r| r.offset == *offset);
            let origin =
                Origin { topic: Topic::Facts.default_name().into(), partition: Some(self.partition), offset: Some(*offset) };
            let bytes = record.and_then(|r| r.value).unwrap_or_default();
            let key = record.and_then(|r| r.key).map(<[u8]>::to_vec);
            records.push(DeadLetter::new(origin, None, bytes, why, 0).into_record(key, Some(self.partition)));
        }
        self.uncommitted.push_back(batch.next_offset);
        self.applied = batch.next_offset;
        let mut effects = vec![Effect::Processed { next_offset: batch.next_offset, records }];
        effects.extend(self.step());
        effects
    }

    /// None: not now.
    fn collect(&mut self) -> Option<Vec<Effect>> {
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
            self.collecting = Some(Collecting { facts: self.applied, decisions: self.decisions, snapshots });
        }
        let mut effects: Vec<_> = self.save_if_committed().into_iter().collect();
        effects.extend(self.step());
        Some(effects)
    }

    fn save_if_committed(&mut self) -> Option<Effect> {
        let c = self.collecting.as_mut()?;
        let early = self.broken == Broken::SnapshotBeforeCommit;
        if (c.facts > self.committed && !early) || c.snapshots.is_empty() {
            return None;
        }
        let checkpoint = Checkpoint { facts: c.facts, decisions: c.decisions };
        Some(Effect::Save { checkpoint, snapshots: std::mem::take(&mut c.snapshots) })
    }

    fn drain(&mut self) -> Vec<Effect> {
        self.queue.clear();
        if self.committed < self.applied && !self.uncommitted.is_empty() {
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

fn decision_record(partition: Partition, d: &Decision) -> NewRecord {
    NewRecord {
        topic: Topic::Decisions,
        partition: Some(partition),
        key: d.shop.as_ref().map(|s| s.as_bytes().to_vec()),
        headers: vec![
            ("version", decision::VERSION.to_string().into_bytes()),
            (decision::RECORD_HEADER, decision::RECORD_DECISION.as_bytes().to_vec()),
        ],
        value: Some(serde_json::to_vec(d).expect("a decision is plain data")),
    }
}
