//! Requests per second, latency, throughput, processor time and memory of a tunnel, beside its peers.
//!
//! Run by `cargo xtask bench`. Every contender carries the same requests between the same load generator and the same
//! backend, on loopback, in alternating repetitions; the table holds medians. Absolute figures belong to the machine:
//! what counts are the ratios to the peers of the same run, printed below the table.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is text")]

mod backend;
mod certs;
mod contender;
mod load;
mod measure;
mod report;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mcpm_bench::server;
use mcpm_bench::table::Table;

use crate::backend::Backend;
use crate::certs::Certs;
use crate::measure::Plan;
use crate::rows::{Finding, Row};

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
    /// What is measured.
    rows: Vec<Row>,
    /// How long a soak takes, when it is said.
    minutes: Option<f64>,
}

/// What all rows use.
struct Bench<'a> {
    options: &'a Options,
    backend: &'a Backend,
    certs: &'a Certs,
}

fn main() -> ExitCode {
    mcpm_bench::run(run())
}

async fn run() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench").peekable();
    let part = args.next_if(|arg| !arg.starts_with("--"));
    match part.as_deref() {
        None => bench(&parse(args)?).await,
        Some("backend") => backend::serve(args).await,
        Some("server") => server::serve(args),
        Some("distance") => rows::distance::serve(args).await,
        Some("addresses") => rows::idle::serve(args).await,
        Some(other) => bail!("there is no part {other}"),
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        bins: PathBuf::from("target/release"),
        rathole: PathBuf::from("target/peers/cargo/bin/rathole"),
        nginx: PathBuf::from("nginx"),
        quick: false,
        only: None,
        rows: Row::usual(),
        minutes: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--bins" => options.bins = value()?.into(),
            "--rathole" => options.rathole = value()?.into(),
            "--nginx" => options.nginx = value()?.into(),
            "--only" => options.only = Some(value()?),
            "--rows" => options.rows = Row::parse(&value()?)?,
            "--minutes" => options.minutes = Some(minutes(&value()?)?),
            "--quick" => options.quick = true,
            _ => bail!(
                "unknown argument {arg}; there are --bins, --rathole, --nginx, --only, --rows, \
                 --minutes, --quick"
            ),
        }
    }
    Ok(options)
}

fn minutes(text: &str) -> anyhow::Result<f64> {
    let minutes = text.parse().ok().filter(|minutes| (0.1..=10_000.0).contains(minutes));
    minutes.with_context(|| format!("--minutes wants a number from 0.1 to 10000, not {text}"))
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let certs = Certs::make()?;
    let backend = backend::start(&certs).await?;
    let bench = Bench { options, backend: &backend, certs: &certs };
    let plan = if options.quick { measure::QUICK } else { measure::FULL };
    let contenders = contender::available(options);
    let mut table = Table::default();
    for repetition in 1..=plan.repetitions {
        for contender in &contenders {
            eprintln!("repetition {repetition} of {}: {}", plan.repetitions, contender.name());
            let running = contender.start(&bench).await?;
            let figures = measure::measure(&plan, &running).await;
            running.stop().await;
            table.add(contender.name(), figures.with_context(|| contender.name().to_owned())?);
        }
    }
    if !contenders.is_empty() {
        println!("{}", table.markdown());
        println!("{}", report::verdicts(&table));
    }
    let mut findings = Vec::new();
    let measured = beside(&bench, &plan, &mut findings).await;
    // What one row cannot measure does not take away what the others have.
    if !findings.is_empty() {
        println!("{}", report::findings(&findings));
    }
    measured
}

/// Measures the rows that are no contenders.
async fn beside(bench: &Bench<'_>, plan: &Plan, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    for row in &bench.options.rows {
        findings.extend(match row {
            Row::Tunnel | Row::InProcess | Row::Tls => continue,
            Row::Connect => rows::connect::measure(bench, plan).await.context("connect")?,
            Row::Rtt => rows::distance::measure(bench, plan).await.context("rtt")?,
            Row::IdleServices => rows::idle::measure(bench, plan).await.context("idle-services")?,
            Row::Handshakes => {
                rows::handshakes::measure(bench, plan).await.context("handshakes")?
            }
            Row::Soak => rows::soak::measure(bench, plan).await.context("soak")?,
        });
    }
    Ok(())
}
