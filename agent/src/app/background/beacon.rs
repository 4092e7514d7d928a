//! Telling other processes of ours how a share is, and hearing from them that it shall end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::{log, relay_of, unix_now, visitors};
use crate::app::share::{ShareEvent, ShareSpec, Stop};
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
    record: Arc<RunningShare>,
    /// Whether others know of the share already: one in a terminal is told of once it is up.
    lit: bool,
    told: Told,
    wake: Arc<Notify>,
}

/// What writes down the words of [`Beacon`]s; it runs beside their shares.
#[derive(Debug)]
pub struct BeaconTask {
    boards: Vec<Board>,
    wake: Arc<Notify>,
}

/// What a beacon said last.
type Told = Arc<Mutex<Word>>;

#[derive(Debug, Default)]
struct Word {
    record: Option<Arc<RunningShare>>,
    over: bool,
}

impl Beacon {
    /// Tells what happened to the share.
    pub fn note(&mut self, event: &ShareEvent) {
        let record = Arc::make_mut(&mut self.record);
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
        Arc::make_mut(&mut self.record).state = State::Ended(ending);
        self.tell();
    }

    fn tell(&self) {
        if self.lit {
            locked(&self.told).record = Some(Arc::clone(&self.record));
            self.wake.notify_one();
        }
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        locked(&self.told).over = true;
        self.wake.notify_one();
    }
}

fn locked(told: &Told) -> MutexGuard<'_, Word> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for BeaconTask {
    fn default() -> Self {
        Self::new()
    }
}

impl BeaconTask {
    /// Makes one for no share yet.
    #[must_use]
    pub fn new() -> Self {
        Self { boards: Vec::new(), wake: Arc::default() }
    }

    /// Prepares to tell of what `spec` becomes; `stop` is cancelled when somebody wants it to end. In
    /// the background the share is known at once.
    ///
    /// # Errors
    /// When a share in the background cannot be made known: nobody could ever stop it.
    pub fn add(
        &mut self,
        paths: &Paths,
        run: &Run,
        spec: &ShareSpec,
        stop: Stop,
    ) -> Result<Beacon, FsError> {
        let record = Arc::new(RunningShare {
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
        });
        let lit = run.mode == Mode::Background;
        let registration =
            if lit { Some(Registration::new(paths, &run.id, &record)?) } else { None };
        let known = lit.then(|| Arc::clone(&record));
        let told = Told::new(Mutex::new(Word { record: known.clone(), over: false }));
        self.boards.push(Board {
            paths: paths.clone(),
            id: run.id.clone(),
            log: lit.then(|| log(paths, &spec.target)),
            registration,
            written: known,
            faulty: false,
            told: Arc::clone(&told),
            stop,
        });
        Ok(Beacon { record, lit, told, wake: Arc::clone(&self.wake) })
    }

    /// Writes until all beacons are dropped.
    pub async fn run(self) {
        let Self { mut boards, wake } = self;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut counted = Instant::now();
        while !boards.is_empty() {
            tokio::select! {
                () = wake.notified() => {}
                _ = tick.tick() => {}
            }
            let counts = counted.elapsed() >= COUNTS;
            if counts {
                counted = Instant::now();
            }
            // The end of the process waits for it, but not for ever: the scope has a limit.
            let looked = tokio::task::spawn_blocking(move || {
                boards.retain_mut(|board| board.turn(counts));
                boards
            });
            match looked.await {
                Ok(back) => boards = back,
                // The runtime ends.
                Err(_) => return,
            }
        }
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
    written: Option<Arc<RunningShare>>,
    /// Whether it was said already that nothing can be written.
    faulty: bool,
    told: Told,
    stop: Stop,
}

impl Board {
    /// Writes what was said since, and looks whether the share shall end; `false` once it is over.
    fn turn(&mut self, counts: bool) -> bool {
        let (record, over) = {
            let word = locked(&self.told);
            (word.record.clone(), word.over)
        };
        if over {
            self.end(record);
        } else if let Some(record) = record
            && self.look(record, counts)
        {
            self.stop.cancel();
        }
        !over
    }

    /// Writes what is new; mere counts only with `counts`. Tells whether the share shall end.
    fn look(&mut self, record: Arc<RunningShare>, counts: bool) -> bool {
        if counts && let Some(log) = &self.log {
            drop(logs::raw::trim(log));
        }
        let differs = match &self.written {
            Some(written) if Arc::ptr_eq(written, &record) => false,
            Some(written) if counts => *written != record,
            Some(written) => {
                let (requests, active) = (record.requests, record.active);
                RunningShare { requests, active, ..(**written).clone() } != *record
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

    fn write(&mut self, record: Arc<RunningShare>) -> Result<(), FsError> {
        match &self.registration {
            Some(registration) => registration.write(&record)?,
            None => self.registration = Some(Registration::new(&self.paths, &self.id, &record)?),
        }
        self.written = Some(record);
        Ok(())
    }

    /// Leaves the last words of a share in the background that ended badly, and nothing of others.
    fn end(&mut self, last: Option<Arc<RunningShare>>) {
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
