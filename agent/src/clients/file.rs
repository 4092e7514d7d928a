//! The files of clients on disk: read whole, replaced in one step, with the one before kept beside.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Who may read a file that was not there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Its owner: clients keep secrets there.
    Owner,
    /// Whoever may read the project.
    Project,
}

/// Reads a text file; `None` when it does not exist.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file whose text was `old`, if that is still what it says, and keeps `old` beside it.
/// Returns the backup, if there was something to keep, or `None` when the client was faster.
///
/// The new file has the mode of the one it replaces, and a symbolic link stays one.
pub(super) fn replace(
    path: &Path,
    old: Option<&str>,
    new: &str,
    audience: Audience,
) -> io::Result<Option<Replaced>> {
    let target = follow(path)?;
    let folder = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    crate::fs::sweep(folder);
    let mode = match fs::metadata(&target) {
        Ok(metadata) => Some(metadata.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if mode.as_ref().is_some_and(Permissions::readonly) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let backup = match old {
        Some(old) => {
            let backup = backup_of(&target);
            write(&backup, old, mode.clone(), audience)?.persist(&backup)?;
            Some(backup)
        }
        None => None,
    };
    let file = write(&target, new, mode, audience)?;
    // The last moment to see that the client wrote meanwhile; what is left is a few microseconds.
    if read(&target)?.as_deref() != old {
        return Ok(None);
    }
    file.persist(&target)?;
    Ok(Some(Replaced { backup }))
}

/// What replacing a file did.
#[derive(Debug)]
pub(super) struct Replaced {
    /// The file as it was before.
    pub(super) backup: Option<PathBuf>,
}

/// Returns where the previous text of a file is kept.
pub(super) fn backup_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(".mcpm.bak");
    path.with_file_name(name)
}

/// Returns the file behind a symbolic link, also where that does not exist yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(link) => Ok(path.parent().map_or(link.clone(), |folder| folder.join(link))),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(error),
    }
}

/// Writes a temporary file in the folder of `path`.
fn write(
    path: &Path,
    text: &str,
    mode: Option<Permissions>,
    audience: Audience,
) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(crate::fs::DRAFT);
    #[cfg(unix)]
    if audience == Audience::Project && mode.is_none() {
        // The mask of the user applies, as to any file of a project.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    #[cfg(not(unix))]
    let _ = audience;
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Some(mode) = mode {
        file.as_file().set_permissions(mode)?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}
