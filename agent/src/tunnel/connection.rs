//! One connection with a relay: how it opens, what keeps it alive, and how it is left.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcpm_shared::mux::{self, Activity, Incoming as Streams, MuxStream, Side};
use mcpm_shared::proto::control::{self as wire, AgentMessage, Beat, Hello, RelayMessage, Welcome};
use mcpm_shared::proto::{DEAD_AFTER, HANDSHAKE_TIMEOUT, PING_INTERVAL, PROTOCOL_VERSION};
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::dial::Dialer;
use super::error::TunnelError;
use super::serve;
use super::table::Table;

/// How long what a relay said just before a connection ended is still read.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How much longer than the relay's grace period a connection lingers: the relay closes it itself.
const LINGER_MARGIN: Duration = Duration::from_secs(5);
/// For how long a lingering connection may carry nothing: visitors of that relay may still come.
const LINGER_REST: Duration = PING_INTERVAL;
/// After how long without a stream a further connection is closed: the relay closes resting streams
/// after as long, so that it comes to rest at all.
const EXTRA_REST: Duration = Duration::from_secs(60);

/// One connection that has said hello.
pub(super) struct Connection {
    pub(super) welcome: Welcome,
    /// Ends the connection's tasks when it is cancelled.
    pub(super) scope: Scope,
    reader: ReadHalf<MuxStream>,
    writer: WriteHalf<MuxStream>,
    streams: Streams,
    activity: Activity,
}

impl Connection {
    /// Dials the relay and introduces the agent; `session` names the session to join.
    pub(super) async fn open(
        dialer: &Dialer,
        agent: &str,
        session: Option<String>,
        scope: Scope,
    ) -> Result<Self, TunnelError> {
        let guard = scope.guard();
        let upgraded = hyper_util::rt::TokioIo::new(dialer.dial(&scope).await?);
        let greeting = Self::greet(upgraded, agent, session, scope);
        let connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, greeting).await {
            Ok(connection) => connection?,
            Err(_) => return Err(TunnelError::Timeout { relay: dialer.relay.origin() }),
        };
        guard.disarm();
        Ok(connection)
    }

    /// Introduces the agent on an upgraded socket.
    pub(super) async fn greet<S>(
        io: S,
        agent: &str,
        session: Option<String>,
        scope: Scope,
    ) -> Result<Self, TunnelError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = Some(mux::websocket_config());
        let socket = WebSocketStream::from_raw_socket(io, Role::Client, config).await;
        let activity = Activity::default();
        let (opener, streams, driver) =
            mux::connect(socket, Side::Agent, activity.clone(), scope.token().clone());
        scope.spawn_essential(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection failed");
            }
        });
        let lost = |error: &dyn std::error::Error| TunnelError::Lost(error.to_string());
        let control = opener.open().await.map_err(|error| lost(&error))?;
        let (mut reader, mut writer) = tokio::io::split(control);
        let hello = AgentMessage::Hello(Hello {
            version: PROTOCOL_VERSION,
            agent: format!("mcpm/{agent}"),
            session,
            capabilities: Vec::new(),
        });
        wire::write(&mut writer, &hello).await.map_err(|error| lost(&error))?;
        match wire::read(&mut reader).await {
            Ok(RelayMessage::Welcome(welcome)) => {
                Ok(Self { welcome, scope, reader, writer, streams, activity })
            }
            Ok(_) => Err(TunnelError::Lost("the relay did not say welcome".to_owned())),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Begins to serve the connection's data streams and to read its control stream.
    pub(super) fn start(self, table: Arc<Table>) -> Talk {
        let Self { scope, reader, writer, streams, activity, welcome: _ } = self;
        let carried = Arc::new(Carried::default());
        accept(streams, table, Arc::clone(&carried), &scope);
        let (inbox, messages) = mpsc::channel(16);
        scope.spawn_essential(read(reader, inbox, scope.clone()));
        Talk { messages, scope, writer, activity, carried, seq: 0 }
    }
}

/// Serves the data streams of a connection as they come.
fn accept(mut streams: Streams, table: Arc<Table>, carried: Arc<Carried>, scope: &Scope) {
    let tasks = scope.clone();
    let stop = scope.clone();
    scope.spawn_essential(async move {
        while let Some(Some(stream)) = stop.token().run_until_cancelled(streams.recv()).await {
            let table = Arc::clone(&table);
            let carrying = carried.carry();
            tasks.spawn_until_cancelled(async move {
                let _carrying = carrying;
                serve::stream(stream, table).await;
            });
        }
    });
}

/// Reads what the relay says. What it said before the connection ended is read too: it tells why.
async fn read(mut reader: ReadHalf<MuxStream>, inbox: mpsc::Sender<RelayMessage>, scope: Scope) {
    let messages = async {
        while let Ok(message) = wire::read::<RelayMessage>(&mut reader).await {
            if inbox.send(message).await.is_err() {
                return;
            }
        }
    };
    let too_late = async {
        scope.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        biased;
        () = inbox.closed() => {}
        () = messages => {}
        () = too_late => {}
    }
}

/// How many data streams a connection carries, and since when it carries none.
#[derive(Debug)]
struct Carried(Mutex<(usize, Instant)>);

/// Counts one stream while it is held.
#[derive(Debug)]
struct Carrying(Arc<Carried>);

impl Default for Carried {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

impl Carried {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (change(state.0), Instant::now());
    }

    fn carry(self: &Arc<Self>) -> Carrying {
        self.change(|streams| streams + 1);
        Carrying(Arc::clone(self))
    }

    /// Returns for how long there has been no stream.
    fn rested(&self) -> Duration {
        let (streams, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if streams == 0 { since.elapsed() } else { Duration::ZERO }
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.change(|streams| streams - 1);
    }
}

/// The control conversation of a connection that serves. Dropping it ends the connection.
pub(super) struct Talk {
    /// What the relay says; ends with the connection.
    pub(super) messages: mpsc::Receiver<RelayMessage>,
    pub(super) scope: Scope,
    writer: WriteHalf<MuxStream>,
    activity: Activity,
    carried: Arc<Carried>,
    seq: u64,
}

impl Talk {
    /// Says something to the relay, bounded in time. Not cancel-safe.
    pub(super) async fn say(&mut self, message: &AgentMessage) -> Result<(), TunnelError> {
        match tokio::time::timeout(DEAD_AFTER, wire::write(&mut self.writer, message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(TunnelError::Lost("the relay closed it".to_owned())),
            Err(_) => Err(fell_silent()),
        }
    }

    /// Shows the relay that the agent lives, and looks whether the relay does. Not cancel-safe.
    pub(super) async fn ping(&mut self) -> Result<(), TunnelError> {
        if self.activity.silence() > DEAD_AFTER {
            return Err(fell_silent());
        }
        self.seq += 1;
        self.say(&AgentMessage::Ping(Beat { seq: self.seq })).await
    }

    /// Keeps the connection until it is gone, which gives `false`, or has carried nothing for `rest`.
    async fn keep(&mut self, rest: Duration) -> bool {
        let since = Instant::now();
        let mut pings = ping_ticks();
        loop {
            tokio::select! {
                message = self.messages.recv() => if message.is_none() { return false; },
                _ = pings.tick() => {
                    if self.carried.rested().min(since.elapsed()) >= rest {
                        return true;
                    }
                    if self.ping().await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// Keeps serving the streams of a connection that the relay wants to close, until it does, or
    /// until nothing is left here and on the `extra` connections beside it, or `grace` is over.
    pub(super) async fn linger(mut self, grace: Duration, extra: Arc<AtomicU8>) {
        let _ends_all = self.scope.guard();
        let keep =
            async { while self.keep(LINGER_REST).await && extra.load(Ordering::Relaxed) > 0 {} };
        let _over = tokio::time::timeout(grace.saturating_add(LINGER_MARGIN), keep).await;
    }

    /// Keeps a further connection of a session until it is gone, or leaves it at rest.
    pub(super) async fn keep_extra(mut self) {
        let _ends_all = self.scope.guard();
        if self.keep(EXTRA_REST).await {
            self.leave().await;
        }
    }

    /// Ends the control stream, upon which the relay opens no more streams here and closes the
    /// connection when those that came meanwhile are done.
    async fn leave(&mut self) {
        let ended = tokio::time::timeout(DEAD_AFTER, self.writer.shutdown()).await;
        let mut looks = ping_ticks();
        while matches!(ended, Ok(Ok(()))) && self.activity.silence() <= DEAD_AFTER {
            tokio::select! { () = self.scope.cancelled() => return, _ = looks.tick() => {} }
        }
    }
}

fn fell_silent() -> TunnelError {
    TunnelError::Lost("the relay fell silent".to_owned())
}

/// Ticks now and whenever a ping is due.
pub(super) fn ping_ticks() -> Interval {
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
