//! One session with a relay: the claim, the control conversation, and its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::control::{
    AgentMessage, Claim, Claimed, Decision, Refused, RelayMessage, Release, Unsupported, Update,
    Welcome,
};
use mcpm_shared::proto::{CLAIM_TIMEOUT, MAX_CONNECTIONS, Refusal, ShareMode};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::connection::{Connection, LAST_WORDS, Serving, Talk, ping_ticks};
use super::dial::Dialer;
use super::error::TunnelError;
use super::gate::Gate;
use super::renewal::Renewal;
use super::serve::Backend;
use super::sleep::SleepWatch;
use super::unix_now;

/// Which load a connection carries before another one is opened beside it: so many requests in
/// flight, or two bulk transfers.
const BUSY: usize = 512;
/// How long giving a share up may take to say.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of the claim; those of other requests come after it.
const CLAIM: u32 = 0;

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
    /// The relay wants us elsewhere: connect again now, streams go on here meanwhile, so long.
    GoAway(Duration),
    /// The machine slept: connect again now.
    Slept,
    /// As ordered.
    Released,
}

/// Why the conversation stops.
enum Stop {
    /// The session is over.
    Ended(Ended),
    /// The connection is gone; what the relay said last may tell more.
    Broken(TunnelError),
}

/// Everything a session needs, beside its connection.
pub(super) struct Session<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) agent: &'a str,
    pub(super) backend: &'a Arc<Backend>,
    pub(super) gate: &'a Arc<Gate>,
    pub(super) wanted: &'a Wanted,
    pub(super) max_connections: u8,
}

/// Where a running session stands.
struct Running<U> {
    /// Hears of every `claimed`.
    up: U,
    /// Tells the data streams which share they are for.
    share: watch::Sender<Option<(u32, u64)>>,
    claimed: Option<Claimed>,
    /// Until when the claim must be answered.
    answer_by: Option<Instant>,
    /// The policy that the relay was told.
    told: Arc<AccessPolicy>,
    next_request: u32,
    renewal: Option<Renewal>,
    renew_at: Option<Instant>,
    extra: Arc<AtomicU8>,
}

/// Counts one further connection while it is held.
struct Extra(Arc<AtomicU8>);

impl Drop for Extra {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session<'_> {
    /// Claims the name and serves until the session ends. `up` hears of every `claimed`. The
    /// connections end with the session, except when the relay sends us elsewhere.
    pub(super) async fn run(
        &self,
        connection: Connection,
        ticket: Option<String>,
        orders: &mut mpsc::Receiver<Order>,
        up: impl FnMut(&Claimed),
    ) -> Ended {
        let (share, served) = watch::channel(None);
        let (backend, gate) = (Arc::clone(self.backend), Arc::clone(self.gate));
        let serving = Serving { backend, gate, share: served };
        let welcome = connection.welcome.clone();
        let mut talk = connection.start(serving.clone());
        let mut running = Running {
            up,
            share,
            claimed: None,
            answer_by: Some(Instant::now() + CLAIM_TIMEOUT),
            told: self.gate.policy(),
            next_request: CLAIM + 1,
            renewal: None,
            renew_at: None,
            extra: Arc::default(),
        };
        let claim = AgentMessage::Claim(Claim {
            request: CLAIM,
            name: self.wanted.name.clone(),
            mode: self.wanted.mode,
            access: (*running.told).clone(),
            ticket,
            expires_in_secs: self.wanted.expires_at.map(|at| at.saturating_sub(unix_now())),
        });
        let stop = match talk.say(&claim).await {
            Ok(()) => self.converse(&mut talk, &mut running, orders, (&welcome, &serving)).await,
            Err(error) => Stop::Broken(error),
        };
        let ended = match stop {
            Stop::Ended(ended) => ended,
            Stop::Broken(error) => self.last_words(&mut talk, &mut running, error).await,
        };
        let scope = talk.scope.clone();
        match ended {
            Ended::GoAway(grace) => scope.spawn_until_cancelled(talk.linger(grace, running.extra)),
            Ended::Lost(_) | Ended::Slept | Ended::Released => scope.cancel(),
        }
        ended
    }

    async fn converse<U: FnMut(&Claimed)>(
        &self,
        talk: &mut Talk,
        running: &mut Running<U>,
        orders: &mut mpsc::Receiver<Order>,
        (welcome, serving): (&Welcome, &Serving),
    ) -> Stop {
        let closed = || Stop::Broken(TunnelError::Lost("the relay closed it".to_owned()));
        let mut pings = ping_ticks();
        let mut slept = SleepWatch::new();
        loop {
            // Every branch is cancel-safe; what is written is written outside of the select. Messages
            // come first: the last one tells why the connection closes behind it.
            let next = tokio::select! {
                biased;
                message = talk.messages.recv() => match message {
                    Some(message) => self.on_message(message, running),
                    None => Err(closed()),
                },
                () = talk.scope.cancelled() => Err(closed()),
                order = orders.recv() => match order {
                    Some(Order::Access) => Ok(running.tell(self.gate.policy())),
                    Some(Order::Release) | None => {
                        running.release(talk).await;
                        Err(Stop::Ended(Ended::Released))
                    }
                },
                () = slept.woke() => Err(Stop::Ended(Ended::Slept)),
                _ = pings.tick() => talk.ping().await.map(|()| None).map_err(Stop::Broken),
                () = until(running.answer_by) => {
                    let relay = self.dialer.relay.origin();
                    Err(Stop::Ended(Ended::Lost(TunnelError::Timeout { relay })))
                }
                () = until(running.renew_at) => Ok(running.renew(unix_now())),
                () = self.gate.busy() => Ok(None),
            };
            let said = match next {
                Ok(Some(message)) => talk.say(&message).await.map_err(Stop::Broken),
                Ok(None) => Ok(()),
                Err(stop) => Err(stop),
            };
            if let Err(stop) = said {
                return stop;
            }
            self.widen(talk, welcome, serving, &running.extra);
        }
    }

    /// Reads what the relay said before the connection broke: it may tell why.
    async fn last_words<U: FnMut(&Claimed)>(
        &self,
        talk: &mut Talk,
        running: &mut Running<U>,
        error: TunnelError,
    ) -> Ended {
        let words = async {
            while let Some(message) = talk.messages.recv().await {
                if let Err(Stop::Ended(ended)) = self.on_message(message, running) {
                    return Some(ended);
                }
            }
            None
        };
        let said = tokio::time::timeout(LAST_WORDS, words).await;
        said.ok().flatten().unwrap_or(Ended::Lost(error))
    }

    /// Opens one more connection when those that are open are busy.
    fn widen(&self, talk: &Talk, welcome: &Welcome, serving: &Serving, extra: &Arc<AtomicU8>) {
        let limit = self.max_connections.min(welcome.limits.connections).min(MAX_CONNECTIONS);
        let open = extra.load(Ordering::Relaxed) + 1;
        if open >= limit {
            return self.gate.tell_at(usize::MAX);
        }
        self.gate.tell_at(BUSY * usize::from(open));
        if self.gate.load() < BUSY * usize::from(open) {
            return;
        }
        self.gate.tell_at(BUSY * usize::from(open + 1));
        extra.fetch_add(1, Ordering::Relaxed);
        let counted = Extra(Arc::clone(extra));
        let (dialer, agent) = (self.dialer.clone(), self.agent.to_owned());
        let (session, scope, serving) =
            (welcome.session.clone(), talk.scope.child(), serving.clone());
        talk.scope.spawn_until_cancelled(async move {
            let _counted = counted;
            match Connection::open(&dialer, &agent, Some(session), scope).await {
                Ok(connection) => connection.start(serving).keep_extra().await,
                Err(error) => tracing::debug!(%error, "no further connection"),
            }
        });
    }

    fn on_message<U: FnMut(&Claimed)>(
        &self,
        message: RelayMessage,
        running: &mut Running<U>,
    ) -> Result<Option<AgentMessage>, Stop> {
        let refused = |refusal: Refusal| {
            let (relay, refusal) = (self.dialer.relay.origin(), Box::new(refusal));
            Stop::Ended(Ended::Lost(TunnelError::Refused { relay, refusal }))
        };
        match message {
            RelayMessage::Claimed(claimed) => {
                running.claimed(claimed, self.wanted.expires_at);
                // It may have changed while the claim was on its way.
                Ok(running.tell(self.gate.policy()))
            }
            RelayMessage::Refused(answer) if answer.request == CLAIM => {
                Err(refused(answer.refusal))
            }
            RelayMessage::Refused(answer) => {
                tracing::warn!(code = %answer.refusal.code, "the relay refused a change");
                running.refused(&answer, unix_now());
                Ok(None)
            }
            RelayMessage::Revoked(revoked)
                if running.claimed.as_ref().is_some_and(|c| c.share == revoked.share) =>
            {
                Err(refused(revoked.refusal))
            }
            RelayMessage::GoAway(go) => {
                Err(Stop::Ended(Ended::GoAway(Duration::from_millis(go.grace_ms))))
            }
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
}

impl<U: FnMut(&Claimed)> Running<U> {
    fn claimed(&mut self, claimed: Claimed, wanted: Option<u64>) {
        self.answer_by = None;
        self.share.send_replace(Some((claimed.share, claimed.generation)));
        let now = unix_now();
        self.renewal = claimed.expires_at.and_then(|ends| Renewal::plan(ends, wanted, now));
        self.renew_in(self.renewal.as_ref().and_then(|renewal| renewal.wait(now)));
        (self.up)(&claimed);
        self.claimed = Some(claimed);
    }

    /// Makes the message that tells the relay of `policy`, unless it has that or no share yet.
    fn tell(&mut self, policy: Arc<AccessPolicy>) -> Option<AgentMessage> {
        let share = self.claimed.as_ref()?.share;
        if *policy == *self.told {
            return None;
        }
        self.told = Arc::clone(&policy);
        let (request, access) = (self.request(), Some((*policy).clone()));
        Some(AgentMessage::Update(Update { request, share, access, expires_in_secs: None }))
    }

    /// Makes the message that asks for more time.
    fn renew(&mut self, now: u64) -> Option<AgentMessage> {
        self.renew_at = None;
        let share = self.claimed.as_ref()?.share;
        let request = self.request();
        let renewal = self.renewal.as_mut()?;
        let expires_in_secs = Some(renewal.ask(request, now));
        let wait = renewal.wait(now);
        self.renew_in(wait);
        Some(AgentMessage::Update(Update { request, share, access: None, expires_in_secs }))
    }

    fn refused(&mut self, answer: &Refused, now: u64) {
        let after = answer.refusal.retry_after_secs;
        let renewal = self.renewal.as_mut();
        if let Some(wait) = renewal.and_then(|r| r.refused(answer.request, after, now)) {
            self.renew_in(Some(wait));
        }
    }

    fn renew_in(&mut self, wait: Option<Duration>) {
        self.renew_at = wait.map(|wait| Instant::now() + wait);
    }

    /// Tells the relay that the share is given up, if it can be told soon.
    async fn release(&mut self, talk: &mut Talk) {
        let Some(Claimed { share, .. }) = self.claimed.take() else { return };
        let release = AgentMessage::Release(Release { request: self.request(), share });
        let _told = tokio::time::timeout(RELEASE_TIMEOUT, talk.say(&release)).await;
    }

    fn request(&mut self) -> u32 {
        let request = self.next_request;
        self.next_request += 1;
        request
    }
}

/// Waits until `at`; for ever without it.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
