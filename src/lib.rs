//! Stockwarden watches the stock of every product variant of many shops, live, and gets it reordered before it sells out.
//!
//! Dependencies point inward: `events ← domain ← ports ← {actors, adapters, sources, handlers, api, …} ← app ← main`
//! (ARCHITECTURE.md; a test checks it).

pub mod actors;
pub mod adapters;
pub mod admin;
pub mod api;
pub mod app;
pub mod causes;
pub mod cli;
pub mod config;
pub mod domain;
pub mod events;
pub mod handlers;
pub mod html;
pub mod links;
pub mod ports;
pub mod shopify;
pub mod sim;
pub mod sources;
pub mod telemetry;
pub mod vault;
