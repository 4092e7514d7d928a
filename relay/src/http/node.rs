//! The listener for other nodes: requests of their visitors for shares that are up here.
//!
//! Nothing is served to anybody who has not proved to be a node. What a node says of a visitor is
//! believed; it goes nowhere from here but to an agent of this node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mcpm_shared::scope::Scope;
use tokio::net::{TcpListener, TcpStream};

use super::lingering::Lingering;
use super::{ACCEPT_PAUSE, Edge, Stop, drive, path_of};
use crate::error::EdgeError;
use crate::host::Route;
use crate::nodes::Nodes;
use crate::nodes::head::HopHead;
use crate::nodes::hello::{HelloError, Speaks};
use crate::nodes::peer::server_builder;
use crate::nodes::shares::{self, Ask};
use crate::observe::Seen;
use crate::proxy::{EdgeBody, Visitor};

/// How long a connection may take to prove itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts other nodes until `listening` is cancelled; their requests are tasks of `stop.visitors`.
pub async fn accept(
    edge: Arc<Edge>,
    nodes: Arc<Nodes>,
    listener: TcpListener,
    listening: Scope,
    stop: Stop,
) {
    while let Some(accepted) = listening.token().run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let (edge, nodes) = (Arc::clone(&edge), Arc::clone(&nodes));
                let told = stop.goaways.clone();
                stop.visitors.spawn(Box::pin(async move {
                    tracing::trace!(%peer, "node connects");
                    connection(edge, &nodes, stream, told).await;
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(edge: Arc<Edge>, nodes: &Nodes, stream: TcpStream, stop: Scope) {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, nodes.hello().accept(stream));
    let hello = stop.token().run_until_cancelled(hello).await;
    let (stream, speaks, from) = match hello {
        Some(Ok(Ok(known))) => known,
        // Somebody looked whether anybody is there.
        Some(Ok(Err(HelloError::Io(error)))) => {
            return tracing::debug!(%error, "a connection to the listener for nodes broke");
        }
        Some(Ok(Err(error))) => {
            let error = &error as &dyn std::error::Error;
            return tracing::warn!(error, "a connection to the listener for nodes was refused");
        }
        Some(Err(_)) | None => return,
    };
    tracing::debug!(node.id = from, "node connected");
    let serving = Arc::clone(&edge);
    let service = service_fn(move |request| answer(Arc::clone(&serving), request));
    match speaks {
        Speaks::Requests => {
            let io = TokioIo::new(Lingering::new(stream));
            let connection = server_builder().serve_connection(io, service);
            // The other node is told which requests were heard (RFC 9113 §6.8).
            let finish = http2::Connection::graceful_shutdown;
            drive(connection, || false, finish, &edge.abort, &stop).await;
        }
        Speaks::Switch => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).max_headers(super::server::MAX_HEADERS + 1);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let connection = connection.with_upgrades();
            let finish = http1::UpgradeableConnection::graceful_shutdown;
            drive(connection, || false, finish, &edge.abort, &stop).await;
        }
    }
}

/// Serves one request that another node passes on.
async fn answer(
    edge: Arc<Edge>,
    mut request: Request<Incoming>,
) -> Result<Response<EdgeBody>, Infallible> {
    if let Some(ask) = Ask::take(request.headers_mut()) {
        return Ok(shares::answer(&edge.tunnels, &ask).map(EdgeBody::from));
    }
    let Some((head, visitor)) = read(&mut request) else {
        return Ok(EdgeError::Malformed.response(false, None).map(EdgeBody::from));
    };
    edge.tunnels.metrics.hops_taken.inc();
    let mut seen = match &*edge.observers.load() {
        Some(observers) => observers.begin(&mut request, visitor.address, visitor.https),
        None => Seen::default(),
    };
    let path = path_of(&request);
    let mut response = edge.proxy.serve(&head.name, path, request, visitor, &mut seen).await;
    seen.answered(response.status());
    response.body_mut().show(seen);
    Ok(response)
}

/// Takes out of a request what the other node says of it.
fn read(request: &mut Request<Incoming>) -> Option<(HopHead, Visitor)> {
    let head = HopHead::take(request.headers_mut())?;
    // `Host` is what the visitor asked for; the authority is that of the way between nodes.
    *request.uri_mut() = Uri::from(path_of(request));
    if let Some(owner) = &head.owner {
        let domain = host(request.headers())?.parse().ok()?;
        let route = Route { domain, name: head.name.clone(), owner: owner.clone() };
        request.extensions_mut().insert(Arc::new(route));
    }
    let visitor = Visitor {
        address: head.visitor,
        https: head.https,
        by_path: head.by_path,
        hop: Some(head.generation),
    };
    Some((head, visitor))
}

/// Returns the host that was asked for, without a port.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
}
