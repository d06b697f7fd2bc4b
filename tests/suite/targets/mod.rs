//! The binary with all kinds of handlers, on its embedded log, against stand-ins for their targets and a real SMTP server.

mod check;
mod everywhere;
mod failures;
mod site;
