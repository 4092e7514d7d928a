//! A relay of ours between visitors and contenders.

use std::net::SocketAddr;
use std::path::Path;

use crate::process::Process;

/// Starts an open relay on loopback without TLS, and tells where it listens. It has no limits: they
/// would be measured instead of the path.
///
/// # Errors
/// When it does not come up.
pub async fn start(bins: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let args = "serve --domain localhost --listen 127.0.0.1:0 --admin-listen none --auth open \
                --database memory: --http-mode --requests-per-second 0 \
                --handshakes-per-minute 0 --log warn";
    let args: Vec<&str> = args.split_whitespace().collect();
    let mut relay = Process::start("mcpm-relay", &bins.join("mcpm-relay"), &args)?;
    let addr = relay
        .line(|line| {
            let rest = line.split_once("listening on http://")?.1;
            rest.split_whitespace().next()?.parse().ok()
        })
        .await?;
    Ok((relay, addr))
}
