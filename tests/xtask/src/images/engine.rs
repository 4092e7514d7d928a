//! The Docker engine: the one that runs, or a private one for as long as it is needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::step::Failed;
use crate::tree::has;

/// How long a private engine may take to come up.
const START: Duration = Duration::from_secs(60);
/// How often what comes up is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// An engine that answers.
pub(crate) struct Engine {
    /// Where it listens; the client's own default without one.
    host: Option<String>,
    /// The private engine, which ends with this, and where it keeps images.
    child: Option<(Child, PathBuf)>,
}

impl Engine {
    /// Finds a running engine, or starts one below `work`; `None` where that cannot be.
    pub(crate) fn find(work: &Path) -> Result<Option<Self>, Failed> {
        if !has("docker") {
            return Ok(None);
        }
        let running = Self { host: None, child: None };
        if running.answers() {
            return Ok(Some(running));
        }
        if !has("dockerd") || !is_root() {
            return Ok(None);
        }
        Self::start(work).map(Some)
    }

    fn start(work: &Path) -> Result<Self, Failed> {
        let fail = |error| Failed::new("start dockerd", error);
        fs::create_dir_all(work).map_err(fail)?;
        let log = File::create(work.join("dockerd.log")).map_err(fail)?;
        let errors = log.try_clone().map_err(fail)?;
        let host = format!("unix://{}", work.join("docker.sock").display());
        // No layers of file systems and no bridge: both may be forbidden where this runs.
        let child = Command::new("dockerd")
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
        let mut engine = Self { host: Some(host), child: Some((child, work.join("data"))) };
        let give_up = Instant::now() + START;
        while !engine.answers() {
            let ended =
                engine.child.as_mut().and_then(|(child, _)| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > give_up {
                let said = fs::read_to_string(work.join("dockerd.log")).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                return Err(Failed(format!(
                    "images: dockerd does not come up:\n{}",
                    last.join("\n")
                )));
            }
            pause();
        }
        Ok(engine)
    }

    fn answers(&self) -> bool {
        self.docker(&["version", "--format", "{{.Server.Version}}"])
            .is_ok_and(|text| !text.is_empty())
    }

    /// Runs the client, and returns what it prints.
    ///
    /// # Errors
    /// When it ends with another code than 0; with what it says.
    pub(crate) fn docker(&self, args: &[&str]) -> Result<String, Failed> {
        let mut command = Command::new("docker");
        if let Some(host) = &self.host {
            command.args(["--host", host]);
        }
        // The builder of the engine itself: the other one is a plugin that may be missing.
        let done = command.args(args).env("DOCKER_BUILDKIT", "0").stdin(Stdio::null()).output();
        let done = done.map_err(|error| Failed::new("start docker", error))?;
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        if done.status.success() {
            return Ok(said);
        }
        let error = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(Failed(format!("`docker {}`: {error}\n{said}", args.join(" "))))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some((child, data)) = &mut self.child {
            // It ends its containers and containerd when it is asked to.
            let asked = Command::new("kill").arg(child.id().to_string()).status();
            if !asked.is_ok_and(|status| status.success()) || child.wait().is_err() {
                eprintln!("images: dockerd was left behind");
            } else if let Err(error) = fs::remove_dir_all(&*data) {
                eprintln!("images: {} was left behind: {error}", data.display());
            }
        }
    }
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
