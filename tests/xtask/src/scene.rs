//! What the programs are watched at: a relay, a share through it, and a local gateway, with a call each; and a share as a
//! person starts it.
//!
//! `load` plays on, with many at a time.

pub(crate) mod load;
mod visitor;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use self::visitor::{Visitor, backend};
use crate::step::Failed;
use crate::tree::Tree;

/// How long a program may take to go; callgrind is fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a relay is told that is to be visited and not to refuse anybody.
const RELAY: &str = "serve --domain localhost --listen 127.0.0.1:0 --admin-listen none --auth open --database memory: \
                     --http-mode --log info";

/// Where the programs are, and who watches them.
pub(crate) struct Stage<'a> {
    /// The folder of the programs.
    bins: PathBuf,
    /// An empty home, where the records go too.
    work: &'a Path,
    watcher: Watcher,
}

/// Who writes down what a program does.
#[derive(Clone, Copy)]
pub(crate) enum Watcher {
    /// Valgrind, into `callgrind.NAME`.
    Callgrind,
    /// The program itself, which was built to, into `PROGRAM.PID.profraw`.
    Program,
}

impl<'a> Stage<'a> {
    /// Prepares a home in `work`, which must be empty, with a server and a profile.
    pub(crate) fn prepare(
        tree: &Tree,
        bins: PathBuf,
        work: &'a Path,
        watcher: Watcher,
    ) -> Result<Self, Failed> {
        let upstream = tree.target.join("debug").join("conformance-upstream");
        let command = upstream.display().to_string();
        let entry =
            format!(r#"{{"command":{command:?},"args":["--stdio"],"profile_tags":["both"]}}"#);
        let servers = format!(r#"{{"demo":{entry},"other":{entry}}}"#);
        fs::create_dir_all(work)
            .and_then(|()| fs::write(work.join("servers.json"), servers))
            .and_then(|()| fs::write(work.join("profiles_metadata.json"), r#"{"both":{}}"#))
            .and_then(|()| fs::create_dir_all(work.join("home")))
            .map_err(|error| Failed::new("prepare a home", error))?;
        Ok(Self { bins, work, watcher })
    }

    /// The relay.
    fn relay(&self, name: &'static str, further: &[&str]) -> Result<(Player, String), Failed> {
        let args: Vec<&str> = RELAY.split_whitespace().chain(further.iter().copied()).collect();
        self.start(name, self.command(name, "mcpm-relay"), &args)
    }

    /// The agent, with `--json` where it tells of shares.
    fn agent(&self, name: &'static str, args: &[&str]) -> Result<(Player, String), Failed> {
        let home = self.work.display().to_string();
        let command = self.command(name, "mcpm");
        self.start(name, command, &[&["--config-dir", &home], args].concat())
    }

    /// The agent as a person starts it, who has a home folder.
    fn agent_at_home(&self, name: &'static str, args: &[&str]) -> Result<(Player, String), Failed> {
        let mut command = self.command(name, "mcpm");
        command.env("HOME", self.work.join("home")).env_remove("MCPM_CONFIG_DIR");
        self.start(name, command, args)
    }

    /// Starts a program and waits until it says where it is; returns `HOST:PORT` of the first URL it prints.
    fn start(
        &self,
        name: &'static str,
        mut command: Command,
        args: &[&str],
    ) -> Result<(Player, String), Failed> {
        command.args(args).stdin(Stdio::null());
        let mut child =
            command.spawn().map_err(|error| Failed::new(format!("start {name}"), error))?;
        let output = child.stdout.take().ok_or_else(|| Failed(format!("{name}: no output")))?;
        let mut lines = BufReader::new(output).lines();
        let player = Player { name, child };
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, rest)) = line.split_once("://") {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:-".contains(c)));
                let address = rest[..end.unwrap_or(rest.len())].to_owned();
                thread::spawn(move || lines.for_each(drop));
                return Ok((player, address));
            }
        }
        Err(Failed(format!("{name} ended before it said where it is")))
    }

    /// A program before its watcher, whose output is read.
    fn command(&self, name: &str, program: &str) -> Command {
        let path = self.bins.join(program);
        let mut command = match self.watcher {
            Watcher::Program => Command::new(path),
            Watcher::Callgrind => {
                let mut valgrind = Command::new("valgrind");
                valgrind.args(["--tool=callgrind", "--demangle=no", "--quiet"]);
                let record = self.work.join(format!("callgrind.{name}"));
                valgrind.arg(format!("--callgrind-out-file={}", record.display())).arg(path);
                valgrind
            }
        };
        command.env("LLVM_PROFILE_FILE", self.work.join(format!("{program}.%p.profraw")));
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }
}

/// Whether a file is what a program counted, or what any did where none is named.
pub(crate) fn is_record(path: &Path, program: Option<&str>) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let by = name.split('.').next();
    name.ends_with(".profraw") && (program.is_none() || program == by)
}

/// Plays it: all start, are called, and are asked to end.
pub(crate) fn play(stage: &Stage<'_>) -> Result<(), Failed> {
    let (relay, address) = stage.relay("relay", &[])?;
    let backend = backend()?.to_string();
    let url = format!("http://{address}");
    let tunnel =
        ["tunnel", &backend, "--address", &url, "--no-auth", "--subdomain", "order", "--json"];
    let (tunnel, _) = stage.agent("tunnel", &tunnel)?;
    for _ in 0..3 {
        Visitor::new(&address, "order.localhost").once("/mcp")?;
    }
    let (home, _) = stage.agent_at_home("home", &["tunnel", &backend, "--address", &url])?;
    home.stop()?;
    let (run, address) = stage.agent("run", &["run", "demo", "--http", "--port", "0"])?;
    Visitor::new(&address, &address).session()?.call()?;
    run.stop()?;
    tunnel.stop()?;
    relay.stop()
}

/// One program that runs.
struct Player {
    name: &'static str,
    child: Child,
}

impl Player {
    #[expect(
        clippy::disallowed_methods,
        reason = "a chore has no clock to wait for but the real one"
    )]
    /// Asks it to stop, and waits until its record is written.
    fn stop(mut self) -> Result<(), Failed> {
        let asked = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        asked.map_err(|error| Failed::new("run kill", error))?;
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            match self.child.try_wait() {
                // By a signal: without its record.
                Ok(Some(status)) if status.code().is_none() => {
                    return Err(Failed(format!("{} ended with {status}", self.name)));
                }
                Ok(Some(_)) => return Ok(()),
                Ok(None) => thread::sleep(Duration::from_millis(50)),
                Err(error) => return Err(Failed::new(format!("wait for {}", self.name), error)),
            }
        }
        Err(Failed(format!("{} did not stop", self.name)))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
