//! Requests for shares that another node serves: one hop, streamed both ways.
//!
//! The other node does all that is done for a visitor of its own: it judges, counts and answers.
//! Here the head is only made fit for the way. While the request has not reached an agent, it
//! follows its share wherever that goes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mcpm_shared::access::LINK_HEADER;
use mcpm_shared::name::Name;
use tokio::time::Instant;

use super::body::{EdgeBody, HopAnswer};
use super::failure::Failure;
use super::onward::visitor_host;
use super::{Proxy, Visitor, mcp, upgrade};
use crate::error::EdgeError;
use crate::headers::{self, RELAY_ERROR};
use crate::host::Route;
use crate::metrics::Tracked;
use crate::nodes::head::HopHead;
use crate::nodes::peer::{Held, HopError};
use crate::nodes::replay::{HopBody, Replay};
use crate::observe::Seen;
use crate::tunnel::table::{Elsewhere, Entry, Place};
use crate::tunnel::visitor_body::RequestBody;

/// How long to wait before a node that cannot be reached is tried again, unless the share turns up
/// elsewhere before.
const RETRY: Duration = Duration::from_millis(250);
/// The authority of requests between nodes, which nobody looks at: `Host` says what was asked for.
const AUTHORITY: &str = "http://node";

/// Marks a request whose agent went to another node after it was on its way to the agent.
#[derive(Clone, Copy, Debug)]
struct Moved;

/// What a request that is on its way to an agent of this node needs beside its head, should it turn
/// out that the agent is at another node by now.
pub(super) struct Again {
    route: Option<Arc<Route>>,
}

impl Again {
    /// Makes the request once more. Its head was made fit for the agent: what was taken out on the
    /// way to an agent is taken out on the way to a node too.
    pub(super) fn request(self, parts: Parts, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::from_parts(parts, body);
        request.headers_mut().remove(LINK_HEADER);
        request.extensions_mut().insert(Moved);
        if let Some(route) = self.route {
            request.extensions_mut().insert(route);
        }
        request
    }
}

/// One request on its way to another node.
struct Hop<'a> {
    name: &'a Name,
    path: &'a PathAndQuery,
    visitor: Visitor,
    parts: &'a Parts,
    headers: HeaderMap,
    /// Whether it asks for another protocol.
    switch: bool,
}

impl Proxy {
    /// Returns what a request needs to go to another node, where its agent may turn out to be by now:
    /// once, and where it came from a visitor.
    pub(super) fn again<B>(&self, request: &Request<B>, visitor: &Visitor) -> Option<Again> {
        let extensions = request.extensions();
        let moved = extensions.get::<Moved>().is_some();
        if self.nodes.get().is_none() || visitor.hop.is_some() || moved {
            return None;
        }
        Some(Again { route: extensions.get::<Arc<Route>>().cloned() })
    }

    /// Carries a request to the node that serves its share, or serves it here if the share comes
    /// here meanwhile; until `deadline` it may be held. Boxed: a request may come here twice.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, used once")]
    pub(super) fn hop<'a>(
        &'a self,
        entry: Arc<Entry>,
        at: Elsewhere,
        name: &'a Name,
        path: PathAndQuery,
        request: Request<RequestBody>,
        visitor: Visitor,
        seen: &'a mut Seen,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Response<EdgeBody>, Failure>> {
        Box::pin(self.follow(entry, at, name, path, request, visitor, seen, deadline))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, used once")]
    async fn follow(
        &self,
        entry: Arc<Entry>,
        at: Elsewhere,
        name: &Name,
        path: PathAndQuery,
        request: Request<RequestBody>,
        visitor: Visitor,
        seen: &mut Seen,
        deadline: Instant,
    ) -> Result<Response<EdgeBody>, Failure> {
        let (parts, body) = request.into_parts();
        let replay = Replay::new(body);
        let hop = Hop::new(name, &path, visitor, &parts);
        let mut at = at;
        loop {
            let error = match self.hop_once(&hop, &at, &replay).await {
                Ok(response) => return Ok(response),
                Err((error, true)) => error,
                Err((error, false)) => return Err(hop.failure(error, &replay)),
            };
            let until = match error {
                // It is somewhere else, and this node will hear where.
                EdgeError::Misrouted => deadline,
                _ => (Instant::now() + RETRY).min(deadline),
            };
            let held = Tracked::new(&self.metrics.held_requests);
            let place = entry.wait_until(at.generation, until).await;
            drop(held);
            match place {
                Some(Place::There(newer)) => at = newer,
                Some(Place::Here(share)) => {
                    let Some(body) = replay.back() else {
                        return Err(hop.failure(EdgeError::Offline, &replay));
                    };
                    let request = Request::from_parts(parts.clone(), body);
                    let here = self.here(entry, share, name, path.clone(), request, visitor, seen);
                    return Box::pin(here).await;
                }
                // Too many wait already, or for long enough.
                None if Instant::now() < until || until >= deadline => {
                    return Err(hop.failure(error, &replay));
                }
                None => {}
            }
        }
    }

    /// Sends a request to the node that is thought to serve it. With a failure comes whether surely
    /// nothing of it reached an agent.
    async fn hop_once(
        &self,
        hop: &Hop<'_>,
        at: &Elsewhere,
        replay: &Replay,
    ) -> Result<Response<EdgeBody>, (EdgeError, bool)> {
        let (Some(nodes), Some(body)) = (self.nodes.get(), replay.again()) else {
            return Err((EdgeError::Offline, false));
        };
        let request = hop.request(at.generation, body);
        match nodes.send(&at.node, request, hop.switch).await {
            Ok((response, _held)) if is_misrouted(&response) => {
                tracing::debug!(share.name = %hop.name, node.id = %at.node, "misrouted");
                self.metrics.hop("misrouted");
                nodes.doubt();
                Err((EdgeError::Misrouted, true))
            }
            Ok((response, held)) => {
                replay.settle();
                let visitor = hop.parts.extensions.get::<OnUpgrade>().cloned();
                Ok(self.hopped(response, held, visitor))
            }
            Err(error) => {
                let why = &error as &dyn std::error::Error;
                tracing::debug!(error = why, share.name = %hop.name, "hop failed");
                Err(match error {
                    HopError::Unreachable { .. } | HopError::Unheard(_) => {
                        (EdgeError::Offline, true)
                    }
                    HopError::Full(_) => (EdgeError::Busy, false),
                    HopError::Broken(_) if replay.is_cut() => (EdgeError::Malformed, false),
                    HopError::Broken(_) => (EdgeError::AgentFailed, false),
                })
            }
        }
    }

    /// Turns the other node's answer into the visitor's.
    fn hopped(
        &self,
        response: Response<Incoming>,
        held: Held,
        visitor: Option<OnUpgrade>,
    ) -> Response<EdgeBody> {
        let mut response = response;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(visitor) = visitor
        {
            let node = hyper::upgrade::on(&mut response);
            self.scope.spawn_until_cancelled(async move {
                let _held = held;
                let (Ok(visitor), Ok(node)) = tokio::join!(visitor, node) else { return };
                let (mut visitor, mut node) = (TokioIo::new(visitor), TokioIo::new(node));
                if let Err(error) = tokio::io::copy_bidirectional(&mut visitor, &mut node).await {
                    tracing::debug!(%error, "upgraded hop ended");
                }
            });
            return response.map(|_| EdgeBody::empty());
        }
        let (mut parts, body) = response.into_parts();
        headers::remove_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let counted = Tracked::new(&self.metrics.requests_in_flight);
        Response::from_parts(parts, EdgeBody::Hop(Box::new(HopAnswer::new(body, held, counted))))
    }
}

impl<'a> Hop<'a> {
    fn new(name: &'a Name, path: &'a PathAndQuery, visitor: Visitor, parts: &'a Parts) -> Self {
        let mut headers = parts.headers.clone();
        let host = visitor_host(&headers, &parts.uri);
        let protocol = headers.get(header::UPGRADE).cloned();
        let protocol = protocol.filter(|_| upgrade::is_asked(&parts.headers));
        headers::remove_hop_by_hop(&mut headers);
        // The relay's own server has answered it with `100 Continue`.
        headers.remove(header::EXPECT);
        // The other node says these again, of what it is told here.
        headers::remove_relay_claims(&mut headers);
        headers.insert(header::HOST, host);
        let switch = protocol.is_some();
        if let Some(protocol) = protocol {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol);
        }
        Self { name, path, visitor, parts, headers, switch }
    }

    fn request(&self, generation: u64, body: HopBody) -> Request<HopBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = match self.switch {
            true => Uri::from(self.path.clone()),
            false => format!("{AUTHORITY}{}", self.path).parse().unwrap_or_default(),
        };
        *request.headers_mut() = self.headers.clone();
        let route = self.parts.extensions.get::<Arc<Route>>();
        let head = HopHead {
            name: self.name.clone(),
            generation,
            visitor: self.visitor.address,
            https: self.visitor.https,
            by_path: self.visitor.by_path,
            owner: route.map(|route| route.owner.clone()),
        };
        head.write(request.headers_mut());
        request
    }

    fn failure(&self, error: EdgeError, replay: &Replay) -> Failure {
        let json = mcp::media_type(&self.parts.headers)
            .is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
        let rpc = json && self.parts.method == Method::POST;
        Failure { error, rpc, body: replay.first() }
    }
}

/// Tells whether a node says that it does not serve the share. No agent can say so: what is the
/// relay's own is taken out of agents' answers.
fn is_misrouted(response: &Response<Incoming>) -> bool {
    let (status, code) = EdgeError::Misrouted.parts();
    response.status() == status
        && response.headers().get(RELAY_ERROR).is_some_and(|value| value == code)
}
