//! The server behind mcpm in the conformance runs: it has every tool, resource and prompt that the suite asks for.
//!
//! It speaks all revisions up to 2026-07-28, over stdio or Streamable HTTP, and passes the suite by itself: whatever
//! fails with mcpm in front of it, mcpm broke. `--legacy-only` makes it one of the many servers that know no 2026-07-28.
#![expect(clippy::print_stdout, reason = "the address is the result of a program that serves HTTP")]

mod calls;
mod catalog;
mod fixture;
mod jobs;
mod legacy;
mod reads;
mod rounds;
mod web;

use clap::Parser;
use rmcp::ServiceExt;
use rmcp::transport::stdio;

use fixture::Fixture;
use legacy::Legacy;

/// Serve the fixtures of the MCP conformance suite
#[derive(Debug, clap::Parser)]
struct Args {
    /// Speak over stdin and stdout
    #[arg(long, required_unless_present = "http")]
    stdio: bool,
    /// Serve Streamable HTTP at /mcp on this port of 127.0.0.1, 0 for any; its URL is printed
    #[arg(long, value_name = "PORT", conflicts_with = "stdio")]
    http: Option<u16>,
    /// Know no revision after 2025-11-25, as most servers
    #[arg(long)]
    legacy_only: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let fixture = Fixture::new(args.legacy_only);
    match (args.http, args.legacy_only) {
        (Some(port), _) => {
            let server = web::bind(port, fixture, args.legacy_only).await?;
            println!("{}", server.url);
            server.serve().await?;
        }
        (None, true) => drop(Legacy(fixture).serve(stdio()).await?.waiting().await?),
        (None, false) => drop(fixture.serve(stdio()).await?.waiting().await?),
    }
    Ok(())
}
