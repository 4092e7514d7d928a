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
/// How long one thing that is asked of it may take, on a slow machine too.
const BOUND: Duration = Duration::from_secs(180);
/// How long an engine may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a program that is asked to end may take before it is ended by force, and then.
const GRACE: Duration = Duration::from_secs(2);
/// How often what comes up is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// An engine that answers.
pub(crate) struct Engine {
    /// Where it listens; the client's own default without one.
    host: Option<String>,
    /// The private engine, which ends with this, and the folder that it works in.
    child: Option<(Child, PathBuf)>,
    /// Where Debian's packages were unpacked, on a system without an engine or a client.
    unpacked: Vec<PathBuf>,
}

impl Engine {
    /// Finds a running engine, or starts one below `work`, where nobody else may be at work.
    ///
    /// # Errors
    /// When there is none and none can be started; says why.
    pub(crate) fn find(tree: &Tree, work: &Path) -> Result<Self, Failed> {
        let mut engine = Self { host: None, child: None, unpacked: Vec::new() };
        if engine.answers() {
            return Ok(engine);
        }
        if !is_root() {
            return Err(Failed("no Docker engine answers, and only root can start one".to_owned()));
        }
        let unpacked = |program, package| {
            unpacked::fetch(tree, program, package)
                .map_err(|Failed(why)| Failed(format!("no Docker engine can be had: {why}")))
        };
        engine.unpacked.extend(unpacked("dockerd", "docker.io")?);
        // Since Debian 13 the client is a package of its own.
        if !engine.unpacked.iter().any(|folder| unpacked::has(folder, "docker")) {
            engine.unpacked.extend(unpacked("docker", "docker-cli")?);
        }
        engine.ask(&["--version"], ANSWER)?;
        engine.host = Some(format!("unix://{}", work.join("docker.sock").display()));
        engine.clear(work)?;
        engine.start(work)?;
        Ok(engine)
    }

    /// Tells whether this is an engine for this time.
    pub(crate) fn is_private(&self) -> bool {
        self.child.is_some()
    }

    /// Ends what a run that was interrupted has left running in `work`, and removes what it has left there.
    fn clear(&self, work: &Path) -> Result<(), Failed> {
        let id = work.join("dockerd.pid");
        if self.answers() {
            let left = fs::read_to_string(&id).map_err(|error| {
                Failed::new(format!("end the engine that was left in {}", work.display()), error)
            })?;
            drop(Command::new("kill").arg(left.trim()).status());
            let give_up = Instant::now() + START;
            // It takes this file away last.
            while self.answers() || id.exists() {
                if Instant::now() > give_up {
                    return Err(Failed(format!(
                        "the dockerd {} of an earlier run stays",
                        left.trim()
                    )));
                }
                pause();
            }
        }
        for path in ["data", "exec", "dockerd.pid"].map(|name| work.join(name)) {
            let removed = match path.is_dir() {
                true => remove(&path),
                false if path.exists() => fs::remove_file(&path),
                false => Ok(()),
            };
            removed.map_err(|error| Failed::new(format!("remove {}", path.display()), error))?;
        }
        Ok(())
    }

    fn start(&mut self, work: &Path) -> Result<(), Failed> {
        let fail = |error| Failed::new("start dockerd", error);
        fs::create_dir_all(work).map_err(fail)?;
        let log = File::create(work.join("dockerd.log")).map_err(fail)?;
        let errors = log.try_clone().map_err(fail)?;
        // No layers of file systems and no bridge: both may be forbidden where this runs.
        let child = self
            .program("dockerd")
            .args(self.host.iter().flat_map(|host| ["--host", host]))
            .args(["--storage-driver", "vfs", "--bridge", "none"])
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
        self.child = Some((child, work.to_owned()));
        let give_up = Instant::now() + START;
        loop {
            let ended = self.child.as_mut().and_then(|(child, _)| child.try_wait().ok().flatten());
            // In this order: what answers where ours has ended is another.
            if ended.is_none() && self.answers() {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > give_up {
                let said = fs::read_to_string(work.join("dockerd.log")).unwrap_or_default();
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("silence");
                return Err(Failed(format!("dockerd does not come up: {last}")));
            }
            pause();
        }
    }

    fn answers(&self) -> bool {
        self.ask(&["version", "--format", "{{.Server.Version}}"], ANSWER)
            .is_ok_and(|text| !text.is_empty())
    }

    /// One of the engine's own programs.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        if self.unpacked.is_empty() {
            return command;
        }
        let below = |places: &'static [&str]| {
            self.unpacked.iter().flat_map(|folder| places.iter().map(|place| folder.join(place)))
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Before usr was merged, some packages had theirs beside it; and servers are not on everybody's path.
        let own = below(&["usr/sbin", "usr/bin", "sbin", "bin"]);
        let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
        command.env("PATH", joined(own.chain(std::env::split_paths(&path)).chain(system)));
        let libraries = below(&["usr/lib", "lib"]).flat_map(fs::read_dir).flatten().flatten();
        let libraries = libraries.map(|entry| entry.path()).filter(|path| path.is_dir());
        command.env("LD_LIBRARY_PATH", joined(libraries));
        command
    }

    /// Runs the client, and returns what it prints.
    ///
    /// # Errors
    /// When it ends with another code than 0, with what it says; and when the time is up.
    pub(crate) fn docker(&self, args: &[&str]) -> Result<String, Failed> {
        self.ask(args, BOUND)
    }

    fn ask(&self, args: &[&str], bound: Duration) -> Result<String, Failed> {
        let mut command = self.program("docker");
        let host = self.host.iter().flat_map(|host| ["--host", host]);
        // The builder of the engine itself: the other one is a plugin that may be missing.
        command.args(host).args(args).env("DOCKER_BUILDKIT", "0");
        let what = || format!("`docker {}`", args.join(" "));
        let done = output(command, bound).map_err(|error| Failed::new(what(), error))?;
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
    /// Has `remove` told to the client when this is dropped.
    pub(crate) fn new(engine: &'a Engine, remove: &[&str]) -> Self {
        Self { engine, remove: remove.iter().map(|word| (*word).to_owned()).collect() }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let remove: Vec<&str> = self.remove.iter().map(String::as_str).collect();
        if let Err(Failed(error)) = self.engine.ask(&remove, CLEAN) {
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
                && let Err(error) = remove(&folder)
            {
                eprintln!("images: {} was left behind: {error}", folder.display());
            }
        }
    }
}

/// Runs a program to its end, or ends it when the time is up.
fn output(mut command: Command, bound: Duration) -> std::io::Result<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let id = child.id().to_string();
    let (done, waits) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    if let Ok(done) = waits.recv_timeout(bound) {
        return done;
    }
    for signal in ["TERM", "KILL"] {
        Command::new("kill").args(["-s", signal, &id]).status()?;
        // It is gone: it was waited for.
        if waits.recv_timeout(GRACE).is_ok() {
            return Err(std::io::Error::other("the time is up"));
        }
    }
    Err(std::io::Error::other(format!("the time is up, and the process {id} does not end")))
}

/// A name that no other run gives to what it makes in an engine that they have in common.
pub(crate) fn named(name: &str) -> String {
    format!("{name}-under-test-{}", std::process::id())
}

/// Removes a folder of an engine that has ended: one that did not come up leaves its data mounted onto itself.
fn remove(folder: &Path) -> std::io::Result<()> {
    drop(Command::new("umount").arg(folder).output());
    fs::remove_dir_all(folder)
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
    fn what_hangs_is_ended_when_the_time_is_up_also_what_does_not_listen() {
        let started = Instant::now();
        // The time is enough for the shell to shut its ears; where it is not, it is ended as the other one.
        for hangs in ["exec sleep 600", "trap '' TERM; exec sleep 600"] {
            let mut shell = Command::new("sh");
            shell.args(["-c", hangs]);
            // With other words when it is not gone afterwards.
            let error = output(shell, Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.to_string(), "the time is up", "{hangs}");
        }
        assert!(started.elapsed() < Duration::from_secs(60));
        let mut says = Command::new("echo");
        says.arg("hello");
        let done = output(says, Duration::from_secs(60)).unwrap();
        assert_eq!(done.stdout, b"hello\n");
    }
}
