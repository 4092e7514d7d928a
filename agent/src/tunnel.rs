//! The agent's end of the tunnel: dial, claim, serve, and come back whenever the connection goes.
//!
//! A [`Tunnel`] is one share at one relay. It reconnects for ever; only an explicit refusal of the
//! credential or the name ends it.

mod address;
mod connection;
mod dial;
mod error;
mod gate;
mod look;
mod proof;
mod renewal;
mod serve;
mod session;
mod sleep;
mod splice;
#[cfg(test)]
mod testing;
mod tls;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::proto::control::Claimed;
use mcpm_shared::scope::Scope;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

pub use self::address::{AddressError, HttpTarget, RelayAddress, TargetError};
pub use self::dial::{ProxySettings, fetch_fingerprint};
pub use self::error::TunnelError;
pub use self::gate::TunnelStats;
pub use self::look::{Look, look};
pub use self::serve::Backend;
pub use self::tls::{TlsOptions, parse_fingerprint};

use self::connection::Connection;
use self::dial::Dialer;
use self::gate::Gate;
use self::session::{Ended, Order, Session, Wanted};
use crate::backoff::{Backoff, system_random};
use crate::credentials::ProofSource;
use crate::hint::Hint as _;

/// How long a share that is given up may take to say so.
const GOODBYE: Duration = Duration::from_secs(3);
/// A share that was up for so long was a success: waiting times start anew.
const STABLE: Duration = Duration::from_secs(10);

/// How to reach and convince a relay.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// The relay.
    pub relay: RelayAddress,
    /// The agent's identity.
    pub key: AgentKey,
    /// What the relay asks for beside it.
    pub proof: ProofSource,
    /// Whom to trust.
    pub tls: TlsOptions,
    /// How many connections at most; further ones are opened under load.
    pub connections: u8,
    /// The HTTP proxy on the way.
    pub proxy: ProxySettings,
    /// Version of the program, for the relay's log.
    pub agent_version: String,
}

/// What to share.
#[derive(Clone, Debug)]
pub struct ShareRequest {
    /// The name wanted; without it, one is derived from `base` and the key.
    pub name: Option<Name>,
    /// What the share is about: a server or profile.
    pub base: String,
    /// What travels.
    pub mode: ShareMode,
    /// Who may visit.
    pub access: AccessPolicy,
    /// When the share shall end.
    pub expires: Option<Duration>,
    /// The ticket of the last time.
    pub ticket: Option<String>,
}

/// A share that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareInfo {
    /// The name it got.
    pub name: Name,
    /// The endpoint visitors use.
    pub url: String,
    /// The generation of the lease.
    pub generation: u64,
    /// The ticket to keep for the next time.
    pub ticket: Option<String>,
    /// When it ends, in Unix seconds.
    pub expires_at: Option<u64>,
    /// The relay's origin.
    pub relay: String,
}

/// Where a tunnel stands.
#[derive(Clone, Debug)]
pub enum TunnelStatus {
    /// Dialling; attempts count from one after each success.
    Connecting {
        /// Which attempt it is.
        attempt: u32,
    },
    /// Serving.
    Up(ShareInfo),
    /// The connection is gone; the next try comes soon.
    Reconnecting {
        /// What happened.
        reason: String,
        /// What the user may do, if it lasts.
        hint: Option<String>,
        /// When the next try comes.
        retry_in: Duration,
    },
    /// The relay will not have it. The tunnel has ended.
    Refused(TunnelError),
    /// The share came to its end. The tunnel has ended.
    Ended(String),
}

/// One share at one relay. Dropping it ends it without a goodbye.
#[derive(Debug)]
pub struct Tunnel {
    status: watch::Receiver<TunnelStatus>,
    orders: mpsc::Sender<Order>,
    gate: Arc<Gate>,
    scope: Scope,
    done: watch::Receiver<bool>,
}

impl Tunnel {
    /// Starts the tunnel; its tasks belong to `scope`. Nothing has been dialled when this returns.
    #[must_use]
    pub fn start(
        config: TunnelConfig,
        request: ShareRequest,
        backend: Backend,
        scope: Scope,
    ) -> Self {
        let (status, watched) = watch::channel(TunnelStatus::Connecting { attempt: 1 });
        let (orders, ordered) = mpsc::channel(16);
        let (finished, done) = watch::channel(false);
        let gate = Arc::new(Gate::new(request.access.clone()));
        let scope = scope.child();
        let runner = Runner {
            config,
            request,
            backend: Arc::new(backend),
            gate: Arc::clone(&gate),
            status,
            orders: ordered,
            scope: scope.clone(),
        };
        let stop = scope.clone();
        scope.spawn(async move {
            stop.token().run_until_cancelled(runner.run()).await;
            stop.cancel();
            finished.send_replace(true);
        });
        Self { status: watched, orders, gate, scope, done }
    }

    /// Returns where the tunnel stands, now and as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.status.clone()
    }

    /// Returns what the share has served.
    #[must_use]
    pub fn stats(&self) -> TunnelStats {
        self.gate.stats()
    }

    /// Replaces the visitors' policy: here at once, at the relay as soon as it hears of it.
    pub fn update_access(&self, access: AccessPolicy) {
        self.gate.set_policy(access);
        if let Err(error) = self.orders.try_send(Order::Access) {
            // The policy is read anew with every claim and order, so none is lost.
            tracing::debug!(%error, "policy change not queued");
        }
    }

    /// Gives the share up and waits until everything has ended, a few seconds at most.
    pub async fn shutdown(mut self) {
        if self.orders.send(Order::Release).await.is_ok() {
            let done = self.done.wait_for(|done| *done);
            let _in_time = tokio::time::timeout(GOODBYE, done).await;
        }
        self.scope.cancel();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

struct Runner {
    config: TunnelConfig,
    request: ShareRequest,
    backend: Arc<Backend>,
    gate: Arc<Gate>,
    status: watch::Sender<TunnelStatus>,
    orders: mpsc::Receiver<Order>,
    scope: Scope,
}

impl Runner {
    async fn run(mut self) {
        let dialer = match self.dialer() {
            Ok(dialer) => dialer,
            Err(error) => return self.say(TunnelStatus::Refused(error)),
        };
        let wanted = self.wanted();
        let mut ticket = self.request.ticket.clone();
        let mut backoff = Backoff::new(system_random);
        let mut attempt = 1;
        let mut was_up = false;
        loop {
            self.say(TunnelStatus::Connecting { attempt });
            attempt += 1;
            if wanted.expires_at.is_some_and(|end| end <= unix_now()) {
                return self.say(TunnelStatus::Ended("the share came to its end".to_owned()));
            }
            let (ended, up_since) = self.session(&dialer, &wanted, &mut ticket).await;
            if up_since.is_some() {
                attempt = 1;
                was_up = true;
            }
            if was_stable(up_since) {
                backoff.reset();
            }
            let error = match ended {
                Ended::Released => return self.say(TunnelStatus::Ended("stopped".to_owned())),
                Ended::Lost(error)
                    if error.is_terminal(was_up) && !self.may_renew(&error, was_up) =>
                {
                    return self.say(self.terminal(error, &wanted));
                }
                Ended::Lost(error) => error,
                Ended::GoAway(_) => TunnelError::Lost("the relay is restarting".to_owned()),
                Ended::Slept => {
                    backoff.reset();
                    TunnelError::Lost("this machine slept".to_owned())
                }
            };
            let mut wait = backoff.next().unwrap_or_default();
            if let Some(asked) = error.retry_after() {
                wait = wait.max(asked.min(Duration::from_secs(60)));
            }
            self.say(TunnelStatus::Reconnecting {
                reason: with_causes(&error),
                hint: error.hint(),
                retry_in: wait,
            });
            if !self.rest(wait).await {
                return self.say(TunnelStatus::Ended("stopped".to_owned()));
            }
        }
    }

    /// Tells whether another token may help: one that was good has come to its end, and a command
    /// prints the next.
    fn may_renew(&self, error: &TunnelError, was_up: bool) -> bool {
        use mcpm_shared::proto::code;
        let ended = |code: &str| [code::BAD_CREDENTIAL, code::EXPIRED].contains(&code);
        let refused = match error {
            TunnelError::Refused { refusal, .. } => ended(&refusal.code),
            _ => false,
        };
        was_up && refused && self.config.proof.renews()
    }

    fn terminal(&self, error: TunnelError, wanted: &Wanted) -> TunnelStatus {
        let expired = wanted.expires_at.is_some_and(|end| end <= unix_now() + 1);
        match &error {
            TunnelError::Refused { refusal, .. }
                if expired && refusal.code == mcpm_shared::proto::code::EXPIRED =>
            {
                TunnelStatus::Ended("the share came to its end".to_owned())
            }
            _ => TunnelStatus::Refused(error),
        }
    }

    /// Waits between two tries; `false` when the share is given up meanwhile.
    async fn rest(&mut self, wait: Duration) -> bool {
        let rest = tokio::time::sleep(wait);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                () = &mut rest => return true,
                order = self.orders.recv() => match order {
                    Some(Order::Access) => {}
                    Some(Order::Release) | None => return false,
                },
            }
        }
    }

    /// Has one session, and tells since when its share was up.
    async fn session(
        &mut self,
        dialer: &Dialer,
        wanted: &Wanted,
        ticket: &mut Option<String>,
    ) -> (Ended, Option<Instant>) {
        let scope = self.scope.child();
        let dialled = Connection::open(dialer, &self.config.agent_version, None, scope);
        let connection = tokio::select! {
            dialled = dialled => match dialled {
                Ok(connection) => connection,
                Err(error) => return (Ended::Lost(error), None),
            },
            () = released(&mut self.orders) => return (Ended::Released, None),
        };
        let session = Session {
            dialer,
            agent: &self.config.agent_version,
            backend: &self.backend,
            gate: &self.gate,
            wanted,
            max_connections: self.config.connections,
        };
        let (status, relay) = (&self.status, dialer.relay.origin());
        let mut up_since = None;
        let presented = ticket.clone();
        let up = |claimed: &Claimed| {
            up_since.get_or_insert_with(Instant::now);
            *ticket = Some(claimed.ticket.clone());
            status.send_replace(TunnelStatus::Up(info(claimed, relay.clone())));
        };
        let ended = session.run(connection, presented, &mut self.orders, up).await;
        (ended, up_since)
    }

    fn dialer(&self) -> Result<Dialer, TunnelError> {
        let config = &self.config;
        let tls = if config.relay.is_https() {
            Some(TlsConnector::from(Arc::new(tls::client(&config.tls)?)))
        } else {
            None
        };
        Ok(Dialer {
            relay: config.relay.clone(),
            key: config.key.clone(),
            proof: config.proof.clone(),
            proxy: config.proxy.towards(&config.relay)?,
            tls,
        })
    }

    fn wanted(&self) -> Wanted {
        let request = &self.request;
        let derived = || Name::derived(&request.base, &self.config.key.thumbprint());
        Wanted {
            name: request.name.clone().unwrap_or_else(derived),
            mode: request.mode,
            expires_at: request.expires.map(|life| unix_now().saturating_add(life.as_secs())),
        }
    }

    fn say(&self, status: TunnelStatus) {
        self.status.send_replace(status);
    }
}

/// Tells whether a session served for long enough to count as a success: however slowly it failed
/// to come up, it did not.
fn was_stable(up_since: Option<Instant>) -> bool {
    up_since.is_some_and(|since| since.elapsed() > STABLE)
}

/// Waits until the share is given up. Cancel-safe; other orders are served by the next claim.
async fn released(orders: &mut mpsc::Receiver<Order>) {
    while let Some(Order::Access) = orders.recv().await {}
}

fn info(claimed: &Claimed, relay: String) -> ShareInfo {
    ShareInfo {
        name: claimed.name.clone(),
        url: claimed.url.clone(),
        generation: claimed.generation,
        ticket: Some(claimed.ticket.clone()),
        expires_at: claimed.expires_at,
        relay,
    }
}

/// Returns an error's message followed by those of its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_times_start_anew_only_after_a_share_that_was_up_for_a_while() {
        let up = Instant::now();
        assert!(!was_stable(None), "a slow failure is none");
        assert!(!was_stable(Some(up)));
        tokio::time::advance(STABLE * 2).await;
        assert!(was_stable(Some(up)));
    }
}
