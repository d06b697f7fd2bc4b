//! Handlers: what a decision becomes.
