//! What goes wrong with which send: by the seed, in the order in which sends of a kind arrive; and a record of every send.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Erp,
    Jira,
    Mail,
    Slack,
    Transfer,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Erp, Kind::Jira, Kind::Mail, Kind::Slack, Kind::Transfer];

    /// As the configuration names its handler.
    pub const fn handler(self) -> &'static str {
        match self {
            Kind::Erp => "erp",
            Kind::Jira => "jira",
            Kind::Mail => "mail",
            Kind::Slack => "slack",
            Kind::Transfer => "transfer",
        }
    }
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// Carried out; then the connection ends without an answer.
    DoneThenCut,
    /// Not carried out; the connection ends.
    CutBefore,
    /// Carried out; the answer comes when nobody waits for it any more.
    DoneThenLate,
    /// Carried out when nobody waits for it any more.
    DoneLate,
    /// Not carried out: 429 with Retry-After, or its like.
    SlowDown,
    /// Not carried out: 503, or its like.
    Unavailable,
    /// Carried out; half an answer.
    Garbled,
    /// Carried out; what answers does not speak the protocol.
    Nonsense,
    /// The node that sent it is killed while it waits.
    Killed(Landing),
}

const FAULTS: [Fate; 8] = [
    Fate::DoneThenCut,
    Fate::CutBefore,
    Fate::DoneThenLate,
    Fate::DoneLate,
    Fate::SlowDown,
    Fate::Unavailable,
    Fate::Garbled,
    Fate::Nonsense,
];

/// What becomes of a request whose sender dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    Never,
    Before,
    /// A while after the sender's death: it was still on its way.
    After,
}

impl Landing {
    pub const ALL: [Landing; 3] = [Landing::Never, Landing::Before, Landing::After];
}

/// Share of sends that go wrong.
const SENDS: f64 = 0.36;
/// Share of what is only asked, or mended, that goes wrong, as long as nodes die.
const REST: f64 = 0.03;
/// An effect that has had so many faults has no more, so that the end of a run is near. It costs the share of sends a little.
const PATIENCE: u32 = 3;

/// One send, as it arrived.
#[derive(Debug, Clone)]
pub struct Sent {
    pub kind: Kind,
    pub decision: String,
    pub node: usize,
    pub fate: Fate,
    pub body: [u8; 32],
    /// Carried out, sooner or later.
    pub done: bool,
}

#[derive(Default)]
struct State {
    sends: BTreeMap<Kind, SmallRng>,
    questions: BTreeMap<Kind, SmallRng>,
    faults: BTreeMap<(Kind, String), u32>,
    sent: Vec<Sent>,
    calm: bool,
    trap: Option<(Landing, oneshot::Sender<usize>)>,
}

pub struct Script(Mutex<State>);

impl Script {
    pub fn new(seed: u64) -> Script {
        let of = |salt: u64| {
            move |kind| (kind, SmallRng::seed_from_u64(seed ^ (salt + kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        };
        let (sends, questions) = (Kind::ALL.map(of(1)).into(), Kind::ALL.map(of(11)).into());
        Script(Mutex::new(State { sends, questions, ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A send has arrived: its number, and what becomes of it.
    pub fn send(&self, kind: Kind, node: usize, decision: String, bytes: &[u8]) -> (usize, Fate) {
        let state = &mut *self.state();
        let rng = state.sends.get_mut(&kind).expect("every kind has one");
        let dealt = deal(rng, SENDS);
        let had = state.faults.entry((kind, decision.clone())).or_default();
        let caught = state.trap.take().and_then(|(landing, caught)| caught.send(node).is_ok().then_some(landing));
        let fate = match caught {
            Some(landing) => Fate::Killed(landing),
            None if *had < PATIENCE => dealt,
            None => Fate::Fine,
        };
        *had += u32::from(fate != Fate::Fine);
        state.sent.push(Sent { kind, decision, node, fate, body: Sha256::digest(bytes).into(), done: false });
        (state.sent.len() - 1, fate)
    }

    /// Something else has arrived.
    pub fn question(&self, kind: Kind) -> Fate {
        let state = &mut *self.state();
        let dealt = deal(state.questions.get_mut(&kind).expect("every kind has one"), REST);
        if state.calm { Fate::Fine } else { dealt }
    }

    /// From now on all questions are answered, so that the end of a run is near: one more that fails doubles an effect's wait.
    pub fn calm(&self) {
        self.state().calm = true;
    }

    /// The send of this number is carried out.
    pub fn done(&self, number: usize) {
        self.state().sent[number].done = true;
    }

    /// The next send waits for the death of its sender; tells who that is.
    pub fn set_trap(&self, landing: Landing) -> oneshot::Receiver<usize> {
        let (caught, tell) = oneshot::channel();
        self.state().trap = Some((landing, caught));
        tell
    }

    /// Something that was sent long ago is still to land.
    pub fn on_its_way(&self) -> bool {
        self.state().sent.iter().any(|s| s.fate.lands_late() && !s.done)
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.state().sent.clone()
    }
}

/// Takes the same from the seed whatever comes of it.
fn deal(rng: &mut SmallRng, share: f64) -> Fate {
    let (wrong, fault) = (rng.random_bool(share), *FAULTS.choose(rng).expect("there are some"));
    if wrong { fault } else { Fate::Fine }
}

impl Fate {
    /// Whether it is carried out when its sender has long gone on.
    pub fn lands_late(self) -> bool {
        matches!(self, Fate::DoneLate | Fate::Killed(Landing::After))
    }

    /// Whether what came back, if anything, leaves the sender without knowledge of what became of it.
    pub fn leaves_doubt(self) -> bool {
        !matches!(self, Fate::Fine | Fate::SlowDown | Fate::Unavailable)
    }
}

/// Bodies that sends of one effect had, for each effect of a kind.
pub fn bodies(sent: &[Sent]) -> BTreeMap<(Kind, &str), BTreeSet<[u8; 32]>> {
    let mut bodies: BTreeMap<(Kind, &str), BTreeSet<[u8; 32]>> = BTreeMap::new();
    for s in sent {
        bodies.entry((s.kind, &s.decision)).or_default().insert(s.body);
    }
    bodies
}
