//! A PostgreSQL server of a test's own: in a temporary directory, on a Unix socket alone, by the
//! binaries of the Debian package `postgresql` or those on the `PATH`. Standard library and
//! `tempfile` only, so that other suites can take this file in by its path.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    bin: PathBuf,
    /// Whom the server runs as: it refuses to be root.
    user: Option<(u32, u32)>,
    dir: tempfile::TempDir,
    databases: AtomicU32,
}

impl PrivatePostgres {
    /// Starts a server; `None`, said in one line, where there is no PostgreSQL.
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = binaries() else {
            let promised = std::env::var_os("MCPM_PEERS").unwrap_or_default();
            assert!(
                !promised.to_string_lossy().split(',').any(|it| it == "postgresql"),
                "PostgreSQL was promised"
            );
            skipped("no PostgreSQL binaries found (Debian package `postgresql`)");
            return None;
        };
        // The path of a socket has room for 107 bytes, and its owner must get there.
        let short = Path::new("/tmp");
        let dir = match short.is_dir() {
            true => tempfile::tempdir_in(short),
            false => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        let is_root = fs::metadata(dir.path()).unwrap().uid() == 0;
        let user = is_root.then(unprivileged);
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let server = Self { bin, user, dir, databases: AtomicU32::new(0) };
        let data = server.data();
        let flags = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-U", "relay"];
        let mut initdb = server.command("initdb");
        run(initdb.args(flags).arg("-D").arg(data));
        server.start_again();
        Some(server)
    }

    /// Starts the server that was stopped.
    pub(crate) fn start_again(&self) {
        let dir = self.dir.path().display();
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={dir} -c fsync=off \
             -c full_page_writes=off -c max_connections=64"
        );
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl.arg("-D").arg(self.data()).arg("-l").arg(self.dir.path().join("log"));
        run(pg_ctl.arg("-w").arg("-o").arg(options).arg("start"));
    }

    /// Stops the server as a crash of its machine would: no connection is told.
    pub(crate) fn stop(&self) {
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl.arg("-D").arg(self.data());
        run(pg_ctl.args(["-w", "-m", "immediate", "stop"]));
    }

    /// Makes an empty database and returns its URL.
    pub(crate) fn database(&self) -> String {
        let name = format!("relay{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut psql = self.command("psql");
        psql.arg("-h").arg(self.dir.path()).args(["-U", "relay", "-d", "postgres", "-q", "-c"]);
        run(psql.arg(format!("CREATE DATABASE {name}")));
        format!("postgres:///{name}?host={}&user=relay", self.dir.path().display())
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        for setting in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS"] {
            command.env_remove(setting);
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl.arg("-D").arg(self.data()).args(["-w", "-m", "immediate", "stop"]);
        // It may be stopped already.
        drop(pg_ctl.stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
}

/// Says that a test is skipped, on the stderr that the test runner shows.
fn skipped(why: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr(), "skipped: {why}"));
}

/// Returns where `initdb` and its siblings are: the newest of Debian's versions, else the `PATH`.
fn binaries() -> Option<PathBuf> {
    let version = |path: &Path| {
        path.parent().and_then(Path::file_name).and_then(OsStr::to_str)?.parse::<u32>().ok()
    };
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .max_by_key(|bin| version(bin));
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin| bin.join("initdb").exists())
    })
}

/// Returns user and group of `postgres`, else of `nobody`.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).unwrap_or((65534, 65534))
}

/// Runs a program to its end. Its output goes nowhere: a server that it starts would keep a pipe
/// open.
fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
