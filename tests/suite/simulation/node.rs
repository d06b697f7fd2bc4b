//! A node: supervision, recovery and saving, as src/actors/{supervisor,recovery,snapshotter} do it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use stockwarden::actors::protocol::{Book, Decisions, Mode, check, cut_before_tick, load};
use stockwarden::events::record::{Offset, Partition, RecordBatch, Topic};
use stockwarden::ports::event_log::PartitionReader as _;
use stockwarden::ports::snapshot_store::{Checkpoint, Epoch, Snapshot};
use stockwarden::ports::{LogError, SnapshotStore as _};

use super::Broken;
use super::commit::{Thread, ToCommit};
use super::fold::Fold;
use super::life::{Effect, Life, Merge, Tail, ToShard};
use super::log::Reader;
use super::store::now;
use super::world::World;

#[derive(Default)]
pub struct Node {
    pub alive: bool,
    /// Which of its processes this is.
    pub life: u64,
    /// Steps that it stands still for.
    pub frozen: usize,
    /// What it believes.
    pub generation: u32,
    pub producer_epoch: u32,
    /// The last one is of no use any more, and no other could be opened.
    pub needs_producer: bool,
    pub owned: BTreeMap<Partition, u64>,
    pub table: BTreeMap<Partition, u64>,
    pub lives: BTreeMap<u64, Life>,
    pub recoveries: BTreeMap<u64, Recovery>,
    /// Where its consumer stands.
    pub positions: BTreeMap<Partition, Offset>,
    /// Revocations under way.
    pub revoking: Vec<Partition>,
    pub book: Book,
    pub commit_mail: VecDeque<ToCommit>,
    pub thread: Thread,
    pub waiting: Vec<u64>,
}

pub struct Recovery {
    partition: Partition,
    epoch: Epoch,
    stage: Stage,
}

enum Stage {
    /// Until no transaction of ours holds anything of the partition.
    Forget,
    Epoch,
    Checkpoint,
    Committed(Option<Checkpoint>),
    Load(Option<Checkpoint>, Option<Offset>),
    Clear(Option<Offset>),
}

/// A save on its way to the store; whoever sent it may be gone.
pub struct Saving {
    pub node: usize,
    /// The process that sent it.
    pub sender: u64,
    pub partition: Partition,
    pub epoch: Epoch,
    pub checkpoint: Checkpoint,
    pub snapshots: Vec<Snapshot>,
    pub heard: bool,
}

impl Node {
    /// Takes it from those who look for it, and ends it.
    fn discard(&mut self, partition: Partition) {
        self.positions.remove(&partition);
        if let Some(life) = self.table.remove(&partition).and_then(|attempt| self.lives.get_mut(&attempt)) {
            life.mail.push_back(ToShard::Discard);
        }
    }
}

impl World {
    pub fn begin(&mut self, n: usize, partition: Partition) {
        self.attempts += 1;
        let attempt = self.attempts;
        let node = &mut self.nodes[n];
        node.owned.insert(partition, attempt);
        node.recoveries.insert(attempt, Recovery { partition, epoch: 0, stage: Stage::Forget });
        node.commit_mail.push_back(ToCommit::Forget(partition, Some(attempt)));
    }

    pub fn forgotten(&mut self, n: usize, attempt: u64) {
        if let Some(r) = self.nodes[n].recoveries.get_mut(&attempt) {
            r.stage = Stage::Epoch;
        }
    }

    pub fn drop_shard(&mut self, n: usize, partition: Partition) {
        let node = &mut self.nodes[n];
        node.owned.remove(&partition);
        node.discard(partition);
        node.commit_mail.push_back(ToCommit::Forget(partition, None));
    }

    /// One step of a recovery. It goes on when the partition is lost meanwhile; then what it found is not used.
    pub fn recover(&mut self, n: usize, attempt: u64) {
        let Some(mut r) = self.nodes[n].recoveries.remove(&attempt) else { return };
        let partition = r.partition;
        let shared = self.log.clone();
        let log = shared.lock().expect("one thread");
        let mut found = None;
        match r.stage {
            Stage::Forget => {}
            _ if self.store_away && !matches!(r.stage, Stage::Committed(_)) => {}
            Stage::Epoch => {
                r.epoch = now(self.store.acquire_epoch(partition, "n")).expect("it is there");
                r.stage = Stage::Checkpoint;
            }
            Stage::Checkpoint => r.stage = Stage::Committed(now(self.store.checkpoint(partition)).expect("it is there")),
            Stage::Committed(checkpoint) => {
                let stable = match self.broken {
                    Broken::UnstableOffsets => Some(log.committed(partition)),
                    _ => log.stable_committed(partition),
                };
                if let Some(committed) = stable {
                    if let Err(e) = check(partition, checkpoint, committed, 0) {
                        self.fail(format!("n{n} refuses partition {partition}: {e}"));
                        return;
                    }
                    r.stage = Stage::Load(checkpoint, committed);
                }
            }
            Stage::Load(None, committed) => found = Some((Fold::new(partition), None, committed)),
            Stage::Load(Some(checkpoint), committed) => {
                match now(load(&self.store, partition, usize::MAX)).expect("it is there") {
                    Ok(loaded) => found = Some((Fold::from_loaded(partition, loaded), Some(checkpoint), committed)),
                    Err(why) => {
                        self.counts.discarded += 1;
                        self.say(|| format!("n{n} discards the snapshots of {partition}: {why}"));
                        r.stage = Stage::Clear(committed);
                    }
                }
            }
            Stage::Clear(committed) => {
                let newest = self.store.epoch(partition);
                if let Err(e) = now(self.store.clear(partition, r.epoch)) {
                    drop(log);
                    self.counts.refused_clears += 1;
                    self.say(|| format!("n{n} removes nothing: {e}"));
                    // As any fault of the store: again, as long as the partition is ours.
                    if self.nodes[n].owned.get(&partition) == Some(&attempt) {
                        self.begin(n, partition);
                    }
                    return;
                }
                if r.epoch != newest {
                    drop(log);
                    self.fail(format!("epoch {} cleared the store under epoch {newest} (DESIGN §7.5)", r.epoch));
                    return;
                }
                found = Some((Fold::new(partition), None, committed));
            }
        }
        drop(log);
        let Some((fold, checkpoint, committed)) = found else {
            self.nodes[n].recoveries.insert(attempt, r);
            return;
        };
        if self.nodes[n].owned.get(&partition) != Some(&attempt) {
            return;
        }
        let (from, decisions_from) = checkpoint.map_or((0, 0), |c| (c.facts, c.decisions));
        let tail = Tail { from, until: committed.unwrap_or(0), decisions_from, merge: None, held: VecDeque::new() };
        let node = &mut self.nodes[n];
        node.lives.insert(attempt, Life::new(partition, r.epoch, fold, tail, self.broken));
        node.table.insert(partition, attempt);
        self.say(|| format!("n{n} recovers {partition} as epoch {} from {from} to {committed:?}", r.epoch));
    }

    /// One step on the way from the checkpoint to the committed offset, with the real merge.
    pub fn replay(&mut self, n: usize, attempt: u64) {
        let broken = self.broken;
        let most = 1 + self.rng.below(12);
        let shared = self.log.clone();
        let Some(life) = self.nodes[n].lives.get_mut(&attempt) else { return };
        let partition = life.partition;
        let Some(tail) = &mut life.tail else { return };
        let Some(merge) = &mut tail.merge else {
            let (facts, decisions) = ((Topic::Facts, partition), (Topic::Decisions, partition));
            let log = shared.lock().expect("one thread");
            let high = if broken == Broken::MergeToStable { log.last_stable(decisions) } else { log.end(decisions) };
            self.counts.offset_first += u32::from(log.shows_offset_first(partition));
            let reader = |place, position| Reader { log: shared.clone(), place, position, most };
            let merged = Decisions::new(Box::new(reader(decisions, tail.decisions_from)), high);
            tail.merge = Some(Merge { facts: reader(facts, tail.from), decisions: merged, high });
            return;
        };
        let Some(batch) = tail.held.pop_front() else {
            match merge.facts.next(tail.until, Duration::ZERO) {
                Ok(Some(batch)) if batch.is_empty() => {}
                Ok(Some(batch)) => tail.held.extend(pieces(batch, broken)),
                Ok(None) => {
                    let (until, high) = (tail.until, merge.high);
                    self.go_live(n, attempt, until, high);
                }
                Err(_) => {}
            }
            return;
        };
        let recorded = match merge.decisions.caused_before(batch.next_offset, batch.first_offset().unwrap_or(0)) {
            _ if broken == Broken::SkipMerge => BTreeMap::new(),
            Ok(Some(recorded)) => recorded,
            Ok(None) | Err(LogError::Unavailable { .. }) => return tail.held.push_front(batch),
            Err(e) => return self.fail(e.to_string()),
        };
        life.progress.replays(merge.decisions.begin());
        life.replay(&batch, recorded);
    }

    fn go_live(&mut self, n: usize, attempt: u64, committed: Offset, decisions: Offset) {
        let Some(life) = self.nodes[n].lives.get_mut(&attempt) else { return };
        let partition = life.partition;
        let effects = life.go_live(committed, decisions);
        let bytes = life.fold.bytes();
        self.effects(n, attempt, effects);
        if self.nodes[n].table.get(&partition) == Some(&attempt) && !self.nodes[n].revoking.contains(&partition) {
            self.nodes[n].positions.insert(partition, committed);
        }
        self.say(|| format!("n{n} is live with {partition} at {committed}"));
        // A zombie may have found less than there is; what it holds still has to be the fold of that.
        if let Err(why) = self.is_the_fold(partition, committed, &bytes) {
            self.fail(format!(
                "n{n} begins with partition {partition} at {committed}, and its state is not the fold of the log: {why}"
            ));
        }
    }

    pub fn mail_to(&mut self, n: usize, partition: Partition, mail: ToShard) {
        let node = &mut self.nodes[n];
        if let Some(life) = node.table.get(&partition).and_then(|a| node.lives.get_mut(a)) {
            life.mail.push_back(mail);
        }
    }

    pub fn effects(&mut self, n: usize, attempt: u64, effects: Vec<Effect>) {
        for effect in effects {
            let Some(life) = self.nodes[n].lives.get(&attempt) else { return };
            let (partition, epoch) = (life.partition, life.epoch);
            match effect {
                Effect::Processed { next_offset, records } => {
                    let mail = ToCommit::Processed { partition, attempt, next_offset, records };
                    self.nodes[n].commit_mail.push_back(mail);
                }
                Effect::Flush => self.nodes[n].commit_mail.push_back(ToCommit::Flush),
                Effect::Save { checkpoint, snapshots } => {
                    let sender = self.nodes[n].life;
                    self.saves.push(Saving { node: n, sender, partition, epoch, checkpoint, snapshots, heard: true });
                }
                Effect::Discarded => drop(self.nodes[n].lives.remove(&attempt)),
                Effect::Drained => {
                    if self.nodes[n].table.get(&partition) == Some(&attempt) {
                        self.counts.drained += 1;
                        self.hand_over(n, partition);
                    }
                }
            }
        }
    }

    /// A save reaches the store.
    pub fn save(&mut self, index: usize) {
        if self.store_away {
            return;
        }
        let s = self.saves.swap_remove(index);
        let partition = s.partition;
        let decided = self.log.lock().expect("one thread").decided(partition);
        let newest = self.store.epoch(partition);
        let result = now(self.store.save(partition, s.epoch, s.checkpoint, &s.snapshots));
        if result.is_ok() {
            self.counts.saves += 1;
            if s.checkpoint.facts > decided || s.snapshots.iter().any(|row| row.offset >= decided) {
                self.fail(format!(
                    "a snapshot of partition {partition} at {:?} is past the committed offset {decided}",
                    s.checkpoint
                ));
            }
            if s.epoch != newest {
                self.fail(format!("epoch {} changed the store under epoch {newest} (DESIGN §7.5)", s.epoch));
            }
        } else {
            self.counts.refused_saves += 1;
        }
        let node = &mut self.nodes[s.node];
        // The process that sent it may be gone, or may have given up waiting for it.
        if !s.heard || !node.alive || node.life != s.sender {
            return;
        }
        match result {
            Ok(()) => self.mail_to(s.node, partition, ToShard::Saved(s.epoch)),
            Err(_) => self.fenced(s.node, partition, s.epoch),
        }
    }

    /// The store knows a newer owner: discard, and take a newer epoch if the partition is still ours. What an earlier life of the
    /// partition is refused does not concern this one.
    fn fenced(&mut self, n: usize, partition: Partition, epoch: Epoch) {
        let node = &self.nodes[n];
        let life = node.table.get(&partition).and_then(|a| node.lives.get(a));
        if life.is_none_or(|l| l.epoch != epoch) {
            return;
        }
        if self.nodes[n].revoking.contains(&partition) {
            // Who waits for its drain is answered by its end.
            self.hand_over(n, partition);
        } else if self.nodes[n].owned.contains_key(&partition) {
            self.nodes[n].discard(partition);
            self.begin(n, partition);
        }
    }

    /// The consumer hands the shard its next batch.
    pub fn fetch(&mut self, n: usize, partition: Partition) {
        let most = 1 + self.rng.below(8);
        let node = &mut self.nodes[n];
        let Some(position) = node.positions.get(&partition).copied() else { return };
        let Some(life) = node.table.get(&partition).and_then(|a| node.lives.get_mut(a)).filter(|l| l.has_room()) else { return };
        let log = self.log.lock().expect("one thread");
        let place = (Topic::Facts, partition);
        if let Ok(Some(batch)) = log.read(place, position, log.end(place), most) {
            for piece in pieces(batch, self.broken) {
                // What finds no room is given back, and offered again.
                if life.has_room() {
                    node.positions.insert(partition, piece.next_offset);
                    life.mail.push_back(ToShard::Deliver(piece));
                }
            }
        }
    }

    /// The consumer is told that it has to give a partition up.
    pub fn revoke(&mut self, n: usize, partition: Partition) {
        self.nodes[n].revoking.push(partition);
        self.nodes[n].positions.remove(&partition);
        let node = &mut self.nodes[n];
        match node.table.get(&partition).and_then(|a| node.lives.get_mut(a)) {
            Some(life) if life.mode == Mode::Live => life.mail.push_back(ToShard::Drain),
            _ => self.hand_over(n, partition),
        }
    }

    /// Drained, or out of time.
    pub fn hand_over(&mut self, n: usize, partition: Partition) {
        if let Some(at) = self.nodes[n].revoking.iter().position(|p| *p == partition) {
            self.nodes[n].revoking.swap_remove(at);
            self.drop_shard(n, partition);
            self.group.give_up(n, partition, &mut self.rng);
            self.say(|| format!("n{n} has given up {partition}"));
        }
    }
}

fn pieces(mut batch: RecordBatch, broken: Broken) -> Vec<RecordBatch> {
    let mut pieces = Vec::new();
    while broken != Broken::TickInBatch
        && let Some(rest) = cut_before_tick(&mut batch)
    {
        pieces.push(std::mem::replace(&mut batch, rest));
    }
    pieces.push(batch);
    pieces
}
