//! What the end-to-end suites stand on: a relay and agents in this process, on free ports, and real
//! programs as processes where the process itself is under test.

#![expect(clippy::unwrap_used, reason = "a harness panics where a test fails")]

pub mod balancer;
pub mod forward;
pub mod home;
pub mod peers;
pub mod process;
mod service;
pub mod terminal;

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mcpm::credentials::ProofSource;
use mcpm::tunnel::{
    Backend, ProxySettings, ShareInfo, ShareRequest, TlsOptions, Tunnel, TunnelConfig, TunnelError,
    TunnelStatus,
};
use mcpm_relay::{Config, Ports, Relay};
use mcpm_shared::access::{AccessPolicy, TokenGrant};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use serde_json::{Value, json};

pub use self::service::{Answer, Service, echoes_over_socket, full};

/// How long a test waits for what must happen. Generous: no test waits for it unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a future that must be ready soon.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Asks again and again until the answer is there.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    soon(what, async {
        loop {
            ticks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    })
    .await
}

/// A relay in this process.
#[derive(Debug)]
pub struct TestRelay {
    /// The relay itself.
    pub relay: Relay,
    ports: Ports,
    config: Config,
}

impl TestRelay {
    /// Starts a relay with the settings for tests.
    pub async fn start() -> Self {
        Self::with(Config::for_tests()).await
    }

    /// Starts a relay with these settings and ports in memory.
    pub async fn with(config: Config) -> Self {
        Self::on(config, Ports::in_memory()).await
    }

    /// Starts a relay on these ports.
    pub async fn on(config: Config, ports: Ports) -> Self {
        let relay = Relay::start(config.clone(), ports.clone()).await.unwrap();
        Self { relay, ports, config }
    }

    /// Returns a URL on the apex.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.ports.cert.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.relay.addr().port())
    }

    /// Returns the ports, for a second life of the relay.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Ends this relay and starts another one on the same address and ports.
    pub async fn restart(self) -> Self {
        let Self { relay, ports, config } = self;
        let listen = relay.addr();
        relay.shutdown().await;
        Self::again(Config { listen, ..config }, ports).await
    }

    /// Drops this relay without a word and starts another one on the same address and ports.
    pub async fn crash(self) -> Self {
        let Self { relay, ports, config } = self;
        let config = Config { listen: relay.addr(), ..config };
        drop(relay);
        Self::again(config, ports).await
    }

    /// Starts a relay on an address that was just left. Somebody's connection may have got the port meanwhile.
    async fn again(config: Config, ports: Ports) -> Self {
        eventually("the address is free again", || async {
            let relay = Relay::start(config.clone(), ports.clone()).await.ok()?;
            Some(Self { relay, ports: ports.clone(), config: config.clone() })
        })
        .await
    }
}

/// An agent in this process: a key and the tunnels it opens.
#[derive(Debug)]
pub struct TestAgent {
    /// The agent's key.
    pub key: AgentKey,
    /// What it shows beside the key.
    pub proof: ProofSource,
    /// Whom it trusts.
    pub tls: TlsOptions,
    scope: Scope,
}

impl Default for TestAgent {
    fn default() -> Self {
        Self::new()
    }
}

impl TestAgent {
    /// Makes an agent with a key of its own.
    #[must_use]
    pub fn new() -> Self {
        let (tls, scope) = (TlsOptions::default(), Scope::new());
        Self { key: AgentKey::generate(), proof: ProofSource::default(), tls, scope }
    }

    /// Makes an agent that shows `proof` beside its key.
    #[must_use]
    pub fn showing(proof: impl Into<ProofSource>) -> Self {
        let mut agent = Self::new();
        agent.proof = proof.into();
        agent
    }

    /// Opens a tunnel without waiting for it.
    #[must_use]
    pub fn open(&self, relay: &TestRelay, request: ShareRequest, backend: Backend) -> TestShare {
        self.open_at(&relay.url(""), request, backend)
    }

    /// Opens a tunnel to whatever relay is behind a URL, without waiting for it.
    #[must_use]
    pub fn open_at(&self, url: &str, request: ShareRequest, backend: Backend) -> TestShare {
        let config = TunnelConfig {
            relay: url.parse().unwrap(),
            key: self.key.clone(),
            proof: self.proof.clone(),
            tls: self.tls.clone(),
            connections: 2,
            proxy: ProxySettings::default(),
            agent_version: "test".to_owned(),
        };
        TestShare { tunnel: Tunnel::start(config, request, backend, self.scope.clone()) }
    }

    /// Shares an HTTP service with `policy` under `name` and waits until it is up.
    pub async fn share(
        &self,
        relay: &TestRelay,
        name: &str,
        service: &Service,
        policy: AccessPolicy,
    ) -> (TestShare, ShareInfo) {
        let request = request(name, ShareMode::Http, policy);
        let share = self.open(relay, request, service.backend());
        let info = share.up().await;
        (share, info)
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

/// Makes a request to share under `name`.
#[must_use]
pub fn request(name: &str, mode: ShareMode, access: AccessPolicy) -> ShareRequest {
    ShareRequest {
        name: Some(name.parse().unwrap()),
        base: name.to_owned(),
        mode,
        access: access.into(),
        expires: None,
        ticket: None,
        retries: None,
    }
}

/// A tunnel under test.
#[derive(Debug)]
pub struct TestShare {
    /// The tunnel itself.
    pub tunnel: Tunnel,
}

impl TestShare {
    /// Waits until the share is up.
    pub async fn up(&self) -> ShareInfo {
        self.up_after(0).await
    }

    /// Waits until the share is up with a generation above `generation`.
    pub async fn up_after(&self, generation: u64) -> ShareInfo {
        let mut status = self.tunnel.status();
        let up = status.wait_for(|status| match status {
            TunnelStatus::Up(info) => info.generation > generation,
            TunnelStatus::Refused(error) => panic!("refused: {error}"),
            _ => false,
        });
        match &*soon("the share is up", up).await.unwrap() {
            TunnelStatus::Up(info) => info.clone(),
            _ => unreachable!("waited for"),
        }
    }

    /// Waits until the relay has refused the share for good.
    pub async fn refused(&self) -> TunnelError {
        let mut status = self.tunnel.status();
        let refused = status.wait_for(|status| matches!(status, TunnelStatus::Refused(_)));
        match &*soon("the share is refused", refused).await.unwrap() {
            TunnelStatus::Refused(error) => error.clone(),
            _ => unreachable!("waited for"),
        }
    }

    /// Waits until the share is up, or the relay has told it to wait for a reason that says `why`; returns whether it is up.
    pub async fn is_up_unless(&self, why: &str) -> bool {
        let mut status = self.tunnel.status();
        let decided = status.wait_for(|status| match status {
            TunnelStatus::Up(_) => true,
            TunnelStatus::Reconnecting { reason, .. } => reason.contains(why),
            TunnelStatus::Refused(error) => panic!("refused: {error}"),
            _ => false,
        });
        let decided = soon("the share is up or told to wait", decided).await.unwrap();
        matches!(*decided, TunnelStatus::Up(_))
    }

    /// Waits until so many requests are at the agent.
    pub async fn has_in_flight(&self, count: usize) {
        eventually(&format!("{count} requests are in flight"), || async {
            (self.tunnel.stats().active == count).then_some(())
        })
        .await;
    }
}

/// Makes a policy that the token `secret` opens.
#[must_use]
pub fn token_policy(secret: &str) -> AccessPolicy {
    let digest = Token::new(secret).digest();
    let grant = TokenGrant { id: "t1".to_owned(), label: None, digest, expires_at: None };
    AccessPolicy { tokens: vec![grant], ..AccessPolicy::default() }
}

/// Returns an HTTP client that trusts `fingerprint`-less test relays and follows no redirects.
#[must_use]
pub fn visitor() -> reqwest::Client {
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap()
}

/// The first message of a client of MCP that knows no era but the legacy one.
#[must_use]
pub fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": { "name": "visitor", "version": "1" },
    } })
}

/// Opens a session of MCP at a URL, and returns the status of the answer; 0 where there is none.
pub async fn opened(url: &str, token: Option<&str>) -> u16 {
    let mut request = visitor().post(url).json(&initialize());
    request = request.header("accept", "application/json, text/event-stream");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    soon("an answer", request.send()).await.map_or(0, |answer| answer.status().as_u16())
}

/// A port that was free a moment ago, for programs that cannot choose one themselves, and for those who shall find nobody.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Reads the next piece of a streamed answer.
pub async fn next_piece(
    stream: &mut (impl futures_util::Stream<Item = reqwest::Result<Bytes>> + Unpin),
) -> Option<reqwest::Result<Bytes>> {
    soon("the next piece comes", stream.next()).await
}
