//! The durable log in a folder.
