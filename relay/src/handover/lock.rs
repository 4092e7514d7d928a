//! That one relay at a time works on an SQLite file.
//!
//! A second one would end the leases of the first, which it takes for dead. The right to the file
//! is a lock of the system on `relay.db.lock` beside it: it ends with the last process that has it,
//! however that ends. At a take-over it passes to the successor, together with the listeners.
//! Commands that work on the database of a running relay need no lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a relay may not work on a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another relay works on it.
    #[error("another relay runs on the database {}", .0.display())]
    Held(PathBuf),
    /// The file to lock cannot be opened or made.
    #[error("cannot open {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The right to be the relay of an SQLite file. Clones are one right, which the last one ends.
#[derive(Clone, Debug)]
pub struct DatabaseLock(Arc<File>);

impl DatabaseLock {
    /// Takes the right to a database, unless another process has it; where a predecessor left its
    /// own, that one counts. `None` on file systems that have no locks.
    ///
    /// # Errors
    /// When another relay has it, or the file beside the database cannot be opened or made.
    pub fn take(database: &Path, left: Option<&Self>) -> Result<Option<Self>, LockError> {
        // By whichever way it is named, it is one file; one that is yet to be made has one name.
        let real = database.canonicalize().unwrap_or_else(|_| database.to_owned());
        let mut path = real.into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let fail = |source| LockError::Io { path: path.clone(), source };
        let file = options.open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(Arc::new(file)))),
            Err(TryLockError::WouldBlock) => match left.filter(|left| left.is_of(&file)) {
                Some(left) => Ok(Some(left.clone())),
                None => Err(LockError::Held(database.to_owned())),
            },
            Err(TryLockError::Error(error)) => {
                let path = path.display();
                tracing::warn!(%error, %path, "nothing keeps another relay from this database");
                Ok(None)
            }
        }
    }

    /// Wraps a right that a predecessor has left.
    #[cfg(unix)]
    pub(super) fn inherited(file: File) -> Self {
        Self(Arc::new(file))
    }

    /// Returns the file that is locked, to be left to a successor.
    #[cfg(unix)]
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    #[cfg(unix)]
    fn is_of(&self, file: &File) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let id = |file: &File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
        id(&self.0).is_some_and(|own| id(file) == Some(own))
    }

    #[cfg(not(unix))]
    fn is_of(&self, _: &File) -> bool {
        // Nothing passes from process to process there.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_has_one_relay_at_a_time_by_whatever_name_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("relay.db");
        std::fs::write(&database, "").unwrap();
        let first = DatabaseLock::take(&database, None).unwrap().unwrap();
        let error = DatabaseLock::take(&database, None).unwrap_err();
        assert!(matches!(&error, LockError::Held(path) if *path == database), "{error}");
        #[cfg(unix)]
        {
            let linked = dir.path().join("linked.db");
            std::os::unix::fs::symlink(&database, &linked).unwrap();
            assert!(matches!(DatabaseLock::take(&linked, None), Err(LockError::Held(_))));
        }
        let other = dir.path().join("other.db");
        assert!(DatabaseLock::take(&other, None).unwrap().is_some());
        drop(first);
        assert!(DatabaseLock::take(&database, None).unwrap().is_some(), "it is free again");
    }

    #[cfg(unix)]
    #[test]
    fn what_a_predecessor_left_is_for_its_own_database() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own.db"), dir.path().join("other.db"));
        let left = DatabaseLock::take(&own, None).unwrap().unwrap();
        let _elsewhere = DatabaseLock::take(&other, None).unwrap();
        let passed = DatabaseLock::take(&own, Some(&left)).unwrap();
        assert!(matches!(DatabaseLock::take(&other, Some(&left)), Err(LockError::Held(_))));
        drop(left);
        assert!(DatabaseLock::take(&own, None).is_err(), "the successor has it now");
        drop(passed);
        assert!(DatabaseLock::take(&own, None).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("relay.db.lock")).unwrap();
        let error = DatabaseLock::take(&dir.path().join("relay.db"), None).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("cannot open ") && said.ends_with("relay.db.lock"), "{said}");
    }
}
