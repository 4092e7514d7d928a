//! Many agents in one process, for what they cost a relay and themselves while nobody visits.
//!
//! `bench-agents tunnels COUNT TARGET ADDRESS…` has so many agents of the library, each with its own key,
//! session and share of the HTTP server TARGET, as many of them on the first address as a relay takes from
//! one, the rest on the last. `bench-agents session COUNT ADDRESS` has one session with so many shares, which the
//! protocol knows and the library does not: it speaks the protocol itself. Both tell how many shares
//! are up, and stay until they are killed. `--fingerprint` pins the certificate of the relay.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is text")]

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use mcpm::tunnel::{
    Backend, HttpTarget, ProxySettings, RelayAddress, ShareRequest, TlsOptions, Tunnel,
    TunnelConfig, TunnelStatus,
};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::{self, Proof};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::mux::{self, Activity, Side};
use mcpm_shared::proto::control::{self, AgentMessage, Beat, Claim, Hello, RelayMessage};
use mcpm_shared::proto::{PING_INTERVAL, PROTOCOL_VERSION, SUBPROTOCOL, ShareMode, TUNNEL_PATH};
use mcpm_shared::scope::Scope;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// The allocator of `mcpm`: what an agent costs depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many agents of one address come at most; the relay takes 4096.
const PER_ADDRESS: usize = 4000;
/// How many dial at a time.
const BATCH: usize = 100;
/// How long they may take together.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let pinned = args.iter().position(|arg| arg == "--fingerprint");
    let fingerprint = pinned.map(|at| args.drain(at..).nth(1).context("which fingerprint?"));
    let fingerprint = fingerprint.transpose()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tunnels", count, target, relays @ ..] if !relays.is_empty() => {
            let relays: Result<Vec<RelayAddress>, _> = relays.iter().map(|r| r.parse()).collect();
            tunnels(count.parse()?, target.parse()?, &relays?, fingerprint).await
        }
        ["session", count, relay] => session(count.parse()?, &relay.parse()?).await,
        _ => bail!("usage: tunnels COUNT TARGET ADDRESS… | session COUNT ADDRESS"),
    }
}

async fn tunnels(
    count: usize,
    target: HttpTarget,
    relays: &[RelayAddress],
    fingerprint: Option<String>,
) -> anyhow::Result<()> {
    let scope = Scope::new();
    let mut up = Vec::with_capacity(count);
    while up.len() < count {
        let batch = up.len()..count.min(up.len() + BATCH);
        let begun = batch.map(|index| {
            let relay = relays.get(index / PER_ADDRESS).or(relays.last());
            let relay = relay.context("an address")?.clone();
            let request = request(&name(index))?;
            let config = config(relay, fingerprint.clone());
            let backend = Backend::Http(target.clone());
            anyhow::Ok(Tunnel::start(config, request, backend, scope.child()))
        });
        let begun: Vec<Tunnel> = begun.collect::<anyhow::Result<_>>()?;
        for tunnel in &begun {
            tokio::time::timeout(PATIENCE, is_up(tunnel)).await.context("a share comes up")??;
        }
        up.extend(begun);
        println!("up {}", up.len());
    }
    std::future::pending().await
}

/// Names of this process: a relay keeps those of an earlier one for its owner.
fn name(index: usize) -> String {
    format!("idle-{}-{index}", std::process::id())
}

fn request(name: &str) -> anyhow::Result<ShareRequest> {
    Ok(ShareRequest {
        name: Some(name.parse()?),
        base: name.to_owned(),
        mode: ShareMode::Http,
        access: AccessPolicy::public(),
        expires: None,
        ticket: None,
    })
}

fn config(relay: RelayAddress, fingerprint: Option<String>) -> TunnelConfig {
    TunnelConfig {
        relay,
        key: AgentKey::generate(),
        proof: Proof::None.into(),
        tls: TlsOptions { ca: None, fingerprint },
        connections: 1,
        proxy: ProxySettings::default(),
        agent_version: "bench".to_owned(),
    }
}

async fn is_up(tunnel: &Tunnel) -> anyhow::Result<()> {
    let mut status = tunnel.status();
    let told = status.wait_for(|now| !matches!(now, TunnelStatus::Connecting { .. })).await?;
    ensure!(matches!(*told, TunnelStatus::Up(_)), "a share is {told:?}");
    Ok(())
}

async fn session(count: usize, relay: &RelayAddress) -> anyhow::Result<()> {
    let scope = Scope::new();
    let stream = TcpStream::connect((relay.host(), relay.port())).await?;
    let mut request = format!("ws://{}{TUNNEL_PATH}", relay.authority()).into_client_request()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let jwt = assertion::sign(&AgentKey::generate(), &relay.origin(), &Proof::None, now)?;
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {jwt}").parse()?);
    headers.insert("sec-websocket-protocol", SUBPROTOCOL.parse()?);
    let config = Some(mux::websocket_config());
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, config).await?;
    let (opener, _streams, driver) =
        mux::connect(socket, Side::Agent, Activity::default(), scope.token().clone());
    scope.spawn_essential(async move { drop(driver.await) });
    let (mut reader, mut writer) = tokio::io::split(opener.open().await?);
    let hello = Hello {
        version: PROTOCOL_VERSION,
        agent: "mcpm/bench".to_owned(),
        session: None,
        capabilities: Vec::new(),
    };
    control::write(&mut writer, &AgentMessage::Hello(hello)).await?;
    let RelayMessage::Welcome(_) = control::read(&mut reader).await? else {
        bail!("the relay did not say welcome");
    };
    for index in 0..count {
        let claim = AgentMessage::Claim(Claim {
            request: u32::try_from(index)?,
            name: name(index).parse()?,
            mode: ShareMode::Http,
            access: AccessPolicy::public(),
            ticket: None,
            expires_in_secs: None,
        });
        control::write(&mut writer, &claim).await?;
        let answer: RelayMessage = control::read(&mut reader).await?;
        ensure!(matches!(answer, RelayMessage::Claimed(_)), "the relay said {answer:?}");
    }
    println!("up {count}");
    let mut pings = tokio::time::interval(PING_INTERVAL);
    for seq in 0.. {
        pings.tick().await;
        control::write(&mut writer, &AgentMessage::Ping(Beat { seq })).await?;
        let _pong: RelayMessage = control::read(&mut reader).await?;
    }
    Ok(())
}
