//! Reduces webhook bodies to the documented fields that the domain uses.
