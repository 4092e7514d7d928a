//! The agent's end of the tunnel: dial, claim, serve, and come back whenever the connection goes.
//!
//! A [`Tunnel`] is one share at one relay. It reconnects for ever; only an explicit refusal of the
//! credential or the name ends it. [`Tunnels`] are all shares of a process at one relay: one session
//! serves them, and what happens to one of them leaves the others as they are.

mod address;
mod connection;
mod dial;
mod error;
mod gate;
mod look;
mod proof;
mod renewal;
mod runner;
mod serve;
mod session;
mod share;
mod sleep;
mod splice;
mod table;
#[cfg(test)]
mod testing;
mod tls;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use tokio::sync::watch;
use tokio_util::future::FutureExt as _;

pub use self::address::{AddressError, HttpTarget, RelayAddress, TargetError};
pub use self::dial::{ProxySettings, fetch_fingerprint};
pub use self::error::TunnelError;
pub use self::gate::TunnelStats;
pub use self::look::{Look, look};
pub use self::serve::Backend;
pub use self::share::StatusWatch;
pub use self::splice::knock;
pub use self::tls::{TlsOptions, parse_fingerprint};

use self::gate::Gate;
use self::runner::Runner;
use self::share::{Roster, Share, Wanted};
use crate::credentials::ProofSource;

/// How long a share that is given up may take to say so.
const GOODBYE: Duration = Duration::from_secs(3);

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
    pub access: Arc<AccessPolicy>,
    /// When the share shall end.
    pub expires: Option<Duration>,
    /// The ticket of the last time.
    pub ticket: Option<Arc<str>>,
    /// How often to try again before it is given up, as long as it was never up; none for ever.
    pub retries: Option<u32>,
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
    pub ticket: Option<Arc<str>>,
    /// When it ends, in Unix seconds. Of this type for its size: there may be hundreds of shares.
    pub expires_at: Option<NonZeroU64>,
    /// The relay's origin.
    pub relay: Arc<str>,
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
    /// It was tried as often as asked for and never came up. The tunnel has ended.
    GivenUp {
        /// What happened last.
        reason: String,
        /// What the user may do.
        hint: Option<String>,
    },
    /// The relay will not have it. The tunnel has ended.
    Refused(TunnelError),
    /// The share came to its end. The tunnel has ended.
    Ended(String),
}

impl TunnelStatus {
    /// Tells whether the tunnel has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Self::GivenUp { .. } | Self::Refused(_) | Self::Ended(_) => true,
            Self::Connecting { .. } | Self::Up(_) | Self::Reconnecting { .. } => false,
        }
    }
}

/// The shares of this process at one relay. Dropping it, and every [`Tunnel`] that it made, ends
/// them without a goodbye.
#[derive(Clone, Debug)]
pub struct Tunnels(Arc<Line>);

/// One share at one relay. Dropping it ends it: without a goodbye, when it is the last one.
#[derive(Debug)]
pub struct Tunnel {
    share: Arc<Share>,
    line: Arc<Line>,
}

/// What holds the task that keeps a session.
#[derive(Debug)]
struct Line {
    /// The relay's origin.
    relay: String,
    roster: Arc<Roster>,
    scope: Scope,
    /// What default names are derived from, beside what is shared.
    thumbprint: String,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl Tunnels {
    /// Prepares to share at a relay; the tasks belong to `scope`. It is dialled once there is
    /// something to share, and left when there is nothing.
    #[must_use]
    pub fn start(config: TunnelConfig, scope: &Scope) -> Self {
        let scope = scope.child();
        let roster = Arc::new(Roster::new());
        let (relay, thumbprint) = (config.relay.origin(), config.key.thumbprint());
        let runner = Runner { config, roster: Arc::clone(&roster), scope: scope.clone() };
        let running = runner.run().with_cancellation_token_owned(scope.token().clone());
        scope.spawn_essential(running.map(drop));
        Self(Arc::new(Line { relay, roster, scope, thumbprint }))
    }

    /// Shares something more, over the session that the others have.
    #[must_use]
    pub fn share(&self, request: ShareRequest, backend: Backend) -> Tunnel {
        let ShareRequest { name, base, mode, access, expires, ticket, retries } = request;
        let line = &self.0;
        let wanted = Wanted {
            name: name.unwrap_or_else(|| Name::derived(&base, &line.thumbprint)),
            mode,
            expires_at: expires.map(|life| unix_now().saturating_add(life.as_secs())),
            retries,
        };
        let gate = Gate::new(access, Arc::clone(&line.roster.load));
        let share = Arc::new(Share::new(wanted, backend, gate, ticket));
        line.roster.add(Arc::clone(&share));
        Tunnel { share, line: Arc::clone(line) }
    }

    /// Returns the relay's origin.
    #[must_use]
    pub fn relay(&self) -> &str {
        &self.0.relay
    }

    /// Returns what changes whenever the status of any share does.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.0.roster.news()
    }

    /// Ends the task that keeps the session, as a fault of it would.
    #[cfg(test)]
    pub(crate) fn fail(&self) {
        self.0.scope.cancel();
    }
}

impl Tunnel {
    /// Starts a tunnel with a session of its own; its tasks belong to `scope`. Nothing has been
    /// dialled when this returns.
    #[must_use]
    pub fn start(
        config: TunnelConfig,
        request: ShareRequest,
        backend: Backend,
        scope: Scope,
    ) -> Self {
        Tunnels::start(config, &scope).share(request, backend)
    }

    /// Returns where the tunnel stands, now and as it changes.
    #[must_use]
    pub fn status(&self) -> StatusWatch {
        StatusWatch::new(Arc::clone(&self.share), &self.line.roster)
    }

    /// Returns where the tunnel stands if that was told since the last time that this was asked with
    /// `seen`, which is zero before.
    pub(crate) fn news_since(&self, seen: &mut u64) -> Option<Arc<TunnelStatus>> {
        self.share.news_since(seen)
    }

    /// Returns the relay's origin.
    #[must_use]
    pub fn relay(&self) -> &str {
        &self.line.relay
    }

    /// Returns what the share has served.
    #[must_use]
    pub fn stats(&self) -> TunnelStats {
        self.share.gate.stats()
    }

    /// Tells whether nothing can be served any more, by a fault that the status does not tell.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.line.scope.is_cancelled()
    }

    /// Replaces the visitors' policy: here at once, at the relay as soon as it hears of it.
    pub fn update_access(&self, access: impl Into<Arc<AccessPolicy>>) {
        // What has ended lets nobody in.
        if !self.share.is_over() {
            self.share.gate.set_policy(access);
            self.line.roster.wake();
        }
    }

    /// Gives the share up and waits until it has ended, a few seconds at most.
    pub async fn shutdown(self) {
        let mut status = self.status();
        self.share.give_up();
        self.line.roster.wake();
        let ended = async {
            let _over = status.wait_for(TunnelStatus::is_over).await;
        };
        // No longer than it is worth.
        let ended = self.line.scope.token().run_until_cancelled(ended);
        let _in_time = tokio::time::timeout(GOODBYE, ended).await;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if Arc::strong_count(&self.line) > 1 {
            // The session goes on for others, so the relay has to be told.
            self.share.give_up();
            self.line.roster.wake();
        }
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
