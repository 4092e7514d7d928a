//! What nobody uses any more: servers, and what servers that are gone left behind. Looking changes
//! nothing; what is removed is what was told of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::background;
use super::super::clients::list;
use super::super::install::belongings::folders_of;
use crate::clients::{Places, Target};
use crate::config::{ConfigError, GlobalConfigManager, Sources};
use crate::credentials::{self, ShareTarget};
use crate::fs::{self, FsError, Paths};
use crate::logs;
use crate::running;
use crate::usage::{Filter, Reader};

/// How many days without a call make a server one that nobody uses.
pub const DAYS: u32 = 30;

/// What can go.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unused {
    /// Servers that are in no profile, that no client starts and no share has, and that were not
    /// called in the last [`DAYS`] days.
    pub servers: Vec<String>,
    /// Whether calls were counted for so long. Where they were not, no server is known to be unused.
    pub counted: bool,
    /// What servers that are gone left behind.
    pub leftovers: Vec<Leftover>,
}

/// One thing that a server which is gone left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Leftover {
    /// Where it came from.
    Source {
        /// The server.
        server: String,
    },
    /// What it wrote to stderr.
    Log {
        /// The file.
        path: PathBuf,
    },
    /// The folder of its bundle.
    Bundle {
        /// The folder.
        path: PathBuf,
    },
}

/// Looks for what can go.
///
/// # Errors
/// When a file that tells what is used, ours or a client's, cannot be read: then nothing is unused.
pub async fn look(paths: &Paths, places: &Places) -> Result<Unused, CleanupError> {
    let global = GlobalConfigManager::open(paths)?;
    let called = called(paths).await?;
    let mut started: Vec<Target> = Vec::new();
    for status in list(places)? {
        started.extend(status.entries?.into_iter().filter_map(|entry| entry.target));
    }
    let shared = shared(paths)?;
    let leftovers = leftovers(&global, &shared, paths)?;
    let Some(called) = called else {
        return Ok(Unused { leftovers, ..Unused::default() });
    };
    let is_used = |name: &str| {
        called.contains(name)
            || shared.iter().any(|target| target.name() == name)
            || started.contains(&Target::Server(name.to_owned()))
            || !global.profiles_of(name).is_empty()
    };
    let names = global.list_servers().into_iter().map(|listed| listed.name);
    let servers = names.filter(|name| !is_used(name)).collect();
    Ok(Unused { servers, counted: true, leftovers })
}

/// Removes what servers that are gone left behind.
///
/// # Errors
/// When a file cannot be written or removed.
pub fn remove(leftovers: &[Leftover], paths: &Paths) -> Result<(), CleanupError> {
    let mut sources = Sources::open(paths)?;
    for leftover in leftovers {
        match leftover {
            Leftover::Source { server } => sources.forget(server)?,
            Leftover::Log { path } | Leftover::Bundle { path } => {
                fs::clear(std::slice::from_ref(path))?;
            }
        }
    }
    Ok(())
}

/// Why it cannot be told what is unused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// A file of ours.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Our servers.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The clients.
    #[error(transparent)]
    Client(#[from] crate::clients::ClientError),
    /// Our shares.
    #[error(transparent)]
    Shares(#[from] credentials::CredentialError),
    /// What was called.
    #[error(transparent)]
    Usage(#[from] crate::usage::UsageError),
}

impl crate::hint::Hint for CleanupError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fs(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Client(error) => error.hint(),
            Self::Shares(error) => error.hint(),
            Self::Usage(error) => error.hint(),
        }
    }
}

/// Returns the servers that were called in the last [`DAYS`] days; none when calls were not counted
/// for as long.
async fn called(paths: &Paths) -> Result<Option<BTreeSet<String>>, CleanupError> {
    let Some(mut reader) = Reader::open(paths).await? else { return Ok(None) };
    if !reader.goes_back(DAYS).await? {
        return Ok(None);
    }
    let report = reader.report(&Filter { days: DAYS, server: None, profile: None }).await?;
    Ok(Some(report.servers.into_iter().map(|row| row.server).collect()))
}

/// Returns what shares are of: those that were ever made, those that run, and those that ended badly
/// and nobody asked about yet.
fn shared(paths: &Paths) -> Result<Vec<ShareTarget>, CleanupError> {
    let mut targets = Vec::new();
    for share in credentials::list(paths)? {
        targets.push(share.record?.target);
    }
    for seen in running::list(paths)? {
        match seen.record {
            Ok(share) => targets.push(share.target),
            Err(error) if seen.alive => return Err(error.into()),
            // It runs no more, and cannot say what it was of.
            Err(_) => {}
        }
    }
    Ok(targets)
}

fn leftovers(
    global: &GlobalConfigManager,
    shared: &[ShareTarget],
    paths: &Paths,
) -> Result<Vec<Leftover>, CleanupError> {
    let mut found = Vec::new();
    let sources = Sources::open(paths)?;
    let gone = sources.names().filter(|name| !global.has(name));
    found.extend(gone.map(|name| Leftover::Source { server: name.to_owned() }));

    let mut logs = BTreeSet::new();
    let names = global.list_servers();
    logs.extend(names.iter().map(|listed| logs::path(paths, &listed.name)));
    logs.extend(shared.iter().map(|target| background::log(paths, target)));
    // `NAME.log` and `NAME.log.1`; what else is there is nobody's that we know.
    let log_of = |path: &Path| {
        let log = if path.extension() == Some(OsStr::new("1")) {
            path.with_extension("")
        } else {
            path.to_owned()
        };
        (log.extension() == Some(OsStr::new("log"))).then_some(log)
    };
    let files = entries(&paths.logs())?.into_iter();
    let files = files.filter(|path| log_of(path).is_some_and(|log| !logs.contains(&log)));
    found.extend(files.map(|path| Leftover::Log { path }));

    // What a faulty entry refers to cannot be told.
    if names.iter().all(|listed| listed.server.is_ok()) {
        let used = folders_of(global, paths);
        let folders = entries(&paths.bundles())?.into_iter().filter(|path| path.is_dir());
        let folders = folders.filter(|path| !used.contains(path));
        found.extend(folders.map(|path| Leftover::Bundle { path }));
    }
    Ok(found)
}

/// Returns what is in a folder that may be missing, in order. What is hidden is being made.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, FsError> {
    let failed = |source| FsError::Read { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clients::Os;
    use crate::credentials::{ShareFile, ShareRecord};
    use crate::running::RunId;
    use crate::usage::tests::recorded_ago;

    fn places(home: &Path) -> Places {
        Places {
            os: Os::Linux,
            home: home.to_owned(),
            app_data: None,
            xdg_config: None,
            project: home.join("project"),
            path: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_somebody_uses_stays_and_what_nobody_uses_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("ours"));
        let script = paths.bundles().join("kept").join("x.js");
        let servers = json!({
            "tagged": {"command": "x", "profile_tags": ["work"]},
            "started": {"command": "x"},
            "shared": {"command": "x"},
            "idle": {"command": "node", "args": [script]},
        });
        std::fs::create_dir_all(paths.dir()).unwrap();
        std::fs::write(paths.servers(), servers.to_string()).unwrap();
        let sources = json!({"idle": {"type": "npx"}, "gone": {"type": "npx"}});
        std::fs::write(paths.sources(), sources.to_string()).unwrap();
        for folder in ["kept", "orphan", ".begun"] {
            std::fs::create_dir_all(paths.bundles().join(folder)).unwrap();
        }
        std::fs::create_dir_all(paths.logs()).unwrap();
        for file in ["idle.log", "gone.log", "gone.log.1", "notes.txt"] {
            std::fs::write(paths.logs().join(file), "").unwrap();
        }
        let cursor = json!({"mcpServers": {"x": {"command": "mcpm", "args": ["run", "started"]}}});
        std::fs::create_dir(dir.path().join(".cursor")).unwrap();
        std::fs::write(dir.path().join(".cursor/mcp.json"), cursor.to_string()).unwrap();
        let record = ShareRecord::new(
            "shared-x".parse().unwrap(),
            "local",
            ShareTarget::Server("shared".to_owned()),
        );
        let file = ShareFile::new(&paths, &record.name, "local");
        file.edit(|_| Ok((record, ()))).unwrap();

        recorded_ago(&paths, DAYS + 1).await;

        let places = places(dir.path());
        let found = look(&paths, &places).await.unwrap();
        assert_eq!(found.servers, ["idle"]);
        let expected = [
            Leftover::Source { server: "gone".to_owned() },
            Leftover::Log { path: paths.logs().join("gone.log") },
            Leftover::Log { path: paths.logs().join("gone.log.1") },
            Leftover::Bundle { path: paths.bundles().join("orphan") },
        ];
        assert_eq!(found.leftovers, expected);
        remove(&found.leftovers, &paths).unwrap();
        let after = look(&paths, &places).await.unwrap();
        assert_eq!((after.servers.len(), after.leftovers.len()), (1, 0));
        assert!(paths.logs().join("notes.txt").exists() && paths.bundles().join("kept").exists());
    }

    #[tokio::test]
    async fn where_it_cannot_be_told_what_is_used_nothing_is_unused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), r#"{"a": {"command": "x"}, "bad": {}}"#).unwrap();
        std::fs::create_dir_all(paths.bundles().join("orphan")).unwrap();
        let places = places(dir.path());
        assert!(look(&paths, &places).await.unwrap().leftovers.is_empty());
        std::fs::write(paths.monitor_db(), "no database\n".repeat(100)).unwrap();
        assert!(look(&paths, &places).await.is_err());
    }

    #[tokio::test]
    async fn no_server_is_unused_before_calls_were_counted_for_as_long() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), r#"{"new": {"command": "x"}}"#).unwrap();
        let places = places(dir.path());
        let unused = async || {
            let found = look(&paths, &places).await.unwrap();
            (found.servers.len(), found.counted)
        };
        assert_eq!(unused().await, (0, false));
        recorded_ago(&paths, DAYS - 1).await;
        assert_eq!(unused().await, (0, false));
        recorded_ago(&paths, DAYS + 1).await;
        assert_eq!(unused().await, (1, true));
    }

    /// A home with a server that nobody uses, as far as can be told.
    async fn idle() -> (tempfile::TempDir, Paths, Places) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("ours"));
        std::fs::create_dir_all(paths.live_shares()).unwrap();
        std::fs::create_dir_all(paths.logs()).unwrap();
        std::fs::write(paths.servers(), r#"{"idle": {"command": "x"}}"#).unwrap();
        recorded_ago(&paths, DAYS + 1).await;
        let places = places(dir.path());
        assert_eq!(look(&paths, &places).await.unwrap().servers, ["idle"]);
        (dir, paths, places)
    }

    #[tokio::test]
    async fn a_client_or_a_share_that_cannot_be_read_may_use_everything() {
        let (dir, paths, places) = idle().await;
        let cursor = dir.path().join(".cursor/mcp.json");
        std::fs::create_dir(dir.path().join(".cursor")).unwrap();
        let share = paths.shares().join("idle-x@local.json");
        for file in [cursor, share] {
            std::fs::write(&file, "{,").unwrap();
            assert!(look(&paths, &places).await.is_err(), "{}", file.display());
            std::fs::remove_file(file).unwrap();
        }
        let run = paths.live_shares().join(RunId::generate().to_string());
        std::fs::write(run.with_extension("json"), "{,").unwrap();
        let lock = std::fs::File::create(run.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        assert!(look(&paths, &places).await.is_err(), "a share that runs");
        lock.unlock().unwrap();
        assert_eq!(look(&paths, &places).await.unwrap().servers, ["idle"]);
    }

    #[tokio::test]
    async fn looking_leaves_the_last_words_and_the_log_of_a_share_that_ended_badly() {
        let (_dir, paths, places) = idle().await;
        let target = ShareTarget::Server("gone".to_owned());
        std::fs::write(background::log(&paths, &target), "").unwrap();
        let words = json!({
            "process": {"pid": 7, "started": null}, "since": 1, "mode": "background",
            "target": target, "relay": "local", "visitors": "token",
            "state": {"is": "ended", "code": "c", "message": "m", "exit": 1},
        });
        let file = paths.live_shares().join(format!("{}.json", RunId::generate()));
        std::fs::write(&file, words.to_string()).unwrap();
        assert!(look(&paths, &places).await.unwrap().leftovers.is_empty());
        assert_eq!(background::look(&paths).unwrap().ended.len(), 1);
    }
}
