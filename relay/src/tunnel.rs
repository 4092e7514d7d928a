//! Agents: the handshake of a tunnel connection, and what is driven while it lives.
//!
//! Refusals are plain HTTP answers before the upgrade, so that an agent can tell a wrong secret from
//! a bad network (`handshake`). After it a connection is three tasks: the mux, the control reader and the control
//! writer; when one ends, all end.

pub mod control;
pub mod debts;
mod handshake;
pub mod lane;
pub mod owners;
pub mod refusals;
pub mod rules;
pub mod session;
mod sessions;
mod settings;
pub mod share;
pub mod table;
pub mod visitor_body;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mcpm_shared::ahead::{Ahead, SMALL};
use mcpm_shared::mux::{self, Activity, Incoming as Streams, MuxStream, Opener, Side};
use mcpm_shared::proto::control::{self as wire, AgentMessage, Hello, RelayMessage, Welcome};
use mcpm_shared::proto::{
    DEAD_AFTER, HANDSHAKE_TIMEOUT, MAX_CONNECTIONS, MAX_STREAMS, PROTOCOL_VERSION,
};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use self::debts::Debts;
use self::owners::Owners;
use self::refusals::Refusals;
use self::rules::Rules;
use self::session::{Outbox, Session};
use self::sessions::Sessions;
use self::share::rate_address;
use self::table::Table;
use crate::admission::{Admission, Admitted, unix_now};
use crate::config::Live;
use crate::keys::RelayKey;
use crate::metrics::{Metrics, Tracked};
use crate::quota::Keyed;
use crate::store::{NodeRecord, Store};

/// How many control messages may wait for an agent that reads slowly.
const CONTROL_QUEUE: usize = 256;

/// How long a session may share nothing.
const CLAIM_PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection that ends may take to say what was still to be said.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often a connection that the agent leaves is looked at. Whoever chose it just before counts
/// itself within this time.
const LEAVING: Duration = Duration::from_millis(500);

/// What the parts of a relay share about its agents.
#[derive(Debug)]
pub struct Tunnels {
    /// The settings.
    pub config: Live,
    /// Who may have a session.
    pub admission: Arc<Admission>,
    /// Leases.
    pub store: Arc<dyn Store>,
    /// What the store is still to be told.
    pub debts: Debts,
    /// Agents that were turned away, for the audit trail.
    pub refusals: Refusals,
    /// All nodes of this relay, as they were at the last beat; empty where there is one alone.
    pub nodes: ArcSwap<Vec<NodeRecord>>,
    /// Operators' rules over names.
    pub rules: Arc<Rules>,
    /// What owners may do and use.
    pub owners: Arc<Owners>,
    /// Live shares.
    pub table: Arc<Table>,
    /// Signs resume tickets.
    pub key: RelayKey,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where the public listener listens.
    pub bound: SocketAddr,
    /// The origins an assertion may be meant for.
    pub audiences: Vec<String>,
    sessions: Mutex<Sessions>,
    handshakes: Keyed<IpAddr>,
    claims: ClaimRates,
    scope: Scope,
}

/// How often names may be claimed.
#[derive(Debug)]
struct ClaimRates {
    by_key: Keyed<String>,
    by_address: Keyed<IpAddr>,
}

/// What the parts of a relay hand to [`Tunnels::new`].
#[derive(Debug)]
pub struct TunnelParts {
    /// The settings.
    pub config: Live,
    /// Who may have a session.
    pub admission: Arc<Admission>,
    /// Leases.
    pub store: Arc<dyn Store>,
    /// Live shares.
    pub table: Arc<Table>,
    /// Operators' rules over names.
    pub rules: Arc<Rules>,
    /// What owners may do and use.
    pub owners: Arc<Owners>,
    /// Signs resume tickets.
    pub key: RelayKey,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where the public listener listens.
    pub bound: SocketAddr,
    /// Where the extra tunnel listener listens.
    pub tunnel_bound: Option<SocketAddr>,
}

/// One upgraded connection, on its way to a session.
struct Connected {
    opener: Opener,
    reader: ReadHalf<MuxStream>,
    streams: Streams,
    outbox: Outbox,
    activity: Activity,
    scope: Scope,
    peer: IpAddr,
}

impl Tunnels {
    /// Makes the meeting place of agents.
    #[must_use]
    pub fn new(parts: TunnelParts, scope: Scope) -> Self {
        let TunnelParts { config, admission, store, table, rules, owners, .. } = parts;
        let TunnelParts { key, metrics, bound, tunnel_bound, .. } = parts;
        let now = config.load_full();
        let limits = &now.limits;
        Self {
            audiences: now.audiences(bound, tunnel_bound),
            handshakes: Keyed::per_minute(limits.handshakes_per_minute),
            claims: ClaimRates {
                by_key: Keyed::per_minute(limits.claims_per_minute_per_key),
                by_address: Keyed::per_minute(limits.claims_per_minute_per_address),
            },
            sessions: Mutex::default(),
            debts: Debts::default(),
            refusals: Refusals::default(),
            nodes: ArcSwap::default(),
            rules,
            owners,
            config,
            admission,
            store,
            table,
            key,
            metrics,
            bound,
            scope,
        }
    }

    /// Returns the sessions that are up.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.locked().all().cloned().collect()
    }

    /// Forgets addresses at rest; called by the janitor.
    pub fn tidy(&self) {
        let _full =
            self.handshakes.sweep() | self.claims.by_key.sweep() | self.claims.by_address.sweep();
        self.owners.tidy(unix_now());
        self.note_refusals(unix_now());
    }

    /// Drives one connection from its upgrade to its end.
    async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: Arc<Self>,
        io: S,
        admitted: Admitted,
        peer: IpAddr,
    ) {
        let _counted = Tracked::new(&self.metrics.connections);
        let scope = self.scope.child();
        let _ends_all = scope.guard();
        // Most agents rest at any moment: each has a small buffer, and only one that says much reads
        // into a large one.
        let config = mux::websocket_config().read_buffer_size(SMALL);
        let socket =
            WebSocketStream::from_raw_socket(Ahead::new(io), Role::Server, Some(config)).await;
        let activity = Activity::default();
        let (opener, mut streams, driver) =
            mux::connect(socket, Side::Relay, activity.clone(), scope.token().clone());
        scope.spawn_essential(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection failed");
            }
        });
        let Ok(Some(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, streams.recv()).await else {
            return tracing::debug!("agent opened no control stream");
        };
        let (mut reader, writer) = tokio::io::split(stream);
        let hello = tokio::time::timeout(HANDSHAKE_TIMEOUT, wire::read(&mut reader)).await;
        let Ok(Ok(AgentMessage::Hello(hello))) = hello else {
            return tracing::debug!("agent said no hello");
        };
        let (outbox, messages) = mpsc::channel(CONTROL_QUEUE);
        let speaking = scope.token().child_token();
        scope.spawn_essential(write_control(writer, messages, speaking.clone()));
        let ended = scope.clone();
        let connected = Connected { opener, reader, streams, outbox, activity, scope, peer };
        self.join(connected, hello, admitted).await;
        // What is still to be said tells the agent why; the writer's end is the connection's.
        speaking.cancel();
        let _in_time = tokio::time::timeout(FAREWELL, ended.cancelled()).await;
    }

    /// Makes the connection part of its session, or its session's first.
    async fn join(self: Arc<Self>, connected: Connected, hello: Hello, admitted: Admitted) {
        let existing = hello.session.as_ref().and_then(|id| self.locked().get(id).cloned());
        // A session belongs to a key: knowing its id is not enough.
        let existing = existing.filter(|session| session.admitted.subject == admitted.subject);
        if hello.session.is_some() && existing.is_none() {
            return tracing::debug!("agent named a session that is not its own or has ended");
        }
        let primary = existing.is_none();
        let Some(session) = existing.or_else(|| self.open_session(&connected, admitted)) else {
            return tracing::debug!("there is no room any more since the handshake");
        };
        let mut joined = Joined { tunnels: &self, session: &session, slot: None, primary };
        joined.slot = session.add_connection(connected.opener.clone());
        if joined.slot.is_none() {
            return tracing::debug!(session.id = %session.id, "too many connections");
        }
        if primary {
            tracing::info!(agent.id = %session.admitted.subject, "agent connected");
        }
        let welcome = RelayMessage::Welcome(self.welcome(&session));
        if connected.outbox.send(Box::new(welcome)).await.is_ok() {
            self.converse(connected, &mut joined).await;
        }
    }

    /// Opens a session; `None` when there are as many as allowed. The handshake has looked, but many
    /// may be on their way from there to here.
    fn open_session(&self, connected: &Connected, admitted: Admitted) -> Option<Arc<Session>> {
        let id = Token::generate().expose().to_owned();
        let session = Session::new(
            id,
            admitted,
            rate_address(connected.peer),
            connected.outbox.clone(),
            self.scope.child(),
        );
        let session = Arc::new(session);
        let mut sessions = self.locked();
        self.check_room(&sessions, &session.admitted, session.peer).ok()?;
        sessions.insert(Arc::clone(&session));
        self.metrics.sessions.inc();
        Some(session)
    }

    fn close_session(&self, session: &Arc<Session>) {
        session.scope.cancel();
        self.locked().remove(&session.id);
        self.metrics.sessions.dec();
        for share in session.take_shares() {
            self.table.away(&share, true);
        }
        tracing::info!(agent.id = %session.admitted.subject, "agent gone");
    }

    fn welcome(&self, session: &Session) -> Welcome {
        let config = self.config.load();
        let limits = &config.limits;
        let mut capabilities = Vec::new();
        if config.http_mode {
            capabilities.push("http".to_owned());
        }
        Welcome {
            version: PROTOCOL_VERSION,
            relay: concat!("mcpm-relay/", env!("CARGO_PKG_VERSION")).to_owned(),
            node: config.node.clone(),
            session: session.id.clone(),
            limits: wire::Limits {
                connections: MAX_CONNECTIONS,
                streams: u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX),
                shares: session.admitted.max_shares.unwrap_or(limits.max_shares_per_owner),
                body_bytes: limits.max_body_bytes,
            },
            capabilities,
        }
    }

    /// Reads what the agent says until it says no more for too long. What it asks for is done to its
    /// end, whatever becomes of the connection meanwhile. Streams that an agent opens beside its
    /// control stream are against the protocol, and reset.
    async fn converse(&self, connected: Connected, joined: &mut Joined<'_>) {
        let Connected { opener, mut reader, mut streams, outbox, activity, scope, peer } =
            connected;
        let (session, primary) = (joined.session, joined.primary);
        let mut speaker = control::Speaker { tunnels: self, session, peer, outbox, primary };
        let refuse = async {
            while let Some(stream) = streams.recv().await {
                drop(stream);
            }
            std::future::pending::<()>().await;
        };
        let stop = async {
            tokio::select! {
                () = refuse => {}
                () = silence(&activity) => tracing::debug!("agent fell silent"),
                () = shares_nothing(session), if primary => {
                    tracing::debug!("agent shares nothing");
                }
                () = session.scope.cancelled() => {}
                () = scope.cancelled() => {}
            }
        };
        tokio::pin!(stop);
        loop {
            let message = tokio::select! {
                biased;
                message = wire::read::<AgentMessage>(&mut reader) => message,
                () = &mut stop => return,
            };
            match message {
                // Boxed: a session says little, and should not keep room for what it may say.
                Ok(message) => Box::pin(speaker.handle(message)).await,
                Err(error) => {
                    tracing::debug!(%error, "control stream ended");
                    break;
                }
            }
        }
        // The agent wants a further connection no more: what is in flight there may end.
        if !primary {
            joined.leave();
            tokio::select! { () = quiet(&opener) => {}, () = &mut stop => {} }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's part in a session. Dropping it takes the connection out, and ends the session with
/// its first one, whatever the reason.
struct Joined<'a> {
    tunnels: &'a Tunnels,
    session: &'a Arc<Session>,
    slot: Option<usize>,
    primary: bool,
}

impl Joined<'_> {
    /// Takes the connection out, so that nothing new goes there.
    fn leave(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.session.remove_connection(slot);
        }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.leave();
        if self.primary {
            self.tunnels.close_session(self.session);
        }
    }
}

/// Waits until a session has shared nothing for [`CLAIM_PATIENCE`]: it only takes room.
async fn shares_nothing(session: &Session) {
    loop {
        tokio::time::sleep(CLAIM_PATIENCE).await;
        if !session.has_shares() {
            return;
        }
    }
}

/// Waits until nothing came for [`DEAD_AFTER`].
async fn silence(activity: &Activity) {
    loop {
        match DEAD_AFTER.checked_sub(activity.silence()) {
            Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
            _ => return,
        }
    }
}

/// Waits until nothing is in flight on a connection to which nothing new goes.
async fn quiet(opener: &Opener) {
    loop {
        tokio::time::sleep(LEAVING).await;
        if opener.in_flight() == 0 {
            return;
        }
    }
}

/// Writes messages until `speaking` is cancelled, and then those that wait already.
async fn write_control(
    mut writer: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<Box<RelayMessage>>,
    speaking: CancellationToken,
) {
    loop {
        let message = match speaking.run_until_cancelled(messages.recv()).await {
            Some(message) => message,
            None => messages.try_recv().ok(),
        };
        let Some(message) = message else { return };
        let written = tokio::time::timeout(DEAD_AFTER, wire::write(&mut writer, &*message)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
