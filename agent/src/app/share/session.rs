//! One run of a share whose server works: publish it, follow the tunnel's state, stop.

use std::ops::ControlFlow;
use std::time::Duration;

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::access::Keyring;
use super::error::in_full;
use super::keeper::Keeper;
use super::{Patience, RelaySpec, ShareError, ShareEvent, ShareSpec, Source, Up};
use crate::gateway::Gateway;
use crate::gateway::listen::{self, ListenOptions, listen};
use crate::tunnel::{
    Backend, ShareRequest, TlsOptions, Tunnel, TunnelConfig, TunnelStats, TunnelStatus,
};

/// How often the share looks at its file of tokens: a revocation must count within a second.
const LOOK: Duration = Duration::from_millis(250);

/// How visitors on this machine get in, and who they may be.
struct Reach {
    local: Option<String>,
    access: watch::Sender<AccessPolicy>,
}

/// All that one run needs.
pub(super) struct Session {
    pub(super) spec: ShareSpec,
    pub(super) key: AgentKey,
    pub(super) keyring: Keyring,
    pub(super) keeper: Keeper,
    pub(super) gateway: Option<Gateway>,
    pub(super) events: mpsc::Sender<ShareEvent>,
    pub(super) scope: Scope,
}

impl Session {
    /// Runs until `stop` is cancelled or the share cannot go on. The caller stops the gateway.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<(), ShareError> {
        let (access, policy) = watch::channel(self.keyring.policy());
        let local = self.listen(policy).await?;
        let reach = Reach { local, access };
        match self.spec.relay.take() {
            Some(relay) => self.publish(relay, &reach, stop).await,
            None => {
                // Whatever it waits for, a stop is heard.
                let served = stop.run_until_cancelled(self.serve_locally(&reach)).await;
                served.unwrap_or(Ok(()))
            }
        }
    }

    async fn say(&self, event: ShareEvent) {
        // Nobody listening is no reason to stop sharing.
        let _nobody = self.events.send(event).await;
    }

    /// Opens the local listener, if one is asked for, and returns its URL.
    async fn listen(
        &self,
        policy: watch::Receiver<AccessPolicy>,
    ) -> Result<Option<String>, ShareError> {
        let (Some(local), Some(gateway)) = (&self.spec.local, &self.gateway) else {
            return Ok(None);
        };
        let options = ListenOptions {
            host: local.host.clone(),
            port: local.port,
            access: Some(policy),
            ..ListenOptions::default()
        };
        let address = listen(gateway.clone(), options, &self.scope).await?;
        Ok(Some(format!("http://{address}{}", listen::PATH)))
    }

    /// Serves this machine only, until the share cannot go on.
    async fn serve_locally(&mut self, reach: &Reach) -> Result<(), ShareError> {
        let url = reach.local.clone().unwrap_or_default();
        let up = self.up(&url, None, reach, false);
        self.warm();
        self.say(ShareEvent::Up(Box::new(up))).await;
        let mut tick = ticker();
        let mut seen = TunnelStats::default();
        loop {
            tokio::select! {
                () = self.scope.cancelled() => return Err(ShareError::Stopped),
                _ = tick.tick() => {
                    self.look(reach, None).await;
                    // Which of them are still open, nobody counts here.
                    let requests = self.gateway.as_ref().map_or(0, |it| it.stats().requests);
                    self.tell_activity(TunnelStats { requests, active: 0 }, &mut seen).await;
                }
            }
        }
    }

    /// Publishes the share and follows the tunnel until something ends it.
    async fn publish(
        mut self,
        relay: RelaySpec,
        reach: &Reach,
        stop: &CancellationToken,
    ) -> Result<(), ShareError> {
        let address = relay.address.to_string();
        let tunnel = self.start_tunnel(relay);
        let followed = stop.run_until_cancelled(self.follow(&tunnel, address, reach)).await;
        tunnel.shutdown().await;
        followed.unwrap_or(Ok(()))
    }
}

fn ticker() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// What is known of the connection, for deciding when to give up.
struct Progress {
    relay: String,
    started: Instant,
    was_up: bool,
    reason: Option<String>,
    hint: Option<String>,
}

impl Session {
    fn start_tunnel(&self, relay: RelaySpec) -> Tunnel {
        let RelaySpec { address, credential, proxy, connections } = relay;
        let config = TunnelConfig {
            relay: address,
            key: self.key.clone(),
            proof: credential.proof,
            tls: TlsOptions { ca: credential.ca, fingerprint: credential.fingerprint },
            connections,
            proxy,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (mode, backend) = match (&self.gateway, &self.spec.source) {
            (Some(gateway), _) => (ShareMode::Mcp, Backend::Gateway(gateway.clone())),
            (None, Source::Http(target)) => (ShareMode::Http, Backend::Http(target.clone())),
            (None, Source::Mcp(_)) => unreachable!("what speaks MCP has a gateway"),
        };
        let request = ShareRequest {
            name: Some(self.keyring.name().clone()),
            base: self.spec.target.base(),
            mode,
            access: self.keyring.policy(),
            expires: self.spec.expires,
            ticket: self.keyring.ticket(),
        };
        Tunnel::start(config, request, backend, self.scope.child())
    }

    /// Follows the tunnel until it ends or patience runs out.
    async fn follow(
        &mut self,
        tunnel: &Tunnel,
        relay: String,
        reach: &Reach,
    ) -> Result<(), ShareError> {
        let mut progress =
            Progress { relay, started: Instant::now(), was_up: false, reason: None, hint: None };
        let deadline = match self.spec.patience {
            // A time that no clock reaches is no deadline.
            Patience::Time(time) => progress.started.checked_add(time),
            Patience::Retries(_) => None,
        };
        let mut status = tunnel.status();
        status.mark_changed();
        let mut tick = ticker();
        let mut seen = TunnelStats::default();
        // Every branch is cancel-safe: tokens, watch channels and intervals keep their state.
        loop {
            tokio::select! {
                changed = status.changed() => {
                    changed.map_err(|_| ShareError::Stopped)?;
                    let status = status.borrow_and_update().clone();
                    if self.on_status(status, &mut progress, reach).await?.is_break() {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {
                    self.look(reach, Some(tunnel)).await;
                    self.tell_activity(tunnel.stats(), &mut seen).await;
                }
                () = until(deadline), if !progress.was_up => {
                    return Err(progress.out_of_time());
                }
            }
        }
    }

    /// Tells what the tunnel says; breaks when the share has come to the end it was given.
    async fn on_status(
        &mut self,
        status: TunnelStatus,
        progress: &mut Progress,
        reach: &Reach,
    ) -> Result<ControlFlow<()>, ShareError> {
        match status {
            TunnelStatus::Connecting { attempt } => {
                if let Patience::Retries(retries) = self.spec.patience
                    && !progress.was_up
                    && attempt > retries.saturating_add(1)
                {
                    return Err(progress.out_of_retries(retries));
                }
                self.say(ShareEvent::Connecting { relay: progress.relay.clone(), attempt }).await;
            }
            TunnelStatus::Up(info) => {
                self.keeper.keep(&info);
                let up = self.up(&info.url, info.expires_at, reach, progress.was_up);
                if !std::mem::replace(&mut progress.was_up, true) {
                    self.warm();
                }
                self.say(ShareEvent::Up(Box::new(up))).await;
            }
            TunnelStatus::Reconnecting { reason, hint, retry_in } => {
                progress.reason = Some(reason.clone());
                progress.hint.clone_from(&hint);
                self.say(ShareEvent::Reconnecting { reason, hint, retry_in }).await;
            }
            TunnelStatus::Refused(error) => return Err(error.into()),
            TunnelStatus::Ended(_) if self.spec.expires.is_some() && progress.was_up => {
                self.say(ShareEvent::Expired).await;
                return Ok(ControlFlow::Break(()));
            }
            TunnelStatus::Ended(reason) => return Err(ShareError::Ended(reason)),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Starts the servers that are to be warm.
    fn warm(&self) {
        if let Some(gateway) = &self.gateway {
            gateway.warm();
        }
    }

    fn up(&self, url: &str, expires_at: Option<u64>, reach: &Reach, again: bool) -> Up {
        Up {
            name: self.keyring.name().to_string(),
            url: url.to_owned(),
            token: self.keyring.token(),
            link: self.keyring.link(url),
            local: reach.local.clone(),
            // An end that was not asked for is the relay's own business: the tunnel renews it.
            expires_at: expires_at.filter(|_| self.spec.expires.is_some()),
            again,
        }
    }

    /// Looks for tokens that were added or revoked, and lets them count everywhere at once.
    async fn look(&mut self, reach: &Reach, tunnel: Option<&Tunnel>) {
        let Some(changed) = self.keyring.refresh().await else { return };
        let policy = self.keyring.policy();
        let tokens = policy.tokens.len();
        reach.access.send_replace(policy.clone());
        if let Some(tunnel) = tunnel {
            tunnel.update_access(policy);
        }
        match changed {
            Ok(_) => self.say(ShareEvent::TokensChanged { tokens }).await,
            Err(error) => {
                let text = format!("nobody can visit: {}", in_full(&error));
                self.say(ShareEvent::Warning(text)).await;
            }
        }
    }

    /// Tells how many requests were served, and are being served, if that is new.
    async fn tell_activity(&self, stats: TunnelStats, seen: &mut TunnelStats) {
        if stats != *seen {
            *seen = stats;
            let TunnelStats { requests, active } = stats;
            self.say(ShareEvent::Activity { requests, active }).await;
        }
    }
}

impl Progress {
    fn out_of_time(&mut self) -> ShareError {
        self.unreachable(format!("tried for {} s", self.started.elapsed().as_secs()))
    }

    fn out_of_retries(&mut self, retries: u32) -> ShareError {
        self.unreachable(match retries {
            0 => "tried once".to_owned(),
            1 => "1 retry".to_owned(),
            retries => format!("{retries} retries"),
        })
    }

    fn unreachable(&mut self, tried: String) -> ShareError {
        let (reason, hint) = (self.reason.take(), self.hint.take());
        ShareError::Unreachable { relay: self.relay.clone(), tried, reason, hint }
    }
}

/// Waits until `deadline`; for ever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
