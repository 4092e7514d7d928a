//! What was used, when and how well: events in `monitor.db`, the file of the Python `mcpm` 2.x.
//!
//! A [`Recorder`] takes events from the hot path without waiting; one task writes them. The file is
//! opened with the first event, and whatever is wrong with it disturbs nobody: events are lost,
//! counted, and told once. Bodies of messages are never kept. [`Reader`] answers `mcpm usage`.
//!
//! ```no_run
//! # async fn example(paths: mcpm::fs::Paths, scope: mcpm_shared::scope::Scope) {
//! use mcpm::usage::{About, Action, Kind, Origin, Outcome, Recorder};
//!
//! let recorder = Recorder::start(&paths, &scope); // opens nothing yet
//! let session = recorder.begin(About {
//!     server: Some("time".to_owned()), // none for an aggregate
//!     profile: None,
//!     action: Action::Run,
//!     origin: Origin::Stdio,
//!     client: Some("claude-code 2.1".to_owned()),
//! });
//! if let Some(kind) = Kind::of_method("tools/call") {
//!     let call = session.call(kind, "time", "get_current_time", Some(120));
//!     // … the answer comes; a call that is dropped without an end was given up.
//!     call.end(Outcome::Done, Some(260));
//! }
//! drop(session); // the end of the session, once its last call ended
//! scope.drain(std::time::Duration::from_secs(5)).await; // writes what is still queued
//! # }
//! ```

mod event;
mod reader;
mod schema;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;

pub use self::event::{About, Action, Event, Kind, Origin, Outcome};
pub use self::reader::{
    CallUsage, DayUsage, ErrorUsage, Filter, ProfileUsage, Reader, Report, ServerUsage,
    SessionUsage, Totals,
};
pub use self::session::{Call, Session};
use self::writer::{Tuning, Writer};
use crate::fs::Paths;
use crate::hint::Hint;

/// How many events may wait for the writer: a second of what a fast server can do.
const QUEUE: usize = 8192;

/// Why the file of events cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The file cannot be read, or is no database.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
}

impl Hint for UsageError {
    fn hint(&self) -> Option<String> {
        let Self::Read { path, source } = self;
        let code = source.as_database_error().and_then(|error| error.code());
        Some(match code.as_deref() {
            // SQLITE_BUSY and its kin: the low byte is 5.
            Some("5" | "261" | "517" | "773") => {
                "Another program holds the file; try again in a moment".to_owned()
            }
            // SQLITE_CORRUPT and SQLITE_NOTADB.
            Some("11" | "26" | "267" | "523" | "779") => {
                format!("Move {} away; mcpm makes a new one with the next call", path.display())
            }
            _ => format!("Check who owns {} and its permissions", path.display()),
        })
    }
}

/// A hold on the file of events. Clones share it; the hot path may keep one.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Arc<Inlet>>);

#[derive(Debug)]
struct Inlet {
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    /// Makes a recorder that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the writer. No file is touched before the first event.
    ///
    /// When the scope is cancelled, or the last recorder dropped, the writer writes what is queued
    /// and ends: drain the scope after the last event.
    #[must_use]
    pub fn start(paths: &Paths, scope: &Scope) -> Self {
        Self::start_with(paths.monitor_db(), scope, Tuning::default())
    }

    fn start_with(path: PathBuf, scope: &Scope, tuning: Tuning) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(path, lost.clone(), tuning);
        let stop = scope.token().clone();
        scope.spawn(writer.run(events, stop));
        Self(Some(Arc::new(Inlet { queue, lost })))
    }

    /// Keeps an event. Never waits: with a full queue the event is lost, and counted.
    pub fn record(&self, event: Event) {
        let Some(inlet) = &self.0 else { return };
        if inlet.queue.try_send(event).is_err() {
            inlet.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins a session: its start is recorded now, its end when the last hold on it is dropped.
    #[must_use]
    pub fn begin(&self, about: About) -> Session {
        Session::begin(self.clone(), about)
    }

    /// Tells whether events are kept at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells how many events were lost: the queue was full, or the file could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |inlet| inlet.lost.load(Ordering::Relaxed))
    }
}
