//! Start-up and memory of commands that only look (`--version`, `--help`, `ls`), the start of a gateway to its first
//! answer, and the sizes of the programs.
//!
//! Run by `cargo xtask bench cli`. Each command that only looks is started in turn with `true`, which does nothing: what
//! it takes beyond that is its own.
#![expect(clippy::print_stdout, reason = "a program whose result is text")]

mod start;

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mcpm_bench::outcome::count;
use mcpm_bench::process::Process;
use mcpm_bench::table::shown;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::{Map, Value, json};

/// The commands, and what each may take: milliseconds beyond `true`, and megabytes.
const COMMANDS: [&[&str]; 5] =
    [&["--version"], &["--help"], &["ls"], &["ls", "--json"], &["profile", "ls"]];
const MOST_MS: f64 = 10.0;
const MOST_MEGABYTES: f64 = 12.0;
/// The programs, and how many megabytes each may have as a file.
const PROGRAMS: [(&str, f64); 2] = [("mcpm", 25.0), ("mcpm-relay", 20.0)];
/// How many servers the home has.
const SERVERS: usize = 20;
/// How long a command may take to come to its first word.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it must have waited to be one that waits for us.
const REST: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    // A gateway's server is this program too.
    let part = args.next_if(|arg| arg == "server");
    mcpm_bench::run(async {
        match part {
            Some(_) => mcpm_bench::server::serve(args),
            None => bench(args),
        }
    })
}

fn bench(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let (mut bins, mut rounds) = (PathBuf::from("target/release"), 200);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bins" => bins = args.next().context("--bins wants a value")?.into(),
            "--quick" => rounds = 30,
            _ => bail!("unknown argument {arg}; there are --bins, --quick"),
        }
    }
    let mcpm = bins.join("mcpm");
    commands(&mcpm, rounds)?;
    start::bench(&mcpm, rounds / 5)?;
    sizes(&bins)
}

fn sizes(bins: &Path) -> anyhow::Result<()> {
    println!("\n| program | MB | must be | |\n|---|---|---|---|");
    for (name, most) in PROGRAMS {
        let program = bins.join(name);
        let file = std::fs::metadata(&program).with_context(|| format!("look at {program:?}"))?;
        let megabytes = count(usize::try_from(file.len())?) / 1e6;
        let (is, met) = (shown(megabytes), verdict(megabytes <= most));
        println!("| `{name}` | {is} | ≤ {most} | {met} |");
    }
    Ok(())
}

fn commands(mcpm: &Path, rounds: usize) -> anyhow::Result<()> {
    let home = home()?;
    let mut times = vec![Vec::new(); COMMANDS.len() + 1];
    for _ in 0..rounds {
        times[0].push(time(Command::new("true"))?);
        for (index, args) in COMMANDS.iter().enumerate() {
            times[index + 1].push(time(command(mcpm, home.path(), args))?);
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let nothing = percentile(&times[0], 50);
    println!("`true` takes {} ms.\n", shown(nothing));
    println!("| command | p50, ms beyond `true` | p95 | must be | | peak MB | must be | |");
    println!("|---|---|---|---|---|---|---|---|");
    for (args, times) in COMMANDS.iter().zip(&times[1..]) {
        let own = percentile(times, 50) - nothing;
        let p95 = percentile(times, 95) - nothing;
        let megabytes = peak(mcpm, home.path(), args)?;
        println!(
            "| `mcpm {}` | {} | {} | ≤ {MOST_MS} | {} | {} | ≤ {MOST_MEGABYTES} | {} |",
            args.join(" "),
            shown(own),
            shown(p95),
            verdict(own <= MOST_MS),
            shown(megabytes),
            verdict(megabytes <= MOST_MEGABYTES),
        );
    }
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**not met**" }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// A home with servers and a profile.
fn home() -> anyhow::Result<tempfile::TempDir> {
    let home = tempfile::tempdir()?;
    let servers: Map<String, Value> = (0..SERVERS)
        .map(|number| {
            let name = format!("server{number}");
            let entry = json!({
                "name": name, "profile_tags": ["work"], "command": "npx",
                "args": ["-y", format!("@example/{name}")], "env": { "KEY": "value" },
            });
            (name, entry)
        })
        .collect();
    configure(home.path(), servers)?;
    Ok(home)
}

/// Writes the files of servers that are all in one profile.
fn configure(home: &Path, servers: Map<String, Value>) -> std::io::Result<()> {
    std::fs::write(home.join("servers.json"), Value::from(servers).to_string())?;
    std::fs::write(home.join("profiles_metadata.json"), json!({ "work": {} }).to_string())
}

fn command(mcpm: &Path, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(mcpm);
    command.args(args).env("MCPM_CONFIG_DIR", home);
    command
}

/// Milliseconds from the start of a command to its end.
fn time(mut command: Command) -> anyhow::Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    let took = started.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(took.as_secs_f64() * 1e3)
}

/// The most megabytes that were resident until the command speaks. A command that is done is weighed too late; this one
/// finds its way out blocked when it has done its work.
fn peak(mcpm: &Path, home: &Path, args: &[&str]) -> anyhow::Result<f64> {
    Process::forget_pages(&[mcpm])?;
    // Read once, as every program that was used a moment ago is.
    time(command(mcpm, home, args))?;
    let (mut reader, writer) = std::io::pipe()?;
    let filled = fill(&writer)?;
    let mut command = command(mcpm, home, args);
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(writer);
    let mut child = command.spawn()?;
    drop(command);
    let weighed = blocked(&mut child);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest)?;
    let status = child.wait()?;
    ensure!(status.success() && rest.len() > filled, "{args:?} ended with {status}");
    weighed
}

/// Fills a pipe; returns with how many bytes.
fn fill(writer: &std::io::PipeWriter) -> anyhow::Result<usize> {
    let flags = fcntl_getfl(writer)?;
    fcntl_setfl(writer, flags | OFlags::NONBLOCK)?;
    let (mut filled, mut end) = (0, writer);
    loop {
        match end.write(&[b'.'; 4096]) {
            Ok(written) => filled += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    // The child writes to the same end, and shall wait.
    fcntl_setfl(writer, flags)?;
    Ok(filled)
}

/// Waits until the child waits; returns the most that it ever had in memory.
fn blocked(child: &mut Child) -> anyhow::Result<f64> {
    let path = format!("/proc/{}/status", child.id());
    let (started, mut rested_since) = (Instant::now(), None);
    while started.elapsed() < PATIENCE {
        let status = std::fs::read_to_string(&path)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next())
        };
        if field("State:") != Some("S") {
            rested_since = None;
        } else if rested_since.get_or_insert_with(Instant::now).elapsed() > REST {
            let kib = field("VmHWM:").and_then(|kib| kib.parse::<usize>().ok());
            return Ok(count(kib.context("a peak in /proc")?) * 1024.0 / 1e6);
        }
        std::thread::yield_now();
    }
    bail!("it says nothing")
}
