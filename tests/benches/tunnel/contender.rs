//! Who is measured: the way each contender is configured and started.

mod ours;
mod peers;

use std::ops::Add as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mcpm_bench::process::{Process, Weight, local};
use tempfile::TempDir;

pub(crate) use self::ours::{Security, Way, http_share, relay, relay_with};
pub(crate) use self::peers::{Rathole, Transport};
use crate::backend::Backend;
use crate::certs::Certs;
use crate::load::{Target, once};
use crate::rows::Row;
use crate::{Bench, Options};

/// How often an agent is started at most until it knows what its servers offer.
const PRIMING: usize = 5;

/// One way from the load generator to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// No tunnel: the limit.
    Direct,
    /// rathole over TCP: blind, one port a service.
    Rathole,
    /// rathole over WebSocket: blind, one port a service.
    RatholeWebSocket,
    /// nginx before it: routes by host, as a relay does.
    NginxRathole,
    /// `mcpm tunnel` through `mcpm-relay`.
    Mcpm,
    /// A share whose answers the agent makes itself.
    InProcess,
    /// No tunnel, the backend speaks TLS: the limit.
    DirectTls,
    /// rathole over TLS; its visitors come without, for it is blind to what they say.
    RatholeTls,
    /// `mcpm tunnel` with TLS from the visitors to the relay and from the agent to the relay.
    McpmTls,
}

/// A contender that is up.
pub(crate) struct Running {
    /// Whom the load generator asks.
    pub(crate) target: Target,
    relay: Vec<Process>,
    client: Vec<Process>,
    /// Notes of the servers that should not be asked any more.
    untouched: Option<(PathBuf, u64)>,
    _files: TempDir,
}

/// The contenders of the rows that are wanted whose programs are there.
pub(crate) fn available(options: &Options) -> Vec<Contender> {
    use Contender::{
        Direct, DirectTls, InProcess, Mcpm, McpmTls, NginxRathole, Rathole, RatholeTls,
        RatholeWebSocket,
    };
    let nginx = std::process::Command::new(&options.nginx).arg("-v").output().is_ok();
    let openssl = std::process::Command::new("openssl").arg("version").output().is_ok();
    let rathole = options.rathole.exists();
    let all: [(Contender, bool, &[Row]); 9] = [
        (Direct, true, &[Row::Tunnel]),
        (Rathole, rathole, &[Row::Tunnel]),
        (RatholeWebSocket, rathole, &[Row::Tunnel, Row::InProcess]),
        (NginxRathole, rathole && nginx, &[Row::Tunnel]),
        (Mcpm, true, &[Row::Tunnel]),
        (InProcess, true, &[Row::InProcess]),
        (DirectTls, true, &[Row::Tls]),
        (RatholeTls, rathole && openssl, &[Row::Tls]),
        (McpmTls, true, &[Row::Tls]),
    ];
    let wanted = |contender: &Contender| {
        options.only.as_ref().is_none_or(|only| contender.name().contains(only.as_str()))
    };
    all.into_iter()
        .filter(|(_, there, rows)| *there && rows.iter().any(|row| options.rows.contains(row)))
        .map(|(contender, ..)| contender)
        .filter(wanted)
        .collect()
}

impl Contender {
    /// The name of its row.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct (limit)",
            Self::Rathole => "rathole (TCP, blind)",
            Self::RatholeWebSocket => "rathole WebSocket (blind)",
            Self::NginxRathole => "nginx + rathole WebSocket",
            Self::Mcpm => "mcpm tunnel",
            Self::InProcess => "mcpm, answered in process",
            Self::DirectTls => "direct, TLS (limit)",
            Self::RatholeTls => "rathole TLS (blind)",
            Self::McpmTls => "mcpm tunnel, TLS",
        }
    }

    /// Starts its processes and waits until a request passes.
    pub(crate) async fn start(self, bench: &Bench<'_>) -> anyhow::Result<Running> {
        let Bench { options, backend, certs } = bench;
        let mut running = Running::nothing(backend)?;
        let ours = ["mcpm", "mcpm-relay"].map(|program| options.bins.join(program));
        Process::forget_pages(&[&ours[0], &ours[1], &options.rathole, &options.nginx])?;
        match self {
            Self::Direct => {}
            Self::DirectTls => {
                running.target.addr = local(backend.tls_port);
                running.target.tls = Some(certs.visitor.clone());
            }
            Self::Rathole => running.rathole(options, backend, Transport::Tcp)?,
            Self::RatholeWebSocket => running.rathole(options, backend, Transport::WebSocket)?,
            Self::RatholeTls => {
                running.rathole(options, backend, Transport::tls(certs)?)?;
            }
            Self::NginxRathole => {
                running.rathole(options, backend, Transport::WebSocket)?;
                running.nginx(options)?;
            }
            Self::Mcpm => running.tunnel(options, backend, None).await?,
            Self::McpmTls => running.tunnel(options, backend, Some(certs)).await?,
            Self::InProcess => running.in_process(options).await?,
        }
        let ready = ready(&running.target, Duration::from_millis(50)).await;
        ready.with_context(|| format!("{} does not come up", self.name()))?;
        Ok(running)
    }
}

impl Running {
    /// The way to the backend with nothing between.
    fn nothing(backend: &Backend) -> anyhow::Result<Self> {
        Ok(Self {
            target: Target::plain(local(backend.port), "bench.localhost"),
            relay: Vec::new(),
            client: Vec::new(),
            untouched: None,
            _files: tempfile::tempdir()?,
        })
    }

    fn folder(&self) -> PathBuf {
        self._files.path().to_owned()
    }

    /// Whether it can be asked for bulk answers.
    pub(crate) fn has_bulk(&self) -> bool {
        self.untouched.is_none()
    }

    /// Checks that what should have been answered without the servers was.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Some((notes, length)) = &self.untouched else { return Ok(()) };
        let now = std::fs::metadata(notes)?.len();
        ensure!(now == *length, "the servers were asked: {notes:?} has grown");
        Ok(())
    }

    /// What its relay side and its client side use; `None` where there is nothing between.
    pub(crate) fn weigh(&self) -> Option<(Weight, Weight)> {
        // The servers behind a share are not ours.
        let weigh = |process: &Process| match self.untouched {
            Some(_) => process.weigh_alone(),
            None => process.weigh(),
        };
        let sum = |processes: &[Process]| {
            processes.iter().map(weigh).fold(Weight::default(), Weight::add)
        };
        (!self.relay.is_empty()).then(|| (sum(&self.relay), sum(&self.client)))
    }

    /// Ends its processes.
    pub(crate) async fn stop(self) {
        for process in self.client.into_iter().chain(self.relay) {
            process.stop().await;
        }
    }

    fn rathole(
        &mut self,
        options: &Options,
        backend: &Backend,
        transport: Transport,
    ) -> anyhow::Result<()> {
        let rathole = Rathole::plan(&self.folder(), backend.port, transport)?;
        self.relay.push(rathole.server(options)?);
        self.client.push(rathole.client(options, rathole.control)?);
        self.target.addr = rathole.visitors;
        Ok(())
    }

    /// Puts nginx before what is there.
    fn nginx(&mut self, options: &Options) -> anyhow::Result<()> {
        let (process, addr) = peers::nginx(options, &self.folder(), self.target.addr)?;
        self.relay.push(process);
        self.target.addr = addr;
        Ok(())
    }

    async fn tunnel(
        &mut self,
        options: &Options,
        backend: &Backend,
        certs: Option<&Certs>,
    ) -> anyhow::Result<()> {
        let security = certs.map_or(Security::None, Security::Files);
        let (relay, addr) = relay(options, &self.folder(), security, &[]).await?;
        let way = Way { addr, security };
        let mut agent = http_share(options, &self.folder().join("mcpm"), backend.port, &way)?;
        agent.line(|line| line.contains("\"up\"").then_some(())).await?;
        self.relay.push(relay);
        self.client.push(agent);
        self.target.addr = addr;
        self.target.tls = certs.map(|certs| certs.visitor.clone());
        Ok(())
    }

    /// Shares two MCP servers as one. The first agent asks them for their tools; a later one knows
    /// these from the first one's catalogue, and answers without the servers.
    async fn in_process(&mut self, options: &Options) -> anyhow::Result<()> {
        let folder = self.folder();
        let (relay, addr) = relay(options, &folder, Security::None, &[]).await?;
        self.relay.push(relay);
        self.target.addr = addr;
        self.target.small = ours::tools_list().into();
        let (config, notes) = (folder.join("mcpm"), folder.join("notes"));
        ours::profile(&config, &notes)?;
        for _ in 0..PRIMING {
            let before = std::fs::metadata(&notes)?.len();
            let agent = ours::profile_share(options, &config, addr).await?;
            ready(&self.target, Duration::from_millis(50)).await?;
            if before > 0 && before == std::fs::metadata(&notes)?.len() {
                self.client.push(agent);
                self.untouched = Some((notes, before));
                return Ok(());
            }
            agent.stop().await;
        }
        bail!("the agent does not learn what the servers offer")
    }
}

/// Waits for the first answer, trying so often; contenders do not all say when they are up.
pub(crate) async fn ready(target: &Target, every: Duration) -> anyhow::Result<()> {
    let mut last = None;
    let mut tick = tokio::time::interval(every);
    let attempts = Duration::from_secs(10).as_micros() / every.as_micros();
    for _ in 0..attempts {
        tick.tick().await;
        match once(target).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no attempt was made")?)
}
