//! Pure: stock, demand, rules, proposals. No clock, no I/O, no actix; the same input gives the same bytes.

pub mod views;
