//! The Docker engine: the one that runs, or a private one for as long as it is needed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::step::Failed;
use crate::tree::Tree;
use crate::unpacked;

/// How long a private engine may take to come up, and to go.
const START: Duration = Duration::from_secs(60);
/// How long it may take to remove what was made.
const CLEAN: Duration = Duration::from_secs(30);
/// How often what comes up is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// An engine that answers.
pub(crate) struct Engine {
    /// Where it listens; the client's own default without one.
    host: Option<String>,
    /// The private engine, which ends with this, and the folder that it works in.
    child: Option<(Child, PathBuf)>,
    /// Where Debian's packages were unpacked, on a system without an engine.
    unpacked: Option<PathBuf>,
    /// When all that is asked of it must be done.
    give_up: Instant,
}

impl Engine {
    /// Finds a running engine, or starts one below `work`, for `bound` at most.
    ///
    /// # Errors
    /// When there is none and none can be started; says why.
    pub(crate) fn find(tree: &Tree, work: &Path, bound: Duration) -> Result<Self, Failed> {
        let give_up = Instant::now() + bound;
        let mut engine = Self { host: None, child: None, unpacked: None, give_up };
        if engine.answers() {
            return Ok(engine);
        }
        if !is_root() {
            return Err(Failed("no Docker engine answers, and only root can start one".to_owned()));
        }
        engine.unpacked = unpacked::fetch(tree, "dockerd", "docker.io")
            .map_err(|Failed(why)| Failed(format!("no Docker engine can be had: {why}")))?;
        engine.start(work)?;
        Ok(engine)
    }

    fn start(&mut self, work: &Path) -> Result<(), Failed> {
        let fail = |error| Failed::new("start dockerd", error);
        fs::create_dir_all(work).map_err(fail)?;
        let log = File::create(work.join("dockerd.log")).map_err(fail)?;
        let errors = log.try_clone().map_err(fail)?;
        let host = format!("unix://{}", work.join("docker.sock").display());
        // No layers of file systems and no bridge: both may be forbidden where this runs.
        let child = self
            .program("dockerd")
            .args(["--host", &host, "--storage-driver", "vfs", "--bridge", "none"])
            .args(["--iptables=false", "--ip6tables=false"])
            .arg("--data-root")
            .arg(work.join("data"))
            .arg("--exec-root")
            .arg(work.join("exec"))
            .arg("--pidfile")
            .arg(work.join("dockerd.pid"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(fail)?;
        (self.host, self.child) = (Some(host), Some((child, work.to_owned())));
        let give_up = Instant::now() + START;
        while !self.answers() {
            let ended = self.child.as_mut().and_then(|(child, _)| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > give_up {
                let said = fs::read_to_string(work.join("dockerd.log")).unwrap_or_default();
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("silence");
                return Err(Failed(format!("dockerd does not come up: {last}")));
            }
            pause();
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        self.docker(&["version", "--format", "{{.Server.Version}}"])
            .is_ok_and(|text| !text.is_empty())
    }

    /// One of the engine's own programs.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        if let Some(folder) = &self.unpacked {
            let own = ["usr/sbin", "usr/bin"].map(|place| folder.join(place));
            let path = std::env::var_os("PATH").unwrap_or_default();
            command.env("PATH", joined(own.into_iter().chain(std::env::split_paths(&path))));
            let libraries = fs::read_dir(folder.join("usr/lib")).into_iter().flatten().flatten();
            let libraries = libraries.map(|entry| entry.path()).filter(|path| path.is_dir());
            command.env("LD_LIBRARY_PATH", joined(libraries));
        }
        command
    }

    /// Runs the client, and returns what it prints.
    ///
    /// # Errors
    /// When it ends with another code than 0, with what it says; and when the time is up.
    pub(crate) fn docker(&self, args: &[&str]) -> Result<String, Failed> {
        self.ask(args, self.give_up)
    }

    fn ask(&self, args: &[&str], give_up: Instant) -> Result<String, Failed> {
        let mut command = self.program("docker");
        let host = self.host.iter().flat_map(|host| ["--host", host]);
        // The builder of the engine itself: the other one is a plugin that may be missing.
        command.args(host).args(args).env("DOCKER_BUILDKIT", "0");
        let what = || format!("`docker {}`", args.join(" "));
        let done = output(command, give_up).map_err(|error| Failed::new(what(), error))?;
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        if done.status.success() {
            return Ok(said);
        }
        let error = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(Failed(format!("{}: {error}\n{said}", what())))
    }
}

/// Something in the engine that is removed again when this is dropped, also after a failure.
pub(crate) struct Made<'a> {
    engine: &'a Engine,
    /// What the client is told to remove it.
    remove: Vec<String>,
}

impl<'a> Made<'a> {
    pub(crate) fn new(engine: &'a Engine, remove: &[&str]) -> Self {
        Self { engine, remove: remove.iter().map(|word| (*word).to_owned()).collect() }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let remove: Vec<&str> = self.remove.iter().map(String::as_str).collect();
        if let Err(Failed(error)) = self.engine.ask(&remove, Instant::now() + CLEAN) {
            eprintln!("images: left behind: {error}");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some((child, work)) = &mut self.child else { return };
        let gone = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        let give_up = Instant::now() + START;
        if !gone(child) {
            // It ends its containers and containerd when it is asked to.
            drop(Command::new("kill").arg(child.id().to_string()).status());
        }
        while !gone(child) {
            if Instant::now() > give_up {
                eprintln!("images: dockerd was left behind, with the id {}", child.id());
                return;
            }
            pause();
        }
        for folder in ["data", "exec"].map(|name| work.join(name)) {
            if folder.exists()
                && let Err(error) = fs::remove_dir_all(&folder)
            {
                eprintln!("images: {} was left behind: {error}", folder.display());
            }
        }
    }
}

/// Runs a program to its end, or ends it when the time is up.
fn output(mut command: Command, give_up: Instant) -> std::io::Result<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let id = child.id().to_string();
    let (done, waits) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let left = give_up.saturating_duration_since(Instant::now());
    waits.recv_timeout(left).unwrap_or_else(|_| {
        Command::new("kill").arg(&id).status()?;
        Err(std::io::Error::other("the time is up"))
    })
}

fn joined(folders: impl Iterator<Item = PathBuf>) -> OsString {
    // Where a folder's name has the separator in it, programs are not found, and that is said.
    std::env::join_paths(folders).unwrap_or_default()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| String::from_utf8_lossy(&id.stdout).trim() == "0")
}

/// Waits a moment.
#[expect(clippy::disallowed_methods, reason = "a chore has no clock to wait for but the real one")]
pub(crate) fn pause() {
    std::thread::sleep(LOOK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_hangs_is_ended_when_the_time_is_up() {
        let mut hangs = Command::new("sleep");
        hangs.arg("600");
        let started = Instant::now();
        let error = output(hangs, started + Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "the time is up");
        assert!(started.elapsed() < Duration::from_secs(60));
        let mut says = Command::new("echo");
        says.arg("hello");
        let done = output(says, Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(done.stdout, b"hello\n");
    }
}
