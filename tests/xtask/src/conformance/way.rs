//! The ways from the suite to the upstream.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::processes::Processes;
use crate::step::Failed;

/// How the suite reaches the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The upstream alone, over HTTP.
    Direct,
    /// `mcpm run --http` with the upstream as its child.
    Stdio,
    /// `mcpm run --http` in front of the upstream's own HTTP.
    Http,
    /// `mcpm share` of the child, through a relay on this machine.
    Relay,
}

/// The only era that an upstream speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

impl Era {
    /// Its name, which is that of its list of what may fail.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }

    const fn flag(self) -> &'static str {
        match self {
            Self::Legacy => "--legacy-only",
            Self::Modern => "--modern-only",
        }
    }
}

/// A way that stands.
#[derive(Debug)]
pub(crate) struct Server {
    /// What the suite is given.
    pub(crate) url: String,
    _processes: Processes,
}

impl Way {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Stdio, Self::Http, Self::Relay];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Stdio => "stdio",
            Self::Http => "http",
            Self::Relay => "relay",
        }
    }

    /// The way of a name.
    pub(crate) fn named(name: &str) -> Result<Self, Failed> {
        let way = Self::ALL.into_iter().find(|way| way.name() == name);
        way.ok_or_else(|| Failed(format!("no way `{name}`: direct, stdio, http or relay")))
    }

    /// Starts what stands between, and the upstream; `folder` takes configuration and logs.
    pub(crate) fn start(
        self,
        bins: &Path,
        folder: &Path,
        era: Option<Era>,
    ) -> Result<Server, Failed> {
        let program = |name: &str, args: &[&str]| {
            let mut command = Command::new(bins.join(name));
            command.args(args);
            command
        };
        let only = era.map(Era::flag);
        let upstream = |args: &[&str]| {
            let mut command = program("conformance-upstream", args);
            command.args(only);
            command
        };
        let mcpm = |args: &[&str]| {
            let mut command = program("mcpm", args);
            command.env("MCPM_CONFIG_DIR", folder.join("config"));
            command
        };
        let child = || {
            let path = bins.join("conformance-upstream");
            let args: Vec<_> = ["--stdio"].into_iter().chain(only).collect();
            // Debug writes strings as JSON does, for all that is in these.
            format!("{{ \"command\": {path:?}, \"args\": {args:?} }}")
        };
        let mut processes = Processes::default();
        let mut start = |name: &str, command: Command| processes.start(name, folder, command);
        let url = match self {
            Self::Direct => start("upstream", upstream(&["--http", "0"]))?,
            Self::Stdio => {
                configure(folder, &child())?;
                start("mcpm", mcpm(&["run", "conf", "--http", "--port", "0"]))?
            }
            Self::Http => {
                let url = start("upstream", upstream(&["--http", "0"]))?;
                configure(folder, &format!("{{ \"url\": {url:?} }}"))?;
                start("mcpm", mcpm(&["run", "conf", "--http", "--port", "0"]))?
            }
            Self::Relay => {
                configure(folder, &child())?;
                let relay = "serve --domain localhost --listen 127.0.0.1:0 --admin-listen none \
                             --auth open --database memory: --requests-per-second 0 \
                             --handshakes-per-minute 0 --log warn";
                let relay: Vec<&str> = relay.split_whitespace().collect();
                let relay = start("relay", program("mcpm-relay", &relay))?;
                let share = ["share", "conf", "--no-auth", "--address", &relay];
                start("mcpm", mcpm(&share))?
            }
        };
        Ok(Server { url, _processes: processes })
    }
}

/// Writes mcpm's list of servers, with the upstream as its only entry.
fn configure(folder: &Path, entry: &str) -> Result<(), Failed> {
    let config = folder.join("config");
    let text = format!("{{ \"conf\": {entry} }}\n");
    let written =
        fs::create_dir_all(&config).and_then(|()| fs::write(config.join("servers.json"), text));
    written.map_err(|error| Failed::new("write servers.json", error))
}
