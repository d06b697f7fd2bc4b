//! Implementations of the ports. The one place that chooses among them is `app`.

pub mod embedded;
pub mod kafka;
pub mod peers;
pub mod postgres;
mod sql;
