//! Who is measured: the way each contender is configured and started.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::Options;
use crate::backend::Backend;
use crate::load::{Load, Target, apply};
use crate::process::{Process, Weight};

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
}

/// A contender that is up.
pub(crate) struct Running {
    /// Whom the load generator asks.
    pub(crate) target: Target,
    relay: Vec<Process>,
    client: Vec<Process>,
    _files: TempDir,
}

/// The contenders whose programs are there.
pub(crate) fn available(options: &Options) -> Vec<Contender> {
    let nginx = std::process::Command::new(&options.nginx).arg("-v").output().is_ok();
    let rathole = options.rathole.exists();
    let all = [
        (Contender::Direct, true),
        (Contender::Rathole, rathole),
        (Contender::RatholeWebSocket, rathole),
        (Contender::NginxRathole, rathole && nginx),
        (Contender::Mcpm, true),
    ];
    let wanted = |contender: &Contender| {
        options.only.as_ref().is_none_or(|only| contender.name().contains(only.as_str()))
    };
    all.into_iter().filter(|(_, there)| *there).map(|(c, _)| c).filter(wanted).collect()
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
        }
    }

    /// Starts its processes and waits until a request passes.
    pub(crate) async fn start(
        self,
        options: &Options,
        backend: &Backend,
    ) -> anyhow::Result<Running> {
        let files = tempfile::tempdir()?;
        let mut running = Running {
            target: Target { addr: local(backend.port), host: "bench.localhost".to_owned() },
            relay: Vec::new(),
            client: Vec::new(),
            _files: files,
        };
        let folder = running._files.path().to_owned();
        match self {
            Self::Direct => {}
            Self::Rathole => running.rathole(options, backend, &folder, "tcp")?,
            Self::RatholeWebSocket => running.rathole(options, backend, &folder, "websocket")?,
            Self::NginxRathole => {
                running.rathole(options, backend, &folder, "websocket")?;
                running.nginx(options, &folder)?;
            }
            Self::Mcpm => running.mcpm(options, backend, &folder).await?,
        }
        running.ready().await.with_context(|| format!("{} does not come up", self.name()))?;
        Ok(running)
    }
}

impl Running {
    /// What its relay side and its client side use; `None` where there is nothing between.
    pub(crate) fn weigh(&self) -> Option<(Weight, Weight)> {
        let sum = |processes: &[Process]| {
            processes.iter().map(Process::weigh).fold(Weight::default(), |a, b| Weight {
                cpu_seconds: a.cpu_seconds + b.cpu_seconds,
                megabytes: a.megabytes + b.megabytes,
                peak_megabytes: a.peak_megabytes + b.peak_megabytes,
            })
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
        folder: &Path,
        transport: &str,
    ) -> anyhow::Result<()> {
        let (control, visitors) = (free_port()?, free_port()?);
        let shape = |side: &str| {
            let websocket = format!("[{side}.transport.websocket]\ntls = false\n");
            let extra = if transport == "websocket" { websocket } else { String::new() };
            format!("[{side}.transport]\ntype = \"{transport}\"\n{extra}")
        };
        let server = format!(
            "[server]\nbind_addr = \"127.0.0.1:{control}\"\ndefault_token = \"bench\"\n{}\
             [server.services.bench]\nbind_addr = \"127.0.0.1:{visitors}\"\n",
            shape("server")
        );
        let client = format!(
            "[client]\nremote_addr = \"127.0.0.1:{control}\"\ndefault_token = \"bench\"\n{}\
             [client.services.bench]\nlocal_addr = \"127.0.0.1:{}\"\n",
            shape("client"),
            backend.port
        );
        for (side, text) in [("server", server), ("client", client)] {
            let file = folder.join(format!("{side}.toml"));
            std::fs::write(&file, text)?;
            let flag = format!("--{side}");
            let args = [flag.as_ref(), file.as_os_str()];
            let process = Process::start("rathole", &options.rathole, &args)?;
            if side == "server" {
                self.relay.push(process);
            } else {
                self.client.push(process);
            }
        }
        self.target.addr = local(visitors);
        Ok(())
    }

    /// Puts nginx before what is there, with connections kept alive on both sides.
    fn nginx(&mut self, options: &Options, folder: &Path) -> anyhow::Result<()> {
        let port = free_port()?;
        let text = format!(
            "daemon off;\nworker_processes auto;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  tcp_nodelay on;\n\
             client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n\
             fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n\
             scgi_temp_path {folder}/scgi;\n\
             upstream bench {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}\n\
             server {{\n    listen 127.0.0.1:{port} backlog=4096;\n    server_name bench.localhost;\n\
             location / {{\n      proxy_pass http://bench;\n      proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n\
             proxy_buffering off;\n    }}\n  }}\n}}\n",
            folder = folder.display(),
            upstream = self.target.addr,
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, text)?;
        let flags = ["-e", "stderr", "-p"].map(Path::new);
        let args = [&flags[..], &[folder, Path::new("-c"), &file]].concat();
        self.relay.push(Process::start("nginx", &options.nginx, &args)?);
        self.target.addr = local(port);
        Ok(())
    }

    async fn mcpm(
        &mut self,
        options: &Options,
        backend: &Backend,
        folder: &Path,
    ) -> anyhow::Result<()> {
        // No limits: they would be measured instead of the path.
        let relay = "serve --domain localhost --listen 127.0.0.1:0 --admin-listen none --auth open \
                     --database memory: --http-mode --requests-per-second 0 \
                     --handshakes-per-minute 0 --log warn";
        let relay: Vec<&str> = relay.split_whitespace().collect();
        let mut relay = Process::start("mcpm-relay", &options.bins.join("mcpm-relay"), &relay)?;
        let addr: SocketAddr = relay
            .line(|line| {
                let rest = line.split_once("listening on http://")?.1;
                rest.split_whitespace().next()?.parse().ok()
            })
            .await?;
        let (port, config) = (backend.port.to_string(), folder.join("mcpm"));
        let address = format!("http://{addr}");
        let config = config.to_str().context("a folder that is text")?;
        let agent = ["--config-dir", config, "tunnel", &port, "--address", &address];
        let agent = [&agent[..], &["--no-auth", "--subdomain", "bench", "--json"]].concat();
        let mut agent = Process::start("mcpm", &options.bins.join("mcpm"), &agent)?;
        agent.line(|line| line.contains("\"up\"").then_some(())).await?;
        self.relay.push(relay);
        self.client.push(agent);
        self.target.addr = addr;
        Ok(())
    }

    /// Waits for the first answer; contenders do not all say when they are up.
    async fn ready(&self) -> anyhow::Result<()> {
        let once =
            Load { connections: 1, duration: Duration::from_millis(1), close: true, bulk: None };
        let mut last = None;
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..200 {
            tick.tick().await;
            match apply(&self.target, once).await {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that was free a moment ago, for programs that do not tell which one they took.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
