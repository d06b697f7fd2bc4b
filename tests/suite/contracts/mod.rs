//! One suite a port, run over every adapter.

mod digest;
mod event_log;
mod ledger;
mod owners;
mod registry;
mod snapshot_store;
