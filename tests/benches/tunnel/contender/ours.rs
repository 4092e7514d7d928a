//! Our own two programs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use mcpm_bench::process::Process;
use mcpm_bench::relay::{self, Relay};
use serde_json::json;

use crate::Options;
use crate::certs::Certs;
use crate::load::Ask;

/// The TLS of a relay.
#[derive(Clone, Copy)]
pub(crate) enum Security<'a> {
    /// Plain HTTP.
    None,
    /// These certificates.
    Files(&'a Certs),
    /// One that it makes itself, which agents pin.
    SelfSigned,
}

/// How an agent reaches its relay.
pub(crate) struct Way<'a> {
    /// Where it dials: the relay, or who stands before it.
    pub(crate) addr: SocketAddr,
    /// What it expects there.
    pub(crate) security: Security<'a>,
}

impl Way<'_> {
    /// The address as `--address` wants it.
    pub(crate) fn address(&self) -> String {
        match self.security {
            Security::None => format!("http://{}", self.addr),
            Security::Files(_) | Security::SelfSigned => format!("https://{}", self.addr),
        }
    }
}

/// Starts a relay that keeps nothing, with further arguments, and tells where it listens.
pub(crate) async fn relay(
    options: &Options,
    folder: &Path,
    security: Security<'_>,
    further: &[&str],
) -> anyhow::Result<(Process, SocketAddr)> {
    let further = [&relay::BARE, further].concat();
    let Relay { process, addr, .. } = relay_with(options, folder, security, &further).await?;
    Ok((process, addr))
}

/// Starts a relay that is told what it keeps, and whether it shows its metrics.
pub(crate) async fn relay_with(
    options: &Options,
    folder: &Path,
    security: Security<'_>,
    args: &[&str],
) -> anyhow::Result<Relay> {
    let mut args: Vec<OsString> = args.iter().map(Into::into).collect();
    match security {
        Security::None => {}
        Security::Files(certs) => {
            args.extend(["--tls-cert".into(), certs.leaf().into()]);
            args.extend(["--tls-key".into(), certs.key().into()]);
        }
        Security::SelfSigned => {
            args.extend(["--tls", "self-signed", "--data-dir"].map(Into::into));
            args.push(folder.join("relay").into());
        }
    }
    relay::start(&options.bins, &args).await
}

/// Starts an agent that shares the backend as `bench`, and returns at once.
pub(crate) fn http_share(
    options: &Options,
    config: &Path,
    backend: u16,
    way: &Way<'_>,
) -> anyhow::Result<Process> {
    let (backend, address) = (backend.to_string(), way.address());
    let mut args: Vec<OsString> = vec!["--config-dir".into(), config.into()];
    args.extend(["tunnel", &backend, "--address", &address].map(Into::into));
    args.extend(["--no-auth", "--subdomain", "bench", "--json"].map(Into::into));
    if let Security::Files(certs) = way.security {
        args.extend(["--ca".into(), certs.authority().into()]);
    }
    Process::start("mcpm", &options.bins.join("mcpm"), &args)
}

/// Writes the configuration of an agent that shares two MCP servers as one.
pub(super) fn profile(config: &Path, notes: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(config)?;
    let this = std::env::current_exe().context("find this program")?;
    let entry = json!({
        "command": this.to_str(),
        "args": ["server", notes.to_str()],
        "profile_tags": ["bench"],
    });
    let servers = json!({ "one": entry, "two": entry });
    std::fs::write(config.join("servers.json"), servers.to_string())?;
    std::fs::write(notes, "")?;
    Ok(std::fs::write(config.join("profiles_metadata.json"), r#"{"bench":{}}"#)?)
}

/// Starts such an agent and waits until it is up.
pub(super) async fn profile_share(
    options: &Options,
    config: &Path,
    relay: SocketAddr,
) -> anyhow::Result<Process> {
    let address = format!("http://{relay}");
    let mut args: Vec<OsString> = vec!["--config-dir".into(), config.into()];
    args.extend(["profile", "share", "bench", "--address", &address].map(Into::into));
    args.extend(["--no-auth", "--subdomain", "bench", "--json"].map(Into::into));
    let mut agent = Process::start("mcpm", &options.bins.join("mcpm"), &args)?;
    agent.line(|line| line.contains("\"up\"").then_some(())).await?;
    Ok(agent)
}

/// The request for their tools, as a client of 2026-07-28 makes it.
pub(super) fn tools_list() -> Ask {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({ "_meta": meta });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params });
    let body = body.to_string();
    let headers = format!(
        "content-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n\
         content-length: {}\r\n",
        body.len()
    );
    Ask { line: "POST /mcp".to_owned(), headers, body }
}
