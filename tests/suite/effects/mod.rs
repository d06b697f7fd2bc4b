//! From decisions to effects: dispatcher, senders, ledger, handlers (DESIGN §4, invariants 5 to 8).

mod crash;
mod dispatching;
mod email;
mod harness;
mod jira;
mod jira_inbound;
mod jira_once;
mod jira_server;
mod log;
mod sending;
mod tap;
mod target;
mod toy;
