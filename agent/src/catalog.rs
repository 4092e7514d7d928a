//! What servers said of themselves last time, so that lists are answered before any server runs.
//!
//! It is a cache: whatever cannot be read counts as absent and is written anew, and losing it costs
//! one start of a server. An entry belongs to a *launch identity*, a digest over all that decides
//! which server answers; values of variables and headers go into the digest and nowhere else.

mod identity;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::identity::Identity;
use crate::fs::{FsError, Paths, write_private};
use crate::mcp::era::Era;
use crate::mcp::lists::same_value;

/// The shape of a file; one of another shape counts as absent.
const VERSION: u32 = 2;
/// How long it counts that a server does not speak an era, in seconds: it may be updated.
const ONLY_FOR: u64 = 24 * 60 * 60;
/// How many files are kept: far more than one person has servers.
const MAX_FILES: usize = 500;
/// How large a file may be. A catalogue of this size is not worth to be kept.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The items of all pages of each list, as the server wrote them; `None` where it was never asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Lists {
    /// `tools/list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Box<RawValue>>>,
    /// `prompts/list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<Box<RawValue>>>,
    /// `resources/list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Box<RawValue>>>,
    /// `resources/templates/list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<Box<RawValue>>>,
}

impl Lists {
    /// Tells whether the lists have the same items in the same order, by value.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let Self { tools, prompts, resources, templates } = self;
        same_list(tools.as_deref(), other.tools.as_deref())
            && same_list(prompts.as_deref(), other.prompts.as_deref())
            && same_list(resources.as_deref(), other.resources.as_deref())
            && same_list(templates.as_deref(), other.templates.as_deref())
    }
}

/// Tells whether two lists have the same items in the same order, by value.
#[must_use]
pub fn same_list(a: Option<&[Box<RawValue>]>, b: Option<&[Box<RawValue>]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b)),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// What one server said of itself in one era.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// The result of `initialize` or `server/discover`, as the server wrote it.
    pub opened: Box<RawValue>,
    /// The revision that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// To which client it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// Its lists.
    pub lists: Lists,
}

/// To whom a server said something of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// A digest of what the client said of itself.
    pub client: String,
    /// Whether the server was found to say something else to other clients.
    pub alone: bool,
}

impl Side {
    fn same(&self, other: &Self) -> bool {
        // Who heard it last matters only where others hear something else.
        let told = |side: &Self| side.told.clone().filter(|told| told.alone);
        self.asked == other.asked
            && told(self) == told(other)
            && same_value(&self.opened, &other.opened)
            && self.lists.same(&other.lists)
    }
}

/// What one server said of itself.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which server, started how.
    pub identity: Identity,
    /// What it said in the legacy era.
    pub legacy: Option<Side>,
    /// What it said in the modern era.
    pub modern: Option<Side>,
    /// The era that it speaks alone, where the other one was tried of late.
    pub only: Option<Era>,
    /// When this was saved, in seconds since 1970; set by [`Catalog::save`].
    pub saved_at: u64,
}

impl Entry {
    fn same(&self, other: &Self) -> bool {
        let same = |a: &Option<Side>, b: &Option<Side>| match (a, b) {
            (Some(a), Some(b)) => a.same(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.only == other.only
            && same(&self.legacy, &other.legacy)
            && same(&self.modern, &other.modern)
    }
}

/// An entry as it stands in its file.
#[derive(Serialize, Deserialize)]
struct Stored<S> {
    version: u32,
    server: String,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    legacy: Option<S>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    modern: Option<S>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<StoredEra>,
    saved_at: u64,
}

const fn none<S>() -> Option<S> {
    None
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredEra {
    Legacy,
    Modern,
}

impl From<Era> for StoredEra {
    fn from(era: Era) -> Self {
        match era {
            Era::Legacy => Self::Legacy,
            Era::Modern => Self::Modern,
        }
    }
}

impl From<StoredEra> for Era {
    fn from(era: StoredEra) -> Self {
        match era {
            StoredEra::Legacy => Self::Legacy,
            StoredEra::Modern => Self::Modern,
        }
    }
}

/// The catalogues of all servers, one file each.
#[derive(Clone, Debug)]
pub struct Catalog {
    dir: PathBuf,
}

impl Catalog {
    /// Names the folder; nothing is read or made yet.
    #[must_use]
    pub fn open(paths: &Paths) -> Self {
        Self { dir: paths.catalog() }
    }

    /// Reads what a server said of itself; `None` when nothing usable is there.
    ///
    /// It reads one small file and is quick enough to be called where a client waits.
    #[must_use]
    pub fn load(&self, identity: &Identity) -> Option<Entry> {
        let path = self.path(identity);
        match read(&path) {
            Ok(Some(stored)) if stored.version == VERSION && stored.server == identity.server() => {
                let fresh = now() < stored.saved_at.saturating_add(ONLY_FOR);
                Some(Entry {
                    identity: identity.clone(),
                    legacy: stored.legacy,
                    modern: stored.modern,
                    only: stored.only.filter(|_| fresh).map(Era::from),
                    saved_at: stored.saved_at,
                })
            }
            Ok(Some(_)) => {
                tracing::debug!(path = %path.display(), "catalogue of another version");
                None
            }
            Ok(None) => None,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(path = %path.display(), error, "catalogue not usable");
                None
            }
        }
    }

    /// Writes what a server said of itself, unless that is there already; says whether it wrote.
    ///
    /// It waits for the disk: async code calls this on a thread that may be blocked. Of two
    /// processes that save at once the later one counts.
    ///
    /// # Errors
    /// When the file cannot be written; what was there is then still there.
    pub fn save(&self, entry: &Entry) -> Result<bool, FsError> {
        let before = self.load(&entry.identity);
        if before.as_ref().is_some_and(|before| before.same(entry)) {
            return Ok(false);
        }
        let path = self.path(&entry.identity);
        let stored = Stored {
            version: VERSION,
            server: entry.identity.server().to_owned(),
            legacy: entry.legacy.as_ref(),
            modern: entry.modern.as_ref(),
            only: entry.only.map(StoredEra::from),
            saved_at: now(),
        };
        let mut bytes = serde_json::to_vec(&stored)
            .map_err(|source| FsError::Write { path: path.clone(), source: source.into() })?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_BYTES {
            tracing::debug!(server = entry.identity.server(), "catalogue too large to be kept");
            return Ok(false);
        }
        write_private(&path, &bytes)?;
        if before.is_none() {
            self.prune(&path, MAX_FILES);
        }
        Ok(true)
    }

    fn path(&self, identity: &Identity) -> PathBuf {
        self.dir.join(identity.file_name())
    }

    /// Removes the oldest files beyond `keep`, never `new`.
    ///
    /// What cannot be removed stays: the next one who saves tries again.
    fn prune(&self, new: &Path, keep: usize) {
        let Ok(folder) = fs::read_dir(&self.dir) else { return };
        let mut files: Vec<(SystemTime, PathBuf)> = folder
            .flatten()
            .filter(|file| Identity::is_file_name(&file.file_name()) && file.path() != new)
            .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path())))
            .collect();
        // `new` is one of those that are kept.
        let surplus = (files.len() + 1).saturating_sub(keep);
        files.sort();
        for (_, path) in files.into_iter().take(surplus) {
            if let Err(error) = fs::remove_file(&path) {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(path = %path.display(), error, "catalogue not removed");
            }
        }
    }
}

/// Reads one file; `None` when it does not exist.
fn read(path: &Path) -> Result<Option<Stored<Side>>, FsError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            let source = std::io::ErrorKind::FileTooLarge.into();
            Err(FsError::Read { path: path.to_owned(), source })
        }
        // An error of this call is one of the next, too.
        _ => crate::fs::read_json(path),
    }
}

/// The time, in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
