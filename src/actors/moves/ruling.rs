//! Whether a move may be made now. The fold decides again, and finally, when it reads the fact; this spares the log what would
//! change nothing, and tells the caller why.

use crate::domain::proposal::{Moved, Snooze, Standing, State};
use crate::domain::views::ProposalView;
use crate::events::fact::{Move, MoveDetails};
use crate::events::time::Millis;

/// Longest text of a person: a name, an order's number, a note.
const MAX_TEXT: usize = 2000;
const MAX_UNITS: i64 = 1_000_000_000_000;

/// A proposal as it is known now.
#[derive(Debug, Clone)]
pub enum Known {
    Open(Box<ProposalView>),
    Closed(State),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// To this state.
    Go(State),
    Already,
    Illegal(String),
}

impl Known {
    pub fn state(&self) -> State {
        self.standing().state
    }

    fn standing(&self) -> Standing<'_> {
        match self {
            Known::Closed(state) => Standing { state: *state, ..Standing::default() },
            Known::Open(view) => Standing {
                state: view.state,
                quantity: view.quantity,
                received: view.received,
                assigned_to: view.assigned_to.as_deref(),
                snooze: (view.snoozed_until.is_some() || view.snoozed_level.is_some())
                    .then_some(Snooze { until: view.snoozed_until, level: view.snoozed_level }),
                eta: view.eta,
                reference: view.reference.as_deref(),
                // A receipt that is told again is written again; the fold knows it.
                receipts: &[],
            },
        }
    }

    pub fn rule(&self, moved: Move, details: &MoveDetails) -> Ruling {
        let standing = self.standing();
        match standing.would(moved, details) {
            Moved::Done => Ruling::Go(standing.after(moved, details)),
            Moved::Already => Ruling::Already,
            Moved::Illegal => self.illegal(moved),
        }
    }

    fn illegal(&self, moved: Move) -> Ruling {
        let allowed: Vec<_> = Move::ALL.into_iter().filter(|m| self.allows(*m)).map(Move::as_str).collect();
        let then = match allowed.is_empty() {
            true => "it is closed, and nothing can be done with it".to_owned(),
            false => format!("allowed are: {}", allowed.join(", ")),
        };
        Ruling::Illegal(format!("the reorder is {}, \"{}\" is not possible; {then}", self.state().as_str(), moved.as_str()))
    }

    fn allows(&self, moved: Move) -> bool {
        let (now, open) = (self.state(), self.state().is_open());
        match moved {
            Move::Acknowledge => open && now < State::Acknowledged,
            Move::Ordered => open && now <= State::Ordered,
            Move::InTransit => open && now < State::InTransit,
            Move::Assign | Move::Snooze | Move::Received | Move::Cancel => open,
        }
    }
}

/// What is wrong with the details of a move, whatever the proposal's state (DESIGN §10).
pub fn check(moved: Move, details: &MoveDetails, now: Millis) -> Result<(), String> {
    let MoveDetails { quantity, until, level, to, reference, note, .. } = details;
    if let Some(units) = quantity
        && !(1..=MAX_UNITS).contains(units)
    {
        return Err(format!("quantity is a number of units from 1 to {MAX_UNITS}, not {units}"));
    }
    for (name, text) in [("to", to), ("reference", reference), ("note", note)] {
        if text.as_ref().is_some_and(|t| t.chars().count() > MAX_TEXT) {
            return Err(format!("{name} may have {MAX_TEXT} characters at most"));
        }
    }
    match moved {
        Move::Assign if to.as_ref().is_none_or(|t| t.trim().is_empty()) => {
            Err("assign needs to: whom, such as {\"to\": \"jana\"}".to_owned())
        }
        Move::Snooze => match (until, level) {
            (Some(until), None) if *until <= now => Err("until is in the past; snooze until a time to come".to_owned()),
            (None, Some(level)) if level.abs() > MAX_UNITS => Err(format!("level is beyond ±{MAX_UNITS} units")),
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err("snooze needs either until (a time, RFC 3339) or level (available units), not both".to_owned()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::proposal::{Proposal, ResolvesAt};
    use crate::domain::rules::Scope;
    use crate::events::decision::Kind;
    use crate::events::fact::ProposalMoved;
    use crate::events::ids::VariantId;

    fn proposal(state: State) -> Proposal {
        Proposal {
            id: Uuid::nil(),
            rule_id: "low".into(),
            rule_version: 1,
            kind: Kind::Reorder,
            scope: Scope::Shop,
            location: None,
            quantity: Some(10),
            received: 0,
            state,
            opened_at: 0,
            opened_by: 1,
            resolves_at: ResolvesAt::Level(11),
            expires_at: 1_000,
            assigned_to: Some("a".into()),
            snooze: Some(Snooze { until: Some(1), level: None }),
            eta: None,
            reference: Some("b".into()),
            note: None,
            carriers: Vec::new(),
            receipts: Vec::new(),
        }
    }

    fn known(p: &Proposal) -> Known {
        if p.state.is_open() { Known::Open(Box::new(ProposalView::of(p))) } else { Known::Closed(p.state) }
    }

    fn details() -> impl Strategy<Value = MoveDetails> {
        let few = || proptest::option::of(1i64..12);
        let text = || proptest::option::of(proptest::sample::select(vec!["a".to_owned(), "b".to_owned()]));
        (few(), few(), few(), few(), text(), text(), text()).prop_map(|(quantity, eta, until, level, reference, to, note)| {
            MoveDetails { quantity, eta, reference, until, level, to, note, receipt: None }
        })
    }

    proptest! {
        /// Who asks is told what the fold will do.
        #[test]
        fn the_ruling_is_the_folds(
            state in proptest::sample::select(State::ALL.to_vec()),
            moved in proptest::sample::select(Move::ALL.to_vec()),
            details in details(),
        ) {
            prop_assume!(check(moved, &details, 0).is_ok());
            let mut p = proposal(state);
            let ruling = known(&p).rule(moved, &details);
            let m = ProposalMoved {
                proposal_id: p.id, variant_id: VariantId(7), moved, by: "t".into(), via: "api".into(), details,
            };
            match p.apply(&m) {
                Moved::Done => prop_assert_eq!(ruling, Ruling::Go(p.state)),
                Moved::Already => prop_assert_eq!(ruling, Ruling::Already),
                Moved::Illegal => prop_assert!(matches!(ruling, Ruling::Illegal(_)), "{:?}", ruling),
            }
        }
    }

    #[test]
    fn a_refusal_says_the_state_and_what_is_allowed() {
        let none = MoveDetails::default();
        let Ruling::Illegal(told) = known(&proposal(State::Ordered)).rule(Move::Acknowledge, &none) else { panic!("backward") };
        assert!(told.contains("is ordered") && told.contains("in-transit, received, cancel"), "{told}");
        let Ruling::Illegal(told) = known(&proposal(State::Cancelled)).rule(Move::Assign, &none) else { panic!("closed") };
        assert!(told.contains("is cancelled") && told.contains("closed"), "{told}");
    }

    #[test]
    fn details_that_cannot_be_meant_are_told() {
        let details = |json: serde_json::Value| serde_json::from_value::<MoveDetails>(json).expect("details");
        let now = crate::events::time::parse_millis("2026-11-23T10:00:00Z").expect("a time");
        for (moved, json, word) in [
            (Move::Snooze, serde_json::json!({}), "either until"),
            (Move::Snooze, serde_json::json!({"until": "2026-12-01T00:00:00Z", "level": 3}), "not both"),
            (Move::Snooze, serde_json::json!({"until": "2026-11-01T00:00:00Z"}), "in the past"),
            (Move::Assign, serde_json::json!({}), "needs to"),
            (Move::Assign, serde_json::json!({"to": " "}), "needs to"),
            (Move::Ordered, serde_json::json!({"quantity": 0}), "not 0"),
            (Move::Received, serde_json::json!({"quantity": -3}), "not -3"),
        ] {
            let told = check(moved, &details(json), now).expect_err("refused");
            assert!(told.contains(word), "{told}");
        }
        check(Move::Snooze, &details(serde_json::json!({"level": 0})), now).expect("a level of none left");
    }
}
