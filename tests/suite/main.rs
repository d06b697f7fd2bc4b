//! One program for all tests that need more than a module: port contracts, the binary as a black box, faults.

mod api;
mod cli;
mod contracts;
mod effects;
mod engine;
mod faults;
mod golden;
mod graphql;
mod kafka_adapter;
mod layering;
mod promises;
mod reference;
mod simulation;
mod support;
mod system;
mod targets;
