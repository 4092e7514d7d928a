//! Start, latency, calls per second and memory of the gateway, beside its peers.
//!
//! Run by `cargo xtask bench gateway`. Every contender stands between the same load generator and
//! the same server, in alternating repetitions; the tables hold medians. Absolute figures belong to
//! the machine: what counts are the ratios to the limit and to the peers of the same run, which
//! stand beside the budget.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is text")]

mod budget;
mod contender;
mod echo;
mod http;
mod measure;
mod place;
mod stdio;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use mcpm_bench::table::Table;

use contender::{HTTP, STDIO, available};
use measure::{Http, Stdio};

/// What the command line says.
#[derive(Debug)]
struct Options {
    /// Folder of our binaries.
    bins: PathBuf,
    /// The Python that has `fastmcp`, when there is one.
    fastmcp: PathBuf,
    /// Where mcp-proxy is, when it was installed.
    mcp_proxy: PathBuf,
    /// Where supergateway is, when it was installed.
    supergateway: PathBuf,
    /// One short repetition instead of three.
    quick: bool,
    /// Only contenders whose name holds one of these; all when there is none.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|arg| arg == "echo") {
        return echo::main(args.skip(1));
    }
    mcpm_bench::run(async { bench(&parse(args)?).await })
}

fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        bins: PathBuf::from("target/release"),
        fastmcp: PathBuf::from("target/peers/python/bin/python"),
        mcp_proxy: PathBuf::from("target/peers/mcp-proxy/bin/mcp-proxy"),
        supergateway: PathBuf::from("target/peers/supergateway/node_modules/.bin/supergateway"),
        quick: false,
        only: Vec::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--bins" => options.bins = value()?.into(),
            "--fastmcp" => options.fastmcp = value()?.into(),
            "--mcp-proxy" => options.mcp_proxy = value()?.into(),
            "--supergateway" => options.supergateway = value()?.into(),
            "--only" => options.only.push(value()?),
            "--quick" => options.quick = true,
            _ => bail!(
                "unknown argument {arg}; there are --bins, --fastmcp, --mcp-proxy, --supergateway, --only, --quick"
            ),
        }
    }
    Ok(options)
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let plan = if options.quick { measure::QUICK } else { measure::FULL };
    let (mut stdio, mut http) = (Table::<Stdio>::default(), Table::<Http>::default());
    let mut failures = 0;
    let mut failed = |name: &str, error: &anyhow::Error| {
        eprintln!("{name} fails: {error:#}");
        failures += 1;
    };
    for repetition in 1..=plan.repetitions {
        let turn = |face: &str, name: &str| {
            eprintln!("repetition {repetition} of {}: {name}, {face}", plan.repetitions);
        };
        for contender in available(&STDIO, options) {
            turn("stdio", contender.name);
            match measure::stdio(&plan, contender, options).await {
                Ok(figures) => stdio.add(contender.name, figures),
                Err(error) => failed(contender.name, &error),
            }
        }
        for contender in available(&HTTP, options) {
            turn("HTTP", contender.name);
            match measure::http(&plan, contender, options).await {
                Ok(figures) => http.add(contender.name, figures),
                Err(error) => failed(contender.name, &error),
            }
        }
    }
    println!("\nstdio:\n{}", stdio.markdown());
    println!("\nHTTP:\n{}", http.markdown());
    println!("\nBeside the budget:\n{}", budget::verdicts(&stdio, &http));
    ensure!(failures == 0, "{failures} measurements failed: the reasons are above");
    Ok(())
}
