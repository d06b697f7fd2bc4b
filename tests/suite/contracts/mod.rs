//! One suite a port, run over every adapter.

mod digest;
mod event_log;
mod ledger;
mod owners;
mod registry;
mod reorders;
mod snapshot_store;
