//! How our own files are.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Area, Finding, Health};
use crate::config::v1::V1;
use crate::config::{GlobalConfigManager, ProfileConfigManager};
use crate::credentials::RelayStore;
use crate::fs::{self, Paths};
use crate::hint::Hint;

/// How reading a file went, whatever is in it.
type Read = Result<(), Box<dyn Hint>>;

/// Looks at all files that are there.
pub(super) fn look(paths: &Paths) -> Vec<Finding> {
    let object = |path: &Path| fs::read_json::<Map<String, Value>>(path).map(|_| ());
    let files: [(PathBuf, Read); 7] = [
        (paths.servers(), boxed(GlobalConfigManager::open(paths))),
        (paths.profiles_metadata(), boxed(ProfileConfigManager::open(paths))),
        (paths.settings(), boxed(object(&paths.settings()))),
        (paths.sources(), boxed(object(&paths.sources()))),
        (paths.dir().join("auth.json"), boxed(object(&paths.dir().join("auth.json")))),
        (paths.relays(), boxed(RelayStore::open(paths))),
        (paths.agent_key(), Ok(())),
    ];
    let there = files.into_iter().filter(|(path, _)| path.exists());
    let mut findings: Vec<Finding> = there.map(|(path, read)| file(&path, read)).collect();
    if findings.is_empty() {
        let dir = paths.dir().display().to_string();
        findings.push(Finding::ok(Area::File, dir, "nothing there yet"));
    }
    if let Ok(Some(_)) = V1::find(paths) {
        let dir = paths.dir().display().to_string();
        let detail = "files of mcpm 1 are there".to_owned();
        let finding = Finding::new(Area::File, dir, Health::Warning, detail);
        findings.push(finding.hint("Move them with `mcpm migrate`; nothing is lost"));
    }
    findings
}

fn boxed<T, E: Hint + 'static>(read: Result<T, E>) -> Read {
    read.map(drop).map_err(|error| Box::new(error) as Box<dyn Hint>)
}

fn file(path: &Path, read: Read) -> Finding {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let finding = match read {
        Err(error) => Finding::broken(Area::File, name, &*error),
        Ok(()) if is_open(path) => {
            let detail = "other users of this machine can read it".to_owned();
            let finding = Finding::new(Area::File, name, Health::Warning, detail);
            finding.hint(format!("Close it with `chmod 600 {}`", path.display()))
        }
        Ok(()) => Finding::ok(Area::File, name, "readable"),
    };
    finding.more(path.display().to_string())
}

/// Tells whether others may read or change a file that may hold secrets.
#[cfg(unix)]
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> bool {
    false
}
