//! The guard: a small process of ours that outlives us by a moment to end our children.
//!
//! An agent that is killed by SIGKILL cannot clean up after itself. So before its first child it
//! starts one guard, tells it every process group over a pipe (`+PGID`, `-PGID`, one a line), and
//! the guard ends the groups it knows of when the pipe closes, whatever closed it. Windows needs
//! none: a job object ends with its last handle.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The hidden subcommand of `mcpm` that runs [`run_guard`].
pub const SUBCOMMAND: &str = "guard";

/// How long a group may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_millis(500);

/// A guard that is started when it is first needed, and again when it is gone. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The command that runs a guard; without one nothing is guarded.
    command: Option<(PathBuf, Vec<String>)>,
    /// What is under guard, for a new guard to be told.
    groups: BTreeSet<u32>,
    running: Option<Running>,
}

impl Guard {
    /// Makes a guard that does nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Makes a guard that runs from the given `mcpm` binary.
    #[must_use]
    pub fn program(mcpm: PathBuf) -> Self {
        if cfg!(unix) { Self::command(mcpm, vec![SUBCOMMAND.to_owned()]) } else { Self::off() }
    }

    /// Makes a guard that runs from this very program when it is `mcpm`; other programs that embed
    /// the library have no such subcommand and get none.
    #[must_use]
    pub fn this_program() -> Self {
        match std::env::current_exe() {
            Ok(path) if path.file_stem().is_some_and(|stem| stem == "mcpm") => Self::program(path),
            _ => Self::off(),
        }
    }

    fn command(program: PathBuf, args: Vec<String>) -> Self {
        let state = State { command: Some((program, args)), ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the guard if it does not run yet.
    pub(super) fn start(&self) {
        let mut state = self.state();
        if state.running.is_none() {
            state.start();
        }
    }

    /// Puts a process group under guard.
    pub(super) fn add(&self, group: u32) {
        let mut state = self.state();
        state.groups.insert(group);
        state.tell('+', group);
    }

    /// Tells that a process group has ended.
    pub(super) fn remove(&self, group: u32) {
        let mut state = self.state();
        state.groups.remove(&group);
        state.tell('-', group);
    }
}

impl State {
    /// Starts a guard and tells it all groups.
    fn start(&mut self) {
        let Some((program, args)) = &self.command else { return };
        let started = Running::start(program, args).and_then(|mut running| {
            self.groups.iter().try_for_each(|group| running.tell('+', *group))?;
            Ok(running)
        });
        self.running = match started {
            Ok(running) => Some(running),
            Err(error) => {
                tracing::warn!(%error, "no guard for child processes");
                None
            }
        };
    }

    fn tell(&mut self, sign: char, group: u32) {
        let Some(running) = &mut self.running else { return };
        if let Err(error) = running.tell(sign, group) {
            tracing::warn!(%error, "the guard of child processes is gone, another one takes over");
            self.running = None;
            self.start();
        }
    }
}

#[derive(Debug)]
struct Running {
    process: Child,
    input: Option<ChildStdin>,
}

impl Running {
    fn start(program: &Path, args: &[String]) -> std::io::Result<Self> {
        let mut process = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { input: process.stdin.take(), process })
    }

    fn tell(&mut self, sign: char, group: u32) -> std::io::Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        // One short write: a pipe takes it whole.
        input.write_all(format!("{sign}{group}\n").as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.input.take());
        // With nothing left to guard it ends at once; else it takes the grace it gives.
        if let Err(error) = self.process.wait() {
            tracing::debug!(%error, "cannot wait for the guard");
        }
    }
}

/// Runs the guard over standard input; the hidden subcommand `mcpm guard`.
#[must_use]
pub fn run_guard() -> ExitCode {
    let handlers = leave_the_group();
    guard(std::io::stdin().lock());
    drop(handlers);
    ExitCode::SUCCESS
}

/// Reads groups until the pipe closes, then ends those that are left.
fn guard(input: impl BufRead) {
    let mut groups = BTreeSet::new();
    for line in input.lines().map_while(Result::ok) {
        match line.split_at_checked(1).map(|(sign, group)| (sign, group.parse::<i32>())) {
            Some(("+", Ok(group))) if group > 1 => drop(groups.insert(group)),
            Some(("-", Ok(group))) => drop(groups.remove(&group)),
            _ => {}
        }
    }
    end(&groups);
}

/// Moves into a session of our own, out of reach of the terminal, and takes the signals that end a
/// process without ending: whoever stops the agent must not stop the guard first.
#[cfg(unix)]
fn leave_the_group() -> Option<impl Drop> {
    use tokio::signal::unix::{SignalKind, signal};

    if rustix::process::setsid().is_err() {
        // We lead a group already, which serves as well.
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    // tokio's handlers are the safe way to replace the default action; they outlast the stream.
    let entered = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        drop(signal(kind));
    }
    drop(entered);
    Some(Runtime(Some(runtime)))
}

#[cfg(unix)]
struct Runtime(Option<tokio::runtime::Runtime>);

#[cfg(unix)]
impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[cfg(not(unix))]
fn leave_the_group() {}

#[cfg(unix)]
fn end(groups: &BTreeSet<i32>) {
    use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

    let mut left: Vec<Pid> = groups.iter().filter_map(|group| Pid::from_raw(*group)).collect();
    left.retain(|group| kill_process_group(*group, Signal::TERM).is_ok());
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while waited < GRACE && !left.is_empty() {
        std::thread::sleep(step);
        waited += step;
        left.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in left {
        // Gone in between is what we want.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn end(_groups: &BTreeSet<i32>) {}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};

    use super::*;

    fn sleeper(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn groups_that_are_left_at_the_end_are_ended_and_others_are_not() {
        let mut ours = sleeper("sleep 1000 & wait");
        let mut gone = sleeper("exec sleep 1000");
        let lines = format!("+{}\n+{}\nnoise\n+1\n-{}\n", ours.id(), gone.id(), gone.id());
        guard(lines.as_bytes());
        assert_eq!(ours.wait().unwrap().signal(), Some(15));
        assert!(gone.try_wait().unwrap().is_none());
        gone.kill().unwrap();
        gone.wait().unwrap();
    }

    #[test]
    fn a_group_that_ignores_the_polite_signal_is_killed() {
        let mut deaf = sleeper("trap '' TERM; echo ready; while :; do sleep 1; done");
        let mut ready = String::new();
        std::io::BufReader::new(deaf.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        guard(format!("+{}\n", deaf.id()).as_bytes());
        assert_eq!(deaf.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_guard_that_is_off_takes_no_notice() {
        let guard = Guard::this_program();
        guard.start();
        guard.add(4);
        guard.remove(4);
        assert!(guard.state().running.is_none());
    }

    #[test]
    fn a_guard_that_died_is_replaced_by_one_that_knows_all_groups() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        // The first one ends when it has heard one line, the second one hears all there is.
        let script = r#"if [ -e "$0" ]; then cat >"$0.2"; else read line; echo "$line" >"$0"; fi"#;
        let args = ["-c", script, log.to_str().unwrap()].map(str::to_owned);
        let guard = Guard::command("/bin/sh".into(), args.to_vec());
        guard.start();
        guard.add(10);
        guard.state().running.as_mut().unwrap().process.wait().unwrap();
        guard.add(11);
        guard.remove(10);
        drop(guard);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "+10\n");
        let second = std::fs::read_to_string(home.path().join("log.2")).unwrap();
        assert_eq!(second, "+10\n+11\n-10\n");
    }
}
