//! Starting a share in a process of its own, and waiting until it is up.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::fs::{FsError, Paths};
use crate::hint::Hint;
use crate::logs;
use crate::running::{self, Ending, RunId, RunningShare, State};

/// How often to look how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// How long a share that is given up may take to end.
const GRACE: Duration = Duration::from_secs(15);

/// What to start.
#[derive(Debug)]
pub struct Order {
    /// The program: this one.
    pub program: PathBuf,
    /// Its arguments. They hold no secret, for every process of the machine can read them.
    pub args: Vec<OsString>,
    /// The run that the arguments name.
    pub id: RunId,
    /// Where its stderr goes.
    pub log: PathBuf,
    /// How long it may take to be up.
    pub limit: Duration,
}

/// Why a share does not run in the background.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A file of ours cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The log cannot be made.
    #[error("cannot write {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The process cannot be started.
    #[error("cannot start {} in the background", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The share failed, and said why.
    #[error("{}", .0.message)]
    Failed(Ending),
    /// The process ended without a word.
    #[error("the process in the background ended ({status})")]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        log: PathBuf,
    },
    /// It took too long; it is stopped.
    #[error("the share was not up within {} s", limit.as_secs())]
    TimedOut {
        /// How long was waited.
        limit: Duration,
        /// What it wrote.
        log: PathBuf,
    },
    /// Somebody did not want it any more; it is stopped.
    #[error("stopped before the share was up")]
    Stopped,
}

impl Hint for LaunchError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fs(error) => error.hint(),
            Self::Log { path, .. } => {
                Some(format!("Check who owns {} and its permissions", path.display()))
            }
            Self::Spawn { .. } => Some("Share without --detach".to_owned()),
            Self::Failed(ending) => ending.hint.clone(),
            Self::Died { log, .. } | Self::TimedOut { log, .. } => {
                Some(format!("Look at {}", log.display()))
            }
            Self::Stopped => None,
        }
    }
}

/// Starts a share and waits until it is up; `show` is told of what it comes by on the way.
///
/// The process goes on when this one ends. It is stopped when `stop` is cancelled before it is up.
///
/// # Errors
/// When the share cannot be started, fails, or takes too long. It does not run then.
pub async fn launch(
    paths: &Paths,
    order: &Order,
    mut show: impl FnMut(&RunningShare),
    stop: &CancellationToken,
) -> Result<RunningShare, LaunchError> {
    let mut child = spawn(order)?;
    let started = Instant::now();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = None;
    loop {
        if stop.run_until_cancelled(tick.tick()).await.is_none() {
            give_up(paths, order, &mut child).await;
            return Err(LaunchError::Stopped);
        }
        // In this order: what it wrote last is there once it is gone.
        let gone = child.try_wait().ok().flatten();
        if let Some(share) = running::read(paths, &order.id)? {
            match share.state {
                State::Connected => return Ok(share),
                State::Ended(ending) => {
                    give_up(paths, order, &mut child).await;
                    return Err(LaunchError::Failed(ending));
                }
                _ if shown.as_ref() != Some(&share) => {
                    show(&share);
                    shown = Some(share);
                }
                _ => {}
            }
        }
        if let Some(status) = gone {
            running::clean(paths, &order.id);
            // One that was stopped, by whatever, leaves no last words.
            let stopped = status.success();
            let log = order.log.clone();
            return Err(if stopped {
                LaunchError::Stopped
            } else {
                LaunchError::Died { status, log }
            });
        }
        if started.elapsed() >= order.limit {
            give_up(paths, order, &mut child).await;
            return Err(LaunchError::TimedOut { limit: order.limit, log: order.log.clone() });
        }
    }
}

fn spawn(order: &Order) -> Result<Child, LaunchError> {
    let failed = |source| LaunchError::Log { path: order.log.clone(), source };
    let log = logs::raw::open(&order.log).map_err(failed)?;
    let mut command = Command::new(&order.program);
    command.args(&order.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    detach(&mut command);
    let failed = |source| LaunchError::Spawn { program: order.program.clone(), source };
    command.spawn().map_err(failed)
}

/// On Unix the process leaves the terminal by itself, see [`leave_terminal`].
#[cfg(not(windows))]
fn detach(_: &mut Command) {}

#[cfg(windows)]
fn detach(command: &mut Command) {
    use std::os::windows::process::CommandExt as _;

    // Values of winbase.h: no console, and no Ctrl-C of ours.
    const DETACHED_PROCESS: u32 = 0x0000_0008;
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
    command.creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
}

/// Moves this process into a session of its own, so that it survives the terminal it was started
/// from. To be called by the process in the background, before anything else.
pub fn leave_terminal() {
    #[cfg(unix)]
    {
        if rustix::process::setsid().is_err() {
            // We lead a group already; whoever started us did what is needed.
        }
    }
}

/// Stops a process that nobody waits for any more, by force if it must be, and cleans up.
async fn give_up(paths: &Paths, order: &Order, child: &mut Child) {
    let _asked = running::ask_to_stop(paths, &order.id);
    let mut tick = tokio::time::interval(LOOK);
    let gone = async {
        while matches!(child.try_wait(), Ok(None)) {
            tick.tick().await;
        }
    };
    if tokio::time::timeout(GRACE, gone).await.is_err() {
        // It is our own child, so that its id is still its own.
        let _gone = child.kill();
        let _reaped = child.wait();
    }
    running::clean(paths, &order.id);
}
