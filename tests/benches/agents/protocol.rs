//! As much of the tunnel's protocol as it takes to hold a name, spoken without the library: it does
//! what the library does not, and costs the load generator less.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use mcpm::tunnel::RelayAddress;
use mcpm_bench::tls;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::{self, Proof};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::mux::{self, Activity, Incoming, MuxStream, Side};
use mcpm_shared::proto::control::{
    self, AgentMessage, Beat, Claim, Claimed, Hello, RelayMessage, Release,
};
use mcpm_shared::proto::{PROTOCOL_VERSION, SUBPROTOCOL, ShareMode, TUNNEL_PATH};
use mcpm_shared::scope::Scope;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_util::either::Either;
use tokio_util::sync::DropGuard;

/// Where a relay is, and the TLS to speak with it.
#[derive(Clone)]
pub(crate) struct Address {
    /// Where it is.
    pub(crate) relay: RelayAddress,
    tls: Option<TlsConnector>,
}

impl Address {
    /// Reads an address; with `https` the relay's certificate is not looked at.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let relay: RelayAddress = text.parse()?;
        let tls = relay.is_https().then(tls::visitor).transpose()?;
        Ok(Self { relay, tls })
    }

    async fn connect(&self) -> anyhow::Result<Either<TcpStream, Box<TlsStream<TcpStream>>>> {
        let stream = TcpStream::connect((self.relay.host(), self.relay.port())).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Either::Left(stream)) };
        let name = ServerName::try_from(self.relay.host())?;
        let stream = tls.connect(name, stream).await.context("the TLS handshake")?;
        Ok(Either::Right(Box::new(stream)))
    }
}

/// An agent's session of one connection. It ends when this is dropped.
pub(crate) struct Session {
    reader: ReadHalf<MuxStream>,
    writer: WriteHalf<MuxStream>,
    /// Nobody visits; a visitor's stream would wait here.
    _streams: Incoming,
    requests: u32,
    _ends: DropGuard,
}

impl Session {
    /// Connects, upgrades with a signed assertion, and waits until the relay says welcome.
    pub(crate) async fn open(
        address: &Address,
        key: &AgentKey,
        scope: &Scope,
    ) -> anyhow::Result<Self> {
        let relay = &address.relay;
        let url = format!("ws://{}{TUNNEL_PATH}", relay.authority());
        let mut request = url.into_client_request()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let jwt = assertion::sign(key, &relay.origin(), &Proof::None, now)?;
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {jwt}").parse()?);
        headers.insert("sec-websocket-protocol", SUBPROTOCOL.parse()?);
        let stream = address.connect().await.context("reach the relay")?;
        let config = Some(mux::websocket_config());
        let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, config)
            .await
            .context("the upgrade")?;
        let scope = scope.child();
        let (opener, streams, driver) =
            mux::connect(socket, Side::Agent, Activity::default(), scope.token().clone());
        scope.spawn_essential(async move { drop(driver.await) });
        let (reader, writer) = tokio::io::split(opener.open().await?);
        let mut session =
            Self { reader, writer, _streams: streams, requests: 0, _ends: scope.guard() };
        let hello = Hello {
            version: PROTOCOL_VERSION,
            agent: "mcpm/bench".to_owned(),
            session: None,
            capabilities: Vec::new(),
        };
        match session.ask(AgentMessage::Hello(hello)).await? {
            RelayMessage::Welcome(_) => Ok(session),
            answer => bail!("the relay said {answer:?} instead of welcome"),
        }
    }

    /// Claims a name for everybody to visit.
    pub(crate) async fn claim(&mut self, name: &str) -> anyhow::Result<Claimed> {
        let claim = AgentMessage::Claim(Claim {
            request: self.number(),
            name: name.parse()?,
            mode: ShareMode::Http,
            access: AccessPolicy::public(),
            ticket: None,
            expires_in_secs: None,
        });
        match self.ask(claim).await? {
            RelayMessage::Claimed(claimed) => Ok(claimed),
            answer => bail!("the relay said {answer:?} to a claim"),
        }
    }

    /// Gives a share up, and waits until the relay has heard of it.
    pub(crate) async fn release(&mut self, share: u32) -> anyhow::Result<()> {
        let release = AgentMessage::Release(Release { request: self.number(), share });
        control::write(&mut self.writer, &release).await?;
        self.ping(0).await
    }

    /// Shows that the agent lives.
    async fn ping(&mut self, seq: u64) -> anyhow::Result<()> {
        match self.ask(AgentMessage::Ping(Beat { seq })).await? {
            RelayMessage::Pong(_) => Ok(()),
            answer => bail!("the relay said {answer:?} instead of pong"),
        }
    }

    fn number(&mut self) -> u32 {
        self.requests += 1;
        self.requests
    }

    async fn ask(&mut self, message: AgentMessage) -> anyhow::Result<RelayMessage> {
        control::write(&mut self.writer, &message).await?;
        Ok(control::read(&mut self.reader).await?)
    }
}
