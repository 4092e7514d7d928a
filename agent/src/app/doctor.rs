//! What is well and what is not: files, runtimes, servers, clients and the relay. Nothing is changed.

pub mod cleanup;
mod clients;
mod files;
mod runtimes;

use std::time::Duration;

use futures_util::StreamExt as _;
use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::serving::{Serving, Way};
use super::share::RelaySpec;
use crate::clients::Places;
use crate::config::{GlobalConfigManager, Listed};
use crate::fs::Paths;
use crate::gateway::{GatewayError, GatewayOptions, Probe, StderrSink};
use crate::hint::Hint;
use crate::model::{Server, Transport};
use crate::tunnel::{Look, TlsOptions, TunnelError, look};
use crate::usage::Recorder;

/// How many servers are started at a time: they may be heavy, and small machines have two cores.
const AT_A_TIME: usize = 4;
/// How long the processes of a server may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// A relay forgives 30 seconds; half of that is worth a word.
const SKEW_WARNING: i64 = 15;
/// Beyond this a relay refuses us.
const SKEW_BROKEN: i64 = mcpm_shared::assertion::LEEWAY_SECS.cast_signed();

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Ok,
    /// It works, but something should be done.
    Warning,
    /// It does not work.
    Broken,
}

impl Health {
    /// Returns the word for it: `ok`, `warning` or `broken`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// A program that servers need.
    Runtime,
    /// A file of ours.
    File,
    /// A server.
    Server,
    /// A client application.
    Client,
    /// The relay.
    Relay,
}

impl Area {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::File => "file",
            Self::Server => "server",
            Self::Client => "client",
            Self::Relay => "relay",
        }
    }
}

/// One thing that was looked at, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub area: Area,
    /// Which one.
    pub subject: String,
    /// How it is.
    pub health: Health,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What else is known, for who wants to look closely.
    pub more: Vec<String>,
}

impl Finding {
    fn new(area: Area, subject: impl Into<String>, health: Health, detail: String) -> Self {
        Self { area, subject: subject.into(), health, detail, hint: None, more: Vec::new() }
    }

    fn more(mut self, text: impl Into<String>) -> Self {
        self.more.push(text.into());
        self
    }

    fn ok(area: Area, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(area, subject, Health::Ok, detail.into())
    }

    fn broken(area: Area, subject: impl Into<String>, error: &dyn Hint) -> Self {
        let finding = Self::new(area, subject, Health::Broken, told(error));
        Self { hint: error.hint(), ..finding }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What to look at.
#[derive(Debug)]
pub struct Examination {
    /// Only these servers; all when empty.
    pub servers: Vec<String>,
    /// How long a server may take to start and list its tools.
    pub patience: Duration,
    /// Where clients keep their files; they are not looked at without it.
    pub places: Option<Places>,
    /// The relay to look at, if any.
    pub relay: Option<RelayCheck>,
}

/// A relay to look at.
#[derive(Debug)]
pub struct RelayCheck {
    /// Which one.
    pub spec: RelaySpec,
    /// Whether somebody needs it: who shares nothing can do without.
    pub needed: bool,
}

/// Looks at everything and tells what it finds, file by file and server by server.
pub async fn examine(what: Examination, paths: &Paths, tell: mpsc::Sender<Finding>) {
    // Who asked may be gone; then nobody wants the rest.
    let listed = GlobalConfigManager::open(paths).map(|global| global.list_servers());
    let listed = listed.unwrap_or_default();
    for finding in files::look(paths) {
        drop(tell.send(finding).await);
    }
    let Examination { servers: only, patience, places, relay } = what;
    let wanted: Vec<Listed> = listed
        .into_iter()
        .filter(|listed| only.is_empty() || only.contains(&listed.name))
        .collect();
    let servers: Vec<&Server> =
        wanted.iter().filter_map(|listed| listed.server.as_ref().ok()).collect();
    for finding in runtimes::look(&servers).await {
        drop(tell.send(finding).await);
    }
    let checks = wanted.into_iter().map(|listed| check(listed, patience, paths));
    let mut checks = futures_util::stream::iter(checks).buffered(AT_A_TIME);
    while let Some(finding) = checks.next().await {
        drop(tell.send(finding).await);
    }
    for finding in places.map(|places| clients::look(paths, &places)).unwrap_or_default() {
        drop(tell.send(finding).await);
    }
    if let Some(relay) = relay {
        drop(tell.send(check_relay(relay).await).await);
    }
}

async fn check(listed: Listed, patience: Duration, paths: &Paths) -> Finding {
    let name = listed.name;
    let server = match listed.server {
        Ok(server) => server,
        Err(error) => {
            return Finding::new(Area::Server, name, Health::Broken, error.to_string())
                .hint("Correct its entry with `mcpm edit -e`");
        }
    };
    if matches!(server.transport, Transport::Custom { .. }) {
        return Finding::ok(Area::Server, name, "for its client alone; mcpm does not run it");
    }
    let began = Instant::now();
    let finding = match probe(server, patience, paths).await {
        Ok(probe) => well(name, &probe),
        Err(error) => Finding::broken(Area::Server, name, &error),
    };
    finding.more(format!("took {} ms", began.elapsed().as_millis()))
}

fn well(name: String, probe: &Probe) -> Finding {
    let Probe { server_name, version, tools, .. } = probe;
    let who = [server_name.as_str(), version.as_str()];
    let who: Vec<&str> = who.into_iter().filter(|text| !text.is_empty()).collect();
    let tools = match tools {
        Some(1) => "1 tool".to_owned(),
        Some(count) => format!("{count} tools"),
        None => {
            let detail =
                format!("{}: it starts, but does not list its tools in time", who.join(" "));
            return Finding::new(Area::Server, name, Health::Warning, detail)
                .hint("Look at what it writes with `mcpm logs`");
        }
    };
    Finding::ok(Area::Server, name, format!("{} ({tools})", who.join(" ")).trim().to_owned())
}

/// Starts a server, asks what it has and stops it.
pub(super) async fn probe(
    server: Server,
    patience: Duration,
    paths: &Paths,
) -> Result<Probe, GatewayError> {
    let scope = Scope::new();
    // What it writes to stderr is part of the error when it ends.
    let stderr = Some(StderrSink::new(|_, _| {}));
    let options = GatewayOptions { start_timeout: patience, stderr, ..GatewayOptions::default() };
    let (serving, off) = (Serving::server(server), Recorder::off());
    let gateway = serving.gateway(Way::Stdio, options, off, paths, scope.child())?;
    let outcome = gateway.probe().await;
    gateway.shutdown().await;
    drop(gateway);
    scope.drain(GRACE).await;
    outcome
}

async fn check_relay(check: RelayCheck) -> Finding {
    let RelayCheck { spec: RelaySpec { address, credential, proxy, .. }, needed } = check;
    let trust = TlsOptions { ca: credential.ca, fingerprint: credential.fingerprint };
    let finding = relay(address.origin(), look(&address, &trust, &proxy).await);
    if needed { finding } else { spared(finding) }
}

/// Makes less of what is broken and nobody needs.
fn spared(finding: Finding) -> Finding {
    if finding.health != Health::Broken {
        return finding;
    }
    let detail = format!("{} (no share uses it)", finding.detail);
    Finding { health: Health::Warning, detail, ..finding }
}

fn relay(origin: String, looked: Result<Look, TunnelError>) -> Finding {
    let Look { status, ahead_secs } = match looked {
        Ok(look) => look,
        Err(error) => return Finding::broken(Area::Relay, origin, &error),
    };
    if status != 200 {
        let detail = format!("it answers, but not as a relay that is well (HTTP {status})");
        return Finding::new(Area::Relay, origin, Health::Broken, detail)
            .hint("Check the address, or ask the operator of the relay");
    }
    let Some(ahead) = ahead_secs else {
        return Finding::ok(Area::Relay, origin, "reachable; it does not tell the time");
    };
    let health = match ahead.abs() {
        apart if apart > SKEW_BROKEN => Health::Broken,
        apart if apart > SKEW_WARNING => Health::Warning,
        _ => return Finding::ok(Area::Relay, origin, "reachable, and its clock agrees with ours"),
    };
    let which = if ahead > 0 { "behind" } else { "ahead of" };
    let detail = format!("reachable, but our clock is {} s {which} its clock", ahead.abs());
    let finding = Finding::new(Area::Relay, origin, health, detail);
    finding.hint("Set the clock of this machine, for instance by turning on NTP")
}

/// Joins an error and its sources with colons, leaving out what was just said.
fn told(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        source = error.source();
    }
    message
}

#[cfg(test)]
mod tests;
