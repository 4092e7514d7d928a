//! A share that is up: its lease, its visitors' policy and its lanes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::mux::{MuxError, Opener};
use mcpm_shared::name::Name;
use mcpm_shared::proto::head::StreamHead;
use mcpm_shared::proto::{HANDSHAKE_TIMEOUT, ShareMode};

use tokio::time::Instant;

use super::lane::{Lane, LaneError};
use super::session::Session;
use crate::metrics::{Metrics, Tracked};
use crate::quota::Meter;

/// How many lanes of one share rest at most: what a burst leaves behind is bounded.
const MAX_RESTING: usize = 256;
/// How long a lane rests before it is closed.
const MAX_REST: Duration = Duration::from_secs(60);

/// What a claim fixed about a share.
#[derive(Clone, Debug)]
pub struct ShareFacts {
    /// The id that data streams carry.
    pub id: u32,
    /// The name.
    pub name: Name,
    /// The generation of the lease.
    pub generation: u64,
    /// Who owns the name.
    pub owner: String,
    /// What travels.
    pub mode: ShareMode,
}

/// A share that is up.
#[derive(Debug)]
pub struct Share {
    /// What the claim fixed.
    pub facts: ShareFacts,
    /// The session that serves it.
    pub session: Arc<Session>,
    access: ArcSwap<AccessPolicy>,
    /// Unix seconds; `u64::MAX` when the share does not end by itself.
    expires_at: AtomicU64,
    lanes: Mutex<Vec<(usize, Lane)>>,
    in_flight: AtomicUsize,
    /// Beside `in_flight`, so that counting touches one line of memory.
    served: AtomicU64,
    /// Counts what the share's owner uses.
    meter: Arc<Meter>,
    /// Whether the operator ended it: then nothing more passes.
    cut: AtomicBool,
    metrics: Arc<Metrics>,
    /// Counts the share among those that are up, until it ends.
    up: Mutex<Option<Tracked>>,
}

/// Counts one exchange of a share while it is held.
#[derive(Debug)]
pub struct InFlight {
    share: Arc<Share>,
    connection: Option<Arc<AtomicUsize>>,
    /// Counts what the visitor's address uses, where that is limited.
    visitor: Option<Arc<Meter>>,
}

impl InFlight {
    /// Counts bytes of a body from the visitor.
    pub fn add_in(&self, bytes: u64) {
        self.share.meter.add_in(bytes);
        if let Some(visitor) = &self.visitor {
            visitor.add_in(bytes);
        }
    }

    /// Counts bytes of a body to the visitor.
    pub fn add_out(&self, bytes: u64) {
        self.share.meter.add_out(bytes);
        if let Some(visitor) = &self.visitor {
            visitor.add_out(bytes);
        }
    }

    /// Tells whether the exchange may go on: the operator lets it, and the bytes of the day are not
    /// used up.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        !self.share.is_cut()
            && !self.share.meter.is_out_of_bytes()
            && !self.visitor.as_ref().is_some_and(|visitor| visitor.is_out_of_bytes())
    }

    /// Returns the meters that the exchange counts on.
    #[must_use]
    pub fn meters(&self) -> (Arc<Meter>, Option<Arc<Meter>>) {
        (Arc::clone(&self.share.meter), self.visitor.clone())
    }

    /// Counts the exchange on its connection too, as long as it lasts.
    fn on(&mut self, opener: &Opener) {
        opener.load().fetch_add(1, Ordering::Relaxed);
        if let Some(before) = self.connection.replace(Arc::clone(opener.load())) {
            before.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.share.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.share.meter.close();
        if let Some(visitor) = &self.visitor {
            visitor.close();
        }
        if let Some(load) = &self.connection {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Share {
    /// Makes a share out of a granted claim.
    #[must_use]
    pub fn new(
        facts: ShareFacts,
        session: Arc<Session>,
        access: AccessPolicy,
        expires_at: Option<u64>,
        meter: Arc<Meter>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            facts,
            session,
            access: ArcSwap::from_pointee(access),
            expires_at: AtomicU64::new(expires_at.unwrap_or(u64::MAX)),
            lanes: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            meter,
            cut: AtomicBool::new(false),
            up: Mutex::new(Some(Tracked::new(&metrics.shares))),
            metrics,
        }
    }

    /// Ends the share: it is not up any more, and its lanes close. Ending it twice changes nothing.
    pub fn end(&self) {
        let counted = self.up.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(counted);
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        drop(lanes);
    }

    /// Lets nothing more pass, in either direction.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Tells whether nothing more may pass.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns the meter of the share's owner.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Returns the visitors' policy.
    #[must_use]
    pub fn access(&self) -> arc_swap::Guard<Arc<AccessPolicy>> {
        self.access.load()
    }

    /// Replaces the visitors' policy; the next request sees the new one.
    pub fn set_access(&self, access: AccessPolicy) {
        self.access.store(Arc::new(access));
    }

    /// Moves the end of the share.
    pub fn set_expiry(&self, expires_at: Option<u64>) {
        self.expires_at.store(expires_at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns when the share ends by itself, in Unix seconds.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        Some(self.expires_at.load(Ordering::Relaxed)).filter(|end| *end != u64::MAX)
    }

    /// Tells whether the share may serve one more request: its session lives and has the right to,
    /// and its own time is not over.
    #[must_use]
    pub fn may_serve(&self, now: u64) -> bool {
        self.session.may_serve(now) && !self.is_expired(now)
    }

    /// Tells whether the share has come to its end.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.load(Ordering::Relaxed) <= now
    }

    /// Returns how many exchanges are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns how many exchanges there were so far, with those in flight.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Counts one more exchange, or refuses it when `limit` are in flight, or as many of its owner
    /// as allowed.
    pub fn enter(self: &Arc<Self>, limit: usize) -> Option<InFlight> {
        self.enter_from(limit, None)
    }

    /// Does the same, and counts the exchange for the visitor's address too.
    pub fn enter_from(
        self: &Arc<Self>,
        limit: usize,
        visitor: Option<&Arc<Meter>>,
    ) -> Option<InFlight> {
        let others = self.in_flight.fetch_add(1, Ordering::Relaxed);
        if others >= limit || !self.meter.open() {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut in_flight = InFlight { share: Arc::clone(self), connection: None, visitor: None };
        if let Some(visitor) = visitor {
            if !visitor.open() {
                return None;
            }
            in_flight.visitor = Some(Arc::clone(visitor));
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        Some(in_flight)
    }

    /// Takes a rested lane of the least loaded connection, or opens one.
    ///
    /// # Errors
    /// When the session has no connection that opens a stream.
    pub async fn lane(&self, in_flight: &mut InFlight) -> Result<(usize, Lane), LaneError> {
        let (slot, opener) =
            self.session.least_loaded().ok_or(LaneError::Open(MuxError::Closed))?;
        in_flight.on(&opener);
        while let Some(mut lane) = self.take_rested(slot) {
            if lane.is_ready() {
                return Ok((slot, lane));
            }
        }
        let lane = self.open_lane(&opener).await?;
        Ok((slot, lane))
    }

    /// Opens a lane that never rests, for an exchange that may switch protocols.
    ///
    /// # Errors
    /// When the session has no connection that opens a stream.
    pub async fn fresh_lane(&self, in_flight: &mut InFlight) -> Result<Lane, LaneError> {
        let closed = LaneError::Open(MuxError::Closed);
        let (_, opener) = self.session.least_loaded().ok_or(closed)?;
        in_flight.on(&opener);
        self.open_lane(&opener).await
    }

    async fn open_lane(&self, opener: &Opener) -> Result<Lane, LaneError> {
        let head = StreamHead::http(self.facts.id, self.facts.generation);
        let open = Lane::open(opener, head, Tracked::new(&self.metrics.streams_open));
        // An agent that reads nothing must not keep a visitor waiting for ever.
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, open).await {
            Ok(opened) => opened,
            Err(_) => Err(LaneError::Open(MuxError::Closed)),
        }
    }

    fn take_rested(&self, slot: usize) -> Option<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = lanes.iter().rposition(|(of, _)| *of == slot)?;
        Some(lanes.swap_remove(at).1)
    }

    /// Lets a lane rest after an exchange, if it can carry another.
    pub fn give_back(&self, slot: usize, mut lane: Lane) {
        if !lane.is_reusable() {
            return;
        }
        lane.rest();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() < MAX_RESTING {
            lanes.push((slot, lane));
        }
    }

    /// Closes lanes that rested long; called by the janitor.
    pub fn tidy_lanes(&self) {
        let now = Instant::now();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let rested: Vec<_> = lanes
            .extract_if(.., |(_, lane)| now.duration_since(lane.idle_since()) > MAX_REST)
            .collect();
        lanes.shrink_to(16);
        drop(lanes);
        drop(rested);
    }
}

/// The key of a visitor's rate on one share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VisitorKey {
    /// The visitor's address, an IPv6 one cut to its /64.
    pub address: IpAddr,
    /// The share's name.
    pub share: Name,
}

/// Cuts an IPv6 address to its /64, which is what one visitor has at will; an IPv4 one stays.
#[must_use]
pub fn rate_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
