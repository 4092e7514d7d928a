//! Telling other processes of ours how a share is, and hearing from them that it shall end.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{log, relay_of, unix_now, visitors};
use crate::app::share::{ShareEvent, ShareSpec};
use crate::fs::{FsError, Paths};
use crate::logs;
use crate::running::{Ending, Mode, Process, Registration, RunId, RunningShare, State};

/// How often to look whether somebody wants the share to end.
const LOOK: Duration = Duration::from_millis(250);
/// How often counts are written, at most.
const COUNTS: Duration = Duration::from_secs(1);

/// One run of a share.
#[derive(Clone, Debug)]
pub struct Run {
    /// What tells it from others.
    pub id: RunId,
    /// Whether it has a terminal.
    pub mode: Mode,
    /// Whether `mcpm router share` made it.
    pub router: bool,
}

/// Says how a share is. Dropping it says that the share is over.
#[derive(Debug)]
pub struct Beacon {
    record: RunningShare,
    /// Whether others know of the share already: one in a terminal is told of once it is up.
    lit: bool,
    told: watch::Sender<Option<RunningShare>>,
}

/// What writes down the words of a [`Beacon`]; it runs beside the share.
#[derive(Debug)]
pub struct BeaconTask {
    told: watch::Receiver<Option<RunningShare>>,
    board: Board,
}

impl Beacon {
    /// Prepares to tell of what `spec` becomes. In the background the share is known at once.
    ///
    /// # Errors
    /// When a share in the background cannot be made known: nobody could ever stop it.
    pub fn new(paths: &Paths, run: &Run, spec: &ShareSpec) -> Result<(Self, BeaconTask), FsError> {
        let record = RunningShare {
            process: Process::this(),
            since: unix_now(),
            mode: run.mode,
            router: run.router,
            target: spec.target.clone(),
            relay: relay_of(spec),
            wanted: spec.name.clone(),
            visitors: visitors(spec.access),
            name: None,
            url: None,
            local: None,
            expires_at: None,
            requests: 0,
            active: 0,
            state: State::Starting,
        };
        let lit = run.mode == Mode::Background;
        let registration =
            if lit { Some(Registration::new(paths, &run.id, &record)?) } else { None };
        let board = Board {
            paths: paths.clone(),
            id: run.id.clone(),
            log: lit.then(|| log(paths, &spec.target)),
            registration,
            written: lit.then(|| record.clone()),
            faulty: false,
        };
        let (sender, told) = watch::channel(lit.then(|| record.clone()));
        Ok((Self { record, lit, told: sender }, BeaconTask { told, board }))
    }

    /// Tells what happened to the share.
    pub fn note(&mut self, event: &ShareEvent) {
        let record = &mut self.record;
        match event {
            ShareEvent::Up(up) => {
                record.state = State::Connected;
                record.name = up.name.parse().ok();
                record.url = Some(up.url.clone());
                record.local.clone_from(&up.local);
                record.expires_at = up.expires_at;
                self.lit = true;
            }
            ShareEvent::Reconnecting { reason, hint, retry_in } => {
                record.state = State::Reconnecting {
                    reason: reason.clone(),
                    hint: hint.clone(),
                    retry_in_ms: u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX),
                };
            }
            ShareEvent::Activity { requests, active } => {
                (record.requests, record.active) = (*requests, *active);
            }
            _ => return,
        }
        self.tell();
    }

    /// Tells why the share could not go on. Others can read it after the process.
    pub fn ended(&mut self, ending: Ending) {
        self.record.state = State::Ended(ending);
        self.tell();
    }

    fn tell(&self) {
        if self.lit {
            self.told.send_replace(Some(self.record.clone()));
        }
    }
}

impl BeaconTask {
    /// Writes until the beacon is dropped; cancels `stop` when somebody wants the share to end.
    pub async fn run(self, stop: CancellationToken) {
        let Self { mut told, mut board } = self;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counted = Instant::now();
        loop {
            let over = tokio::select! {
                changed = told.changed() => changed.is_err(),
                _ = tick.tick() => false,
            };
            if over {
                break;
            }
            let Some(record) = told.borrow_and_update().clone() else { continue };
            let counts = counted.elapsed() >= COUNTS;
            if counts {
                counted = Instant::now();
            }
            let looked = tokio::task::spawn_blocking(move || {
                let asked = board.look(&record, counts);
                (board, asked)
            });
            match looked.await {
                Ok((back, asked)) => {
                    board = back;
                    if asked {
                        stop.cancel();
                    }
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
        let last = told.borrow().clone();
        // The end of the process waits for it, but not for ever: the scope has a limit.
        drop(tokio::task::spawn_blocking(move || board.end(last.as_ref())).await);
    }
}

/// What is written down.
#[derive(Debug)]
struct Board {
    paths: Paths,
    id: RunId,
    /// The log to keep small, of a share in the background.
    log: Option<PathBuf>,
    registration: Option<Registration>,
    written: Option<RunningShare>,
    /// Whether it was said already that nothing can be written.
    faulty: bool,
}

impl Board {
    /// Writes what is new; mere counts only with `counts`. Tells whether the share shall end.
    fn look(&mut self, record: &RunningShare, counts: bool) -> bool {
        if counts && let Some(log) = &self.log {
            drop(logs::raw::trim(log));
        }
        let differs = match &self.written {
            Some(written) if counts => written != record,
            Some(written) => {
                let (requests, active) = (record.requests, record.active);
                RunningShare { requests, active, ..written.clone() } != *record
            }
            None => true,
        };
        if differs
            && let Err(error) = self.write(record)
            && !std::mem::replace(&mut self.faulty, true)
        {
            tracing::warn!(%error, "other commands cannot see this share");
        }
        self.registration.as_ref().is_some_and(Registration::is_asked_to_stop)
    }

    fn write(&mut self, record: &RunningShare) -> Result<(), FsError> {
        match &self.registration {
            Some(registration) => registration.write(record)?,
            None => self.registration = Some(Registration::new(&self.paths, &self.id, record)?),
        }
        self.written = Some(record.clone());
        Ok(())
    }

    /// Leaves the last words of a share in the background that ended badly, and nothing of others.
    fn end(mut self, last: Option<&RunningShare>) {
        let Some(record) = last.filter(|last| matches!(last.state, State::Ended(_))) else {
            return;
        };
        // Who has a terminal has seen them there.
        if record.mode == Mode::Background
            && self.write(record).is_ok()
            && let Some(registration) = self.registration.take()
        {
            registration.leave();
        }
    }
}
