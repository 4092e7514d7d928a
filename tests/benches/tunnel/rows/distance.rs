//! One bulk stream between a relay and an agent that are far from each other.
//!
//! Between them stands a proxy that holds everything back for half of the round trip. It ends TCP on
//! both sides, so that what is measured are the windows of the tunnel and not those of TCP, which
//! belong to the system's settings (and to netem, which not every kernel has).

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcpm_bench::process::Process;
use mcpm_bench::table::shown;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Finding, Must};
use crate::Bench;
use crate::contender::{Rathole, Security, Transport, Way, http_share, ready, relay};
use crate::load::{Load, Target, apply};
use crate::measure::Plan;

/// The round trip.
const RTT: Duration = Duration::from_millis(60);
/// Bytes of one answer: so many that the growth of the windows does not count.
const BULK: usize = 256 * 1024 * 1024;
/// Bytes that may be under way in one direction: more than any window.
const UNDER_WAY: usize = 128 * 1024 * 1024;
/// Bytes that are held back together.
const CHUNK: usize = 64 * 1024;

/// Measures ours beside rathole over TCP, through the same kind of proxy.
pub(crate) async fn measure(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    let ours = ours(bench, plan).await?;
    let peer = if bench.options.rathole.exists() {
        let theirs = theirs(bench, plan).await?;
        format!("rathole TCP {}, {:.2} ×", shown(theirs), ours / theirs)
    } else {
        "rathole is not there".to_owned()
    };
    Ok(vec![Finding {
        what: format!("one bulk stream at {} ms, MB/s", RTT.as_millis()),
        is: ours,
        must: Must::AtLeast(100.0),
        beside: peer,
    }])
}

async fn ours(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<f64> {
    let Bench { options, backend, .. } = bench;
    let folder = tempfile::tempdir()?;
    let security = Security::None;
    let (relay, addr) = relay(options, folder.path(), security, &[]).await?;
    // The relay listens on 127.0.0.1 alone: the proxy has the same port of [::1], which the
    // relay knows as one of its own origins.
    let (proxy, far) = proxy(addr).await?;
    let way = Way { addr: far, security };
    let agent = http_share(options, &folder.path().join("mcpm"), backend.port, &way)?;
    let rate = rate(&Target::plain(addr, "bench.localhost"), plan).await;
    for process in [agent, proxy, relay] {
        process.stop().await;
    }
    rate
}

async fn theirs(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let rathole = Rathole::plan(folder.path(), bench.backend.port, Transport::Tcp)?;
    let server = rathole.server(bench.options)?;
    let (proxy, far) = proxy(rathole.control).await?;
    let client = rathole.client(bench.options, far)?;
    let rate = rate(&Target::plain(rathole.visitors, "bench.localhost"), plan).await;
    for process in [client, proxy, server] {
        process.stop().await;
    }
    rate
}

async fn rate(target: &Target, plan: &Plan) -> anyhow::Result<f64> {
    ready(target, Duration::from_millis(50)).await?;
    let bulk = Load {
        connections: 1,
        duration: Duration::from_secs(plan.seconds),
        close: false,
        bulk: Some(BULK),
    };
    Ok(apply(target, bulk).await?.megabytes())
}

/// Starts this program again as proxy in front of `to`.
async fn proxy(to: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let this = std::env::current_exe().context("find this program")?;
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, to.port()));
    let half = (RTT / 2).as_millis().to_string();
    let args = ["distance", &at.to_string(), &to.to_string(), &half];
    let mut process = Process::start("proxy", &this, &args)?;
    process.line(|line| (line == "up").then_some(())).await?;
    Ok((process, at))
}

/// Passes what comes at the first address of `args` on to the second, so many milliseconds late.
pub(crate) async fn serve(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut next = || args.next().context("distance wants two addresses and milliseconds");
    let (at, to, half): (SocketAddr, SocketAddr, u64) =
        (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let listener = TcpListener::bind(at).await.with_context(|| format!("listen on {at}"))?;
    println!("up");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(connection(accepted?.0, to, Duration::from_millis(half)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(near: TcpStream, to: SocketAddr, half: Duration) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    let (up, down) = tokio::join!(pass(from_near, to_far, half), pass(from_far, to_near, half));
    up.and(down)
}

/// A piece of the stream, and when it may go on.
type Held = (Instant, Vec<u8>, OwnedSemaphorePermit);

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    half: Duration,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let (sender, mut held) = mpsc::channel::<Held>(UNDER_WAY / 1024);
    let read = async move {
        loop {
            let mut piece = Vec::with_capacity(CHUNK);
            if from.read_buf(&mut piece).await? == 0 {
                return io::Result::Ok(());
            }
            let size = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let permit = Arc::clone(&room).acquire_many_owned(size).await;
            let permit = permit.map_err(io::Error::other)?;
            if sender.send((Instant::now() + half, piece, permit)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((at, piece, _permit)) = held.recv().await {
            if at > Instant::now() {
                tokio::time::sleep_until(at).await;
            }
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    let (read, written) = tokio::join!(read, write);
    read.and(written)
}
