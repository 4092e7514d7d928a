//! Where our files live and how they are read and written: whole, under a lock, for the owner only.
//!
//! Reading never writes: no folder or file comes into being because somebody looked. This module
//! does not know what the files mean.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hint::Hint;

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
            Self::Read { path, source } | Self::Write { path, source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(format!("Check who owns {} and its permissions", path.display()))
            }
            Self::Read { .. } | Self::Write { .. } | Self::Lock { .. } => None,
        }
    }
}

/// Reads a text file; `None` when it does not exist.
///
/// # Errors
/// When it exists but cannot be read.
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
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&target)?;
        Ok(())
    };
    write().map_err(|source| FsError::Write { path: path.to_owned(), source })
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
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

/// Takes the lock over `path`, waiting for its holder. Holders only read, change and write.
///
/// The lock is a file beside it (`.NAME.lock`), since `path` itself is replaced when written.
///
/// # Errors
/// When the lock file cannot be made.
pub fn lock(path: &Path) -> Result<Lock, FsError> {
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
        file.lock()?;
        Ok(file)
    };
    match take() {
        Ok(file) => Ok(Lock { _file: file }),
        Err(source) => Err(FsError::Lock { path: lock_path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("none"));
        assert!(read(&paths.servers()).unwrap().is_none());
        assert!(!paths.dir().exists());
    }

    #[test]
    fn a_corrupt_file_is_an_error_that_names_it_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::write(&path, "{,").unwrap();
        let error = read_json::<serde_json::Value>(&path).unwrap_err();
        assert!(error.to_string().contains("x.json"));
        assert!(error.hint().unwrap().contains("Repair"));
    }

    #[cfg(unix)]
    #[test]
    fn written_files_belong_to_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("secret.json");
        write_json(&path, &serde_json::json!({"a": 1})).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"a\": 1\n}\n");
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_survives_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_private(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    }

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let held = lock(&path).unwrap();
        let other = File::open(dir.path().join(".x.json.lock")).unwrap();
        assert!(other.try_lock().is_err());
        drop(held);
        assert!(other.try_lock().is_ok());
    }
}
