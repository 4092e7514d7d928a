//! How long a gateway takes from its start to its first answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use mcpm_bench::table::{median, shown};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What a start may take to its first answer, in milliseconds.
const MOST_MS: f64 = 15.0;
/// After how many starts all servers must be known.
const MOST_STARTS: usize = 10;

/// What is started, in front of how many servers, and whether it is promised for servers that it has
/// to ask first.
const GATEWAYS: [(&[&str], usize, bool); 2] =
    [(&["run", "server0"], 1, true), (&["profile", "run", "work"], 20, false)];

/// What a client says before its first question, and the question.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1.0.0"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}"#;

/// Starts each gateway so many times and prints a table.
pub(crate) fn bench(mcpm: &Path, rounds: usize) -> anyhow::Result<()> {
    println!("\n| start to the answer of `tools/list` | p50 ms | must be | |\n|---|---|---|---|");
    for (words, servers, promised) in GATEWAYS {
        let known = home(servers)?;
        // What is known after this is known to all that follow. A server that is late at first is known the next time.
        let mut warm = (0..MOST_STARTS).map(|_| start(mcpm, &known, words));
        while warm.next().context("the gateway never knows all of its servers")??.tools < servers {}
        let (mut first, mut later) = (Vec::new(), Vec::new());
        let timed = |home: &TempDir, least: usize| -> anyhow::Result<f64> {
            let Started { took_ms, tools } = start(mcpm, home, words)?;
            ensure!(tools >= least, "{words:?} listed {tools} tools of {servers} servers");
            Ok(took_ms)
        };
        for _ in 0..rounds {
            // The list does not wait for a server that is late.
            first.push(timed(&home(servers)?, 1)?);
            later.push(timed(&known, servers)?);
        }
        let row = |what: &str, times: Vec<f64>, promised: bool| {
            let (is, name) = (median(times), words.join(" "));
            let (most, met) = match promised {
                true => (format!("≤ {MOST_MS}"), crate::verdict(is <= MOST_MS)),
                false => ("–".to_owned(), ""),
            };
            println!(
                "| `mcpm {name}`, servers: {servers}, {what} | {} | {most} | {met} |",
                shown(is)
            );
        };
        row("nothing known of them", first, promised);
        row("known from before", later, true);
    }
    Ok(())
}

/// A home with so many servers, of which nothing is known; this program is each of them.
fn home(servers: usize) -> anyhow::Result<TempDir> {
    let home = tempfile::tempdir()?;
    let this = std::env::current_exe().context("find this program")?;
    let this = this.to_str().context("a path that is text")?;
    let servers: Map<String, Value> = (0..servers)
        .map(|number| {
            let name = format!("server{number}");
            let entry = json!({
                "name": name, "profile_tags": ["work"], "command": this, "args": ["server"],
            });
            (name, entry)
        })
        .collect();
    crate::configure(home.path(), servers)?;
    Ok(home)
}

/// What a start came to.
struct Started {
    took_ms: f64,
    /// How many tools were listed. Each server has one.
    tools: usize,
}

/// Starts a gateway, and measures until it has listed its tools.
fn start(mcpm: &Path, home: &TempDir, words: &[&str]) -> anyhow::Result<Started> {
    let mut command = Command::new(mcpm);
    command.args(words).env("MCPM_CONFIG_DIR", home.path()).env("MCPM_NON_INTERACTIVE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let mut to = child.stdin.take().context("its input")?;
    let mut from = BufReader::new(child.stdout.take().context("its output")?);
    writeln!(to, "{INITIALIZE}")?;
    answer(&mut from, 1)?;
    write!(to, "{INITIALIZED}\n{LIST}\n")?;
    let list = answer(&mut from, 2)?;
    let took = begun.elapsed();
    let tools = list["result"]["tools"].as_array().map_or(0, Vec::len);
    drop(to);
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Started { took_ms: took.as_secs_f64() * 1e3, tools })
}

/// Reads messages up to the answer with this id.
fn answer(from: &mut impl std::io::BufRead, id: u64) -> anyhow::Result<Value> {
    for line in from.lines() {
        let message: Value = serde_json::from_str(&line?).context("a line of JSON")?;
        if message["id"] == id && message.get("method").is_none() {
            return Ok(message);
        }
    }
    anyhow::bail!("the gateway ended before it answered")
}
