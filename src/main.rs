//! The command line; what it does is in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stockwarden::cli::main(&stockwarden::app::App)
}
