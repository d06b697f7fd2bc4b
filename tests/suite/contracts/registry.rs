//! Contract of the port registry.
