//! The adapters that need no server: a durable log in `data_dir` and a SQLite store.

pub mod log;
pub mod sqlite;
