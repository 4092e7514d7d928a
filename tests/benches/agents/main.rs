//! Many agents in one process: for what they cost a relay and themselves while nobody visits, for how
//! fast they come, and for what is left when they go.
//!
//! - `bench-agents tunnels COUNT TARGET ADDRESS…` has so many agents of the library, each with its own key,
//!   session and share of the HTTP server TARGET, as many of them on the first address as a relay takes
//!   from one, the rest on the last. `--fingerprint` pins the certificate of the relay.
//! - `bench-agents shares COUNT ADDRESS` shares so many HTTP servers as `mcpm tunnel` does with as many
//!   words: over one session, with tokens in files that are watched. Both tell how many shares are up.
//! - `bench-agents handshakes COUNT MILLISECONDS ADDRESS` has agents come, claim a name each and go, so many
//!   at a time and for so long. It says `begin` after a while that does not count, and `done` with agents
//!   per second and milliseconds at the median.
//! - `bench-agents churn TARGET ADDRESS` has agents come and go, and names claimed and released.
//!
//! All stay until they are killed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is text")]

mod churn;
mod handshakes;
mod idle;
mod library;
mod protocol;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mcpm::tunnel::RelayAddress;
use mcpm_shared::workers::Workers;

use crate::protocol::Address;

/// The allocator of `mcpm`: what an agent costs depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Threads for files go as soon as those of `mcpm` do, and workers sleep as they do.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_keep_alive(Duration::from_millis(100));
    let runtime = builder.build().context("start the runtime");
    let done = runtime.and_then(|runtime| {
        let _workers = Workers::govern(runtime.handle());
        runtime.block_on(run())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let pinned = args.iter().position(|arg| arg == "--fingerprint");
    let fingerprint = pinned.map(|at| args.drain(at..).nth(1).context("which fingerprint?"));
    let fingerprint = fingerprint.transpose()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tunnels", count, target, relays @ ..] if !relays.is_empty() => {
            let relays: Result<Vec<RelayAddress>, _> = relays.iter().map(|r| r.parse()).collect();
            idle::tunnels(count.parse()?, target.parse()?, &relays?, fingerprint).await
        }
        ["shares", count, relay] => idle::shares(count.parse()?, &relay.parse()?).await,
        ["handshakes", count, millis, relay] => {
            handshakes::run(count.parse()?, millis.parse()?, &Address::parse(relay)?).await
        }
        ["churn", target, relay] => churn::run(&target.parse()?, &Address::parse(relay)?).await,
        _ => bail!(
            "usage: tunnels COUNT TARGET ADDRESS… | shares COUNT ADDRESS | \
             handshakes COUNT MILLISECONDS ADDRESS | churn TARGET ADDRESS"
        ),
    }
}
