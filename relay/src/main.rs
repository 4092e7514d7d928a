//! The relay's binary: reads the command line, starts a runtime where one is needed, and turns
//! what happened into an exit code.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A bug of ours, in the words of sysexits.h: `EX_SOFTWARE`.
const EXIT_INTERNAL: u8 = 70;

fn main() -> ExitCode {
    // The panic hook has told what happened; the exit code says whose fault it was.
    std::panic::catch_unwind(cli::main).unwrap_or_else(|_| ExitCode::from(EXIT_INTERNAL))
}
