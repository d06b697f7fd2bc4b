//! What the logs hold: records, facts, decisions, dead letters, their codecs and versions.
//!
//! To add a fact type: a variant in [`fact::FactType`], its fields in the mask of [`minimise`] (if it comes from
//! outside), its reading in [`codec`], a golden file in `tests/golden/`.

pub mod codec;
pub mod dead_letter;
pub mod decision;
pub mod fact;
pub mod ids;
pub mod minimise;
pub mod record;
pub mod time;
