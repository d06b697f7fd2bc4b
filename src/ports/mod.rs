//! What the engine needs of the world, as traits. Adapters implement them; one contract suite a port
//! (`tests/suite/contracts/`) runs over every adapter.

pub mod event_log;
pub mod inbound;
pub mod ledger;
pub mod owners;
pub mod peers;
pub mod queries;
pub mod registry;
pub mod reorders;
pub mod snapshot_store;
pub mod targets;

pub use event_log::{EventLog, LogError};
pub use ledger::Ledger;
pub use owners::Owners;
pub use peers::Peers;
pub use queries::Queries;
pub use registry::Registry;
pub use reorders::{Moves, Reorders};
pub use snapshot_store::{SnapshotStore, StoreError};
pub use targets::Targets;
