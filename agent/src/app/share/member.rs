//! One share of a process while it is published: what is known of it, and what becomes of it.

use std::num::NonZeroU64;
use std::sync::Arc;

use mcpm_shared::access::AccessPolicy;
use tokio::time::Instant;

use super::access::{Fresh, Keyring, Look};
use super::error::in_full;
use super::start::{Reach, Ready};
use super::{Patience, ShareError, ShareEvent, Stop, Up};
use crate::credentials::{CredentialError, Version};
use crate::gateway::Gateway;
use crate::tunnel::{Tunnel, TunnelStats, TunnelStatus};

/// A share that is published, or about to be. There may be hundreds in a process, so it holds
/// nothing that it does not need for its whole life.
pub(super) struct Member {
    pub(super) at: usize,
    pub(super) stop: Stop,
    pub(super) keyring: Keyring,
    gateway: Option<Gateway>,
    reach: Option<Box<Reach>>,
    /// None for a share of this machine only.
    published: Option<Published>,
    served: TunnelStats,
}

struct Published {
    tunnel: Tunnel,
    /// Which news of the tunnel were the last that were taken.
    seen: u64,
    /// Whether an end was asked for.
    ends: bool,
    /// What is known as long as it was never up.
    first: Option<Box<First>>,
}

/// The tunnel of a share that has a relay.
pub(super) struct Opened {
    pub(super) tunnel: Tunnel,
    /// The relay as it is shown before the share is up.
    pub(super) shown: String,
}

/// What decides when to give up on the first connection.
struct First {
    relay: String,
    started: Instant,
    patience: Patience,
    reason: Option<String>,
    hint: Option<String>,
    /// The version of its file that this run made.
    made: Option<Version>,
}

/// What a status of the tunnel means.
pub(super) enum Next {
    /// Something to tell.
    Tell(ShareEvent),
    /// The share is up: something to tell, and what the relay said, to keep.
    Up(ShareEvent, Arc<TunnelStatus>),
    /// The share came to the end that it was given.
    Expired,
    /// It cannot go on.
    Over(ShareError),
}

impl Member {
    /// Takes up a share that is ready; `tunnel` publishes it.
    pub(super) fn new(
        mut ready: Ready,
        publish: impl FnOnce(&mut Ready) -> Option<Opened>,
    ) -> Self {
        let published = publish(&mut ready).map(|Opened { tunnel, shown }| {
            let (spec, started, made) = (&ready.starting.spec, Instant::now(), ready.fresh.made);
            let patience = spec.patience;
            let first = First { relay: shown, started, patience, reason: None, hint: None, made };
            let (ends, first) = (spec.expires.is_some(), Some(Box::new(first)));
            Published { tunnel, seen: 0, ends, first }
        });
        let Ready { starting, fresh: Fresh { keyring, .. }, reach, .. } = ready;
        Self {
            at: starting.at,
            stop: starting.stop,
            keyring,
            gateway: starting.gateway,
            reach: reach.map(Box::new),
            published,
            served: TunnelStats::default(),
        }
    }

    /// Tells that a share of this machine only is up.
    pub(super) fn up_here(&self) -> Option<ShareEvent> {
        if self.published.is_some() {
            return None;
        }
        self.warm();
        let url = self.reach.as_ref().map(|reach| reach.url.clone()).unwrap_or_default();
        Some(ShareEvent::Up(Box::new(self.up(&url, None, false))))
    }

    /// Returns what became of the tunnel since the last time, if anything.
    pub(super) fn next(&mut self) -> Option<Next> {
        let published = self.published.as_mut()?;
        let status = published.tunnel.news_since(&mut published.seen)?;
        Some(self.on_status(&status))
    }

    fn on_status(&mut self, status: &Arc<TunnelStatus>) -> Next {
        let Some(published) = &mut self.published else { return Next::Over(ShareError::Stopped) };
        match &**status {
            TunnelStatus::Connecting { attempt } => {
                let first = published.first.as_ref().map(|first| first.relay.clone());
                let relay = first.unwrap_or_else(|| published.tunnel.relay().to_owned());
                Next::Tell(ShareEvent::Connecting { relay, attempt: *attempt })
            }
            TunnelStatus::Up(info) => {
                let again = published.first.take().is_none();
                // An end that was not asked for is the relay's own business: the tunnel renews it.
                let ends = info.expires_at.filter(|_| published.ends).map(NonZeroU64::get);
                let up = self.up(&info.url, ends, again);
                if !again {
                    self.warm();
                }
                Next::Up(ShareEvent::Up(Box::new(up)), Arc::clone(status))
            }
            TunnelStatus::Reconnecting { reason, hint, retry_in } => {
                let (reason, hint, retry_in) = (reason.clone(), hint.clone(), *retry_in);
                if let Some(first) = &mut published.first {
                    (first.reason, first.hint) = (Some(reason.clone()), hint.clone());
                }
                Next::Tell(ShareEvent::Reconnecting { reason, hint, retry_in })
            }
            TunnelStatus::GivenUp { reason, hint } => Next::Over(match &mut published.first {
                Some(first) => first.given_up(reason.clone(), hint.clone()),
                None => ShareError::Ended(reason.clone()),
            }),
            TunnelStatus::Refused(error) => Next::Over(error.clone().into()),
            TunnelStatus::Ended(_) if published.ends && published.first.is_none() => Next::Expired,
            TunnelStatus::Ended(reason) => Next::Over(ShareError::Ended(reason.clone())),
        }
    }

    /// Returns when to give up on the first connection.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.published.as_ref()?.first.as_ref()?;
        match first.patience {
            // A time that no clock reaches is no deadline.
            Patience::Time(time) => first.started.checked_add(time),
            Patience::Retries(_) => None,
        }
    }

    /// Returns the error of a share whose time is over.
    pub(super) fn out_of_time(&mut self) -> Option<ShareError> {
        self.deadline().filter(|deadline| *deadline <= Instant::now())?;
        let first = self.published.as_mut()?.first.as_mut()?;
        Some(first.unreachable(format!("tried for {} s", first.started.elapsed().as_secs())))
    }

    /// Tells whether nothing can be published any more, by a fault that is not its own.
    pub(super) fn is_cut_off(&self) -> bool {
        self.published.as_ref().is_some_and(|published| published.tunnel.is_closed())
    }

    /// Takes what a look at the file of tokens found, and lets it count everywhere at once.
    pub(super) fn take(&mut self, look: Look) -> Option<ShareEvent> {
        let (policy, event) = match self.keyring.take(look)? {
            Ok(policy) => {
                let tokens = policy.tokens.len();
                (policy, ShareEvent::TokensChanged { tokens })
            }
            Err(error) => {
                let policy = self.keyring.policy();
                let warning = warning(&policy, &error);
                (policy, ShareEvent::Warning(warning))
            }
        };
        self.admit(policy);
        Some(event)
    }

    fn admit(&self, policy: Arc<AccessPolicy>) {
        if let Some(reach) = &self.reach {
            reach.access.send_replace((*policy).clone());
        }
        if let Some(published) = &self.published {
            published.tunnel.update_access(policy);
        }
    }

    /// Tells how many requests were served, and are being served, if that is new.
    pub(super) fn activity(&mut self) -> Option<ShareEvent> {
        let stats = match (&self.published, &self.gateway) {
            (Some(published), _) => published.tunnel.stats(),
            // Which of them are still open, nobody counts here.
            (None, Some(gateway)) => TunnelStats { requests: gateway.stats().requests, active: 0 },
            (None, None) => TunnelStats::default(),
        };
        if stats == self.served {
            return None;
        }
        self.served = stats;
        let TunnelStats { requests, active } = stats;
        Some(ShareEvent::Activity { requests, active })
    }

    /// Starts the servers that are to be warm.
    fn warm(&self) {
        if let Some(gateway) = &self.gateway {
            gateway.warm();
        }
    }

    fn up(&self, url: &str, expires_at: Option<u64>, again: bool) -> Up {
        Up {
            name: self.keyring.name().to_string(),
            url: url.to_owned(),
            token: self.keyring.token(),
            link: self.keyring.link(url),
            local: self.reach.as_ref().map(|reach| reach.url.clone()),
            expires_at,
            again,
        }
    }

    /// Ends all that the share has: the tunnel first, so that nobody comes any more; and files last,
    /// since somebody may hold their lock.
    pub(super) async fn end(self) {
        let mut never_up = None;
        if let Some(Published { tunnel, first, .. }) = self.published {
            never_up = first;
            tunnel.shutdown().await;
        }
        if let Some(reach) = self.reach {
            reach.scope.cancel();
        }
        if let Some(gateway) = self.gateway {
            gateway.shutdown().await;
        }
        if let Some(first) = never_up {
            self.keyring.forget(first.made).await;
        }
    }
}

impl First {
    /// Returns the error of a share that was tried as often as asked for.
    fn given_up(&mut self, reason: String, hint: Option<String>) -> ShareError {
        (self.reason, self.hint) = (Some(reason), hint);
        self.unreachable(match self.patience.retries() {
            None | Some(0) => "tried once".to_owned(),
            Some(1) => "1 retry".to_owned(),
            Some(retries) => format!("{retries} retries"),
        })
    }

    fn unreachable(&mut self, tried: String) -> ShareError {
        let (reason, hint) = (self.reason.take(), self.hint.take());
        ShareError::Unreachable { relay: self.relay.clone(), tried, reason, hint }
    }
}

/// Says what it means that the file of a share cannot be read.
fn warning(policy: &AccessPolicy, error: &CredentialError) -> String {
    let error = in_full(error);
    match policy.public {
        true => format!("the share stays public, but its file cannot be read: {error}"),
        false => format!("nobody can visit: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_what_that_means_for_visitors() {
        let error = CredentialError::UnknownShare("time@r".to_owned());
        let told = |policy: AccessPolicy| warning(&policy, &error);
        let (public, closed) = (told(AccessPolicy::public()), told(AccessPolicy::default()));
        assert!(public.starts_with("the share stays public") && public.contains("time@r"));
        assert!(closed.starts_with("nobody can visit") && closed.contains("time@r"));
    }
}
