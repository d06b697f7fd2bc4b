//! Contract of the port snapshot_store.
