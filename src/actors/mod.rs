//! The actors (DESIGN §2): actix shells round the pure core, and their supervision.
//!
//! ```text
//! Engine ─ Supervisor ─ Shard(partition) ─ Shop(domain) ─ Variant(id)
//!        ├ Commit        one transaction for all shards of the node
//!        ├ Snapshotter   batched writes to the store
//!        └ Clock         ticks into the log
//! Dispatcher ─ Handler(name)   a consumer of its own: decisions to effects, through the ledger
//! ```
//! A batch flows down from the consumer's thread and comes back through a [`batch::Scope`]. Every mailbox is bounded; what does
//! not fit pauses its partition.

mod batch;
mod clock;
pub mod cluster;
mod collect;
mod commit;
pub mod dispatcher;
pub mod effects;
pub mod engine;
pub mod moves;
pub mod queries;
mod reader;
mod recovery;
mod residency;
pub mod settings;
mod shard;
mod shop;
mod snapshotter;
pub mod stats;
mod supervisor;
mod table;
mod variant;

pub use engine::Engine;
