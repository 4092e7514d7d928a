//! From the start of an agent to the first answer through its tunnel.

use std::path::Path;
use std::time::{Duration, Instant};

use mcpm_bench::process::Process;
use mcpm_bench::table::{median, shown};

use super::{Finding, Must};
use crate::Bench;
use crate::contender::{Rathole, Security, Transport, Way, http_share, ready, relay};
use crate::load::Target;
use crate::measure::Plan;

/// How often the visitor tries: the figure may be too large by this.
const EVERY: Duration = Duration::from_micros(500);

/// Measures ours beside rathole over WebSocket.
///
/// The relay runs already. The figure holds the program's own start, the dial, the claim and one
/// request; the visitor asks again and again until it is answered.
pub(crate) async fn measure(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    let folder = tempfile::tempdir()?;
    let (first, ours) = ours(bench, plan, folder.path()).await?;
    let peer = if bench.options.rathole.exists() {
        let theirs = theirs(bench, plan, folder.path()).await?;
        format!("rathole WebSocket {}, {:.2} ×", shown(theirs), ours / theirs)
    } else {
        "rathole is not there".to_owned()
    };
    Ok(vec![Finding {
        what: "connect, ms".to_owned(),
        is: ours,
        must: Must::AtMost(15.0),
        beside: format!(
            "{peer}; the very first start, which makes the agent's key, {}",
            shown(first)
        ),
    }])
}

async fn ours(bench: &Bench<'_>, plan: &Plan, folder: &Path) -> anyhow::Result<(f64, f64)> {
    let Bench { options, backend, .. } = bench;
    let security = Security::None;
    let (relay, addr) = relay(options, folder, security, &[]).await?;
    let target = Target::plain(addr, "bench.localhost");
    let (config, way) = (folder.join("mcpm"), Way { addr, security });
    let first = start(&target, || http_share(options, &config, backend.port, &way)).await?;
    let mut later = Vec::new();
    for _ in 0..plan.starts {
        later.push(start(&target, || http_share(options, &config, backend.port, &way)).await?);
    }
    relay.stop().await;
    Ok((first, median(later)))
}

async fn theirs(bench: &Bench<'_>, plan: &Plan, folder: &Path) -> anyhow::Result<f64> {
    let mut all = Vec::new();
    for _ in 0..plan.starts {
        // A server of its own each: one that had a client keeps the port of its visitors open.
        let rathole = Rathole::plan(folder, bench.backend.port, Transport::WebSocket)?;
        let server = rathole.server(bench.options)?;
        let control = Target::plain(rathole.control, "localhost");
        while tokio::net::TcpStream::connect(control.addr).await.is_err() {
            tokio::task::yield_now().await;
        }
        let target = Target::plain(rathole.visitors, "bench.localhost");
        all.push(start(&target, || rathole.client(bench.options, rathole.control)).await?);
        server.stop().await;
    }
    Ok(median(all))
}

/// Returns the milliseconds until what `begin` starts is answered through, and ends it.
async fn start(
    target: &Target,
    begin: impl FnOnce() -> anyhow::Result<Process>,
) -> anyhow::Result<f64> {
    let started = Instant::now();
    let process = begin()?;
    ready(target, EVERY).await?;
    let elapsed = started.elapsed();
    process.stop().await;
    Ok(elapsed.as_secs_f64() * 1e3)
}
