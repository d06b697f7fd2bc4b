//! Pure: stock, demand, rules, proposals. No clock, no I/O, no actix; the same input gives the same bytes.
//!
//! A fact passes `shop` (the catalogue: which variants does it concern?), then `variant` (`observe`, `decide`, `record`).
//! Time is the fact's event time and the partition's domain time, both passed in (DESIGN §2).

pub mod demand;
pub mod proposal;
pub mod quantity;
pub mod risk;
pub mod rules;
pub mod shard;
pub mod shop;
pub mod snapshot;
pub mod stock;
pub mod variant;
pub mod views;
