//! What tests share: real servers, stores and topics of their own.

pub mod kafka;
pub mod postgres;
pub mod stand_in;
pub mod stores;
