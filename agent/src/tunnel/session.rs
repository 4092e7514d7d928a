//! One session with a relay: its connections, the control conversation, its data streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mcpm_shared::mux::{self, Activity, Incoming as Streams, MuxStream, Side};
use mcpm_shared::proto::control::{
    self as wire, AgentMessage, Beat, Claim, Claimed, Decision, Hello, RelayMessage, Release,
    Unsupported, Update, Welcome,
};
use mcpm_shared::proto::{
    DEAD_AFTER, HANDSHAKE_TIMEOUT, MAX_CONNECTIONS, PING_INTERVAL, PROTOCOL_VERSION, Refusal,
    ShareMode,
};
use mcpm_shared::scope::Scope;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::dial::Dialer;
use super::error::TunnelError;
use super::gate::Gate;
use super::serve::{self, Backend};
use super::sleep::SleepWatch;

/// How many requests in flight a connection carries before another one is opened beside it.
const BUSY: usize = 64;

/// One connection that has said hello.
pub(super) struct Connection {
    reader: ReadHalf<MuxStream>,
    writer: WriteHalf<MuxStream>,
    streams: Streams,
    activity: Activity,
    /// Ends the connection's tasks when it is cancelled.
    pub(super) scope: Scope,
    pub(super) welcome: Welcome,
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
        let upgraded = dialer.dial(&scope).await?;
        let socket = WebSocketStream::from_raw_socket(
            hyper_util::rt::TokioIo::new(upgraded),
            Role::Client,
            Some(mux::websocket_config()),
        )
        .await;
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
        let answer = tokio::time::timeout(HANDSHAKE_TIMEOUT, wire::read(&mut reader)).await;
        let welcome = match answer {
            Ok(Ok(RelayMessage::Welcome(welcome))) => welcome,
            Ok(Ok(_)) => return Err(TunnelError::Lost("the relay did not say welcome".to_owned())),
            Ok(Err(error)) => return Err(lost(&error)),
            Err(_) => return Err(TunnelError::Timeout { relay: dialer.relay.origin() }),
        };
        guard.disarm();
        Ok(Self { reader, writer, streams, activity, scope, welcome })
    }
}

/// What a session shall share.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) name: mcpm_shared::name::Name,
    pub(super) mode: ShareMode,
    /// The life the user asked for, from the first claim on.
    pub(super) expires_at: Option<u64>,
}

/// What the tunnel asks of a running session.
#[derive(Debug)]
pub(super) enum Order {
    /// Tell the relay of a changed policy.
    Access,
    /// Give the share up and end.
    Release,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By the relay's or the network's fault: connect again.
    Lost(TunnelError),
    /// The relay wants us elsewhere: connect again now, streams go on here meanwhile.
    GoAway,
    /// The machine slept: connect again now.
    Slept,
    /// As ordered.
    Released,
}

/// Everything a session needs, beside its connection.
pub(super) struct Session<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) agent: &'a str,
    pub(super) backend: &'a Arc<Backend>,
    pub(super) gate: &'a Arc<Gate>,
    pub(super) wanted: &'a Wanted,
    pub(super) max_connections: u8,
    pub(super) scope: &'a Scope,
}

/// Where a running session stands.
struct Running {
    claimed: Option<Claimed>,
    next_request: u32,
    seq: u64,
    renew_at: Option<tokio::time::Instant>,
    extra: Arc<AtomicU8>,
}

impl Session<'_> {
    /// Claims the name and serves until the session ends. `up` hears of every `claimed`.
    pub(super) async fn run(
        &self,
        connection: Connection,
        ticket: Option<String>,
        orders: &mut mpsc::Receiver<Order>,
        mut up: impl FnMut(&Claimed),
    ) -> Ended {
        let Connection { mut reader, mut writer, streams, activity, scope, welcome } = connection;
        let (serving, served) = watch::channel(None);
        self.accept(streams, &scope, served.clone());
        let (inbox, mut messages) = mpsc::channel(16);
        let stop = scope.clone();
        scope.spawn_essential(async move {
            let read = async {
                while let Ok(message) = wire::read::<RelayMessage>(&mut reader).await {
                    if inbox.send(message).await.is_err() {
                        return;
                    }
                }
            };
            stop.token().run_until_cancelled(read).await;
        });
        let mut running = Running {
            claimed: None,
            next_request: 1,
            seq: 0,
            renew_at: None,
            extra: Arc::default(),
        };
        let claim = AgentMessage::Claim(Claim {
            request: 0,
            name: self.wanted.name.clone(),
            mode: self.wanted.mode,
            access: (*self.gate.policy()).clone(),
            ticket,
            expires_in_secs: self.wanted.expires_at.map(|at| at.saturating_sub(super::unix_now())),
        });
        let lost = |what: &str| Ended::Lost(TunnelError::Lost(what.to_owned()));
        if wire::write(&mut writer, &claim).await.is_err() {
            return lost("the relay closed it");
        }
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut slept = SleepWatch::new();
        // Every branch is cancel-safe; what is written is written outside of the select.
        loop {
            let say = tokio::select! {
                message = messages.recv() => match message {
                    None => return lost("the relay closed it"),
                    Some(message) => {
                        match self.on_message(message, &mut running, &serving, &mut up) {
                            Ok(answer) => answer,
                            Err(ended) => {
                                if matches!(ended, Ended::GoAway) {
                                    self.linger(scope);
                                }
                                return ended;
                            }
                        }
                    }
                },
                order = orders.recv() => match order {
                    Some(Order::Access) => running.update(Some((*self.gate.policy()).clone()), None),
                    Some(Order::Release) | None => {
                        if let Some(message) = running.release() {
                            let _told = tokio::time::timeout(
                                Duration::from_secs(2), wire::write(&mut writer, &message)).await;
                        }
                        scope.cancel();
                        return Ended::Released;
                    }
                },
                _ = pings.tick() => {
                    if activity.silence() > DEAD_AFTER {
                        return lost("the relay fell silent");
                    }
                    running.seq += 1;
                    Some(AgentMessage::Ping(Beat { seq: running.seq }))
                }
                () = slept.woke() => return Ended::Slept,
                () = self.gate.busy() => None,
                () = until(running.renew_at), if running.renew_at.is_some() => running.renew(),
                () = scope.cancelled() => return lost("the relay closed it"),
            };
            if let Some(message) = say
                && wire::write(&mut writer, &message).await.is_err()
            {
                return lost("the relay closed it");
            }
            self.widen(&welcome, &mut running, &scope, &served);
        }
    }

    /// Serves the data streams of a connection as they come.
    fn accept(&self, mut streams: Streams, scope: &Scope, served: serve::Served) {
        let (backend, gate, tasks) =
            (Arc::clone(self.backend), Arc::clone(self.gate), scope.clone());
        let stop = scope.clone();
        scope.spawn_essential(async move {
            while let Some(Some(stream)) = stop.token().run_until_cancelled(streams.recv()).await {
                let (backend, gate, served) =
                    (Arc::clone(&backend), Arc::clone(&gate), served.clone());
                tasks.spawn_until_cancelled(serve::stream(stream, backend, gate, served));
            }
        });
    }

    /// Opens one more connection when those that are open are busy.
    fn widen(
        &self,
        welcome: &Welcome,
        running: &mut Running,
        scope: &Scope,
        served: &serve::Served,
    ) {
        let limit = self.max_connections.min(welcome.limits.connections).min(MAX_CONNECTIONS);
        let open = running.extra.load(Ordering::Relaxed) + 1;
        if open >= limit {
            return self.gate.tell_at(usize::MAX);
        }
        self.gate.tell_at(BUSY * usize::from(open));
        if self.gate.stats().active < BUSY * usize::from(open) {
            return;
        }
        self.gate.tell_at(BUSY * usize::from(open + 1));
        running.extra.fetch_add(1, Ordering::Relaxed);
        let extra = Arc::clone(&running.extra);
        let (dialer, agent) = (self.dialer.clone(), self.agent.to_owned());
        let (backend, gate) = (Arc::clone(self.backend), Arc::clone(self.gate));
        let (session, scope, served) = (welcome.session.clone(), scope.child(), served.clone());
        let tasks = scope.clone();
        tasks.spawn_until_cancelled(async move {
            match Connection::open(&dialer, &agent, Some(session), scope.child()).await {
                Ok(connection) => keep_extra(connection, &backend, &gate, &served).await,
                Err(error) => tracing::debug!(%error, "no further connection"),
            }
            extra.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn on_message(
        &self,
        message: RelayMessage,
        running: &mut Running,
        serving: &watch::Sender<Option<(u32, u64)>>,
        up: &mut impl FnMut(&Claimed),
    ) -> Result<Option<AgentMessage>, Ended> {
        let refused = |refusal: Refusal| {
            let refusal = Box::new(refusal);
            Ended::Lost(TunnelError::Refused { relay: self.dialer.relay.origin(), refusal })
        };
        match message {
            RelayMessage::Claimed(claimed) => {
                serving.send_replace(Some((claimed.share, claimed.generation)));
                running.plan_renewal(&claimed, self.wanted.expires_at);
                up(&claimed);
                running.claimed = Some(claimed);
                Ok(None)
            }
            RelayMessage::Refused(answer) if answer.request == 0 => Err(refused(answer.refusal)),
            RelayMessage::Refused(answer) => {
                tracing::warn!(code = %answer.refusal.code, "the relay refused a change");
                Ok(None)
            }
            RelayMessage::Revoked(revoked)
                if running.claimed.as_ref().is_some_and(|c| c.share == revoked.share) =>
            {
                Err(refused(revoked.refusal))
            }
            RelayMessage::GoAway(_) => Err(Ended::GoAway),
            RelayMessage::Notice(notice) => {
                tracing::warn!(message = notice.message, "the relay says");
                Ok(None)
            }
            RelayMessage::DecisionRequest(ask) => Ok(Some(AgentMessage::Decision(Decision {
                request: ask.request,
                allow: false,
                reason: Some("this version of mcpm cannot decide over that".to_owned()),
            }))),
            RelayMessage::Unknown => {
                Ok(Some(AgentMessage::Unsupported(Unsupported { message_type: None })))
            }
            _ => Ok(None),
        }
    }

    /// Keeps serving the streams of a connection that the relay will close by itself.
    fn linger(&self, scope: Scope) {
        let stop = self.scope.clone();
        self.scope.spawn(async move {
            tokio::select! { () = scope.cancelled() => {}, () = stop.cancelled() => {} }
            scope.cancel();
        });
    }
}

impl Running {
    fn update(
        &mut self,
        access: Option<mcpm_shared::access::AccessPolicy>,
        expires_in_secs: Option<u64>,
    ) -> Option<AgentMessage> {
        let share = self.claimed.as_ref()?.share;
        let request = self.next_request;
        self.next_request += 1;
        Some(AgentMessage::Update(Update { request, share, access, expires_in_secs }))
    }

    fn release(&mut self) -> Option<AgentMessage> {
        let share = self.claimed.take()?.share;
        let request = self.next_request;
        self.next_request += 1;
        Some(AgentMessage::Release(Release { request, share }))
    }

    /// Plans to renew a share that ends because the relay says so, not because the user did.
    fn plan_renewal(&mut self, claimed: &Claimed, wanted: Option<u64>) {
        let Some(end) = claimed.expires_at.filter(|_| wanted.is_none()) else { return };
        let half = Duration::from_secs(end.saturating_sub(super::unix_now()) / 2);
        self.renew_at = Some(tokio::time::Instant::now() + half.max(Duration::from_secs(1)));
    }

    fn renew(&mut self) -> Option<AgentMessage> {
        let expires_at = self.claimed.as_ref()?.expires_at?;
        let life = expires_at.saturating_sub(super::unix_now()).saturating_mul(2).max(2);
        self.renew_at = Some(tokio::time::Instant::now() + Duration::from_secs(life / 2));
        if let Some(claimed) = &mut self.claimed {
            claimed.expires_at = Some(super::unix_now() + life);
        }
        self.update(None, Some(life))
    }
}

/// Keeps a further connection of a session alive: streams and pings.
async fn keep_extra(
    connection: Connection,
    backend: &Arc<Backend>,
    gate: &Arc<Gate>,
    served: &serve::Served,
) {
    let Connection { mut reader, mut writer, mut streams, activity, scope, .. } = connection;
    let _ends_all = scope.guard();
    let read = async { while wire::read::<RelayMessage>(&mut reader).await.is_ok() {} };
    let beat = async {
        let mut pings = tokio::time::interval(PING_INTERVAL);
        for seq in 0.. {
            pings.tick().await;
            let ping = AgentMessage::Ping(Beat { seq });
            if activity.silence() > DEAD_AFTER || wire::write(&mut writer, &ping).await.is_err() {
                return;
            }
        }
    };
    let accept = async {
        while let Some(stream) = streams.recv().await {
            let (backend, gate, served) = (Arc::clone(backend), Arc::clone(gate), served.clone());
            scope.spawn_until_cancelled(serve::stream(stream, backend, gate, served));
        }
    };
    tokio::select! { () = read => {}, () = beat => {}, () = accept => {} }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
