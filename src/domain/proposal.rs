//! Proposals: what was decided and what became of it (DESIGN §4). States go forward only; skipping is allowed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rules::Scope;
use crate::events::decision::Kind;
use crate::events::fact::{Move, MoveDetails, ProposalMoved};
use crate::events::ids::{LocationId, TransferId};
use crate::events::record::Offset;
use crate::events::time::Millis;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    #[default]
    Proposed,
    /// At least one route is done.
    Sent,
    Acknowledged,
    Ordered,
    InTransit,
    Received,
    Cancelled,
    /// Nobody acted in time.
    Expired,
    /// Stock came back before anybody acted.
    Resolved,
}

impl State {
    pub const ALL: [State; 9] = [
        State::Proposed,
        State::Sent,
        State::Acknowledged,
        State::Ordered,
        State::InTransit,
        State::Received,
        State::Cancelled,
        State::Expired,
        State::Resolved,
    ];

    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            State::Proposed => "proposed",
            State::Sent => "sent",
            State::Acknowledged => "acknowledged",
            State::Ordered => "ordered",
            State::InTransit => "in_transit",
            State::Received => "received",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
            State::Resolved => "resolved",
        }
    }

    pub const fn is_open(self) -> bool {
        matches!(self, State::Proposed | State::Sent | State::Acknowledged | State::Ordered | State::InTransit)
    }

    /// Whether somebody has taken it up; then it no longer closes by itself.
    pub const fn is_acted_on(self) -> bool {
        !matches!(self, State::Proposed | State::Sent)
    }
}

/// When an untouched proposal closes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum ResolvesAt {
    /// Stock at or above.
    Level(i64),
    /// Probability of running out within the horizon (hours) below.
    RunOut { below: f64, horizon_hours: f64 },
}

/// Nothing is asked of people until then; whichever comes first ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snooze {
    pub until: Option<Millis>,
    /// `available` at or below this.
    pub level: Option<i64>,
}

impl Snooze {
    fn is_over(self, now: Millis, available: Option<i64>) -> bool {
        self.until.is_some_and(|until| now >= until) || self.level.zip(available).is_some_and(|(level, a)| a <= level)
    }
}

/// A Shopify transfer that carries the proposal out, and the handler that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    pub transfer: TransferId,
    pub handler: Box<str>,
    /// Complete or cancelled: what comes again about it says nothing.
    pub is_over: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub id: Uuid,
    pub rule_id: Box<str>,
    pub rule_version: i64,
    pub kind: Kind,
    pub scope: Scope,
    /// The location replenished; none unless the scope is location.
    pub location: Option<LocationId>,
    /// Units, as ordered meanwhile.
    pub quantity: Option<i64>,
    pub received: i64,
    pub state: State,
    pub opened_at: Millis,
    pub opened_by: Offset,
    pub resolves_at: ResolvesAt,
    pub expires_at: Millis,
    pub assigned_to: Option<Box<str>>,
    pub snooze: Option<Snooze>,
    /// When what is ordered is expected.
    pub eta: Option<Millis>,
    /// The order's name elsewhere.
    pub reference: Option<Box<str>>,
    /// Of the last move.
    pub note: Option<Box<str>>,
    pub carriers: Vec<Carrier>,
    /// The last receipts of a part, by what told of them.
    pub receipts: Vec<Box<str>>,
}

/// Receipts that are remembered. An act is told again within seconds, and orders arrive in few parts.
const RECEIPTS: usize = 16;

/// What a move did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Done,
    /// It was there already.
    Already,
    /// Backward, or closed; or the move does not say what it has to.
    Illegal,
}

impl Proposal {
    /// Units on their way because of it (RULES: unlanded own proposals).
    pub fn under_way(&self) -> i64 {
        if self.state.is_open() { self.quantity.unwrap_or(0).saturating_sub(self.received).max(0) } else { 0 }
    }

    fn standing(&self) -> Standing<'_> {
        Standing {
            state: self.state,
            quantity: self.quantity,
            received: self.received,
            assigned_to: self.assigned_to.as_deref(),
            snooze: self.snooze,
            eta: self.eta,
            reference: self.reference.as_deref(),
            receipts: &self.receipts,
        }
    }

    pub fn advance(&mut self, to: State) -> Moved {
        let moved = self.standing().toward(to);
        if moved == Moved::Done {
            self.state = to;
            if !to.is_open() {
                self.snooze = None;
            }
        }
        moved
    }

    /// What [`Proposal::apply`] would do.
    pub fn would(&self, m: &ProposalMoved) -> Moved {
        self.standing().would(m.moved, &m.details)
    }

    pub fn apply(&mut self, m: &ProposalMoved) -> Moved {
        let moved = self.would(m);
        if moved != Moved::Done {
            return moved;
        }
        let d = &m.details;
        let next = self.standing().after(m.moved, d);
        let text = |t: &Option<String>| t.as_deref().map(Box::from);
        match m.moved {
            Move::Acknowledge | Move::InTransit | Move::Cancel => {}
            Move::Assign => self.assigned_to = text(&d.to),
            Move::Snooze => self.snooze = snooze_of(d),
            Move::Ordered => {
                self.quantity = d.quantity.or(self.quantity);
                self.eta = d.eta.or(self.eta);
                self.reference = text(&d.reference).or(self.reference.take());
            }
            Move::Received => {
                self.received = self.received.saturating_add(d.quantity.unwrap_or(self.under_way()));
                if let Some(receipt) = text(&d.receipt) {
                    self.receipts.drain(..(self.receipts.len() + 1).saturating_sub(RECEIPTS));
                    self.receipts.push(receipt);
                }
            }
        }
        self.advance(next);
        self.note = text(&d.note);
        moved
    }

    /// Remembers a transfer that carries it out; whether that is news.
    pub fn carried_by(&mut self, transfer: TransferId, handler: &str) -> bool {
        let is_news = self.state.is_open() && self.carriers.iter().all(|c| c.transfer != transfer);
        if is_news {
            self.carriers.push(Carrier { transfer, handler: handler.into(), is_over: false });
        }
        is_news
    }

    /// Ends a snooze whose end has come; whether it did.
    pub fn wake(&mut self, now: Millis, available: Option<i64>) -> bool {
        let is_over = self.snooze.is_some_and(|s| s.is_over(now, available));
        if is_over {
            self.snooze = None;
        }
        is_over
    }

    /// When time alone may change it.
    pub fn deadline(&self) -> Option<Millis> {
        let expiry = (!self.state.is_acted_on()).then_some(self.expires_at);
        [expiry, self.snooze.and_then(|s| s.until)].into_iter().flatten().min()
    }
}

/// What of a proposal decides which moves it allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing<'a> {
    pub state: State,
    pub quantity: Option<i64>,
    pub received: i64,
    pub assigned_to: Option<&'a str>,
    pub snooze: Option<Snooze>,
    pub eta: Option<Millis>,
    pub reference: Option<&'a str>,
    pub receipts: &'a [Box<str>],
}

impl Standing<'_> {
    fn toward(&self, to: State) -> Moved {
        if to == self.state {
            Moved::Already
        } else if to > self.state && self.state.is_open() {
            Moved::Done
        } else {
            Moved::Illegal
        }
    }

    /// A repeat is [`Moved::Already`]; a move that says something new, where there is anything to be said, is not one: assigned to
    /// somebody else, snoozed longer, ordered with another quantity or date.
    pub fn would(&self, moved: Move, d: &MoveDetails) -> Moved {
        let told_anew = |is_new: bool| if is_new { Moved::Done } else { Moved::Already };
        match moved {
            Move::Acknowledge => self.toward(State::Acknowledged),
            Move::InTransit => self.toward(State::InTransit),
            Move::Cancel => self.toward(State::Cancelled),
            Move::Ordered | Move::Received if d.quantity.is_some_and(|units| units < 1) => Moved::Illegal,
            Move::Received if d.receipt.as_deref().is_some_and(|r| self.receipts.iter().any(|known| **known == *r)) => {
                Moved::Already
            }
            Move::Received => self.toward(State::Received),
            Move::Ordered => match self.toward(State::Ordered) {
                Moved::Already => told_anew(
                    (d.quantity.is_some() && d.quantity != self.quantity)
                        || (d.eta.is_some() && d.eta != self.eta)
                        || (d.reference.is_some() && d.reference.as_deref() != self.reference),
                ),
                other => other,
            },
            Move::Assign | Move::Snooze if !self.state.is_open() => Moved::Illegal,
            Move::Assign => match d.to.as_deref() {
                None => Moved::Illegal,
                to => told_anew(to != self.assigned_to),
            },
            Move::Snooze => match snooze_of(d) {
                None => Moved::Illegal,
                snooze => told_anew(snooze != self.snooze),
            },
        }
    }

    /// The state after a move that [`Standing::would`] be done.
    pub fn after(&self, moved: Move, d: &MoveDetails) -> State {
        match moved {
            Move::Acknowledge => State::Acknowledged,
            Move::Ordered => State::Ordered.max(self.state),
            Move::InTransit => State::InTransit,
            Move::Cancel => State::Cancelled,
            Move::Assign | Move::Snooze => self.state,
            // Less than ordered keeps it open; that somebody has ordered it, its arrival says.
            Move::Received => {
                let outstanding = self.quantity.unwrap_or(0).saturating_sub(self.received);
                let is_rest_due = d.quantity.is_some_and(|units| units < outstanding);
                if is_rest_due { State::Ordered.max(self.state) } else { State::Received }
            }
        }
    }
}

fn snooze_of(d: &MoveDetails) -> Option<Snooze> {
    let snooze = Snooze { until: d.until, level: d.level };
    (snooze.until.is_some() || snooze.level.is_some()).then_some(snooze)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::ids::VariantId;

    fn proposal(state: State) -> Proposal {
        Proposal {
            id: Uuid::from_u128(1),
            rule_id: "low".into(),
            rule_version: 1,
            kind: Kind::Reorder,
            scope: Scope::Shop,
            location: None,
            quantity: Some(40),
            received: 0,
            state,
            opened_at: 0,
            opened_by: 1,
            resolves_at: ResolvesAt::Level(11),
            expires_at: 1_000,
            assigned_to: None,
            snooze: None,
            eta: None,
            reference: None,
            note: None,
            carriers: Vec::new(),
            receipts: Vec::new(),
        }
    }

    fn moved(moved: Move, details: MoveDetails) -> ProposalMoved {
        ProposalMoved {
            proposal_id: Uuid::from_u128(1),
            variant_id: VariantId(7),
            moved,
            by: "ann".into(),
            via: "api".into(),
            details,
        }
    }

    /// As DESIGN §4 has it: forward only, skipping allowed.
    #[test]
    fn moves_go_forward_only_and_a_repeat_is_told_apart_from_an_illegal_one() {
        use Moved::{Already, Done, Illegal};
        let table = [
            // From:                  acknowledge, ordered, in transit, received, cancel
            (State::Proposed, [Done, Done, Done, Done, Done]),
            (State::Sent, [Done, Done, Done, Done, Done]),
            (State::Acknowledged, [Already, Done, Done, Done, Done]),
            (State::Ordered, [Illegal, Already, Done, Done, Done]),
            (State::InTransit, [Illegal, Illegal, Already, Done, Done]),
            (State::Received, [Illegal, Illegal, Illegal, Already, Illegal]),
            (State::Cancelled, [Illegal, Illegal, Illegal, Illegal, Already]),
            (State::Expired, [Illegal; 5]),
            (State::Resolved, [Illegal; 5]),
        ];
        let moves = [Move::Acknowledge, Move::Ordered, Move::InTransit, Move::Received, Move::Cancel];
        for (state, want) in table {
            let got = moves.map(|m| proposal(state).would(&moved(m, MoveDetails::default())));
            assert_eq!(got, want, "{state:?}");
        }
    }

    #[test]
    fn a_move_that_does_not_say_what_it_has_to_is_refused() {
        for (name, quantity) in [(Move::Assign, None), (Move::Snooze, None), (Move::Ordered, Some(0)), (Move::Received, Some(-3))]
        {
            let details = MoveDetails { quantity, ..MoveDetails::default() };
            assert_eq!(proposal(State::Proposed).would(&moved(name, details)), Moved::Illegal, "{name:?}");
        }
    }

    #[test]
    fn what_arrives_in_part_was_ordered_and_leaves_the_rest_under_way() {
        let mut p = proposal(State::Sent);
        let some = |units| moved(Move::Received, MoveDetails { quantity: Some(units), ..MoveDetails::default() });
        assert_eq!(p.apply(&some(15)), Moved::Done);
        assert_eq!((p.state, p.under_way()), (State::Ordered, 25));
        assert_eq!(p.apply(&some(i64::MAX)), Moved::Done);
        assert_eq!((p.state, p.under_way()), (State::Received, 0));
    }

    #[test]
    fn a_receipt_that_is_told_again_is_counted_once_as_long_as_it_is_remembered() {
        let mut p = proposal(State::Sent);
        let some = |name: &str| {
            moved(Move::Received, MoveDetails { quantity: Some(1), receipt: Some(name.to_owned()), ..MoveDetails::default() })
        };
        assert_eq!([p.apply(&some("a")), p.apply(&some("a")), p.apply(&some("b"))], [Moved::Done, Moved::Already, Moved::Done]);
        assert_eq!(p.received, 2);
        for n in 0..RECEIPTS {
            p.apply(&some(&n.to_string()));
        }
        assert_eq!((p.receipts.len(), p.would(&some("b")), p.would(&some("0"))), (RECEIPTS, Moved::Done, Moved::Already));
    }

    #[test]
    fn a_snooze_ends_at_its_time_or_level_or_with_the_proposal() {
        let snooze = |until, level| moved(Move::Snooze, MoveDetails { until, level, ..MoveDetails::default() });
        let mut p = proposal(State::Proposed);
        p.apply(&snooze(Some(500), Some(3)));
        assert_eq!(p.deadline(), Some(500));
        assert!(!p.wake(499, Some(4)) && !p.wake(499, None));
        assert!(p.clone().wake(500, Some(4)) && p.clone().wake(499, Some(3)));
        assert_eq!(p.apply(&snooze(Some(500), Some(3))), Moved::Already);
        assert_eq!(p.apply(&snooze(Some(2_000), None)), Moved::Done);
        assert_eq!(p.deadline(), Some(1_000), "it expires before that");
        p.advance(State::Cancelled);
        assert_eq!(p.snooze, None);
    }

    fn details() -> impl Strategy<Value = MoveDetails> {
        let few = || proptest::option::of(-1i64..3);
        let text = || proptest::option::of(proptest::sample::select(vec!["a".to_owned(), "b".to_owned()]));
        (few(), few(), few(), few(), text(), text(), text()).prop_map(|(quantity, eta, until, level, reference, to, note)| {
            MoveDetails { quantity, eta, reference, until, level, to, note, receipt: None }
        })
    }

    proptest! {
        /// What the API is told before it writes is what happens; a move that is refused or a repeat changes nothing; and the same
        /// move again does nothing, but for what arrives in parts.
        #[test]
        fn would_says_what_apply_does(
            state in proptest::sample::select(State::ALL.to_vec()),
            moves in proptest::collection::vec((proptest::sample::select(Move::ALL.to_vec()), details()), 1..12),
        ) {
            let mut p = proposal(state);
            for (name, details) in moves {
                let m = moved(name, details);
                let (before, would) = (p.clone(), p.would(&m));
                prop_assert_eq!(p.apply(&m), would);
                if would != Moved::Done {
                    prop_assert_eq!(&p, &before);
                } else if name != Move::Received {
                    prop_assert_eq!(p.would(&m), Moved::Already);
                }
                prop_assert!(p.state >= before.state && p.received >= before.received && p.under_way() >= 0);
            }
        }
    }
}
