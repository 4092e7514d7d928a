//! Sealed texts as files of a directory.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use super::Plain;
use crate::cert::{CertError, private_file};

/// Reads a file; `None` when there is none.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Plain>, CertError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(sealed) => Ok(Some(Zeroizing::new(sealed))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CertError::Read { path, source }),
    }
}

/// Reads all files, with their names; none where there is no directory.
pub(super) fn all(dir: &Path) -> Result<Vec<(String, Plain)>, CertError> {
    let failed = |source| CertError::Read { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        // What a write left behind that did not come to its end is nobody's.
        let ours = name.starts_with("account-") || name.starts_with("certificate-");
        if ours
            && !name.ends_with(".tmp")
            && let Some(sealed) = read(dir, &name)?
        {
            found.push((name, sealed));
        }
    }
    Ok(found)
}

/// Removes a file, and its directory where it was the last.
pub(super) fn remove(dir: &Path, name: &str) {
    let removed = std::fs::remove_file(dir.join(name));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = name, "a file was left behind");
    }
    // Fails while there are others.
    drop(std::fs::remove_dir(dir));
}

/// Writes a private file that is whole from its first moment, in place of the one before.
pub(super) fn replace(dir: &Path, name: &str, sealed: &[u8]) -> Result<(), CertError> {
    let path = dir.join(name);
    std::fs::create_dir_all(dir)
        .and_then(|()| private_file::write(&path, sealed))
        .map_err(|source| CertError::Write { path, source })
}
