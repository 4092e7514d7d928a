//! The processes of a contender: started, listened to, weighed, and ended with the bench.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Add;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a contender may take to come up.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(10);
/// Clock ticks of `/proc/PID/stat` a second: 100 on every Linux there is (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

/// One process in a group of its own, which is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
}

/// Our ends of a program's standard input and output, for threads that wait.
#[derive(Debug)]
pub struct Pipes {
    /// What it reads.
    pub stdin: File,
    /// What it writes.
    pub stdout: File,
}

impl Process {
    /// Starts a program; what it writes to stderr shows.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        name: &'static str,
        program: &Path,
        args: &[A],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(name, command)
    }

    /// Starts a command whose lines are read with [`Process::line`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null());
        let mut process = Self::begin(name, command)?;
        let stdout = process.child.stdout.take().context("its standard output")?;
        process.stdout = Some(BufReader::new(stdout).lines());
        Ok(process)
    }

    /// Starts a command that is spoken to through its standard streams.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn piped(name: &'static str, mut command: Command) -> anyhow::Result<(Self, Pipes)> {
        command.stdin(Stdio::piped());
        let mut process = Self::begin(name, command)?;
        let stdin = process.child.stdin.take().context("its standard input")?;
        let stdout = process.child.stdout.take().context("its standard output")?;
        let pipes =
            Pipes { stdin: stdin.into_owned_fd()?.into(), stdout: stdout.into_owned_fd()?.into() };
        Ok((process, pipes))
    }

    /// Drops what the system keeps of programs' files, so that only what they touch is mapped when
    /// they start; a program that is not there is passed over. How a file came into memory decides
    /// otherwise: one that was just linked counts a megabyte more than the same file after a restart
    /// of the machine.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn forget_pages(programs: &[&Path]) -> anyhow::Result<()> {
        for program in programs.iter().filter(|program| program.is_file()) {
            let file = File::open(program).with_context(|| format!("open {program:?}"))?;
            // Pages that were not written yet would stay.
            file.sync_all().ok();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    fn begin(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        // A group of its own: whatever it starts ends with it, also when it has no time to care.
        command.stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let child = command.spawn();
        let child = child.with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        Ok(Self { name, child, stdout: None })
    }

    /// Waits for the first line that `wanted` makes something of.
    ///
    /// # Errors
    /// When it ends or falls silent before.
    pub async fn line<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let name = self.name;
        let lines = self.stdout.as_mut().context("its lines go elsewhere")?;
        let found = async {
            while let Some(line) = lines.next_line().await? {
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
    #[must_use]
    pub fn weigh(&self) -> Weight {
        self.child.id().map_or_else(Weight::default, Weight::of_tree)
    }

    /// Processor time and memory of the process without its children.
    #[must_use]
    pub fn weigh_alone(&self) -> Weight {
        self.child.id().map_or_else(Weight::default, Weight::of)
    }

    /// How many files and connections the process has open; 0 when it has ended.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let folder = self.child.id().map(|id| format!("/proc/{id}/fd"));
        folder.and_then(|folder| std::fs::read_dir(folder).ok()).map_or(0, Iterator::count)
    }

    /// Asks it to end, so that it ends its own children, and waits; kills it when it takes too long.
    pub async fn stop(self) {
        if let Some(group) = self.id() {
            rustix::process::kill_process(group, Signal::TERM).ok();
        }
        self.ended().await;
    }

    /// Waits for the end of a program whose input was closed; kills it when it takes too long.
    pub async fn ended(mut self) {
        let group = self.id();
        if tokio::time::timeout(STOP, self.child.wait()).await.is_ok()
            && let Some(group) = group
        {
            // It is gone; what it left behind (nginx's workers, say) goes too.
            kill_process_group(group, Signal::KILL).ok();
        }
    }

    /// Its id while it was not waited for, which is that of its group.
    fn id(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.id() {
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weight {
    /// User and system seconds.
    pub cpu_seconds: f64,
    /// Resident megabytes now.
    pub megabytes: f64,
    /// Of these, what is of no file: heaps and stacks, without the pages of programs.
    pub own_megabytes: f64,
    /// The most that were ever resident.
    pub peak_megabytes: f64,
}

impl Weight {
    fn of_tree(pid: u32) -> Self {
        children(pid).into_iter().map(Self::of_tree).fold(Self::of(pid), Self::add)
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
            own_megabytes: megabytes("RssAnon"),
            peak_megabytes: megabytes("VmHWM"),
        }
    }
}

impl Add for Weight {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            megabytes: self.megabytes + other.megabytes,
            own_megabytes: self.own_megabytes + other.own_megabytes,
            peak_megabytes: self.peak_megabytes + other.peak_megabytes,
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// A port of this machine.
#[must_use]
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that was free a moment ago, for programs that do not tell which one they took.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(local(0))?.local_addr()?.port())
}
