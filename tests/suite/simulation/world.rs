//! The world and its steps. Each step is one message, one call or one fault; the seed chooses which comes next.

use std::sync::{Arc, Mutex};

use stockwarden::actors::protocol::{DecisionEnds, Mode};
use stockwarden::events::record::{NewRecord, Partition, Topic};
use stockwarden::ports::event_log::CommitError;

use super::Broken;
use super::commit::{LateEnd, Thread};
use super::group::Group;
use super::log::{Log, PARTITIONS, SharedLog, State};
use super::node::{Node, Saving};
use super::rng::Rng;
use super::store::Store;
use super::workload::{Facts, Workload};

pub const NODES: usize = 3;
/// Steps with faults; what is left is done in calm.
const FACTS: usize = 70;
const MOST_STEPS: usize = 60_000;

pub type Outcome = Result<DecisionEnds, CommitError>;

macro_rules! counts {
    ($($name:ident = $what:literal),+ $(,)?) => {
        /// What happened, over all seeds: a simulation in which nothing goes wrong proves nothing.
        #[derive(Debug, Default, Clone, Copy)]
        pub struct Counts { $(pub $name: u32),+ }

        impl Counts {
            pub fn add(&mut self, more: &Counts) {
                $(self.$name += more.$name;)+
            }

            pub fn named(&self) -> Vec<(&'static str, u32)> {
                vec![$(($what, self.$name)),+]
            }
        }
    };
}

counts! {
    // The three cases of issue 4 that matter most.
    snapshot_ahead = "a snapshot that would be ahead of an aborted transaction",
    offset_first = "a new owner sees the committed offset before the decisions",
    actor_ahead = "an actor ahead of the log after an abort",
    decisions = "a decision",
    dead_letters = "a dead letter",
    crashes = "a crash",
    lost = "a lost assignment",
    drained = "a drained partition",
    fenced = "a zombie that is refused by the group",
    late_batches = "a batch that was under way when its partition was given up",
    unknown_committed = "unknown, and committed",
    unknown_aborted = "unknown, and aborted",
    saves = "a save",
    refused_saves = "a save of a former owner",
    refused_clears = "snapshots that a former owner would have removed",
    saves_in_recovery = "a snapshot in the midst of a recovery",
    not_reopened = "an unknown outcome, and no new producer to be had",
    damaged = "a damaged snapshot",
    discarded = "snapshots discarded",
    timed_out = "a transaction that the broker ended",
}

pub struct World {
    pub broken: Broken,
    pub rng: Rng,
    pub log: SharedLog,
    pub store: Store,
    pub store_away: bool,
    pub group: Group,
    pub nodes: Vec<Node>,
    pub saves: Vec<Saving>,
    pub late_ends: Vec<LateEnd>,
    pub attempts: u64,
    /// No faults any more.
    pub calm: bool,
    pub counts: Counts,
    workload: Workload,
    step: usize,
    traces: bool,
    failure: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Produce,
    Mark,
    LateEnd(usize),
    Save(usize),
    CommitMail(usize),
    Thread(usize),
    Flush(usize),
    ShardMail(usize, u64),
    Settle(usize, u64),
    Replay(usize, u64),
    Snapshot(usize, u64),
    Room(usize, u64),
    Recover(usize, u64),
    Fetch(usize, Partition),
    Learn(usize),
    Start(usize),
}

impl World {
    pub fn new(seed: u64, broken: Broken, traces: bool) -> World {
        World {
            broken,
            rng: Rng::new(seed),
            log: Arc::new(Mutex::new(Log::default())),
            store: Store::new(broken),
            store_away: false,
            group: Group::default(),
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            saves: Vec::new(),
            late_ends: Vec::new(),
            attempts: 0,
            calm: false,
            counts: Counts::default(),
            workload: Workload::new(FACTS),
            step: 0,
            traces,
            failure: None,
        }
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.traces {
            println!("{:>6}  {}", self.step, what());
        }
    }

    /// The first one is the one to look at.
    pub fn fail(&mut self, why: String) {
        self.say(|| format!("FAILED: {why}"));
        self.failure.get_or_insert(why);
    }

    /// Runs until all facts are written and everything has come to rest; then proves.
    pub fn run(mut self) -> Result<Counts, String> {
        while self.failure.is_none() {
            self.step += 1;
            if self.step > MOST_STEPS {
                self.fail("the world does not come to rest".into());
                break;
            }
            self.calm |= self.workload.left == 0 && self.step > 40 * FACTS;
            if !self.calm {
                self.fault();
            } else if self.store_away {
                self.store_away = false;
            }
            for node in &mut self.nodes {
                node.frozen = if self.calm { 0 } else { node.frozen.saturating_sub(1) };
            }
            let actions = self.actions();
            match self.rng.pick(&actions).copied() {
                Some(action) => self.act(action),
                None if self.calm && self.is_done() => break,
                None => {}
            }
            let went_back = self.log.lock().expect("one thread").went_back.take();
            if let Some(why) = went_back {
                self.fail(format!("the group's committed offset went back (DESIGN §7.5): {why}"));
            }
        }
        match self.failure.take() {
            Some(why) => Err(format!("at step {}: {why}", self.step)),
            None => self.prove().map(|()| self.counts),
        }
    }

    fn actions(&self) -> Vec<Action> {
        use Action::{
            CommitMail, Fetch, Flush, Learn, Mark, Produce, Recover, Replay, Room, Save, Settle, ShardMail, Snapshot, Start,
        };
        let log = self.log.lock().expect("one thread");
        let mut all = Vec::new();
        all.extend((self.workload.left > 0).then_some(Produce));
        all.extend(log.txns.iter().filter(|t| matches!(t.state, State::Ending { .. })).map(|_| Mark));
        all.extend((0..self.late_ends.len()).map(Action::LateEnd));
        all.extend((0..self.saves.len()).filter(|_| !self.store_away).map(Save));
        for (n, node) in self.nodes.iter().enumerate() {
            if !node.alive {
                all.extend(self.calm.then_some(Start(n)));
                continue;
            }
            if node.frozen > 0 {
                continue;
            }
            all.extend((!node.commit_mail.is_empty()).then_some(CommitMail(n)));
            all.extend((!matches!(node.thread, Thread::Idle)).then_some(Action::Thread(n)));
            all.extend(node.book.has_work().then_some(Flush(n)));
            all.extend((!self.group.knows(n, node.generation)).then_some(Learn(n)));
            all.extend(node.recoveries.keys().map(|a| Recover(n, *a)));
            for (attempt, life) in &node.lives {
                all.extend((!life.mail.is_empty()).then_some(ShardMail(n, *attempt)));
                all.extend(life.has_current().then_some(Settle(n, *attempt)));
                all.extend(life.tail.is_some().then_some(Replay(n, *attempt)));
                // Room is made for a tail with more variants than fit.
                let is_early = !self.calm && life.tail.is_some() && life.collecting.is_none() && life.fold.is_dirty();
                all.extend((is_early && !life.stopped).then_some(Room(n, *attempt)));
                // In calm no snapshots are taken: what is proven then is the tail as well.
                all.extend((!self.calm && life.mode == Mode::Live && life.fold.is_dirty()).then_some(Snapshot(n, *attempt)));
            }
            for (partition, position) in &node.positions {
                let place = (Topic::Facts, *partition);
                let waits = *position < log.last_stable(place);
                let room = node.table.get(partition).and_then(|a| node.lives.get(a)).is_some_and(|l| l.has_room());
                all.extend((waits && room).then_some(Fetch(n, *partition)));
            }
        }
        all
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Produce => self.produce(),
            Action::Mark => {
                let shared = self.log.clone();
                let said = shared.lock().expect("one thread").mark_one(&mut self.rng, self.calm);
                if let Some(said) = said {
                    self.say(|| said);
                }
            }
            Action::LateEnd(i) => {
                let late = self.late_ends.swap_remove(i);
                self.late_end(late);
            }
            Action::Save(i) => self.save(i),
            Action::CommitMail(n) => self.commit_mail(n),
            Action::Thread(n) => self.thread_step(n),
            Action::Flush(n) => self.flush(n),
            Action::ShardMail(n, a) => self.shard(n, a, super::life::Life::take_mail),
            Action::Settle(n, a) => self.shard(n, a, super::life::Life::settle),
            Action::Snapshot(n, a) => self.shard(n, a, |life| {
                life.want_snapshot = true;
                life.step()
            }),
            Action::Room(n, a) => {
                self.counts.saves_in_recovery += 1;
                self.shard(n, a, |life| life.collect().unwrap_or_default());
            }
            Action::Replay(n, a) => self.replay(n, a),
            Action::Recover(n, a) => self.recover(n, a),
            Action::Fetch(n, p) => self.fetch(n, p),
            Action::Learn(n) => self.learn(n),
            Action::Start(n) => self.start(n),
        }
    }

    fn shard(&mut self, n: usize, attempt: u64, step: impl Fn(&mut super::life::Life) -> Vec<super::life::Effect>) {
        if let Some(life) = self.nodes[n].lives.get_mut(&attempt) {
            let effects = step(life);
            self.effects(n, attempt, effects);
        }
    }

    fn produce(&mut self) {
        let facts = self.workload.next(&mut self.rng);
        self.log.lock().expect("one thread").now = self.workload.now;
        match facts {
            Facts::One(partition, record) => {
                let said = text(&record);
                let offset = self.log.lock().expect("one thread").append(partition, record);
                self.say(|| format!("fact {partition}:{offset} {said}"));
            }
            Facts::Everywhere(record) => {
                self.append_everywhere(&record);
                self.say(|| format!("everywhere {}", text(&record)));
            }
        }
    }

    /// A fault, now and then.
    fn fault(&mut self) {
        if !self.rng.one_in(25) {
            return;
        }
        let n = self.rng.below(NODES);
        match self.rng.below(14) {
            0 if self.nodes[n].alive => {
                self.say(|| format!("n{n} crashes"));
                self.counts.crashes += 1;
                self.nodes[n] = Node::default();
            }
            1..=3 => self.start(n),
            4 if self.group.members.contains(&n) => {
                self.say(|| format!("n{n} is expelled from the group and does not know"));
                self.counts.lost += 1;
                self.group.expel(n, &mut self.rng);
            }
            5 => self.nodes[n].frozen = self.rng.below(120),
            6 | 7 => {
                let owned = self.group.owner.iter().find(|(_, o)| **o == n).map(|(p, _)| *p);
                let node = &self.nodes[n];
                if let Some(partition) = owned.filter(|p| {
                    node.alive && self.group.knows(n, node.generation) && node.owned.contains_key(p) && !node.revoking.contains(p)
                }) {
                    self.say(|| format!("n{n} is to give up {partition}"));
                    self.revoke(n, partition);
                }
            }
            8 => {
                if let Some(partition) = self.nodes[n].revoking.first().copied() {
                    self.say(|| format!("n{n} has not drained {partition} in time"));
                    self.hand_over(n, partition);
                }
            }
            9 => {
                self.store_away = !self.store_away;
                self.say(|| format!("the store is {}", if self.store_away { "away" } else { "back" }));
            }
            10 => {
                if let Some(entity) = self.store.damage(&mut self.rng) {
                    self.counts.damaged += 1;
                    self.say(|| format!("a bit of the snapshot of {entity:?} flips"));
                }
            }
            11 | 12 => {
                let shared = self.log.clone();
                let mut log = shared.lock().expect("one thread");
                let open: Vec<usize> = (0..log.txns.len()).filter(|t| log.txns[*t].state == State::Open).collect();
                if let Some(txn) = self.rng.pick(&open) {
                    log.time_out(*txn);
                    self.counts.timed_out += 1;
                    self.say(|| format!("the broker ends t{txn}, which takes too long"));
                }
            }
            13 => {
                let index = self.rng.below(self.saves.len());
                if let Some(s) = self.saves.get_mut(index).filter(|s| s.heard) {
                    // The caller gives up waiting and sends it again; the first one may arrive later than the second.
                    s.heard = false;
                    let again = Saving { snapshots: s.snapshots.clone(), heard: true, ..*s };
                    self.saves.push(again);
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, n: usize) {
        if self.nodes[n].alive {
            return;
        }
        self.say(|| format!("n{n} starts"));
        if self.group.members.contains(&n) {
            self.group.expel(n, &mut self.rng);
        }
        let producer_epoch = self.log.lock().expect("one thread").init(n);
        self.attempts += 1;
        self.nodes[n] = Node { alive: true, life: self.attempts, producer_epoch, ..Node::default() };
    }

    /// The node hears from the group.
    fn learn(&mut self, n: usize) {
        if !self.group.members.contains(&n) {
            let owned: Vec<Partition> = self.nodes[n].owned.keys().copied().collect();
            self.nodes[n].revoking.clear();
            // A transaction reads the membership when it begins, at once after it is handed over; that gap is not simulated.
            self.lose_handed_over(n);
            for partition in owned {
                self.say(|| format!("n{n} has lost {partition}"));
                self.drop_shard(n, partition);
            }
            self.group.join(n, &mut self.rng);
        }
        self.nodes[n].generation = self.group.generation;
        for partition in 0..PARTITIONS {
            let is_ours = self.group.owner.get(&partition) == Some(&n);
            if is_ours && !self.nodes[n].owned.contains_key(&partition) {
                self.begin(n, partition);
            }
        }
    }

    /// Nothing is left to do.
    fn is_done(&self) -> bool {
        let log = self.log.lock().expect("one thread");
        let all_decided = (0..PARTITIONS).all(|p| log.decided(p) == log.end((Topic::Facts, p)));
        all_decided && self.nodes.iter().all(|n| n.alive && n.recoveries.is_empty())
    }
}

fn text(record: &NewRecord) -> String {
    let of = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
    format!("{} {}", of(&record.key), of(&record.value))
}
