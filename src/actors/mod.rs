//! actix shells; what they do lies in plain functions beside them.

pub mod dispatcher;
pub mod effects;
