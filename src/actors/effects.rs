//! From planned effects to what really happened: one [`Sender`] for each handler instance.
//!
//! # One effect, step by step
//!
//! 1. *claim*: the row becomes `sending` under the partition's dispatch epoch, so nobody else sends it (DESIGN §7.5).
//! 2. *prepare and freeze*: the handler builds the request once; the ledger keeps the bytes. Whoever sends again sends these.
//! 3. If an earlier send may have arrived, *resolve*: the target is asked. Where it cannot be, the same bytes go out again and the row
//!    will say `possible_duplicate` (DESIGN §4).
//! 4. *send*, within a deadline.
//! 5. *fact*: the outcome (done, ambiguous, failed) is appended to `stock-facts`, durable.
//! 6. *settle*: the row gets its final state, or the time of its next try.
//!
//! A crash before 4 costs nothing; the next owner finds the row `sending` under an older epoch and begins again with the same
//! bytes. A crash between 4 and 6 leaves it ambiguous for the next owner. The fact goes *before* the row is settled, because then
//! nothing that is settled can be missing from the log; a crash between 5 and 6 repeats the fact, and facts of outcomes are
//! idempotent in the fold and carry one `dedupe_id` for each state. (The other order would lose the outcome of a settled row, which
//! nobody would look at again.)
//!
//! The store's fence, not the consumer group, says who may settle: a send that was under way when the partition was revoked still
//! settles while nobody has taken a newer epoch, and changes nothing afterwards.
//!
//! A digest is one effect shared by its rows ([`Effect::shared_by`](crate::ports::ledger::Effect::shared_by)): the claim gathers them,
//! one of them leads, and all go through the same steps with it; each gets its own fact.
//!
//! A row may tell a change of the proposal instead of the decision (an *update*, planned when the change is read): it goes the same
//! way, after the first row of its route, makes no fact, and ends unsent where that one failed or a later change came first.
//!
//! Some handlers can also be searched for effects that happened twice all the same; [`sweeper`] does that between sends.
//!
//! Senders share nothing: own claims, own limit of sends under way, own circuit breaker. One that hangs delays no other.

mod breaker;
mod clock;
mod digest;
mod health;
mod outcome;
mod ownership;
mod sender;
mod sweeper;

pub use breaker::{Backoff, Breaker, BreakerState, Gate};
pub use clock::{Clock, Environment, Random};
pub use health::Health;
pub use outcome::Outcomes;
pub use ownership::{InFlight, Ownership, Token};
pub use sender::{Sender, SenderState, Shared};
