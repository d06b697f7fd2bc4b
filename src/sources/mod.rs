//! Where facts come from: each source turns what it receives into records for the log, and has a file of its own.
//!
//! To add one: verify who sent it before parsing, reduce it with [`crate::events::minimise`], read it with
//! [`crate::events::codec`] so that what is acknowledged as a fact is one, and answer a dead letter for what is not.

pub mod shopify;
