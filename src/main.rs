//! The command line; what it does is in `cli`.

use std::process::ExitCode;

/// Many small messages between threads: a quarter less CPU than with the system's allocator (bench/README.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    stockwarden::cli::main(&stockwarden::app::App)
}
