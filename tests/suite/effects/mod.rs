//! From decisions to effects: dispatcher, senders, ledger, handlers (DESIGN §4, invariants 5 to 8).

mod crash;
mod dispatching;
mod email;
mod harness;
mod log;
mod sending;
mod slack;
mod slack_inbound;
mod slack_server;
mod tap;
mod target;
mod toy;
