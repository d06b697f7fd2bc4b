//! From decisions to effects: dispatcher, senders, ledger, handlers (DESIGN §4, invariants 5 to 8).

mod crash;
mod dispatching;
mod email;
mod harness;
mod log;
mod new_kind;
mod sending;
mod slack;
mod tap;
mod target;
mod toy;
