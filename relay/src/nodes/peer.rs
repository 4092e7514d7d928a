//! Another node, and the kept connections to it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::server;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mcpm_shared::scope::Scope;
use tokio::sync::Semaphore;

use super::hello::{Hello, HelloError, Speaks};
use super::replay::HopBody;
use crate::metrics::{Metrics, Tracked};

/// How long a connection to another node may take: they are near each other.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How many requests one connection carries before another is opened, and how many connections there
/// are to one node: event streams last for hours.
const STREAMS: usize = 128;
const MAX_LINKS: usize = 256;
/// Windows of HTTP/2. All streams of a connection may stand full without a share of the connection's
/// own window being missing: a visitor who reads slowly must not slow down its neighbours.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 128;
/// How much of one body waits here for a node that takes no more of it, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// How a connection is found dead that says nothing, also while nobody uses it.
const PING_INTERVAL: Duration = Duration::from_secs(3);
const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest head that is taken, in bytes: whoever sent it has checked it by the limits in force.
const MAX_HEAD: u32 = 1024 * 1024;
/// How often a request that never left is given another connection.
const MAX_LINKS_TRIED: u32 = 3;

/// Why a request did not get to another node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HopError {
    /// No connection could be had: nothing was sent.
    #[error("the node `{node}` at {address} cannot be reached")]
    Unreachable {
        /// The node.
        node: String,
        /// Where it is said to be.
        address: String,
        /// Why, where a connection was tried.
        source: Option<HelloError>,
    },
    /// The node has as many connections from here as allowed.
    #[error("too many requests are on their way to the node `{0}`")]
    Full(String),
    /// The connection broke while the request was there: whether an agent saw it is not known.
    #[error("the connection to another node broke")]
    Broken(#[source] hyper::Error),
}

/// Another node.
pub struct Peer {
    /// Its name.
    pub id: String,
    /// Where it is reached.
    pub address: String,
    /// Its generation: a later one is another process.
    pub generation: u64,
    links: Mutex<Vec<Arc<Link>>>,
    /// Lets one at a time open a connection; the others use it then.
    dialing: Semaphore,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One kept connection.
struct Link {
    sender: http2::SendRequest<HopBody>,
    in_flight: AtomicUsize,
}

/// One request's part in a connection, as long as its answer lasts.
pub struct Held {
    link: Option<Arc<Link>>,
    _open: Tracked,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Peer {
    pub(super) fn new(id: &str, address: &str, generation: u64) -> Self {
        Self {
            id: id.to_owned(),
            address: address.to_owned(),
            generation,
            links: Mutex::default(),
            dialing: Semaphore::new(1),
        }
    }

    /// Sends a request, and returns the head of its answer and what must be kept until its end. Not
    /// cancel-safe: dropping it cancels the request.
    ///
    /// # Errors
    /// When the node cannot be reached, or the connection breaks.
    pub async fn send(
        &self,
        request: Request<HopBody>,
        hello: &Hello,
        scope: &Scope,
        metrics: &Metrics,
    ) -> Result<(Response<Incoming>, Held), HopError> {
        let mut request = request;
        for _ in 0..MAX_LINKS_TRIED {
            let link = self.link(hello, scope).await?;
            let open = Tracked::new(&metrics.hops_open);
            let held = Held { link: Some(Arc::clone(&link)), _open: open };
            match link.sender.clone().try_send_request(request).await {
                Ok(response) => return Ok((response, held)),
                // It never left the queue of a connection that was about to close.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(HopError::Broken(error.into_error())),
                },
            }
        }
        Err(self.unreachable(None))
    }

    /// Sends a request that may switch protocols, over a connection of its own.
    ///
    /// # Errors
    /// When the node cannot be reached, or the connection breaks.
    pub async fn send_switch(
        &self,
        request: Request<HopBody>,
        hello: &Hello,
        scope: &Scope,
        metrics: &Metrics,
    ) -> Result<(Response<Incoming>, Held), HopError> {
        let stream = self.dial(hello, Speaks::Switch).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(HopError::Broken)?;
        scope.spawn_until_cancelled(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "hop ended");
            }
        });
        let held = Held { link: None, _open: Tracked::new(&metrics.hops_open) };
        let response = sender.send_request(request).await.map_err(HopError::Broken)?;
        Ok((response, held))
    }

    async fn dial(
        &self,
        hello: &Hello,
        speaks: Speaks,
    ) -> Result<tokio_rustls::TlsStream<tokio::net::TcpStream>, HopError> {
        let dial = hello.dial(&self.address, &self.id, speaks);
        match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(Some(error))),
            Err(_) => {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(self.unreachable(Some(late.into())))
            }
        }
    }

    fn unreachable(&self, source: Option<HelloError>) -> HopError {
        let (node, address) = (self.id.clone(), self.address.clone());
        HopError::Unreachable { node, address, source }
    }

    /// Returns a connection with room for one more request, which is counted on it.
    async fn link(&self, hello: &Hello, scope: &Scope) -> Result<Arc<Link>, HopError> {
        if let Some(link) = self.take() {
            return Ok(link);
        }
        let Ok(_turn) = self.dialing.acquire().await else { return Err(self.unreachable(None)) };
        // Whoever was here before may have opened one.
        if let Some(link) = self.take() {
            return Ok(link);
        }
        if self.links.lock().unwrap_or_else(PoisonError::into_inner).len() >= MAX_LINKS {
            return Err(HopError::Full(self.id.clone()));
        }
        let stream = self.dial(hello, Speaks::Requests).await?;
        let (sender, connection) = builder()
            .handshake::<_, HopBody>(TokioIo::new(stream))
            .await
            .map_err(HopError::Broken)?;
        // It ends when the peer is forgotten and its last answer is whole.
        scope.spawn_until_cancelled(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "link ended");
            }
        });
        let link = Arc::new(Link { sender, in_flight: AtomicUsize::new(1) });
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.push(Arc::clone(&link));
        Ok(link)
    }

    /// Takes the least loaded connection that lives and has room.
    fn take(&self) -> Option<Arc<Link>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| !link.sender.is_closed());
        let load = |link: &&Arc<Link>| link.in_flight.load(Ordering::Relaxed);
        let link = links.iter().min_by_key(load).filter(|link| load(link) < STREAMS)?;
        link.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(link))
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    builder
}

/// Returns how requests of other nodes are served.
#[must_use]
pub fn server_builder() -> server::conn::http2::Builder<TokioExecutor> {
    let streams = u32::try_from(STREAMS * 2).unwrap_or(u32::MAX);
    let mut builder = server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // More than a node ever opens: nothing waits for its turn there.
        .max_concurrent_streams(streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
