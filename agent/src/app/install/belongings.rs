//! What a server has beside its entry: the folder of its bundle and its secrets in the keyring. A
//! server that was renamed has them under its old name, so the entry is what tells.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::config::GlobalConfigManager;
use crate::fs::Paths;
use crate::keyring::SERVICE;
use crate::model::reference::slots;
use crate::model::{Server, Transport};

/// What belongs to a server alone.
#[derive(Debug, Default)]
pub(super) struct Belongings {
    /// Folders of bundles, there or not.
    pub(super) folders: Vec<PathBuf>,
    /// Places in our part of the keyring.
    pub(super) secrets: Vec<String>,
}

/// Returns what only this server refers to.
pub(super) fn of(name: &str, global: &GlobalConfigManager, paths: &Paths) -> Belongings {
    let (mut folders, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    folders.insert(super::bundle_folder(paths, name));
    if let Ok(server) = global.server(name) {
        for text in texts(&server) {
            folders.extend(folder_in(&text, paths));
            secrets.extend(secrets_in(&text));
        }
    }
    for other in global.list_servers().into_iter().filter(|other| other.name != name) {
        let Ok(server) = other.server else { continue };
        for text in texts(&server) {
            if let Some(folder) = folder_in(&text, paths) {
                folders.remove(&folder);
            }
            for secret in secrets_in(&text) {
                secrets.remove(&secret);
            }
        }
    }
    Belongings { folders: folders.into_iter().collect(), secrets: secrets.into_iter().collect() }
}

/// Returns the folders of bundles that servers have, or refer to.
#[must_use]
pub fn folders_of(global: &GlobalConfigManager, paths: &Paths) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for listed in global.list_servers() {
        folders.insert(super::bundle_folder(paths, &listed.name));
        let texts = listed.server.as_ref().map(texts).unwrap_or_default();
        folders.extend(texts.iter().filter_map(|text| folder_in(text, paths)));
    }
    folders
}

/// Returns what a server had in our part of the keyring and no server refers to any more.
#[must_use]
pub fn orphaned(before: &Server, global: &GlobalConfigManager) -> Vec<String> {
    let mut secrets: BTreeSet<String> =
        texts(before).iter().flat_map(|text| secrets_in(text)).collect();
    for listed in global.list_servers() {
        // What a faulty entry refers to cannot be told.
        let Ok(server) = listed.server else { return Vec::new() };
        for secret in texts(&server).iter().flat_map(|text| secrets_in(text)) {
            secrets.remove(&secret);
        }
    }
    secrets.into_iter().collect()
}

fn texts(server: &Server) -> Vec<String> {
    match &server.transport {
        Transport::Stdio { command, args, env, .. } => {
            let words = std::iter::once(command).chain(args).cloned();
            words.chain(env.iter().map(|(_, value)| value.into_owned())).collect()
        }
        Transport::Remote { url, headers } => {
            let values = headers.iter().map(|(_, value)| value.into_owned());
            std::iter::once(url.clone()).chain(values).collect()
        }
        Transport::Custom { .. } => Vec::new(),
    }
}

/// Returns the folder of the bundle that a path leads into.
fn folder_in(text: &str, paths: &Paths) -> Option<PathBuf> {
    let bundles = paths.bundles();
    let inside = std::path::Path::new(text).strip_prefix(&bundles).ok()?;
    Some(bundles.join(inside.components().next()?))
}

fn secrets_in(text: &str) -> Vec<String> {
    let ours = slots(text).filter(|slot| slot.service == SERVICE);
    ours.map(|slot| slot.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_refers_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let script = |name: &str| paths.bundles().join(name).join("x.js").display().to_string();
        let servers = serde_json::json!({
            "a": {"command": "node", "args": [script("old-a"), script("both")],
                "env": {"K": "keyring:mcpm/a/K", "L": "${keyring:mcpm/both}", "M": "keyring:other/x"}},
            "b": {"command": "node", "args": [script("both")], "env": {"L": "keyring:mcpm/both"}},
        });
        std::fs::write(paths.servers(), servers.to_string()).unwrap();
        let global = GlobalConfigManager::open(&paths).unwrap();
        let found = of("a", &global, &paths);
        assert_eq!(found.secrets, ["keyring:mcpm/a/K"]);
        let b = global.server("b").unwrap();
        assert!(orphaned(&b, &global).is_empty());
        let gone = Server::stdio("c", "x", [""; 0]);
        let env = serde_json::json!({"command": "x", "env": {"A": "keyring:mcpm/c/A"}});
        let before = Server::from_entry("c", &env).unwrap();
        assert_eq!(orphaned(&before, &global), ["keyring:mcpm/c/A"]);
        assert!(orphaned(&gone, &global).is_empty());
        assert_eq!(found.folders, [paths.bundles().join("a"), paths.bundles().join("old-a")]);
    }
}
