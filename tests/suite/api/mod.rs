//! The HTTP server on real sockets, over the embedded log and the SQLite store, with faults where a test asks for one.

mod control;
mod deliveries;
mod http;
mod inbound;
mod life;
mod links;
mod ports;
mod probes;
mod queries;
mod refusals;
mod reorders;
mod rights;
mod site;
