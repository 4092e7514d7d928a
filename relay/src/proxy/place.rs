//! Where the share of a request is: here, at another node, or about to come back.

use std::net::IpAddr;
use std::sync::Arc;

use mcpm_shared::name::Name;
use tokio::time::Instant;

use super::{Proxy, Visitor};
use crate::admission::unix_now;
use crate::error::EdgeError;
use crate::metrics::Tracked;
use crate::tunnel::share::rate_address;
use crate::tunnel::table::{Entry, Place, Presence};

impl Proxy {
    /// Tells whether another node serves a name: then that node counts its requests.
    pub(super) fn is_elsewhere(&self, name: &Name) -> bool {
        let elsewhere = |entry: Arc<Entry>| matches!(entry.presence(), Presence::Elsewhere(_));
        self.nodes.get().is_some() && self.table.find(name).is_some_and(elsewhere)
    }

    /// Returns where a name is served, or waits until it is. The right of its session and its own
    /// life are looked at for every request.
    pub(super) async fn place(
        &self,
        name: &Name,
        visitor: &Visitor,
    ) -> Result<(Arc<Entry>, Place), EdgeError> {
        let hop = visitor.hop;
        let entry = match hop {
            // Another node knows of it; news may be on its way here.
            Some(_) => self.table.expect(name).ok_or(EdgeError::Offline)?,
            None => self.entry(name, visitor.address).await?,
        };
        let (presence, now) = (entry.presence(), unix_now());
        let fresh = |generation: u64| hop.is_none_or(|wanted| generation >= wanted);
        let not = match presence {
            Presence::Live(share) if share.may_serve(now) && fresh(share.facts.generation) => {
                return Ok((entry, Place::Here(share)));
            }
            Presence::Live(share) => share.facts.generation,
            // One hop, and never a second.
            Presence::Elsewhere(at) if hop.is_some() && fresh(at.generation) => {
                return Err(EdgeError::Misrouted);
            }
            Presence::Elsewhere(at) if hop.is_none() => return Ok((entry, Place::There(at))),
            Presence::Elsewhere(at) => at.generation,
            Presence::Away { held: false, seen, .. } if hop.is_some() && fresh(seen) => {
                return Err(EdgeError::Offline);
            }
            Presence::Away { .. } => 0,
        };
        let place = Box::pin(self.hold(&entry, not, hop)).await?;
        Ok((entry, place))
    }

    /// Finds the name here or in the store.
    async fn entry(&self, name: &Name, visitor: IpAddr) -> Result<Arc<Entry>, EdgeError> {
        if let Some(entry) = self.table.find(name) {
            return Ok(entry);
        }
        // A flood of names nobody has must reach neither the table nor the store.
        self.strangers.check(&rate_address(visitor)).map_err(EdgeError::RateLimited)?;
        if Instant::now() < self.warm_until {
            return self.table.expect(name).ok_or(EdgeError::Offline);
        }
        match self.store.lease(name).await {
            Ok(Some(lease)) => match self.nodes.get() {
                // This node missed the news: it reads everything anew.
                Some(nodes) if lease.node != nodes.id() && lease.is_live(unix_now()) => {
                    nodes.doubt();
                    self.table.expect(name).ok_or(EdgeError::Offline)
                }
                _ => Err(EdgeError::Offline),
            },
            Ok(None) => Err(EdgeError::UnknownShare),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "lease lookup failed");
                Err(EdgeError::Unavailable)
            }
        }
    }

    /// Waits for the agent of a name to come back, here or, unless the request comes from another
    /// node, anywhere.
    pub(super) async fn hold(
        &self,
        entry: &Entry,
        not: u64,
        hop: Option<u64>,
    ) -> Result<Place, EdgeError> {
        let _held = Tracked::new(&self.metrics.held_requests);
        let (started, window) = (Instant::now(), self.config.load().timing.hold);
        let wait = async {
            match hop {
                // Where it was sent, it is expected, whatever was known here before.
                Some(wanted) => {
                    let not = not.max(wanted.saturating_sub(1));
                    entry.wait_until(not, started + window).await
                }
                None => entry.wait(not, window).await,
            }
        };
        let back = match self.nodes.get() {
            // The agents go to the other nodes, and so do the requests.
            Some(_) => Some(wait.await),
            None => self.draining.run_until_cancelled(wait).await,
        };
        self.metrics.held_seconds.observe(started.elapsed().as_secs_f64());
        match back {
            Some(Some(Place::There(_))) if hop.is_some() => Err(EdgeError::Misrouted),
            Some(Some(place)) => Ok(place),
            Some(None) => Err(EdgeError::Offline),
            None => Err(EdgeError::Draining),
        }
    }
}
