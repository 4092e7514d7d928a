//! Where logins rest: one file per server, `auth/SERVER.json`, good for one URL only.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::record::{Record, Stored};
use crate::fs::{self, FsError, Lock, Paths};

/// Longest name of a server that is a file's name as it is; with its ending it fits everywhere.
const MAX_NAME: usize = 100;
/// How long to wait for another process that renews the same login: longer than that may take.
const TURN: Duration = Duration::from_secs(60);

/// The logins of the user.
#[derive(Clone, Debug)]
pub struct Store {
    paths: Paths,
}

/// What tells one version of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(Option<SystemTime>, u64, u64);

impl Store {
    /// Uses the folder of logins; reads nothing yet.
    #[must_use]
    pub fn open(paths: &Paths) -> Self {
        Self { paths: paths.clone() }
    }

    /// Returns the login to a server at this URL.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn read(&self, server: &str, url: &str) -> Result<Option<Record>, FsError> {
        let record = self.record(server)?;
        // What was given for one place must not be shown to another.
        Ok(record.filter(|record| record.server == server && record.url == url))
    }

    /// Keeps a login, in place of the one before.
    ///
    /// # Errors
    /// When the file cannot be written, or holds what we cannot read.
    pub fn keep(&self, record: &Record) -> Result<(), FsError> {
        let path = self.path(&record.server);
        let _lock = fs::lock(&path)?;
        self.record(&record.server)?;
        fs::write_json(&path, &Stored::from(record))
    }

    /// Forgets the login to a server, at whatever URL; returns it.
    ///
    /// # Errors
    /// When the file cannot be removed, or holds what we cannot read.
    pub fn forget(&self, server: &str) -> Result<Option<Record>, FsError> {
        let path = self.path(server);
        if self.record(server)?.is_none() {
            return Ok(None);
        }
        let _lock = fs::lock(&path)?;
        let record = self.record(server)?;
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FsError::Write { path, source })
            }
            _ => Ok(record),
        }
    }

    /// Tells whether there is a login to a server, at whatever URL.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn has(&self, server: &str) -> Result<bool, FsError> {
        Ok(self.record(server)?.is_some())
    }

    /// Lets a login follow its server to another name.
    ///
    /// # Errors
    /// When a file cannot be written, or holds what we cannot read.
    pub fn rename(&self, old: &str, new: &str) -> Result<(), FsError> {
        let Some(record) = self.record(old)? else { return Ok(()) };
        self.keep(&Record { server: new.to_owned(), ..record })?;
        self.forget(old).map(drop)
    }

    /// Keeps what a login became, unless it was replaced or forgotten meanwhile. Returns what is
    /// kept then.
    pub(super) fn replace(&self, old: &Record, new: &Record) -> Result<Option<Record>, FsError> {
        let path = self.path(&old.server);
        let _lock = fs::lock(&path)?;
        match self.read(&old.server, &old.url)? {
            Some(kept) if kept == *old => {
                fs::write_json(&path, &Stored::from(new))?;
                Ok(Some(new.clone()))
            }
            other => Ok(other),
        }
    }

    /// Waits until no other process renews the login to this server. Blocks the thread.
    pub(super) fn turn(&self, server: &str) -> Result<Lock, FsError> {
        let mut path = self.path(server).into_os_string();
        path.push(".renewal");
        let (path, started) = (PathBuf::from(path), Instant::now());
        loop {
            match fs::lock(&path) {
                Err(FsError::Lock { source, .. })
                    if source.kind() == io::ErrorKind::TimedOut && started.elapsed() < TURN => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns what changes whenever the file does.
    pub(super) fn version(&self, server: &str) -> Version {
        match std::fs::metadata(self.path(server)) {
            Ok(metadata) => Version(metadata.modified().ok(), metadata.len(), inode(&metadata)),
            Err(_) => Version(None, 0, 0),
        }
    }

    fn record(&self, server: &str) -> Result<Option<Record>, FsError> {
        let stored: Option<Stored> = fs::read_json(&self.path(server))?;
        Ok(stored.map(Record::from))
    }

    fn path(&self, server: &str) -> PathBuf {
        self.paths.auth().join(format!("{}.json", file_name(server)))
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

/// Makes a file's name of a server's: what could mean something to a file system is `%XX`, and so
/// are capitals, which some do not tell from small letters.
fn file_name(server: &str) -> String {
    let mut name = String::new();
    for byte in server.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if !name.is_empty() => name.push('.'),
            byte => {
                let _fits = write!(name, "%{byte:02x}");
            }
        }
    }
    if name.len() <= MAX_NAME {
        return name;
    }
    name.truncate(MAX_NAME - 17);
    let hash = Sha256::digest(server.as_bytes());
    name.push('-');
    for byte in &hash[..8] {
        let _fits = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use mcpm_shared::token::Token;

    use super::*;
    use crate::hint::Hint as _;
    use crate::oauth::testing::record;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Paths::new(dir.path().join("mcpm")));
        (dir, store)
    }

    #[test]
    fn a_login_comes_back_for_its_own_server_and_url_only() {
        let (_dir, store) = store();
        assert!(store.read("far", "https://x.example/mcp").unwrap().is_none());
        assert!(!store.paths.dir().exists());
        let kept = record("far", "https://x.example/mcp");
        store.keep(&kept).unwrap();
        assert_eq!(store.read("far", "https://x.example/mcp").unwrap(), Some(kept));
        assert_eq!(store.read("far", "https://y.example/mcp").unwrap(), None);
        assert_eq!(store.read("Far", "https://x.example/mcp").unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_login_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, store) = store();
        store.keep(&record("far", "https://x.example/mcp")).unwrap();
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.path("far")), 0o600);
        assert_eq!(mode(store.paths.auth()), 0o700);
    }

    #[test]
    fn a_corrupt_file_is_an_error_and_stays_as_it_is() {
        let (_dir, store) = store();
        std::fs::create_dir_all(store.paths.auth()).unwrap();
        for text in ["{,", r#"{"server":"far"}"#, r#"{"unknown":1}"#] {
            std::fs::write(store.path("far"), text).unwrap();
            let kept = record("far", "https://x.example/mcp");
            for error in [
                store.read("far", "https://x.example/mcp").unwrap_err(),
                store.keep(&kept).unwrap_err(),
                store.replace(&kept, &kept).unwrap_err(),
                store.forget("far").unwrap_err(),
            ] {
                assert!(error.to_string().contains("far.json"), "{error}");
                assert!(error.hint().unwrap().contains("Repair or move away"), "{error}");
            }
            assert_eq!(std::fs::read_to_string(store.path("far")).unwrap(), text);
        }
    }

    #[test]
    fn a_renewal_does_not_undo_a_login_or_a_logout_that_came_meanwhile() {
        let (_dir, store) = store();
        let old = record("far", "https://x.example/mcp");
        let renewed = Record { access_token: Token::new("renewed"), ..old.clone() };
        let again = Record { access_token: Token::new("again"), ..old.clone() };
        store.keep(&again).unwrap();
        assert_eq!(store.replace(&old, &renewed).unwrap(), Some(again.clone()));
        assert_eq!(store.replace(&again, &renewed).unwrap(), Some(renewed.clone()));
        assert_eq!(store.forget("far").unwrap(), Some(renewed.clone()));
        assert_eq!(store.replace(&renewed, &old).unwrap(), None);
        assert_eq!(store.forget("far").unwrap(), None);
    }

    #[test]
    fn a_servers_name_cannot_leave_the_folder() {
        assert_eq!(file_name("time"), "time");
        assert_eq!(file_name("Time"), "%54ime");
        assert_eq!(file_name("@scope/server.js"), "%40scope%2fserver.js");
        assert_eq!(file_name("../../x"), "%2e.%2f..%2fx");
        let (a, b) = (file_name(&"a".repeat(300)), file_name(&"a".repeat(301)));
        assert!(a.len() == MAX_NAME && b.len() == MAX_NAME && a != b);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let mut kept = record("far", "https://x.example/mcp");
        kept.client.secret = Some(Token::new("s3cret"));
        kept.refresh_token = Some(Token::new("s3cret"));
        let shown = format!("{kept:?}{:?}", Stored::from(&kept));
        assert!(!shown.contains("s3cret") && !shown.contains("access-0"), "{shown}");
    }
}
