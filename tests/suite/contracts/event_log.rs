//! Contract of the port event_log.
