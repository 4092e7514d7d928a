//! The guard: a small process of ours that outlives us by a moment to end our children.
//!
//! An agent that is killed by SIGKILL cannot clean up after itself. So before its first child it
//! starts one guard, tells it every process group over a pipe (`+PGID`, `-PGID`, one a line), and
//! the guard ends the groups it knows of when the pipe closes, whatever closed it. Windows needs
//! none: a job object ends with its last handle.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The hidden subcommand of `mcpm` that runs [`run_guard`].
pub const SUBCOMMAND: &str = "guard";

/// How long a group may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_millis(500);

/// A guard that is started when it is first needed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    /// Nothing is guarded.
    #[default]
    Off,
    /// To be started from this program.
    Idle(PathBuf),
    /// Runs and listens.
    On { process: Child, input: Option<ChildStdin> },
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
        Self(Arc::new(Mutex::new(if cfg!(unix) { State::Idle(mcpm) } else { State::Off })))
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

    /// Starts the guard if it does not run yet.
    pub(super) fn start(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Idle(program) = &*state else { return };
        let started = Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        *state = match started {
            Ok(mut process) => State::On { input: process.stdin.take(), process },
            Err(error) => {
                tracing::warn!(%error, "no guard for child processes");
                State::Off
            }
        };
    }

    /// Puts a process group under guard.
    pub(super) fn add(&self, group: u32) {
        self.tell('+', group);
    }

    /// Tells that a process group has ended.
    pub(super) fn remove(&self, group: u32) {
        self.tell('-', group);
    }

    fn tell(&self, sign: char, group: u32) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::On { input: Some(input), .. } = &mut *state
            // One short write: a pipe takes it whole.
            && let Err(error) = input.write_all(format!("{sign}{group}\n").as_bytes())
        {
            tracing::warn!(%error, "the guard of child processes is gone");
            *state = State::Off;
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Self::On { process, input } = self {
            drop(input.take());
            // With nothing left to guard it ends at once; else it takes the grace it gives.
            if let Err(error) = process.wait() {
                tracing::debug!(%error, "cannot wait for the guard");
            }
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
        assert!(matches!(*guard.0.lock().unwrap(), State::Off));
    }
}
