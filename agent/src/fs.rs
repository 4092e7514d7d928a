//! Where our files live and how they are read and written: whole, under a lock, for the owner only.
//!
//! Reading never writes: no folder or file comes into being because somebody looked. This module
//! does not know what the files mean.

mod drafts;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hint::Hint;

pub(crate) use self::drafts::{DRAFT, draft_in, sweep};

/// How long to wait for a lock. Holders read, change and write one small file; one that takes
/// longer is stuck.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How long between two tries to take a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The places of all our files, below one folder.
#[derive(Clone, Debug)]
pub struct Paths {
    dir: PathBuf,
}

impl Paths {
    /// Uses `dir` for everything.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Returns the folder the Python `mcpm` uses on every system: `~/.config/mcpm`.
    ///
    /// # Errors
    /// When the system does not say where the home folder is.
    pub fn of_user() -> Result<Self, FsError> {
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        Ok(Self::new(home.ok_or(FsError::NoHome)?.join(".config").join("mcpm")))
    }

    /// Returns the folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the file of all servers.
    #[must_use]
    pub fn servers(&self) -> PathBuf {
        self.dir.join("servers.json")
    }

    /// Returns the file that describes profiles.
    #[must_use]
    pub fn profiles_metadata(&self) -> PathBuf {
        self.dir.join("profiles_metadata.json")
    }

    /// Returns the file of what the user prefers.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// Returns the file that says where servers came from.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.dir.join("sources.json")
    }

    /// Returns the file that mcpm 1 kept profiles in.
    #[must_use]
    pub fn v1_profiles(&self) -> PathBuf {
        self.dir.join("profiles.json")
    }

    /// Returns what can be fetched again: what registries said, and what the Python `mcpm` kept of
    /// it.
    #[must_use]
    pub fn caches(&self) -> [PathBuf; 2] {
        [self.servers_cache(), self.registry()]
    }

    /// Returns the folder of what was replaced.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }

    /// Returns the file of the agent's private key.
    #[must_use]
    pub fn agent_key(&self) -> PathBuf {
        self.dir.join("agent_key")
    }

    /// Returns the file of the credentials for relays.
    #[must_use]
    pub fn relays(&self) -> PathBuf {
        self.dir.join("relays.json")
    }

    /// Returns the folder with one file per share.
    #[must_use]
    pub fn shares(&self) -> PathBuf {
        self.dir.join("shares")
    }

    /// Returns the folder with the shares that run.
    #[must_use]
    pub fn live_shares(&self) -> PathBuf {
        self.shares().join("live")
    }

    /// Returns the folder with one login per remote server.
    #[must_use]
    pub fn auth(&self) -> PathBuf {
        self.dir.join("auth")
    }

    /// Returns the folder with what each server said of itself last time.
    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        self.dir.join("catalog")
    }

    /// Returns the folder with the last good copies of the registries.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.dir.join("registry")
    }

    /// Returns the copy that the Python `mcpm` has of the catalogue.
    #[must_use]
    pub fn servers_cache(&self) -> PathBuf {
        self.dir.join("servers_cache.json")
    }

    /// Returns the folder with one unpacked bundle per server.
    #[must_use]
    pub fn bundles(&self) -> PathBuf {
        self.dir.join("bundles")
    }

    /// Returns the database of what was used.
    #[must_use]
    pub fn monitor_db(&self) -> PathBuf {
        self.dir.join("monitor.db")
    }

    /// Returns the folder with one log per server.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
}

/// Why a file of ours could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// Nobody says where home is.
    #[error("cannot find the home folder")]
    NoHome,
    /// Reading failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file could not be locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("cannot parse {}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
}

impl Hint for FsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoHome => {
                Some("Set HOME, or name a folder with --config-dir or MCPM_CONFIG_DIR".to_owned())
            }
            Self::Corrupt { path, .. } => Some(format!(
                "Repair or move away {}; mcpm changes nothing in a file it cannot read",
                path.display()
            )),
            Self::Read { path, source }
            | Self::Write { path, source }
            | Self::Lock { path, source } => Some(io_hint(path, source.kind())),
        }
    }
}

/// Says what to do about a file that the system does not let us use.
fn io_hint(path: &Path, kind: io::ErrorKind) -> String {
    let shown = path.display();
    match kind {
        io::ErrorKind::PermissionDenied => {
            format!("Check who owns {shown} and its permissions")
        }
        // PowerShell 5 writes UTF-16 unless told otherwise.
        io::ErrorKind::InvalidData => {
            format!("Save {shown} as UTF-8 text; mcpm changes nothing in a file it cannot read")
        }
        io::ErrorKind::IsADirectory => {
            format!("Move the folder {shown} away: a file belongs there")
        }
        io::ErrorKind::NotADirectory => {
            format!("Name another folder with --config-dir: a part of {shown} is a file")
        }
        io::ErrorKind::TimedOut => {
            "Wait for the other mcpm to end, or end it; a lock goes with its process".to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem => {
            format!("Make room for {shown}, or name another folder with --config-dir")
        }
        _ => format!("Check {shown} and its disk, or name another folder with --config-dir"),
    }
}

/// Reads a text file, without a byte order mark; `None` when it does not exist.
///
/// # Errors
/// When it exists but cannot be read or is not UTF-8.
pub fn read(path: &Path) -> Result<Option<String>, FsError> {
    match fs::read_to_string(path) {
        // Some Windows editors put a byte order mark in front.
        Ok(text) => Ok(Some(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FsError::Read { path: path.to_owned(), source }),
    }
}

/// Reads a JSON file; `None` when it does not exist or is empty.
///
/// # Errors
/// When it cannot be read or is not a `T`. It is never taken for empty then.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FsError> {
    match read(path)? {
        Some(text) if !text.trim().is_empty() => serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| FsError::Corrupt { path: path.to_owned(), source }),
        _ => Ok(None),
    }
}

/// Writes `value` as JSON with two spaces of indentation, like the Python `mcpm`.
///
/// # Errors
/// When the file cannot be written; what was there is then still there.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FsError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| FsError::Write { path: path.to_owned(), source: source.into() })?;
    text.push(b'\n');
    write_private(path, &text)
}

/// Replaces a file in one step; only its owner may read it (mode 0600 on Unix).
///
/// A symbolic link stays one: the file it points to is replaced.
///
/// # Errors
/// When the file cannot be written; what was there is then still there.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let write = || -> io::Result<()> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let dir = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        create_private_dir(dir)?;
        // A temporary file has mode 0600 from its first moment, and keeps it.
        let mut file = draft_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&target)?;
        Ok(())
    };
    write().map_err(|source| FsError::Write { path: path.to_owned(), source })
}

/// Removes files and folders with all that is in them; tells whether any was there.
///
/// # Errors
/// When one of them cannot be removed.
pub fn clear(paths: &[PathBuf]) -> Result<bool, FsError> {
    let mut cleared = false;
    for path in paths {
        let is_folder = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.is_dir(),
            Err(_) => continue,
        };
        let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(|source| FsError::Write { path: path.clone(), source })?;
        cleared = true;
    }
    Ok(cleared)
}

/// Makes a folder, and those above it, for their owner only.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// An exclusive lock over one file, against other processes of ours; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock over `path`, waiting up to 5 seconds for its holder. Holders only read, change
/// and write. The wait blocks the thread: async code calls this on a thread that may be blocked.
///
/// The lock is a file beside it (`.NAME.lock`), since `path` itself is replaced when written.
///
/// # Errors
/// When the lock file cannot be made, or its holder does not let go.
pub fn lock(path: &Path) -> Result<Lock, FsError> {
    lock_within(path, LOCK_PATIENCE)
}

fn lock_within(path: &Path, patience: Duration) -> Result<Lock, FsError> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    let lock_path = path.with_file_name(name);
    let take = || -> io::Result<File> {
        if let Some(dir) = lock_path.parent() {
            create_private_dir(dir)?;
        }
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&lock_path)?;
        wait_for_lock(&file, patience)?;
        Ok(file)
    };
    match take() {
        Ok(file) => Ok(Lock { _file: file }),
        Err(source) => Err(FsError::Lock { path: lock_path, source }),
    }
}

/// Tries until it works or `patience` is over: a wait inside the system could not be bounded.
fn wait_for_lock(file: &File, patience: Duration) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if started.elapsed() >= patience => {
                let text = format!("another process has held it for {} s", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests;
