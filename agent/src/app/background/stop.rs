//! Ending a share that runs in another process.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::fs::{FsError, Paths};
use crate::hint::Hint;
use crate::running::{self, Process, Seen};

/// How long a share may take to end when it is asked to: its requests, servers and tunnel each have
/// their own grace.
const GRACE: Duration = Duration::from_secs(20);
/// How long the system may take to end a process by force.
const FORCE: Duration = Duration::from_secs(5);
/// How long a process that runs nothing any more may take to be gone.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// How often to look.
const LOOK: Duration = Duration::from_millis(50);

/// How a share ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// As it should.
    Orderly,
    /// By force: it did not hear.
    Forced,
}

impl Stopped {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Orderly => "stopped",
            Self::Forced => "killed",
        }
    }
}

/// Why a share still runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// It cannot be asked.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// It did not end, and cannot be ended.
    #[error("the share does not end, and its process {} cannot be ended by force", pid.map_or_else(|| "(unknown)".to_owned(), |pid| pid.to_string()))]
    Stuck {
        /// The process.
        pid: Option<u32>,
        /// What the system says.
        source: io::Error,
    },
    /// It did not end, and force would end others too.
    #[error("the share does not end, and its process {pid} has others that nobody asked to end: {}", others.join(", "))]
    NotAlone {
        /// The process.
        pid: u32,
        /// What else it shares.
        others: Vec<String>,
    },
}

impl Hint for StopError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fs(error) => error.hint(),
            Self::Stuck { .. } => Some(
                "End the process by hand; it may run in a container or on another machine that uses the same files"
                    .to_owned(),
            ),
            Self::NotAlone { .. } => {
                Some("Stop these too, or all with `mcpm unshare --all`; force ends them together".to_owned())
            }
        }
    }
}

/// Stops a share and waits for its end, with its servers and its tunnel; one that does not hear is
/// ended by force, unless its process has others that nobody asked to end. A share that is gone
/// already has ended as it should.
///
/// # Errors
/// When it cannot be ended.
pub async fn stop(paths: &Paths, share: &Seen) -> Result<Stopped, StopError> {
    stop_within(paths, share, GRACE).await
}

pub(super) async fn stop_within(
    paths: &Paths,
    share: &Seen,
    grace: Duration,
) -> Result<Stopped, StopError> {
    running::ask_to_stop(paths, &share.id)?;
    if is_gone(paths, share, grace).await {
        return Ok(Stopped::Orderly);
    }
    let Ok(record) = &share.record else {
        let source = io::Error::other("its record cannot be read");
        return Err(StopError::Stuck { pid: None, source });
    };
    let (process, pid) = (&record.process, record.process.pid);
    let mut others = neighbours(paths, share, process)?;
    others.retain(|other| !running::is_asked_to_stop(paths, &other.id));
    if !others.is_empty() {
        let name =
            |other: Seen| other.record.map_or(other.id.to_string(), |r| r.target.to_string());
        let others = others.into_iter().map(name).collect();
        return Err(StopError::NotAlone { pid, others });
    }
    let stuck = |source| StopError::Stuck { pid: Some(pid), source };
    let killed = process.kill();
    // Who stops another share of the process may have killed it just before.
    if is_gone(paths, share, FORCE).await {
        return Ok(Stopped::Forced);
    }
    Err(stuck(killed.err().unwrap_or_else(|| io::ErrorKind::TimedOut.into())))
}

/// Waits for the end of a process, and cleans up behind it.
async fn is_gone(paths: &Paths, share: &Seen, patience: Duration) -> bool {
    let started = Instant::now();
    let mut tick = interval(LOOK);
    loop {
        tick.tick().await;
        if !running::is_alive(paths, &share.id) {
            running::clean(paths, &share.id);
            break;
        }
        if started.elapsed() >= patience {
            return false;
        }
    }
    // It has let go of everything; what is left of the process is on its way out.
    let Ok(record) = &share.record else { return true };
    if neighbours(paths, share, &record.process).is_ok_and(|others| !others.is_empty()) {
        // It goes on for them.
        return true;
    }
    let started = Instant::now();
    while !record.process.has_ended() && started.elapsed() < LAST_STEPS {
        tick.tick().await;
    }
    true
}

/// Returns the other shares of the process of a share, and those of which nobody can tell.
fn neighbours(paths: &Paths, share: &Seen, process: &Process) -> Result<Vec<Seen>, FsError> {
    let is_its = |seen: &Seen| seen.record.as_ref().map_or(true, |other| other.process == *process);
    let mut all = running::list(paths)?;
    all.retain(|seen| seen.alive && seen.id != share.id && is_its(seen));
    Ok(all)
}
