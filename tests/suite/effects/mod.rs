//! From decisions to effects: dispatcher, senders, ledger, handlers (DESIGN §4, invariants 5 to 8).

mod crash;
mod dispatching;
mod email;
pub(crate) mod harness;
mod log;
mod sending;
mod tap;
mod target;
mod toy;
pub(crate) mod transfer;
mod transfer_once;
mod transfer_shop;
