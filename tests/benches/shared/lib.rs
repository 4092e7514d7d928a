//! What the benches have in common: processes, latencies, tables, and a run that ends cleanly.

pub mod churn;
pub mod http1;
pub mod outcome;
pub mod process;
pub mod relay;
pub mod server;
pub mod table;
pub mod tls;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a bench on one thread, so that what it measures gets the cores. A signal ends it, and with
/// it the processes it started.
#[expect(clippy::print_stderr, reason = "the errors of programs that start here")]
pub fn run(bench: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("start a runtime").and_then(|runtime| {
        let result = runtime.block_on(async {
            tokio::select! {
                biased;
                signal = interrupted() => signal.map(|()| ExitCode::FAILURE),
                result = bench => result.map(|()| ExitCode::SUCCESS),
            }
        });
        // A thread may still wait for a process that was killed just now.
        runtime.shutdown_background();
        result
    });
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Waits for a signal that asks to end.
async fn interrupted() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
