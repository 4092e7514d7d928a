//! The `mcpm` binary: an allocator, a net for panics, and the command line.

use std::process::ExitCode;

/// The system allocator of some targets is slow when many threads allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What sysexits.h calls `EX_SOFTWARE`: the fault is ours.
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    std::panic::catch_unwind(|| mcpm::cli::main(std::env::args_os()))
        // The panic hook has printed what happened.
        .unwrap_or(ExitCode::from(INTERNAL))
}
