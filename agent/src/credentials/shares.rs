//! What a share keeps between two runs: its tokens, its link secret and its resume ticket.
//!
//! One file per share, `shares/NAME@RELAY.json`. A running share watches its file, so editing it
//! (`mcpm token revoke`) takes effect at once.

mod record;
mod stored;

use std::borrow::Cow;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mcpm_shared::name::Name;
use percent_encoding::percent_decode_str;

pub use self::record::{NO_RELAY, NewToken, ShareRecord, ShareTarget, ShareToken};
use self::stored::Stored;
use super::{CredentialError, agent_key};
use crate::fs::{self, FsError, Paths};

/// The file of one share.
#[derive(Clone, Debug)]
pub struct ShareFile {
    path: PathBuf,
}

/// What tells one version of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(Option<SystemTime>, u64, u64);

/// Where the files of the shares at one relay are. Who looks at many of them again and again keeps it.
#[derive(Clone, Debug)]
pub struct ShareFolder {
    dir: PathBuf,
    /// How their names end: `@RELAY.json`.
    ending: String,
}

impl ShareFolder {
    /// Names the folder, and the relay by its origin.
    #[must_use]
    pub fn new(paths: &Paths, relay: &str) -> Self {
        Self { dir: paths.shares(), ending: format!("@{}.json", file_part(relay)) }
    }

    /// Names the file of the share `name`.
    #[must_use]
    pub fn file(&self, name: &Name) -> ShareFile {
        let (dir, name) = (self.dir.as_os_str(), name.as_str());
        // Its place at once: it is made for a look, and there may be hundreds, several times a second.
        let mut path = PathBuf::with_capacity(dir.len() + 1 + name.len() + self.ending.len());
        path.push(dir);
        path.push(name);
        path.as_mut_os_string().push(&self.ending);
        ShareFile { path }
    }
}

impl ShareFile {
    /// Names the file of the share `name` at the relay with this origin.
    #[must_use]
    pub fn new(paths: &Paths, name: &Name, relay: &str) -> Self {
        ShareFolder::new(paths, relay).file(name)
    }

    /// Returns the name that tells this share from all others: `NAME@RELAY`, where a relay that is
    /// spoken to without TLS stands with `http://`.
    #[must_use]
    pub fn full_name(&self) -> String {
        let stem = self.stem();
        match stem.split_once('@') {
            Some((name, part)) => format!("{name}@{}", relay_of(part)),
            None => stem.into_owned(),
        }
    }

    fn stem(&self) -> Cow<'_, str> {
        self.path.file_stem().unwrap_or_default().to_string_lossy()
    }

    /// Tells whether this is its full name, in which `http://` may be missing.
    #[must_use]
    pub fn is_fully_named(&self, name: &str) -> bool {
        let ours = self.full_name();
        ours == name || ours.replacen("@http://", "@", 1) == name || self.stem() == name
    }

    /// Reads the record; `None` when the share was never made.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn read(&self) -> Result<Option<ShareRecord>, CredentialError> {
        let stored: Option<Stored> = fs::read_json(&self.path)?;
        Ok(stored.map(ShareRecord::from))
    }

    /// Changes the record under its lock; `change` gets `None` when there is no file yet.
    ///
    /// # Errors
    /// When `change` fails, or the file cannot be read or written.
    pub fn edit<T>(
        &self,
        change: impl FnOnce(Option<ShareRecord>) -> Result<(ShareRecord, T), CredentialError>,
    ) -> Result<T, CredentialError> {
        Ok(self.edit_versioned(change)?.0)
    }

    /// Does what [`ShareFile::edit`] does, and tells the version that this made.
    ///
    /// # Errors
    /// As [`ShareFile::edit`].
    pub fn edit_versioned<T>(
        &self,
        change: impl FnOnce(Option<ShareRecord>) -> Result<(ShareRecord, T), CredentialError>,
    ) -> Result<(T, Version), CredentialError> {
        let _lock = fs::lock(&self.path)?;
        let (record, answer) = change(self.read()?)?;
        fs::write_json(&self.path, &Stored::from(&record))?;
        Ok((answer, self.version()))
    }

    /// Removes the file while it is still this version: nobody has opened or changed the share since.
    ///
    /// # Errors
    /// When the file is locked for long, or cannot be removed.
    pub fn forget(&self, version: Version) -> Result<(), CredentialError> {
        let _lock = fs::lock(&self.path)?;
        if self.version() != version {
            return Ok(());
        }
        fs::clear(std::slice::from_ref(&self.path))?;
        Ok(())
    }

    /// Changes a record that must be there.
    ///
    /// # Errors
    /// As [`ShareFile::edit`], and when there is no record.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&mut ShareRecord) -> Result<T, CredentialError>,
    ) -> Result<T, CredentialError> {
        self.edit(|record| {
            let mut record =
                record.ok_or_else(|| CredentialError::UnknownShare(self.full_name()))?;
            let answer = change(&mut record)?;
            Ok((record, answer))
        })
    }

    /// Returns what changes whenever the file does.
    #[must_use]
    pub fn version(&self) -> Version {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Version(metadata.modified().ok(), metadata.len(), inode(&metadata)),
            Err(_) => Version(None, 0, 0),
        }
    }

    /// Reads a record that must be there.
    fn must_read(&self) -> Result<ShareRecord, CredentialError> {
        self.read()?.ok_or_else(|| CredentialError::UnknownShare(self.full_name()))
    }

    /// Tells whether the share has this name, which the file's name tells without a look inside.
    fn is_named(&self, name: &str) -> bool {
        self.stem().split_once('@').is_some_and(|(ours, _)| ours == name)
    }
}

/// Every write makes a new file, so its number differs even within one tick of the clock.
#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// Writes an origin so that every file system takes it and no two origins meet.
fn file_part(origin: &str) -> String {
    let (mut part, rest) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(rest), _) => (String::new(), rest),
        (_, Some(rest)) => ("http+".to_owned(), rest),
        _ => (String::new(), origin),
    };
    for byte in rest.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => part.push(char::from(byte)),
            _ => part.push_str(&format!("%{byte:02x}")),
        }
    }
    part
}

/// Reads what [`file_part`] wrote; an `https://` is left out.
fn relay_of(part: &str) -> String {
    let (scheme, rest) = match part.strip_prefix("http+") {
        Some(rest) => ("http://", rest),
        None => ("", part),
    };
    format!("{scheme}{}", percent_decode_str(rest).decode_utf8_lossy())
}

/// One share of the list: what its file holds, or why that cannot be read.
#[derive(Debug)]
pub struct ListedShare {
    /// Its file.
    pub file: ShareFile,
    /// What the file holds.
    pub record: Result<ShareRecord, CredentialError>,
}

/// Returns all shares that were ever made here, ordered by file name, unreadable ones too.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(paths: &Paths) -> Result<Vec<ListedShare>, CredentialError> {
    let mut shares = Vec::new();
    for file in files(&paths.shares())? {
        if let Some(record) = file.read().transpose() {
            shares.push(ListedShare { file, record });
        }
    }
    Ok(shares)
}

fn files(dir: &Path) -> Result<Vec<ShareFile>, FsError> {
    let failed = |source| FsError::Read { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| ShareFile { path }).collect())
}

/// Finds one share by full name (`NAME@RELAY`), name, or the server or profile behind it.
///
/// A share that was up goes before those that never were. Other shares whose files cannot be read
/// are in nobody's way; `unreadable` is told of those that were looked at in vain.
///
/// # Errors
/// When none or several match, or the file of the one that matches cannot be read.
pub fn find(
    paths: &Paths,
    asked: &str,
    mut unreadable: impl FnMut(&ShareFile, CredentialError),
) -> Result<(ShareFile, ShareRecord), CredentialError> {
    let files = files(&paths.shares())?;
    let tests: [fn(&ShareFile, &str) -> bool; 3] =
        [|file, asked| file.full_name() == asked, ShareFile::is_fully_named, ShareFile::is_named];
    for test in tests {
        let named = files.iter().filter(|file| test(file, asked)).cloned().collect();
        let was_up = |file: &ShareFile| matches!(file.read(), Ok(Some(it)) if it.was_up());
        if let Some(file) = only(named, asked, |file| file, was_up)? {
            let record = file.must_read()?;
            return Ok((file, record));
        }
    }
    let mut found = Vec::new();
    for file in files {
        match file.read() {
            Ok(Some(record)) if record.target.name() == asked => found.push((file, record)),
            Ok(_) => {}
            Err(error) => unreadable(&file, error),
        }
    }
    only(found, asked, |(file, _)| file, |(_, record)| record.was_up())?
        .ok_or_else(|| CredentialError::UnknownShare(asked.to_owned()))
}

/// The names that shares have because what they share had another name once.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(ShareTarget, String, Name)>);

/// Returns these names.
///
/// # Errors
/// When the folder cannot be read. Files that cannot be read are in nobody's way.
pub fn inherited(paths: &Paths) -> Result<Inherited, CredentialError> {
    let records = list(paths)?.into_iter().filter_map(|share| share.record.ok());
    let heirs = records.filter(|record| record.inherited);
    let names = heirs.map(|record| (record.target, record.relay, record.name));
    Ok(Inherited(names.collect()))
}

impl Inherited {
    /// Returns the name that a share of `target` has at a relay; none when it is made of the
    /// target's.
    #[must_use]
    pub fn name(&self, target: &ShareTarget, relay: &str) -> Option<Name> {
        let mut ours = self.0.iter().filter(|(of, at, _)| of == target && at == relay);
        ours.next().map(|(_, _, name)| name.clone())
    }
}

/// Lets all shares of a thing that got another name be shares of it still: with their names, and so
/// with the URLs and tokens that visitors have. Returns their full names.
///
/// # Errors
/// When a file cannot be read or written.
pub fn retarget(
    paths: &Paths,
    before: &ShareTarget,
    now: &ShareTarget,
) -> Result<Vec<String>, CredentialError> {
    let shares = of(paths, before)?;
    if shares.is_empty() {
        return Ok(Vec::new());
    }
    let own = Name::derived(&before.base(), &agent_key(paths)?.thumbprint());
    change_all(shares, before, |record| {
        record.inherited |= record.name == own;
        record.target = now.clone();
    })
}

/// Takes every token and the link from all shares of a thing that is gone, so that nobody who has
/// them gets to what bears its name later. They keep their names. Returns the full names of those
/// that somebody could visit.
///
/// # Errors
/// When a file cannot be read or written.
pub fn lock_out(paths: &Paths, gone: &ShareTarget) -> Result<Vec<String>, CredentialError> {
    let mut shares = of(paths, gone)?;
    shares.retain(|share| share.record.as_ref().is_ok_and(ShareRecord::is_open));
    change_all(shares, gone, |record| {
        record.tokens.clear();
        record.link = None;
    })
}

/// Returns all shares of a thing. Files that cannot be read are in nobody's way.
fn of(paths: &Paths, target: &ShareTarget) -> Result<Vec<ListedShare>, CredentialError> {
    let mut shares = list(paths)?;
    shares.retain(|share| share.record.as_ref().is_ok_and(|record| record.target == *target));
    Ok(shares)
}

/// Changes the records of these shares, as far as they are still shares of `target`: somebody may
/// have been quicker. Returns their full names.
fn change_all(
    shares: Vec<ListedShare>,
    target: &ShareTarget,
    mut change: impl FnMut(&mut ShareRecord),
) -> Result<Vec<String>, CredentialError> {
    let mut changed = Vec::new();
    for ListedShare { file, .. } in shares {
        file.update(|record| {
            if record.target == *target {
                change(record);
            }
            Ok(())
        })?;
        changed.push(file.full_name());
    }
    Ok(changed)
}

/// Returns the only one of `found`, or of those in it that were up; none when there is none.
fn only<T>(
    mut found: Vec<T>,
    asked: &str,
    file: impl Fn(&T) -> &ShareFile,
    was_up: impl Fn(&T) -> bool,
) -> Result<Option<T>, CredentialError> {
    if found.len() > 1 && found.iter().any(&was_up) {
        found.retain(was_up);
    }
    if found.len() > 1 {
        let found = found.iter().map(|share| file(share).full_name()).collect();
        return Err(CredentialError::AmbiguousShare { asked: asked.to_owned(), found });
    }
    Ok(found.pop())
}

#[cfg(test)]
mod tests;
