//! Opening a bundle. It comes from a stranger: nothing of it may land outside of its folder, point
//! out of it, or fill the disk.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::fs::DRAFT;
use crate::hint::Hint;

/// The longest `manifest.json`, in bytes.
const MAX_MANIFEST: u64 = 1024 * 1024;
/// How many files a bundle may have; `node_modules` has many.
const MAX_FILES: usize = 50_000;
/// How much a bundle may unpack to, in bytes.
const MAX_TOTAL: u64 = 1024 * 1024 * 1024;
/// The longest path of a file, in bytes.
const MAX_PATH: usize = 1_024;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not a ZIP file, or a damaged one.
    #[error("{} is not a bundle: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its checksum is not what was promised.
    #[error("the checksum of the bundle is {found}, and not {expected}")]
    Checksum {
        /// What was promised.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Something in it would do harm.
    #[error("the bundle is not safe to unpack: `{name}` {reason}")]
    Unsafe {
        /// The name of the file in it.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It cannot be unpacked.
    #[error("cannot unpack into {}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Hint for BundleError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "Check the path and its permissions".to_owned(),
            Self::Damaged { .. } => "Download it again, or ask who made it".to_owned(),
            Self::Checksum { .. } => {
                "Do not use it: it is not what was published. Download it again".to_owned()
            }
            Self::Unsafe { .. } => "Do not use it; tell who made it".to_owned(),
            Self::Write { .. } => "Make room on the disk and check who owns the folder".to_owned(),
        })
    }
}

/// Returns the SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of(path: &Path) -> Result<[u8; 32], BundleError> {
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut part = vec![0; 64 * 1024];
    loop {
        match file.read(&mut part).map_err(failed)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&part[..length]),
        }
    }
}

/// Compares a SHA-256 with what was promised in hexadecimal.
///
/// # Errors
/// When they differ.
pub fn check_sha256(found: &[u8; 32], expected: &str) -> Result<(), BundleError> {
    let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = expected.trim().to_ascii_lowercase();
    if found == expected { Ok(()) } else { Err(BundleError::Checksum { expected, found }) }
}

/// Reads the `manifest.json` of a bundle.
///
/// # Errors
/// When there is none, or it makes no sense.
pub fn read_manifest(path: &Path) -> Result<Value, BundleError> {
    let mut archive = open(path)?;
    let damaged = |reason: String| BundleError::Damaged { path: path.to_owned(), reason };
    let entry = archive.by_name("manifest.json").map_err(|error| match error {
        ZipError::FileNotFound => damaged("it has no manifest.json".to_owned()),
        error => damaged(error.to_string()),
    })?;
    let mut text = Vec::new();
    let read = entry.take(MAX_MANIFEST + 1).read_to_end(&mut text);
    let length = read.map_err(|error| damaged(error.to_string()))?;
    if length as u64 > MAX_MANIFEST {
        return Err(damaged("its manifest.json is too long".to_owned()));
    }
    serde_json::from_slice(&text).map_err(|error| damaged(format!("manifest.json: {error}")))
}

fn open(path: &Path) -> Result<ZipArchive<File>, BundleError> {
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    ZipArchive::new(file)
        .map_err(|error| BundleError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

/// Unpacks a bundle into a new folder `into`, which has all of it or is not there.
///
/// # Errors
/// When anything in it is not safe, or the disk is full.
pub fn unpack(path: &Path, into: &Path) -> Result<(), BundleError> {
    unpack_within(path, into, MAX_TOTAL)
}

fn unpack_within(path: &Path, into: &Path, limit: u64) -> Result<(), BundleError> {
    let failed = |source| BundleError::Write { path: into.to_owned(), source };
    let mut archive = open(path)?;
    let parent = into.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    crate::fs::create_private_dir(parent).map_err(failed)?;
    crate::fs::sweep(parent);
    // Removed by itself when anything goes wrong.
    let draft = tempfile::Builder::new().prefix(DRAFT).tempdir_in(parent).map_err(failed)?;
    extract(&mut archive, path, draft.path(), limit)?;
    replace(draft, into).map_err(failed)
}

/// Puts the draft where the bundle shall be; what is there goes only when the new one is in place.
fn replace(draft: tempfile::TempDir, into: &Path) -> io::Result<()> {
    let old =
        tempfile::Builder::new().prefix(DRAFT).tempdir_in(draft.path().parent().unwrap_or(into))?;
    let old_place = old.path().join("bundle");
    let had = into.exists();
    if had {
        fs::rename(into, &old_place)?;
    }
    let draft = draft.keep();
    if let Err(error) = fs::rename(&draft, into) {
        let _left = fs::remove_dir_all(&draft);
        if had {
            fs::rename(&old_place, into)?;
        }
        return Err(error);
    }
    Ok(())
}

fn extract(
    archive: &mut ZipArchive<File>,
    path: &Path,
    into: &Path,
    limit: u64,
) -> Result<(), BundleError> {
    let damaged =
        |error: ZipError| BundleError::Damaged { path: path.to_owned(), reason: error.to_string() };
    if archive.len() > MAX_FILES {
        let name = format!("{} files", archive.len());
        return Err(BundleError::Unsafe { name, reason: "are too many" });
    }
    let (mut left, mut seen) = (limit, HashSet::new());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let unsafe_ = |reason| BundleError::Unsafe { name: name.clone(), reason };
        let inside = inside(&name).map_err(unsafe_)?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        // What is neither a file nor a folder: links, devices, pipes.
        if entry.is_symlink() || !matches!(mode & 0o170_000, 0 | 0o100_000 | 0o040_000) {
            return Err(unsafe_("is neither a file nor a folder"));
        }
        // Two names that differ in case are one file on some systems.
        if !seen.insert(name.trim_end_matches('/').to_lowercase()) {
            return Err(unsafe_("is there twice"));
        }
        let target = into.join(inside);
        let failed = |source| BundleError::Write { path: target.clone(), source };
        if entry.is_dir() {
            crate::fs::create_private_dir(&target).map_err(failed)?;
            continue;
        }
        if let Some(folder) = target.parent() {
            crate::fs::create_private_dir(folder).map_err(failed)?;
        }
        let mut file = create(&target, mode).map_err(failed)?;
        left = copy(&mut entry, &mut file, left)
            .map_err(failed)?
            .ok_or_else(|| unsafe_("is too long"))?;
    }
    Ok(())
}

/// Copies as much as `left` allows, and returns what is left of it; `None` when that is too little.
/// What the bundle says of its lengths is not believed.
fn copy(from: &mut impl Read, to: &mut File, left: u64) -> io::Result<Option<u64>> {
    let copied = io::copy(&mut from.take(left.saturating_add(1)), to)?;
    to.flush()?;
    Ok(left.checked_sub(copied))
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        // Programs must stay programs; nothing else of the mode is taken over.
        let mode = if mode & 0o111 == 0 { 0o600 } else { 0o700 };
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    }
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path)
}

/// Returns the path that a name stands for, when it stays inside of any folder on every system.
fn inside(name: &str) -> Result<PathBuf, &'static str> {
    if name.is_empty() || name.len() > MAX_PATH {
        return Err("has an unusable name");
    }
    if name.contains(['\\', ':', '\0']) || name.chars().any(char::is_control) {
        return Err("has characters that some systems take for a path");
    }
    if name.starts_with('/') {
        return Err("has an absolute path");
    }
    let path = Path::new(name);
    let parts = path.components().map(|part| match part {
        Component::Normal(part) => Ok(part),
        _ => Err("leads out of its folder"),
    });
    let path: PathBuf = parts.collect::<Result<_, _>>()?;
    if path.as_os_str().is_empty() { Err("has an unusable name") } else { Ok(path) }
}

#[cfg(test)]
mod tests;
