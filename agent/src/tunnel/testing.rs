//! A relay's end of a connection over an in-memory socket, which a test plays.

use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::mux::{self, Activity, Incoming, MuxStream, Opener, Side};
use mcpm_shared::proto::control::{
    self as wire, AgentMessage, Beat, Claim, Claimed, ControlError, Limits, RelayMessage, Welcome,
};
use mcpm_shared::proto::head::{StreamHead, Verdict};
use mcpm_shared::proto::{SUBPROTOCOL, ShareMode};
use mcpm_shared::scope::Scope;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf,
    WriteHalf, duplex, split,
};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::serve::Backend;
use super::share::{Share, Wanted};

/// A share of a service where nobody listens, open to everybody.
pub(super) fn share(name: &str) -> Arc<Share> {
    share_with(name, AccessPolicy::public(), None)
}

/// The same with a policy and an end.
pub(super) fn share_with(name: &str, policy: AccessPolicy, expires_at: Option<u64>) -> Arc<Share> {
    let wanted =
        Wanted { name: name.parse().unwrap(), mode: ShareMode::Http, expires_at, retries: None };
    let backend = Backend::Http("9".parse().unwrap());
    Arc::new(Share::new(wanted, backend, Gate::new(policy, Arc::default()), None))
}

/// The relay's end of one mux; the other socket is for the agent. The mux ends with the scope, and
/// stands still, like one behind a dead network, once `dead` is cancelled.
pub(super) async fn mux(
    scope: &Scope,
    dead: CancellationToken,
) -> (Opener, Incoming, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let config = Some(mux::websocket_config());
    let socket = WebSocketStream::from_raw_socket(near, Role::Server, config).await;
    let (opener, streams) = mux_over(socket, scope, dead);
    (opener, streams, far)
}

/// The same over a socket that is there already.
fn mux_over<S>(
    socket: WebSocketStream<S>,
    scope: &Scope,
    dead: CancellationToken,
) -> (Opener, Incoming)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (opener, streams, driver) =
        mux::connect(socket, Side::Relay, Activity::default(), scope.token().clone());
    scope.spawn_essential(async move {
        tokio::pin!(driver);
        tokio::select! {
            biased;
            () = dead.cancelled() => std::future::pending().await,
            _ended = &mut driver => {}
        }
    });
    (opener, streams)
}

/// The relay's end of a connection that has said welcome.
pub(super) struct FakeRelay {
    pub(super) opener: Opener,
    pub(super) reader: ReadHalf<MuxStream>,
    pub(super) writer: WriteHalf<MuxStream>,
    /// Closes the connection when it is cancelled, and is when the agent has closed it.
    pub(super) scope: Scope,
    /// Makes the network swallow everything when it is cancelled.
    pub(super) dead: CancellationToken,
    /// How many shares it gave: their ids count from 1.
    given: u32,
    _streams: Incoming,
}

impl FakeRelay {
    /// Returns the agent's socket, and what becomes the relay's end once the agent has said hello.
    pub(super) async fn listen(
        scope: &Scope,
    ) -> (DuplexStream, impl Future<Output = Self> + use<>) {
        let scope = scope.child();
        let dead = CancellationToken::new();
        let (opener, streams, far) = mux(&scope, dead.clone()).await;
        (far, Self::meet(opener, streams, scope, dead))
    }

    /// Takes the agent that dials next, as far as welcome.
    pub(super) async fn accept(listener: &TcpListener, scope: &Scope) -> Self {
        let (tcp, _) = listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the handshake wants a refusal of this type")]
        let agree = |_: &Request, mut response: Response| {
            let protocol = HeaderValue::from_static(SUBPROTOCOL);
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let config = Some(mux::websocket_config());
        let socket = accept_hdr_async_with_config(tcp, agree, config).await.unwrap();
        let (scope, dead) = (scope.child(), CancellationToken::new());
        let (opener, streams) = mux_over(socket, &scope, dead.clone());
        Self::meet(opener, streams, scope, dead).await
    }

    async fn meet(
        opener: Opener,
        mut streams: Incoming,
        scope: Scope,
        dead: CancellationToken,
    ) -> Self {
        let (mut reader, mut writer) = split(streams.recv().await.unwrap());
        let hello = wire::read(&mut reader).await;
        assert!(matches!(hello, Ok(AgentMessage::Hello(_))), "{hello:?}");
        let limits = Limits { connections: 8, streams: 4096, shares: 9, body_bytes: 1 << 20 };
        let welcome = RelayMessage::Welcome(Welcome {
            version: 1,
            relay: "test".to_owned(),
            node: "n".to_owned(),
            session: "s".to_owned(),
            limits,
            capabilities: Vec::new(),
        });
        wire::write(&mut writer, &welcome).await.unwrap();
        Self { opener, reader, writer, scope, dead, given: 0, _streams: streams }
    }

    /// Says something.
    pub(super) async fn say(&mut self, message: RelayMessage) {
        wire::write(&mut self.writer, &message).await.unwrap();
    }

    /// Hears the next message that is no ping; answers pings.
    pub(super) async fn hear(&mut self) -> AgentMessage {
        self.next().await.unwrap()
    }

    /// Like [`Self::hear`], until the agent ends the control stream.
    async fn next(&mut self) -> Result<AgentMessage, ControlError> {
        loop {
            match wire::read(&mut self.reader).await? {
                AgentMessage::Ping(Beat { seq }) => {
                    self.say(RelayMessage::Pong(Beat { seq })).await;
                }
                message => return Ok(message),
            }
        }
    }

    /// Answers pings until the agent ends the control stream; returns after how long.
    pub(super) async fn until_left(&mut self) -> Duration {
        let started = tokio::time::Instant::now();
        while self.next().await.is_ok() {}
        started.elapsed()
    }

    /// Answers pings for so long; panics at anything else.
    pub(super) async fn idle(&mut self, time: Duration) {
        let heard = tokio::time::timeout(time, self.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Hears the claim that comes next.
    pub(super) async fn claim(&mut self) -> Claim {
        let AgentMessage::Claim(claim) = self.hear().await else { panic!("no claim") };
        claim
    }

    /// Grants a claim, for `life` seconds.
    pub(super) async fn grant(&mut self, claim: Claim, life: Option<u64>) {
        self.given += 1;
        self.say(RelayMessage::Claimed(Claimed {
            request: claim.request,
            share: self.given,
            url: format!("https://{}.r", claim.name),
            name: claim.name,
            generation: 1,
            ticket: "t".to_owned(),
            expires_at: life.map(|life| super::unix_now() + life),
        }))
        .await;
    }

    /// Opens a data stream of the first granted share.
    pub(super) async fn stream(&self) -> MuxStream {
        let (stream, verdict) = self.stream_of(1).await;
        assert_eq!(verdict, Verdict::Accepted);
        stream
    }

    /// Opens a data stream of a share; returns what the agent says to it.
    pub(super) async fn stream_of(&self, share: u32) -> (MuxStream, Verdict) {
        let mut stream = self.opener.open().await.unwrap();
        stream.write_all(&StreamHead::http(share, 1).encode()).await.unwrap();
        let verdict = Verdict::decode(stream.read_u8().await.unwrap());
        (stream, verdict)
    }
}
