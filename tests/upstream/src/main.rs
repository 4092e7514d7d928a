//! The server behind mcpm in the conformance runs: it has every tool, resource and prompt that the suite asks for.
//!
//! It speaks all revisions up to 2026-07-28, over stdio or Streamable HTTP, and passes the suite by itself: whatever
//! fails with mcpm in front of it, mcpm broke. `--legacy-only` makes it one of the many servers that know no 2026-07-28,
//! `--modern-only` one of those that will know nothing else.
//!
//! `--echo` makes it another server altogether: one that notes what it gets and repeats what it is told (see `echo`).
#![expect(clippy::print_stdout, reason = "the address is the result of a program that serves HTTP")]

mod asks;
mod calls;
mod catalog;
mod echo;
mod fixture;
mod jobs;
mod legacy;
mod modern;
mod reads;
mod rounds;
mod web;

use std::path::PathBuf;

use clap::Parser;
use rmcp::ServiceExt;
use rmcp::transport::stdio;

use echo::Echo;
use fixture::{Eras, Fixture};
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
    /// Know no revision before 2026-07-28
    #[arg(long, conflicts_with = "legacy_only")]
    modern_only: bool,
    /// Note every message and say what it asks to say, instead of the fixtures
    #[arg(long, conflicts_with_all = ["legacy_only", "modern_only"])]
    echo: bool,
    /// File for the messages that come, byte for byte
    #[arg(long, value_name = "FILE", requires = "echo")]
    journal: Option<PathBuf>,
    /// JSON file with what to say to requests that ask for nothing, by their method
    #[arg(long, value_name = "FILE", requires = "echo")]
    answers: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.echo {
        let echo = Echo::open(args.journal.as_deref(), args.answers.as_deref())?;
        let Some(port) = args.http else { return echo::stdio::serve(echo).await };
        let (url, server) = echo::web::bind(port, echo).await?;
        println!("{url}");
        return server.await;
    }
    let eras = match (args.legacy_only, args.modern_only) {
        (true, _) => Eras::Legacy,
        (_, true) => Eras::Modern,
        _ => Eras::Both,
    };
    let fixture = Fixture::new(eras);
    let Some(port) = args.http else {
        match eras {
            Eras::Legacy => drop(Legacy(fixture).serve(stdio()).await?.waiting().await?),
            Eras::Modern => modern::stdio(fixture).await?,
            Eras::Both => drop(fixture.serve(stdio()).await?.waiting().await?),
        }
        return Ok(());
    };
    let mut server = web::bind(port, fixture).await?;
    match eras {
        Eras::Legacy => server.refuse_modern(),
        Eras::Modern => server.refuse_legacy(),
        Eras::Both => {}
    }
    println!("{}", server.url);
    server.serve().await
}
