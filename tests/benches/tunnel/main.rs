//! Requests per second, latency, throughput, processor time and memory of a tunnel, beside its peers.
//!
//! Run by `cargo xtask bench`. Every contender carries the same requests between the same load generator and the same
//! backend, on loopback, in alternating repetitions; the table holds medians. Absolute figures belong to the machine:
//! what counts are the ratios to the peers of the same run, printed below the table.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is text")]

mod backend;
mod contender;
mod load;
mod measure;
mod process;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

/// What the command line says.
struct Options {
    /// Folder of the release binaries.
    bins: PathBuf,
    /// Where rathole is, when it was built.
    rathole: PathBuf,
    /// Where nginx is, when there is one.
    nginx: PathBuf,
    /// One short repetition instead of three.
    quick: bool,
    /// Only contenders whose name holds this.
    only: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    // One thread: the generator and the backend are as small as they can be, so that what is
    // between them gets the cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench").peekable();
    if args.peek().is_some_and(|arg| arg == "backend") {
        return runtime.block_on(backend::serve());
    }
    let options = parse(args)?;
    runtime.block_on(bench(&options))
}

fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        bins: PathBuf::from("target/release"),
        rathole: PathBuf::from("target/peers/cargo/bin/rathole"),
        nginx: PathBuf::from("nginx"),
        quick: false,
        only: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--bins" => options.bins = value()?.into(),
            "--rathole" => options.rathole = value()?.into(),
            "--nginx" => options.nginx = value()?.into(),
            "--only" => options.only = Some(value()?),
            "--quick" => options.quick = true,
            _ => bail!(
                "unknown argument {arg}; there are --bins, --rathole, --nginx, --only, --quick"
            ),
        }
    }
    Ok(options)
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let backend = backend::start().await?;
    let contenders = contender::available(options);
    let plan = if options.quick { measure::QUICK } else { measure::FULL };
    let mut table = report::Table::default();
    for repetition in 1..=plan.repetitions {
        for contender in &contenders {
            eprintln!("repetition {repetition} of {}: {}", plan.repetitions, contender.name());
            let running = contender.start(options, &backend).await?;
            let figures = measure::measure(&plan, &running).await;
            running.stop().await;
            table.add(contender.name(), figures.with_context(|| contender.name().to_owned())?);
        }
    }
    println!("{}", table.markdown());
    println!("{}", table.verdicts());
    Ok(())
}
