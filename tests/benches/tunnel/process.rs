//! The processes of a contender: started, listened to, weighed, and ended with the bench.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a contender may take to come up.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(10);
/// Clock ticks of `/proc/PID/stat` a second: 100 on every Linux there is (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

/// One process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program; what it writes to stderr shows.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &'static str,
        program: &Path,
        args: &[A],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdout = child.stdout.take().context("its standard output")?;
        Ok(Self { name, child, stdout: BufReader::new(stdout).lines() })
    }

    /// Waits for the first line that `wanted` makes something of.
    pub(crate) async fn line<T>(
        &mut self,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let name = self.name;
        let found = async {
            while let Some(line) = self.stdout.next_line().await? {
                if let Some(found) = wanted(&line) {
                    return Ok(found);
                }
            }
            bail!("{name} ended before it was up")
        };
        tokio::time::timeout(START, found)
            .await
            .with_context(|| format!("{name} does not start"))?
    }

    /// Processor time and memory of the process and its children.
    pub(crate) fn weigh(&self) -> Weight {
        self.child.id().map_or_else(Weight::default, Weight::of_tree)
    }

    /// Asks it to end, so that it ends its own children (nginx's workers survive their master's
    /// SIGKILL), and waits; kills it when it takes too long.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let kill = Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status();
            kill.await.ok();
        }
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }
}

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    /// User and system seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident megabytes now.
    pub(crate) megabytes: f64,
    /// The most that were ever resident.
    pub(crate) peak_megabytes: f64,
}

impl Weight {
    fn of_tree(pid: u32) -> Self {
        let mut total = Self::of(pid);
        for child in children(pid) {
            let child = Self::of_tree(child);
            total.cpu_seconds += child.cpu_seconds;
            total.megabytes += child.megabytes;
            total.peak_megabytes += child.peak_megabytes;
        }
        total
    }

    fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // proc(5): the name in parentheses may hold anything, so count fields from its end.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.unwrap_or(0.0) * 1024.0 / 1e6
        };
        Self {
            cpu_seconds: (ticks(11) + ticks(12)) / TICKS,
            megabytes: megabytes("VmRSS"),
            peak_megabytes: megabytes("VmHWM"),
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
