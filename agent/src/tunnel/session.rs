//! One session with a relay: the control conversation about its shares, and its connections.

mod claims;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mcpm_shared::proto::control::{AgentMessage, Decision, RelayMessage, Unsupported, Welcome};
use mcpm_shared::proto::{MAX_CONNECTIONS, code};
use tokio::time::Instant;

pub(super) use self::claims::MAX_REST;
use self::claims::{Claims, Verdict};
use super::connection::{Connection, LAST_WORDS, Talk, ping_ticks};
use super::dial::Dialer;
use super::error::TunnelError;
use super::share::Roster;
use super::sleep::SleepWatch;
use super::table::Table;

/// Which load a connection carries before another one is opened beside it: so many requests in
/// flight, or two bulk transfers.
const BUSY: usize = 512;
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
    pub(super) roster: &'a Roster,
    pub(super) max_connections: u8,
    /// Whether an earlier session was good.
    pub(super) was_up: bool,
}

/// What further connections of a session need, and how many there are.
struct Beside {
    welcome: Welcome,
    table: Arc<Table>,
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
    /// Claims the shares on the roster, those that come later too, and serves until the session ends.
    /// Returns since when one of them was up. The connections end with the session, except when the
    /// relay sends us elsewhere.
    pub(super) async fn run(&self, connection: Connection) -> (Ended, Option<Instant>) {
        let table = Arc::new(Table::default());
        let welcome = connection.welcome.clone();
        let mut talk = connection.start(Arc::clone(&table));
        let extra = Arc::default();
        let mut claims = Claims::new(self.roster, Arc::clone(&table), &self.dialer.relay.origin());
        let beside = Beside { welcome, table, extra };
        let ended = match self.converse(&mut talk, &mut claims, &beside).await {
            Stop::Ended(ended) => ended,
            Stop::Broken(error) => self.last_words(&mut talk, &mut claims, error).await,
        };
        let scope = talk.scope.clone();
        match ended {
            Ended::GoAway(grace) => scope.spawn_until_cancelled(talk.linger(grace, beside.extra)),
            Ended::Lost(_) | Ended::Slept | Ended::Released => scope.cancel(),
        }
        (ended, claims.up_since())
    }

    async fn converse(&self, talk: &mut Talk, claims: &mut Claims<'_>, beside: &Beside) -> Stop {
        let closed = || Stop::Broken(TunnelError::Lost("the relay closed it".to_owned()));
        let mut pings = ping_ticks();
        let mut slept = SleepWatch::new();
        loop {
            if let Err(stop) = say_all(talk, claims).await {
                return stop;
            }
            self.widen(talk, beside);
            // Every branch is cancel-safe; what is written is written outside of the select. Messages
            // come first: the last one tells why the connection closes behind it.
            let next = tokio::select! {
                biased;
                message = talk.messages.recv() => match message {
                    Some(message) => self.on_message(message, claims),
                    None => Err(closed()),
                },
                () = talk.scope.cancelled() => Err(closed()),
                () = self.roster.woken() => Ok(None),
                () = slept.woke() => Err(Stop::Ended(Ended::Slept)),
                _ = pings.tick() => talk.ping().await.map(|()| None).map_err(Stop::Broken),
                () = until(claims.deadline()) => match claims.overdue() {
                    Some(error) => Err(Stop::Ended(Ended::Lost(error))),
                    None => Ok(None),
                },
                () = self.roster.load.busy() => Ok(None),
            };
            let said = match next {
                Ok(Some(message)) => talk.say(&message).await.map_err(Stop::Broken),
                Ok(None) => Ok(()),
                Err(stop) => Err(stop),
            };
            if let Err(stop) = said {
                return stop;
            }
        }
    }

    /// Reads what the relay said before the connection broke: it may tell why.
    async fn last_words(
        &self,
        talk: &mut Talk,
        claims: &mut Claims<'_>,
        error: TunnelError,
    ) -> Ended {
        let words = async {
            while let Some(message) = talk.messages.recv().await {
                if let Err(Stop::Ended(ended)) = self.on_message(message, claims) {
                    return Some(ended);
                }
            }
            None
        };
        let said = tokio::time::timeout(LAST_WORDS, words).await;
        said.ok().flatten().unwrap_or(Ended::Lost(error))
    }

    /// Tells whether another token may help: one that was good has come to its end, and a command
    /// prints the next.
    pub(super) fn may_renew(&self, error: &TunnelError, was_up: bool) -> bool {
        let ended = |code: &str| [code::BAD_CREDENTIAL, code::EXPIRED].contains(&code);
        let refused = match error {
            TunnelError::Refused { refusal, .. } => ended(&refusal.code),
            _ => false,
        };
        was_up && refused && self.dialer.proof.renews()
    }

    /// Opens one more connection when those that are open are busy.
    fn widen(&self, talk: &Talk, Beside { welcome, table, extra }: &Beside) {
        let load = &self.roster.load;
        let limit = self.max_connections.min(welcome.limits.connections).min(MAX_CONNECTIONS);
        let open = extra.load(Ordering::Relaxed) + 1;
        if open >= limit {
            return load.tell_at(usize::MAX);
        }
        load.tell_at(BUSY * usize::from(open));
        if load.now() < BUSY * usize::from(open) {
            return;
        }
        load.tell_at(BUSY * usize::from(open + 1));
        extra.fetch_add(1, Ordering::Relaxed);
        let counted = Extra(Arc::clone(extra));
        let (dialer, agent) = (self.dialer.clone(), self.agent.to_owned());
        let (session, scope, table) =
            (welcome.session.clone(), talk.scope.child(), Arc::clone(table));
        talk.scope.spawn_until_cancelled(async move {
            let _counted = counted;
            match Box::pin(Connection::open(&dialer, &agent, Some(session), scope)).await {
                Ok(connection) => connection.start(table).keep_extra().await,
                Err(error) => tracing::debug!(%error, "no further connection"),
            }
        });
    }

    fn on_message(
        &self,
        message: RelayMessage,
        claims: &mut Claims<'_>,
    ) -> Result<Option<AgentMessage>, Stop> {
        let was_up = self.was_up || claims.up_since().is_some();
        let of_session = |error: &TunnelError| self.may_renew(error, was_up);
        match message {
            RelayMessage::Claimed(claimed) => {
                claims.claimed(&claimed);
                Ok(None)
            }
            RelayMessage::Refused(answer) => goes_on(claims.refused(answer, of_session)),
            RelayMessage::Revoked(revoked) => goes_on(claims.revoked(revoked, of_session)),
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

/// Tells the relay all that there is to tell; stops when nothing is left to share.
async fn say_all(talk: &mut Talk, claims: &mut Claims<'_>) -> Result<(), Stop> {
    while let Some(message) = claims.next_message() {
        talk.say(&message).await.map_err(Stop::Broken)?;
    }
    match claims.idle() {
        _ if claims.is_empty() => Err(Stop::Ended(Ended::Released)),
        Some(error) => Err(Stop::Ended(Ended::Lost(error))),
        None => Ok(()),
    }
}

fn goes_on(verdict: Verdict) -> Result<Option<AgentMessage>, Stop> {
    match verdict {
        Verdict::OfShare => Ok(None),
        Verdict::OfSession(error) => Err(Stop::Ended(Ended::Lost(error))),
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
