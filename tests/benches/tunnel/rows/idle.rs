//! What shares cost that nobody visits.
//!
//! The agents are those of the library, all in one process, `bench-agents`; the relay is in its own, and what
//! it grows by is divided by their number. A relay takes 4096 agents of one address, so the later ones
//! come through a forwarder that has many: each part of 127.0.0.0/8 is an address of this machine.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use mcpm_bench::outcome::count;
use mcpm_bench::process::{Process, Weight};
use mcpm_bench::table::shown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::{Finding, Must, SHORT_REST, rest, room};
use crate::Bench;
use crate::contender::{Rathole, Security, Transport, Way, relay};
use crate::measure::Plan;

/// Shares of one agent.
const SHARES: usize = 500;
/// How long all rest before they are weighed: agents past their first ping.
const REST: Duration = Duration::from_secs(12);
/// How many connections of one address the forwarder makes; the relay takes 4096.
const PER_ADDRESS: u32 = 4000;

/// Measures a relay with many agents, without and with TLS, and shares of one agent.
pub(crate) async fn measure(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    let agents = plan.agents.min(fitting(room()?)?);
    let mut findings = Vec::new();
    let (theirs_server, theirs_client) = rathole(bench).await?;
    let beside = |theirs: Option<f64>| match theirs {
        Some(theirs) => format!("rathole WebSocket, a service: {}", shown(theirs)),
        None => "rathole is not there".to_owned(),
    };
    let all = |theirs: &Option<Grown>| theirs.as_ref().map(|theirs| theirs.all);
    for (security, tls, most) in [(Security::None, "", 30.0), (Security::SelfSigned, ", TLS", 60.0)]
    {
        let (relay, agent) = tunnels(bench, agents, security).await?;
        findings.push(Finding {
            what: format!("{agents} agents{tls}, KB each at the relay"),
            is: relay,
            must: Must::AtMost(most),
            beside: format!(
                "{}; in the agents' process: {}",
                beside(all(&theirs_server)),
                shown(agent)
            ),
        });
        // The same the other way round, as operators ask.
        let a_gigabyte = |kilobytes: f64| 1e6 / kilobytes;
        let theirs = all(&theirs_server).map(|theirs| shown(a_gigabyte(theirs)));
        findings.push(Finding {
            what: format!("idle tunnels{tls} in a GB of the relay"),
            is: a_gigabyte(relay),
            must: Must::AtLeast(a_gigabyte(most)),
            beside: theirs.map_or_else(String::new, |it| format!("rathole WebSocket: {it}")),
        });
    }
    let (relay, agent) = shares(bench).await?;
    for (side, ours, theirs) in [("agent", agent, theirs_client), ("relay", relay, theirs_server)] {
        findings.push(Finding {
            what: format!(
                "{SHARES} shares of one session, KB of heap and stacks each at the {side}"
            ),
            is: ours.own,
            must: Must::AtMost(2.0),
            beside: format!(
                "{}; resident: {} and {}",
                beside(theirs.as_ref().map(|theirs| theirs.own)),
                shown(ours.all),
                theirs.as_ref().map_or_else(|| "?".to_owned(), |theirs| shown(theirs.all)),
            ),
        });
    }
    Ok(findings)
}

/// Returns how many agents so many open descriptors leave room for. The forwarder has two for each
/// that does not come directly.
fn fitting(descriptors: usize) -> anyhow::Result<usize> {
    let limit = descriptors.saturating_sub(1000);
    Ok(limit.min(limit / 2 + usize::try_from(PER_ADDRESS)?))
}

/// Returns by how many kilobytes an agent a relay and the process of the agents grow.
async fn tunnels(
    bench: &Bench<'_>,
    agents: usize,
    security: Security<'_>,
) -> anyhow::Result<(f64, f64)> {
    let folder = tempfile::tempdir()?;
    let (mut relay, addr) = idle_relay(bench, folder.path(), security).await?;
    let (forwarder, further) = forwarder(addr).await?;
    let address = |addr| Way { addr, security }.address();
    let target = bench.backend.port.to_string();
    let mut args = ["tunnels", &agents.to_string(), &target].map(OsString::from).to_vec();
    args.extend([address(addr).into(), address(further).into()]);
    if matches!(security, Security::SelfSigned) {
        let shown = |line: &str| line.strip_prefix("certificate SHA-256 ").map(str::to_owned);
        args.extend(["--fingerprint".into(), relay.line(shown).await?.into()]);
    }
    let before = relay.weigh_alone().megabytes;
    let (agents_process, first) = up(bench, &args, agents).await?;
    rest(REST).await;
    let at_relay = (relay.weigh_alone().megabytes - before) * 1e3 / count(agents);
    let grown = agents_process.weigh_alone().megabytes - first.megabytes;
    let at_agents = grown * 1e3 / count(agents - first.shares);
    for process in [agents_process, forwarder, relay] {
        process.stop().await;
    }
    Ok((at_relay, at_agents))
}

/// By how many kilobytes a share a process grows: in memory of its own, and with the pages of its program.
/// Of these some 300 KB more or less are resident from start to start, whatever is shared.
struct Grown {
    own: f64,
    all: f64,
}

impl Grown {
    fn between(one: Weight, many: Weight) -> Self {
        let each = |more: f64| more * 1e3 / count(SHARES - 1);
        Self {
            own: each(many.own_megabytes - one.own_megabytes),
            all: each(many.megabytes - one.megabytes),
        }
    }
}

/// Returns by how much a relay and an agent grow whose session has many shares.
async fn shares(bench: &Bench<'_>) -> anyhow::Result<(Grown, Grown)> {
    let folder = tempfile::tempdir()?;
    let security = Security::None;
    let (relay, addr) = idle_relay(bench, folder.path(), security).await?;
    let args = |shares: usize| {
        let address = Way { addr, security }.address();
        ["shares", &shares.to_string(), &address].map(OsString::from)
    };
    // What the session itself costs is not the shares'.
    let (one, _) = up(bench, &args(1), 1).await?;
    rest(REST).await;
    let [agent_before, relay_before] = [&one, &relay].map(Process::weigh_alone);
    one.stop().await;
    let (agent, _) = up(bench, &args(SHARES), SHARES).await?;
    rest(REST).await;
    let at_agent = Grown::between(agent_before, agent.weigh_alone());
    let at_relay = Grown::between(relay_before, relay.weigh_alone());
    for process in [agent, relay] {
        process.stop().await;
    }
    Ok((at_relay, at_agent))
}

/// Returns by how many kilobytes a service rathole's two halves grow.
async fn rathole(bench: &Bench<'_>) -> anyhow::Result<(Option<Grown>, Option<Grown>)> {
    if !bench.options.rathole.exists() {
        return Ok((None, None));
    }
    let folder = tempfile::tempdir()?;
    let mut weights = Vec::new();
    for services in [1, SHARES] {
        let port = bench.backend.port;
        let rathole = Rathole::plan_many(folder.path(), port, Transport::WebSocket, services)?;
        let server = rathole.server(bench.options)?;
        let client = rathole.client(bench.options, rathole.control)?;
        rest(SHORT_REST).await;
        weights.push([server.weigh_alone(), client.weigh_alone()]);
        client.stop().await;
        server.stop().await;
    }
    let [server, client] = [0, 1].map(|at| Grown::between(weights[0][at], weights[1][at]));
    Ok((Some(server), Some(client)))
}

async fn idle_relay(
    bench: &Bench<'_>,
    folder: &std::path::Path,
    security: Security<'_>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let limits = ["--max-sessions", "100000", "--max-shares-per-owner", "1000"];
    relay(bench.options, folder, security, &limits).await
}

/// What the process of the agents weighed with the first of them.
struct First {
    shares: usize,
    megabytes: f64,
}

/// Starts the agents and waits until so many shares are up.
async fn up(
    bench: &Bench<'_>,
    args: &[OsString],
    shares: usize,
) -> anyhow::Result<(Process, First)> {
    let program = bench.options.bins.join("bench-agents");
    let mut agents = Process::start("bench-agents", &program, args)?;
    let told = |line: &str| line.strip_prefix("up ")?.parse::<usize>().ok();
    let mut up = agents.line(told).await?;
    let first = First { shares: up, megabytes: agents.weigh_alone().megabytes };
    while up < shares {
        up = agents.line(told).await?;
    }
    Ok((agents, first))
}

/// Starts this program again as forwarder in front of a relay.
async fn forwarder(to: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let this = std::env::current_exe().context("find this program")?;
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, to.port()));
    let args = ["addresses", &at.to_string(), &to.to_string()];
    let mut process = Process::start("forwarder", &this, &args)?;
    process.line(|line| (line == "up").then_some(())).await?;
    Ok((process, at))
}

/// Passes what comes at the first address of `args` on to the second, from 127.0.0.2 and those after it.
pub(crate) async fn serve(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut next = || args.next().context("addresses wants two of them");
    let (at, to): (SocketAddr, SocketAddr) = (next()?.parse()?, next()?.parse()?);
    let listener = TcpListener::bind(at).await.with_context(|| format!("listen on {at}"))?;
    println!("up");
    let mut connections = JoinSet::new();
    let mut known: u32 = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let from = Ipv4Addr::from_bits(
                    Ipv4Addr::LOCALHOST.to_bits() + 1 + known / PER_ADDRESS,
                );
                known += 1;
                connections.spawn(forward(accepted?.0, from, to));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mut near: TcpStream, from: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut far = socket.connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 1024, 1024).await?;
    Ok(())
}
