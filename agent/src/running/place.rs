//! The files of running shares: a record, a lock and a wish to stop for each.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::RunningShare;
use crate::fs::{FsError, Paths, create_private_dir, draft_in, read_json, write_private};

/// How long to wait for a lock that somebody looks at.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// What tells one run of a share from all others: 16 hexadecimal digits, never used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(String);

/// Text that is no id of a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a run is 16 hexadecimal digits")]
pub struct BadRunId;

impl RunId {
    /// Makes a new one.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the system gives randomness");
        Self(format!("{:016x}", u64::from_le_bytes(bytes)))
    }
}

impl FromStr for RunId {
    type Err = BadRunId;

    fn from_str(text: &str) -> Result<Self, BadRunId> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 16 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadRunId)
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The files of one run.
#[derive(Clone, Debug)]
struct Files {
    record: PathBuf,
    lock: PathBuf,
    stop: PathBuf,
}

impl Files {
    fn of(paths: &Paths, id: &RunId) -> Self {
        let file = |ending: &str| paths.live_shares().join(format!("{id}.{ending}"));
        Self { record: file("json"), lock: file("lock"), stop: file("stop") }
    }

    /// Removes them all, the lock last: as long as it is there, somebody may wait for it.
    fn remove(&self) {
        for file in [&self.record, &self.stop, &self.lock] {
            // Gone already is what we want; what cannot be removed is cleaned by the next look.
            let _gone = fs::remove_file(file);
        }
    }
}

/// Makes this process known as the one that runs a share. Dropping it makes the share unknown.
#[derive(Debug)]
pub struct Registration {
    files: Files,
    lock: Option<File>,
    /// Whether the record stays, for whoever wants to know why the share ended.
    stays: bool,
}

impl Registration {
    /// Takes the lock and writes the first record. It blocks the thread for a moment.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn new(paths: &Paths, id: &RunId, record: &RunningShare) -> Result<Self, FsError> {
        let files = Files::of(paths, id);
        let failed = |source| FsError::Lock { path: files.lock.clone(), source };
        let lock = take(&files.lock).map_err(failed)?;
        let registration = Self { files, lock: Some(lock), stays: false };
        registration.write(record)?;
        Ok(registration)
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, record: &RunningShare) -> Result<(), FsError> {
        replace(&self.files.record, record)
    }

    /// Tells whether somebody wants the share to end.
    #[must_use]
    pub fn is_asked_to_stop(&self) -> bool {
        self.files.stop.exists()
    }

    /// Lets go, and leaves the last record for others to read.
    pub fn leave(mut self) {
        self.stays = true;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.stays {
            drop(self.lock.take());
            return;
        }
        // The record goes first: whoever sees it with the lock let go takes us for crashed.
        let _gone = fs::remove_file(&self.files.record);
        drop(self.lock.take());
        self.files.remove();
    }
}

/// Takes the lock. Nobody else holds it for long: others only look.
fn take(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        create_private_dir(dir)?;
    }
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Replaces a file in one step. It is not forced to the disk: after a crash of the system nobody
/// needs it.
fn replace(path: &Path, record: &impl Serialize) -> Result<(), FsError> {
    let write = || -> io::Result<()> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut file = draft_in(dir)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| FsError::Write { path: path.to_owned(), source })
}

/// One run, as it is seen from outside.
#[derive(Debug)]
pub struct Seen {
    /// Which run.
    pub id: RunId,
    /// Whether its process lives.
    pub alive: bool,
    /// What it says of itself, or why that cannot be read.
    pub record: Result<RunningShare, FsError>,
}

/// Tells whether the process of a run lives: it holds its lock.
#[must_use]
pub fn is_alive(paths: &Paths, id: &RunId) -> bool {
    let Ok(file) = File::open(Files::of(paths, id).lock) else { return false };
    // A file system without locks tells nothing; what is not known to be dead is not cleaned.
    file.try_lock_shared().is_err()
}

/// Returns what a run says of itself; none when it is not known (yet, or any more).
///
/// # Errors
/// When its record cannot be read.
pub fn read(paths: &Paths, id: &RunId) -> Result<Option<RunningShare>, FsError> {
    read_json(&Files::of(paths, id).record)
}

/// Returns all runs that are known, dead ones too, the oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(paths: &Paths) -> Result<Vec<Seen>, FsError> {
    let dir = paths.live_shares();
    let failed = |source| FsError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<RunId>().ok());
        let Some(id) = id else { continue };
        // In this order: one that ends in between has no record any more, and one that ended badly
        // has written its last.
        let alive = is_alive(paths, &id);
        if let Some(record) = read(paths, &id).transpose() {
            all.push(Seen { id, alive, record });
        }
    }
    all.sort_by_key(|seen| {
        (seen.record.as_ref().map_or(0, |record| record.since), seen.id.clone())
    });
    Ok(all)
}

/// Asks a run to end.
///
/// # Errors
/// When the wish cannot be written.
pub fn ask_to_stop(paths: &Paths, id: &RunId) -> Result<(), FsError> {
    write_private(&Files::of(paths, id).stop, b"")
}

/// Tells whether somebody wants a run to end.
#[must_use]
pub fn is_asked_to_stop(paths: &Paths, id: &RunId) -> bool {
    Files::of(paths, id).stop.exists()
}

/// Removes what a dead run left behind; one that lives keeps it.
pub fn clean(paths: &Paths, id: &RunId) {
    if !is_alive(paths, id) {
        Files::of(paths, id).remove();
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::super::{Ending, State};
    use super::*;

    fn home() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        (dir, paths)
    }

    fn files(paths: &Paths) -> usize {
        fs::read_dir(paths.live_shares()).unwrap().count()
    }

    #[test]
    fn a_run_is_known_while_it_lives_and_leaves_nothing_behind() {
        let (_dir, paths) = home();
        assert!(list(&paths).unwrap().is_empty());
        assert!(!paths.dir().exists(), "looking made a folder");
        let id = RunId::generate();
        let registration = Registration::new(&paths, &id, &record()).unwrap();
        let mut later = record();
        later.requests = 7;
        registration.write(&later).unwrap();
        let all = list(&paths).unwrap();
        assert_eq!((all.len(), &all[0].id, all[0].alive), (1, &id, true));
        assert_eq!(all[0].record.as_ref().unwrap(), &later);
        assert!(!registration.is_asked_to_stop());
        ask_to_stop(&paths, &id).unwrap();
        assert!(registration.is_asked_to_stop());
        clean(&paths, &id);
        assert_eq!(list(&paths).unwrap().len(), 1, "one that lives was cleaned");
        #[cfg(unix)]
        for entry in fs::read_dir(paths.live_shares()).unwrap() {
            use std::os::unix::fs::PermissionsExt as _;
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
        drop(registration);
        assert_eq!(files(&paths), 0);
        // The files of the shares themselves are listed as ever.
        assert!(crate::credentials::list(&paths).unwrap().is_empty());
    }

    #[test]
    fn a_run_that_crashed_is_seen_dead_and_cleaned() {
        let (_dir, paths) = home();
        let id = RunId::generate();
        let registration = Registration::new(&paths, &id, &record()).unwrap();
        // What a kill leaves: the files, and no lock.
        registration.leave();
        let seen = list(&paths).unwrap().remove(0);
        assert!(!seen.alive && seen.record.is_ok());
        clean(&paths, &id);
        assert_eq!(files(&paths), 0);
    }

    #[test]
    fn a_run_that_ended_badly_leaves_its_last_words() {
        let (_dir, paths) = home();
        let id = RunId::generate();
        let registration = Registration::new(&paths, &id, &record()).unwrap();
        let mut last = record();
        last.state = State::Ended(Ending {
            code: "superseded".to_owned(),
            message: "m".to_owned(),
            hint: None,
            exit: 1,
        });
        registration.write(&last).unwrap();
        registration.leave();
        assert!(!is_alive(&paths, &id));
        assert_eq!(read(&paths, &id).unwrap().unwrap(), last);
    }

    #[test]
    fn files_of_others_are_no_runs_and_a_faulty_record_is_told() {
        let (_dir, paths) = home();
        create_private_dir(&paths.live_shares()).unwrap();
        let id = RunId::generate();
        fs::write(paths.live_shares().join(format!("{id}.json")), "{").unwrap();
        for name in ["notes.json", "0123456789abcdeF.json", ".x.json"] {
            fs::write(paths.live_shares().join(name), "{}").unwrap();
        }
        let all = list(&paths).unwrap();
        assert_eq!(all.len(), 1);
        assert!(all[0].record.is_err() && !all[0].alive);
        clean(&paths, &id);
        assert!(list(&paths).unwrap().is_empty());
        assert_eq!(files(&paths), 3);
    }

    #[test]
    fn an_id_is_the_name_of_a_file_and_nothing_else() {
        let id = RunId::generate();
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        for text in ["", "../../../../etc/x", "0123456789abcde", "0123456789abcdeg"] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }
}
