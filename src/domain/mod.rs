//! Pure: stock, demand, rules, proposals. No clock, no I/O, no actix.
