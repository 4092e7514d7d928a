//! One visitor request → one exchange on a lane → one answer. The hot path.
//!
//! Order: is the share here (or coming back) → is this MCP → may this visitor come in → limits →
//! lane → exchange. Nothing here reads a body; the only JSON ever parsed is the id of a request that
//! failed.

mod allowed;
mod body;
mod cors;
mod failure;
mod hop;
mod mcp;
mod onward;
mod page;
mod place;
mod upgrade;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use mcpm_shared::access::{LINK_HEADER, Presented, Source};
use mcpm_shared::http1::BodyReader;
use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::body::{BodyError, EdgeBody, HopAnswer, LaneBody};
use self::failure::{Failure, lane_failure};
use self::mcp::Ask;
use self::onward::{forwardable, with_path};
use crate::admission::unix_now;
use crate::config::{Config, Live};
use crate::error::{EdgeError, rpc_id};
use crate::headers;
use crate::host;
use crate::metrics::{Metrics, Tracked};
use crate::nodes::Nodes;
use crate::observe::Seen;
use crate::quota::Keyed;
use crate::store::Store;
use crate::tunnel::lane::{Lane, LaneError, Outgoing};
use crate::tunnel::owners::Owners;
use crate::tunnel::rules::Rules;
use crate::tunnel::share::{InFlight, Share, VisitorKey, rate_address};
use crate::tunnel::table::{Entry, Place, Table};
use crate::tunnel::visitor_body::{FirstPiece, RequestBody, VisitorBody};

/// How many ways a request is tried while nothing of it was sent.
const MAX_TRIES: u32 = 3;
/// How many unknown names an address may ask for a second, and at once: mistakes pass, scans do not.
const STRANGERS: Option<NonZeroU32> = NonZeroU32::new(10);
const STRANGERS_BURST: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// Who asked, and how.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// The visitor's address.
    pub address: IpAddr,
    /// Whether they came over TLS.
    pub https: bool,
    /// Whether they asked for a share by a path of the apex host.
    pub by_path: bool,
    /// Where another node passes the request on, the generation that it thinks is served here.
    pub hop: Option<u64>,
}

/// Serves visitors of shares.
#[derive(Debug)]
pub struct Proxy {
    /// The other nodes, where there are any.
    pub nodes: OnceLock<Arc<Nodes>>,
    config: Live,
    table: Arc<Table>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    rules: Arc<Rules>,
    owners: Arc<Owners>,
    rate: Keyed<VisitorKey>,
    /// How often an address may ask for names that are not in the table.
    strangers: Keyed<IpAddr>,
    /// Until then, a name nobody knows may belong to an agent that is about to come back.
    warm_until: Instant,
    /// Cancelled when the relay is about to stop: nothing is held any more.
    draining: CancellationToken,
    scope: Scope,
}

/// One request on its way, with what is needed to fail well.
struct Exchange {
    request: Outgoing,
    rpc: bool,
    first: FirstPiece,
}

impl Proxy {
    /// Makes the proxy of a relay that has just started.
    pub fn new(
        config: Live,
        table: Arc<Table>,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        (rules, owners): (Arc<Rules>, Arc<Owners>),
        draining: CancellationToken,
        scope: Scope,
    ) -> Self {
        let now = config.load_full();
        let limits = &now.limits;
        let rate = Keyed::per_second(limits.requests_per_second, limits.requests_burst);
        let strangers =
            Keyed::per_second(limits.requests_per_second.and(STRANGERS), STRANGERS_BURST);
        let warm_until = Instant::now() + now.timing.hold;
        Self {
            nodes: OnceLock::new(),
            config,
            table,
            store,
            metrics,
            rules,
            owners,
            rate,
            strangers,
            warm_until,
            draining,
            scope,
        }
    }

    /// Answers a request for the share `name`, whose path at the share is `path` with its query.
    pub async fn serve(
        &self,
        name: &Name,
        path: PathAndQuery,
        request: Request<Incoming>,
        visitor: Visitor,
        seen: &mut Seen,
    ) -> Response<EdgeBody> {
        seen.share(name);
        let counted = Tracked::new(&self.metrics.requests_in_flight);
        let started = Instant::now();
        let method = request.method().clone();
        let response = match self.answer(name, path, request, visitor, seen, started).await {
            Ok(response) => response,
            Err(failure) => {
                let id = if failure.rpc { rpc_id(&failure.body) } else { None };
                let mut response =
                    failure.error.response(failure.rpc, id.as_deref()).map(EdgeBody::from);
                cors::allow(response.headers_mut());
                mcp::harden(response.headers_mut());
                self.metrics.edge_error(failure.error.parts().1);
                seen.failed(failure.error.parts().1);
                response
            }
        };
        self.metrics.response(response.status());
        self.metrics.response_seconds.observe(started.elapsed().as_secs_f64());
        tracing::debug!(
            share.name = %name,
            http.method = %method,
            http.status = response.status().as_u16(),
            "request"
        );
        // From here on the body counts it, if it is not whole yet.
        drop(counted);
        response
    }

    /// Counts by the rates of changed settings from now on.
    pub fn obey(&self, config: &Config) {
        let limits = &config.limits;
        self.rate.set_per_second(limits.requests_per_second, limits.requests_burst);
        let strangers = limits.requests_per_second.and(STRANGERS);
        self.strangers.set_per_second(strangers, STRANGERS_BURST);
    }

    /// Forgets visitors at rest; called by the janitor.
    pub fn tidy(&self) {
        let _full = self.rate.sweep() | self.strangers.sweep();
    }

    async fn answer(
        &self,
        name: &Name,
        path: PathAndQuery,
        request: Request<Incoming>,
        visitor: Visitor,
        seen: &mut Seen,
        started: Instant,
    ) -> Result<Response<EdgeBody>, Failure> {
        let mut request = request;
        // The relay's own headers are nobody else's to send.
        request.headers_mut().remove(LINK_HEADER);
        let key = VisitorKey { address: rate_address(visitor.address), share: name.clone() };
        // The node that serves a share counts its requests.
        if !self.is_elsewhere(name)
            && let Err(wait) = self.rate.check(&key)
        {
            let error = EdgeError::RateLimited(wait);
            return Err(Box::pin(Failure::unsent(error, request, None)).await);
        }
        if framing_is_ambiguous(request.headers()) {
            return Err(Failure::plain(EdgeError::Malformed));
        }
        let found = match self.place(name, &visitor).await {
            Ok((entry, Place::Here(share))) => Ok((entry, share)),
            Ok((entry, Place::There(at))) => {
                let request = request.map(RequestBody::from);
                let deadline = started + self.config.load().timing.hold;
                return self.hop(entry, at, name, path, request, visitor, seen, deadline).await;
            }
            // The other node has the request still.
            Err(EdgeError::Misrouted) => return Err(Failure::plain(EdgeError::Misrouted)),
            Err(error) => Err(error),
        };
        let (entry, share) = match found {
            Ok(found) => found,
            Err(error) => {
                let error = if self.is_blocked(name) { self.blocked() } else { error };
                return Err(Box::pin(Failure::unsent(error, request, None)).await);
            }
        };
        self.here(entry, share, name, path, request.map(RequestBody::from), visitor, seen).await
    }

    /// Serves a request by a share that is up here.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, used once")]
    async fn here(
        &self,
        entry: Arc<Entry>,
        share: Arc<Share>,
        name: &Name,
        path: PathAndQuery,
        request: Request<RequestBody>,
        visitor: Visitor,
        seen: &mut Seen,
    ) -> Result<Response<EdgeBody>, Failure> {
        // A custom domain is for a share of its owner, whoever has the name now.
        let route = request.extensions().get::<Arc<host::Route>>();
        if route.is_some_and(|route| route.owner != share.facts.owner) {
            let error = EdgeError::UnknownShare;
            return Err(Box::pin(Failure::unsent(error, request, None)).await);
        }
        match share.facts.mode {
            // The relay is nobody's proxy to elsewhere, and of no such request would the answer be
            // read alike by all.
            ShareMode::Http if request.method() == Method::CONNECT => {
                Err(Failure::plain(EdgeError::Method))
            }
            ShareMode::Http => self.pass(entry, share, path, request, visitor, seen).await,
            ShareMode::Mcp => match mcp::ask(request.method(), path.path(), request.headers()) {
                Err(error) => Err(Failure::plain(error)),
                Ok(Ask::Preflight) => Ok(cors::preflight(request.headers())),
                Ok(Ask::Page) => Ok(page::share(name)),
                Ok(Ask::Exchange(at)) => {
                    let path = with_path(at, &path);
                    self.pass(entry, share, path, request, visitor, seen).await
                }
            },
        }
    }

    /// Gate, limits, exchange.
    async fn pass(
        &self,
        entry: Arc<Entry>,
        mut share: Arc<Share>,
        path: PathAndQuery,
        request: Request<RequestBody>,
        visitor: Visitor,
        seen: &mut Seen,
    ) -> Result<Response<EdgeBody>, Failure> {
        seen.agent(&share.session.admitted.subject);
        let mode = Some(share.facts.mode);
        let (link, source) = match gate(&share, &path, request.headers()) {
            Ok(admitted) => admitted,
            Err(error) => return Err(Box::pin(Failure::unsent(error, request, mode)).await),
        };
        let config = self.config.load_full();
        let limits = &config.limits;
        if content_length(request.headers()).is_some_and(|length| length > limits.max_body_bytes) {
            return Err(Box::pin(Failure::unsent(EdgeError::TooLarge, request, mode)).await);
        }
        let from = self.owners.visitor(rate_address(visitor.address));
        let full = share.session.in_flight() >= limits.max_streams_per_session;
        let entered =
            share.enter_from(limits.max_streams_per_share, from.as_ref()).filter(|_| !full);
        let Some(mut in_flight) = entered else {
            return Err(Box::pin(Failure::unsent(EdgeError::Busy, request, mode)).await);
        };
        if let Err(error) = allowed::begin(&share, from.as_deref()) {
            return Err(Box::pin(Failure::unsent(error, request, mode)).await);
        }
        if share.facts.mode == ShareMode::Http && upgrade::is_asked(request.headers()) {
            let request = forwardable(request, &path, link, source, visitor, &share, true);
            let run =
                upgrade::run(&self.scope, &config, &share, in_flight, request, &self.metrics, seen);
            // Boxed like other rare paths: the state of a common request stays small.
            return Box::pin(run).await.map_err(Failure::plain);
        }
        let again = self.again(&request, &visitor);
        let rpc = share.facts.mode == ShareMode::Mcp && request.method() == Method::POST;
        let first = FirstPiece::default();
        let counter = self.metrics.bytes_in.clone();
        let (request, forwarded) =
            forwardable(request, &path, link, source, visitor, &share, false);
        let (parts, body) = request.into_parts();
        let shown = rpc.then(|| first.clone());
        let body = VisitorBody::new(body, limits.max_body_bytes, shown, counter, &in_flight);
        let request = Outgoing::new(&parts, body, &forwarded);
        // Kept only where it may be needed again.
        let mut again = again.map(|again| (again, parts));
        let mut exchange = Exchange { request, rpc, first };
        let judged = Arc::clone(&*share.access());
        let mut tries = 0;
        loop {
            let error = match self.exchange(&share, in_flight, &mut exchange).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            // Nothing of the request reached the agent: it may go another way, or wait for the
            // agent's return.
            if exchange.request.is_started() || error != EdgeError::Offline {
                return Err(Failure::after(error, &exchange));
            }
            tries += 1;
            let elsewhere = tries < MAX_TRIES
                && share.may_serve(unix_now())
                && share.session.least_loaded().is_some();
            if !elsewhere {
                let deadline = Instant::now() + config.timing.hold;
                let hold = self.hold(&entry, share.facts.generation, visitor.hop);
                let back = match Box::pin(hold).await {
                    Ok(Place::Here(back)) => back,
                    // The agent went to another node, and so does the request, as it came. It is
                    // counted there.
                    Ok(Place::There(at)) => {
                        let failure = Failure::after(EdgeError::Offline, &exchange);
                        let head = again.take();
                        let Some(((again, parts), body)) = head.zip(exchange.request.unsent())
                        else {
                            return Err(failure);
                        };
                        allowed::take_back(&share, from.as_deref());
                        let (name, request) =
                            (share.facts.name.clone(), again.request(parts, body));
                        let hop =
                            self.hop(entry, at, &name, path, request, visitor, seen, deadline);
                        return hop.await;
                    }
                    Err(error) => return Err(Failure::after(error, &exchange)),
                };
                // The visitor was judged by the policy of the share that went.
                let same = back.facts.mode == share.facts.mode
                    && back.facts.owner == share.facts.owner
                    && **back.access() == *judged;
                if !same {
                    return Err(Failure::after(EdgeError::Offline, &exchange));
                }
                share = back;
            }
            in_flight = match share.enter_from(limits.max_streams_per_share, from.as_ref()) {
                Some(entered) => entered,
                None => return Err(Failure::after(EdgeError::Busy, &exchange)),
            };
        }
    }

    /// Carries one request over one lane.
    async fn exchange(
        &self,
        share: &Arc<Share>,
        mut in_flight: InFlight,
        exchange: &mut Exchange,
    ) -> Result<Response<EdgeBody>, EdgeError> {
        let (slot, mut lane) =
            share.lane(&mut in_flight).await.map_err(|error| lane_failure(share, &error))?;
        let idle = self.config.load().timing.idle;
        match lane.exchange(&mut exchange.request, idle).await {
            Ok(response) => {
                let rest = exchange.request.take_rest().map(Box::new);
                self.finish(response, share, in_flight, (Some(slot), lane), rest)
            }
            Err(LaneError::Stream(_)) if !exchange.request.is_started() => Err(EdgeError::Offline),
            Err(error) => Err(lane_failure(share, &error)),
        }
    }

    /// Turns the agent's answer into the visitor's.
    fn finish(
        &self,
        response: Response<BodyReader>,
        share: &Arc<Share>,
        in_flight: InFlight,
        lane: (Option<usize>, Lane),
        rest: Option<Box<Outgoing>>,
    ) -> Result<Response<EdgeBody>, EdgeError> {
        if share.is_cut() {
            return Err(self.blocked());
        }
        // Nobody asked to switch: what follows such a head is no answer to anything.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(EdgeError::AgentFailed);
        }
        let (mut parts, reader) = response.into_parts();
        let mcp = share.facts.mode == ShareMode::Mcp;
        if mcp && !mcp::is_mcp_answer(parts.status, &parts.headers) {
            return Err(EdgeError::NotMcpAnswer);
        }
        headers::remove_hop_by_hop(&mut parts.headers);
        headers::remove_relay_claims(&mut parts.headers);
        let events = mcp::media_type(&parts.headers)
            .is_some_and(|media| media.eq_ignore_ascii_case("text/event-stream"))
            && !parts.headers.contains_key(header::CONTENT_LENGTH);
        // What a server of mode `http` says is not touched; what is compressed cannot be added to.
        let commented = events && mcp && !parts.headers.contains_key(header::CONTENT_ENCODING);
        if events && mcp {
            parts.headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        }
        if mcp {
            mcp::harden(&mut parts.headers);
            cors::allow(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let body = LaneBody::new(
            reader,
            lane,
            rest,
            Arc::clone(share),
            in_flight,
            Arc::clone(&self.metrics),
            commented,
            self.config.load().timing.idle,
        );
        Ok(Response::from_parts(parts, EdgeBody::Lane(Box::new(body))))
    }
}

/// Judges the visitor; returns the link secret, where there is one, for the agent to judge too.
fn gate(
    share: &Share,
    path: &PathAndQuery,
    headers: &HeaderMap,
) -> Result<(Option<HeaderValue>, Source), EdgeError> {
    let presented = Presented::from_request(headers, path.query()).at(path.path(), path.query());
    let grant = share.access().evaluate(&presented, unix_now())?;
    let link = presented.link_secret().and_then(|secret| HeaderValue::from_bytes(secret).ok());
    Ok((link, grant.source))
}

/// Tells whether two headers disagree about where the body ends (RFC 9112 §6.3): such a request is
/// refused, whatever its sender meant.
fn framing_is_ambiguous(headers: &HeaderMap) -> bool {
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    lengths > 1 || (lengths == 1 && headers.contains_key(header::TRANSFER_ENCODING))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
