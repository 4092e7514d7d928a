//! The programs of others that we are measured beside.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use mcpm_bench::process::{Process, free_port, local};
use tokio::process::Command;

use crate::Options;
use crate::certs::{Certs, PASSWORD};

/// How much rathole says. It waits while nobody reads that, so it must be little.
const QUIET: &str = "warn";

/// How the two halves of rathole talk.
pub(crate) enum Transport {
    Tcp,
    WebSocket,
    /// With the authority's PEM file and the server's PKCS #12 file.
    Tls(PathBuf, PathBuf),
}

/// One service of rathole: where its halves meet and where its visitors come.
pub(crate) struct Rathole {
    folder: PathBuf,
    /// Where the server waits for the client.
    pub(crate) control: SocketAddr,
    /// Where the server waits for visitors.
    pub(crate) visitors: SocketAddr,
    /// Where it waits for those of further services.
    further: Vec<SocketAddr>,
    backend: u16,
    transport: Transport,
}

impl Transport {
    /// Makes the transport of certificates.
    pub(crate) fn tls(certs: &Certs) -> anyhow::Result<Self> {
        Ok(Self::Tls(certs.authority(), certs.pkcs12()?))
    }

    fn table(&self, side: &str) -> String {
        let (name, extra) = match (self, side) {
            (Self::Tcp, _) => ("tcp", String::new()),
            (Self::WebSocket, _) => {
                ("websocket", format!("[{side}.transport.websocket]\ntls = false\n"))
            }
            (Self::Tls(_, identity), "server") => {
                let identity = identity.display();
                let table = format!(
                    "[server.transport.tls]\npkcs12 = \"{identity}\"\n\
                     pkcs12_password = \"{PASSWORD}\"\n"
                );
                ("tls", table)
            }
            (Self::Tls(authority, _), _) => {
                let authority = authority.display();
                let table = format!(
                    "[{side}.transport.tls]\ntrusted_root = \"{authority}\"\n\
                     hostname = \"localhost\"\n"
                );
                ("tls", table)
            }
        };
        format!("[{side}.transport]\ntype = \"{name}\"\n{extra}")
    }
}

impl Rathole {
    /// Takes ports for a service in front of `backend`; nothing is started yet.
    pub(crate) fn plan(folder: &Path, backend: u16, transport: Transport) -> anyhow::Result<Self> {
        Self::plan_many(folder, backend, transport, 1)
    }

    /// Takes ports for so many services in front of `backend`.
    pub(crate) fn plan_many(
        folder: &Path,
        backend: u16,
        transport: Transport,
        services: usize,
    ) -> anyhow::Result<Self> {
        let (control, visitors) = (local(free_port()?), local(free_port()?));
        // All are held until all are known: a port is not given twice.
        let held = (1..services).map(|_| TcpListener::bind(local(0)));
        let held: Vec<TcpListener> = held.collect::<Result<_, _>>()?;
        let further = held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let folder = folder.to_owned();
        Ok(Self { folder, control, visitors, further, backend, transport })
    }

    /// The services, each with a line that says `key` of it.
    fn services(&self, side: &str, line: impl Fn(SocketAddr) -> String) -> String {
        let all = std::iter::once(&self.visitors).chain(&self.further);
        let service = |(index, addr): (usize, &SocketAddr)| {
            format!("[{side}.services.bench{index}]\n{}\n", line(*addr))
        };
        all.enumerate().map(service).collect()
    }

    /// Starts the half that visitors see.
    pub(crate) fn server(&self, options: &Options) -> anyhow::Result<Process> {
        self.logging_server(options, QUIET)
    }

    /// Starts it with a log of this level, which must be read.
    pub(crate) fn logging_server(&self, options: &Options, log: &str) -> anyhow::Result<Process> {
        let text = format!(
            "[server]\nbind_addr = \"{}\"\ndefault_token = \"bench\"\n{}{}",
            self.control,
            self.transport.table("server"),
            self.services("server", |visitors| format!("bind_addr = \"{visitors}\"")),
        );
        self.start(options, "server", &text, log)
    }

    /// Starts the half beside the backend, which finds the other one at `control`.
    pub(crate) fn client(&self, options: &Options, control: SocketAddr) -> anyhow::Result<Process> {
        let backend = local(self.backend);
        let text = format!(
            "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n{}{}",
            self.transport.table("client"),
            self.services("client", |_| format!("local_addr = \"{backend}\"")),
        );
        self.start(options, "client", &text, QUIET)
    }

    fn start(
        &self,
        options: &Options,
        side: &str,
        text: &str,
        log: &str,
    ) -> anyhow::Result<Process> {
        let file = self.folder.join(format!("{side}.toml"));
        std::fs::write(&file, text)?;
        let mut rathole = Command::new(&options.rathole);
        rathole.arg(format!("--{side}")).arg(&file).env("RUST_LOG", log);
        Process::spawn("rathole", rathole)
    }
}

/// Starts nginx before `upstream`, with connections kept alive on both sides.
pub(crate) fn nginx(
    options: &Options,
    folder: &Path,
    upstream: SocketAddr,
) -> anyhow::Result<(Process, SocketAddr)> {
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
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text)?;
    let flags = ["-e", "stderr", "-p"].map(Path::new);
    let args = [&flags[..], &[folder, Path::new("-c"), &file]].concat();
    Ok((Process::start("nginx", &options.nginx, &args)?, local(port)))
}
