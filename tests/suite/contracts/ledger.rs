//! Contract of the port ledger.
