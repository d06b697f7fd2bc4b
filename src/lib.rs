//! Stockwarden watches the stock of every product variant of many shops, live, and gets it reordered before it sells out.
//!
//! Dependencies point inward: `events ← domain ← ports ← {actors, adapters, sources, handlers, api, …} ← app ← main`
//! (ARCHITECTURE.md; a test checks it).

pub mod adapters;
pub mod domain;
pub mod events;
pub mod ports;
