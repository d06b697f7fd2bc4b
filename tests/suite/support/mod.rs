//! What tests share: real servers, stores of their own.

pub mod postgres;
pub mod stores;
