//! The command line; what it does is in `cli`.

use std::process::ExitCode;

/// The engine is many small messages between threads; the system's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    stockwarden::cli::main(&stockwarden::app::App)
}
