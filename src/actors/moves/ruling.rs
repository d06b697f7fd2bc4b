//! Whether a move may be made now. The fold decides again, and finally, when it reads the fact; this spares the log what would
//! change nothing, and tells the caller why.

use crate::domain::proposal::State;
use crate::events::decision::ProposalChange;
use crate::events::fact::{Move, MoveDetails};
use crate::events::time::Millis;

/// Longest text of a person: a name, an order's number, a note.
const MAX_TEXT: usize = 2000;
const MAX_UNITS: i64 = 1_000_000_000_000;

/// A proposal as it is known now.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub state: State,
    /// Units ordered, or proposed.
    pub quantity: Option<i64>,
    /// Attributes are those of the last change.
    pub last: Option<&'a ProposalChange>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// To this state.
    Go(State),
    Already,
    Illegal(String),
}

impl Standing<'_> {
    pub fn rule(&self, moved: Move, details: &MoveDetails) -> Ruling {
        let told_anew = |is_new: bool| if is_new { Ruling::Go(self.state) } else { Ruling::Already };
        match moved {
            Move::Acknowledge => self.toward(State::Acknowledged, moved),
            Move::InTransit => self.toward(State::InTransit, moved),
            Move::Cancel => self.toward(State::Cancelled, moved),
            Move::Ordered => match self.toward(State::Ordered, moved) {
                Ruling::Already => told_anew(
                    details.quantity.is_some_and(|q| Some(q) != self.quantity)
                        || details.eta.is_some_and(|e| Some(e) != self.last.and_then(|l| l.eta))
                        || details.reference.as_ref().is_some_and(|r| Some(r) != self.last.and_then(|l| l.reference.as_ref())),
                ),
                ruling => ruling,
            },
            Move::Received => match self.toward(State::Received, moved) {
                Ruling::Go(_) if details.quantity.is_some_and(|q| q < self.outstanding()) => {
                    Ruling::Go(self.state.max(State::Ordered))
                }
                ruling => ruling,
            },
            Move::Assign | Move::Snooze if !self.state.is_open() => self.illegal(moved),
            Move::Assign => told_anew(details.to.as_ref() != self.last.and_then(|l| l.assigned_to.as_ref())),
            Move::Snooze => {
                let snoozed = self.last.map_or((None, None), |l| (l.snoozed_until, l.snoozed_level));
                told_anew((details.until, details.level) != snoozed)
            }
        }
    }

    fn outstanding(&self) -> i64 {
        self.quantity.unwrap_or(0).saturating_sub(self.last.map_or(0, |l| l.received))
    }

    /// Forward only, skipping allowed (DESIGN §4).
    fn toward(&self, to: State, moved: Move) -> Ruling {
        if to == self.state {
            Ruling::Already
        } else if to > self.state && self.state.is_open() {
            Ruling::Go(to)
        } else {
            self.illegal(moved)
        }
    }

    fn illegal(&self, moved: Move) -> Ruling {
        let allowed: Vec<_> = Move::ALL.into_iter().filter(|m| self.allows(*m)).map(Move::as_str).collect();
        let then = match allowed.is_empty() {
            true => "it is closed, and nothing can be done with it".to_owned(),
            false => format!("allowed are: {}", allowed.join(", ")),
        };
        Ruling::Illegal(format!("the reorder is {}, \"{}\" is not possible; {then}", self.state.as_str(), moved.as_str()))
    }

    fn allows(&self, moved: Move) -> bool {
        let open = self.state.is_open();
        match moved {
            Move::Acknowledge => open && self.state < State::Acknowledged,
            Move::Ordered => open && self.state <= State::Ordered,
            Move::InTransit => open && self.state < State::InTransit,
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
    use super::*;

    fn standing(state: State) -> Standing<'static> {
        Standing { state, quantity: Some(10), last: None }
    }

    #[test]
    fn moves_go_forward_and_may_skip_a_repeat_changes_nothing_and_backward_is_illegal() {
        let none = MoveDetails::default();
        assert_eq!(standing(State::Proposed).rule(Move::InTransit, &none), Ruling::Go(State::InTransit));
        assert_eq!(standing(State::Ordered).rule(Move::Ordered, &none), Ruling::Already);
        let Ruling::Illegal(told) = standing(State::Ordered).rule(Move::Acknowledge, &none) else { panic!("it went backward") };
        assert!(told.contains("is ordered") && told.contains("in-transit") && !told.contains("acknowledge,"), "{told}");
        let Ruling::Illegal(told) = standing(State::Cancelled).rule(Move::Assign, &none) else { panic!("it is closed") };
        assert!(told.contains("closed"), "{told}");
        assert_eq!(standing(State::Received).rule(Move::Received, &none), Ruling::Already);
    }

    #[test]
    fn less_than_ordered_keeps_it_open() {
        let part = |units| MoveDetails { quantity: Some(units), ..MoveDetails::default() };
        assert_eq!(standing(State::Sent).rule(Move::Received, &part(9)), Ruling::Go(State::Ordered));
        assert_eq!(standing(State::InTransit).rule(Move::Received, &part(9)), Ruling::Go(State::InTransit));
        assert_eq!(standing(State::Ordered).rule(Move::Received, &part(10)), Ruling::Go(State::Received));
        assert_eq!(standing(State::Ordered).rule(Move::Received, &MoveDetails::default()), Ruling::Go(State::Received));
        assert_eq!(standing(State::Ordered).rule(Move::Ordered, &part(12)), Ruling::Go(State::Ordered), "another quantity");
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
