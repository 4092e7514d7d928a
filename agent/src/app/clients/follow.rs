//! Clients that start a server or profile which got another name, or is gone.

use std::path::{Path, PathBuf};

use super::list;
use crate::clients::{Client, ClientConfigManager, ClientError, Edit, Entry, Places, Target};
use crate::fs::Paths;

/// An entry of a client that names something of ours.
#[derive(Debug)]
pub struct Named {
    /// The client.
    pub client: &'static Client,
    /// Its file.
    pub file: PathBuf,
    /// The name of the entry.
    pub key: String,
    /// Whether it is the thing of this name in our folder; else it may be one in another folder of
    /// mcpm's files.
    pub ours: bool,
}

/// Returns the entries of all clients that start a server or profile. A client whose file cannot
/// be read names nothing.
#[must_use]
pub fn naming(target: &Target, paths: &Paths, places: &Places) -> Vec<Named> {
    let mut named = Vec::new();
    for status in list(places).unwrap_or_default() {
        let entries = status.entries.iter().flatten();
        named.extend(entries.filter(|entry| entry.target.as_ref() == Some(target)).map(|entry| {
            Named {
                client: status.client,
                file: status.file.clone(),
                key: entry.key.clone(),
                ours: is_of(entry, paths),
            }
        }));
    }
    named
}

/// Tells whether an entry is about this folder of mcpm's files.
#[must_use]
pub fn is_of(entry: &Entry, paths: &Paths) -> bool {
    match entry.variable("MCPM_CONFIG_DIR") {
        Some(dir) => absolute(Path::new(&dir)) == absolute(paths.dir()),
        None => Paths::of_user().is_ok_and(|usual| usual.dir() == paths.dir()),
    }
}

fn absolute(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    full.canonicalize().unwrap_or(full)
}

/// Lets an entry start something else, or takes it out.
///
/// # Errors
/// When the file cannot be edited; it is then as it was.
pub fn mend(
    named: &Named,
    now: Option<&Target>,
    paths: &Paths,
    places: &Places,
) -> Result<(), ClientError> {
    let manager = ClientConfigManager::open(named.client.id, places)?.with_file(named.file.clone());
    let edit = match now {
        Some(now) => Edit::Retarget(named.key.clone(), now.clone()),
        None => Edit::Remove(named.key.clone()),
    };
    manager.edit(paths, &[edit], false).map(drop)
}
