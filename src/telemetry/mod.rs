//! Logging and metrics.

pub mod metrics;
pub mod logging;
