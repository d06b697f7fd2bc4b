//! From decisions to effects: dispatcher, senders, ledger, handlers (DESIGN §4, invariants 5 to 8).

mod crash;
mod dispatching;
mod email;
mod email_digest;
pub(crate) mod email_server;
mod email_templates;
mod email_tls;
pub(crate) mod harness;
mod jira;
mod jira_inbound;
mod jira_once;
pub(crate) mod jira_server;
mod log;
mod new_kind;
mod sending;
pub(crate) mod slack;
mod tap;
mod target;
mod toy;
pub(crate) mod transfer;
mod transfer_once;
pub(crate) mod transfer_shop;
mod updates;
