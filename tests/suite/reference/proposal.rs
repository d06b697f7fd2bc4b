//! A proposal: what people and time make of it (DESIGN §4, §10).

use serde_json::Value;

use super::ProposalOutcome;
use super::input::{Rule, time_ms};

/// Forward only; the first five are open.
const STATES: [&str; 9] =
    ["proposed", "sent", "acknowledged", "ordered", "in_transit", "received", "cancelled", "expired", "resolved"];

#[derive(Clone)]
pub struct Proposal {
    pub rule: Rule,
    /// Now, and as it was told last.
    pub is: ProposalOutcome,
    pub told: ProposalOutcome,
    pub note: Option<String>,
    pub expires_at: i64,
    /// Transfers that carry it out, who made them, and whether they are over.
    pub carriers: Vec<(String, String, bool)>,
}

pub fn is_transfer(reference: &str) -> bool {
    reference.starts_with("gid://shopify/InventoryTransfer/")
}

fn place(state: &str) -> usize {
    STATES.iter().position(|s| *s == state).expect("one of the states")
}

impl Proposal {
    pub fn open(id: String, rule: Rule, quantity: Option<i64>, expires_at: i64) -> Proposal {
        let is = ProposalOutcome { id, state: "proposed".into(), quantity, ..ProposalOutcome::default() };
        Proposal { rule, told: is.clone(), is, note: None, expires_at, carriers: Vec::new() }
    }

    pub fn under_way(&self) -> i64 {
        (self.is.quantity.unwrap_or(0) - self.is.received).max(0)
    }

    pub fn is_open(&self) -> bool {
        place(&self.is.state) < 5
    }

    pub fn is_acted_on(&self) -> bool {
        place(&self.is.state) >= 2
    }

    /// Whether it went there.
    pub fn go(&mut self, state: &str) -> bool {
        let forward = self.is_open() && place(state) > place(&self.is.state);
        if forward {
            self.is.state = state.to_owned();
            if !self.is_open() {
                (self.is.snoozed_until, self.is.snoozed_level) = (None, None);
            }
        }
        forward
    }

    /// A route is done; nobody is told that.
    pub fn sent(&mut self) -> bool {
        let went = self.go("sent");
        if went {
            self.told.state = "sent".into();
        }
        went
    }

    /// A transfer that carries it out: whether that is news.
    pub fn carried_by(&mut self, effect: &Value) -> bool {
        let text = |name: &str| effect[name].as_str().unwrap_or_default().to_owned();
        let (transfer, handler) = (text("reference"), text("handler"));
        let is_news = is_transfer(&transfer) && self.is_open() && self.carriers.iter().all(|c| c.0 != transfer);
        if is_news {
            self.carriers.push((transfer, handler, false));
        }
        is_news
    }

    pub fn expire(&mut self, now: i64) -> bool {
        !self.is_acted_on() && now >= self.expires_at && self.go("expired")
    }

    pub fn wake(&mut self, now: i64, available: Option<i64>) {
        let late = self.is.snoozed_until.is_some_and(|until| until <= now);
        let low = self.is.snoozed_level.is_some_and(|level| available.is_some_and(|a| a <= level));
        if late || low {
            (self.is.snoozed_until, self.is.snoozed_level) = (None, None);
        }
    }

    /// Whether the move did anything.
    pub fn take(&mut self, m: &Value) -> bool {
        let text = |name: &str| m[name].as_str().map(str::to_owned);
        let units = m["quantity"].as_i64();
        let before = self.is.clone();
        let done = match m["move"].as_str().expect("a move has a name") {
            "acknowledge" => self.go("acknowledged"),
            "in_transit" => self.go("in_transit"),
            "cancel" => self.go("cancelled"),
            _ if !self.is_open() => false,
            "assign" => {
                self.is.assigned_to = text("to").or(before.assigned_to.clone());
                self.is != before
            }
            "snooze" => {
                let end = (time_ms(&m["until"]), m["level"].as_i64());
                if end != (None, None) {
                    (self.is.snoozed_until, self.is.snoozed_level) = end;
                }
                self.is != before
            }
            "ordered" | "received" if units.is_some_and(|u| u < 1) => false,
            "ordered" if before.state == "in_transit" => false,
            "ordered" => {
                self.go("ordered");
                self.is.quantity = units.or(before.quantity);
                self.is.eta = time_ms(&m["eta"]).or(before.eta);
                self.is.reference = text("reference").or(before.reference.clone());
                self.is != before
            }
            "received" => {
                self.is.received += units.unwrap_or(self.under_way());
                self.go(if self.under_way() == 0 { "received" } else { "ordered" });
                true
            }
            other => panic!("the reference does not know the move {other}"),
        };
        if done {
            self.note = text("note");
        }
        done
    }
}
