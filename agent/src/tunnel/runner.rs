//! Keeps a session with a relay for as long as there is something to share: dials, serves, and comes
//! back whenever the connection goes.

use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::scope::Scope;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::dial::Dialer;
use super::session::{Ended, MAX_REST, Session};
use super::share::Roster;
use super::{TunnelConfig, TunnelError, tls, with_causes};
use crate::backoff::{Backoff, system_random};

/// A share that was up for so long was a success: waiting times start anew.
const STABLE: Duration = Duration::from_secs(10);

/// One session after the other, for all shares on the roster.
pub(super) struct Runner {
    pub(super) config: TunnelConfig,
    pub(super) roster: Arc<Roster>,
    pub(super) scope: Scope,
}

impl Runner {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let dialer = self.dialer();
        let mut backoff = Backoff::new(system_random);
        let mut was_up = false;
        loop {
            self.roster.retire();
            if self.roster.is_empty() {
                self.roster.woken().await;
                continue;
            }
            let dialer = match &dialer {
                Ok(dialer) => dialer,
                Err(error) => {
                    self.refuse_all(error);
                    continue;
                }
            };
            self.roster.all().iter().for_each(|share| self.roster.connecting(share));
            let session = Session {
                dialer,
                agent: &self.config.agent_version,
                roster: &self.roster,
                max_connections: self.config.connections,
                was_up,
            };
            let (ended, up_since) = self.have(&session).await;
            was_up |= up_since.is_some();
            if was_stable(up_since) {
                backoff.reset();
            }
            let error = match ended {
                Ended::Released => continue,
                Ended::Lost(error)
                    if error.is_terminal(was_up) && !session.may_renew(&error, was_up) =>
                {
                    self.refuse_all(&error);
                    continue;
                }
                Ended::Lost(error) => error,
                Ended::GoAway(_) => TunnelError::Lost("the relay is restarting".to_owned()),
                Ended::Slept => {
                    backoff.reset();
                    TunnelError::Lost("this machine slept".to_owned())
                }
            };
            let asked = error.retry_after().unwrap_or_default().min(MAX_REST);
            let wait = backoff.next().unwrap_or_default().max(asked);
            let reason = with_causes(&error);
            for share in self.roster.all() {
                self.roster.waiting(&share, &error, reason.clone(), wait);
            }
            self.rest(wait).await;
        }
    }

    fn refuse_all(&self, error: &TunnelError) {
        for share in self.roster.all() {
            self.roster.end(&share, share.refused(error.clone()));
        }
    }

    /// Has one session, and tells since when a share was up.
    async fn have(&self, session: &Session<'_>) -> (Ended, Option<Instant>) {
        let scope = self.scope.child();
        // Boxed: dialling takes more room than all that comes after it.
        let dialled = Box::pin(Connection::open(session.dialer, session.agent, None, scope));
        let connection = tokio::select! {
            dialled = dialled => match dialled {
                Ok(connection) => connection,
                Err(error) => return (Ended::Lost(error), None),
            },
            () = self.all_gone() => return (Ended::Released, None),
        };
        session.run(connection).await
    }

    /// Waits until nothing is left to share. Cancel-safe.
    async fn all_gone(&self) {
        loop {
            self.roster.retire();
            if self.roster.is_empty() {
                return;
            }
            self.roster.woken().await;
        }
    }

    /// Waits between two tries, unless nothing is left to share meanwhile.
    async fn rest(&self, wait: Duration) {
        let _nothing_left = tokio::time::timeout(wait, self.all_gone()).await;
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
}

/// Tells whether a session served for long enough to count as a success: however slowly it failed
/// to come up, it did not.
fn was_stable(up_since: Option<Instant>) -> bool {
    up_since.is_some_and(|since| since.elapsed() > STABLE)
}

#[cfg(test)]
mod tests {
    use mcpm_shared::access::AccessPolicy;
    use mcpm_shared::identity::AgentKey;
    use mcpm_shared::proto::ShareMode;
    use tokio::net::TcpListener;

    use super::super::testing::FakeRelay;
    use super::super::{Backend, ProxySettings, ShareRequest, TlsOptions, Tunnel, TunnelStatus};
    use super::*;

    /// One share of an agent that dials this relay.
    fn dialling(relay: &TcpListener, scope: &Scope) -> Tunnel {
        let config = TunnelConfig {
            relay: format!("http://{}", relay.local_addr().unwrap()).parse().unwrap(),
            key: AgentKey::generate(),
            proof: Default::default(),
            tls: TlsOptions::default(),
            connections: 1,
            proxy: ProxySettings::default(),
            agent_version: "test".to_owned(),
        };
        let request = ShareRequest {
            name: Some("x".parse().unwrap()),
            base: "x".to_owned(),
            mode: ShareMode::Http,
            access: AccessPolicy::public().into(),
            expires: None,
            ticket: None,
            retries: None,
        };
        Tunnel::start(config, request, Backend::Http("9".parse().unwrap()), scope.child())
    }

    #[tokio::test]
    async fn an_agent_dials_again_as_soon_as_its_machine_has_slept() {
        let scope = Scope::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tunnel = dialling(&listener, &scope);
        let mut status = tunnel.status();
        let mut connect = async || {
            let mut relay = FakeRelay::accept(&listener, &scope).await;
            let claim = relay.claim().await;
            relay.grant(claim, None).await;
            status.wait_for(|now| matches!(now, TunnelStatus::Up(_))).await.unwrap();
            relay
        };
        let _before = connect().await;
        // The clock stands only for this moment: a paused one would jump while a socket is waited for.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(300)).await;
        tokio::time::resume();
        let mut later = tunnel.status();
        let waits = |now: &TunnelStatus| matches!(now, TunnelStatus::Reconnecting { .. });
        let seen = later.wait_for(waits).await.unwrap();
        let TunnelStatus::Reconnecting { reason, retry_in, .. } = &*seen else { unreachable!() };
        assert_eq!(*reason, TunnelError::Lost("this machine slept".to_owned()).to_string());
        assert!(*retry_in < Duration::from_secs(1), "{retry_in:?}");
        let _after = connect().await;
        scope.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_times_start_anew_only_after_a_share_that_was_up_for_a_while() {
        let up = Instant::now();
        assert!(!was_stable(None), "a slow failure is none");
        assert!(!was_stable(Some(up)));
        tokio::time::advance(STABLE * 2).await;
        assert!(was_stable(Some(up)));
    }
}
