//! Logging and metrics.

pub mod logging;
