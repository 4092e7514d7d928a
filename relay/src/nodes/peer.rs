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
    /// The node was about to end, and said that it did not hear the request.
    #[error("the node did not hear the request")]
    Unheard(#[source] hyper::Error),
    /// The connection broke while the request was there: whether an agent saw it is not known.
    #[error("the connection to another node broke")]
    Broken(#[source] hyper::Error),
}

impl HopError {
    /// Says what it means that a connection took a request and gave no answer. What the other end
    /// says it did not hear was heard by nobody (RFC 9113 §6.8, §8.7).
    fn of(error: hyper::Error) -> Self {
        let told = std::error::Error::source(&error).and_then(|told| told.downcast_ref());
        let unheard = told.is_some_and(|told: &h2::Error| match told.reason() {
            Some(h2::Reason::NO_ERROR) => told.is_remote() && told.is_go_away(),
            Some(h2::Reason::REFUSED_STREAM) => told.is_remote() && told.is_reset(),
            _ => false,
        });
        if unheard { Self::Unheard(error) } else { Self::Broken(error) }
    }
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
                    None => return Err(HopError::of(error.into_error())),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Sends a request to a node that hears it and says no more than `last`.
    async fn told(last: &[u8]) -> HopError {
        let (near, mut far) = tokio::io::duplex(4096);
        let node = async {
            far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            far.read_exact(&mut [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await.unwrap();
            let mut head = [0; 9];
            // Until the head of the request.
            while head[3] != 1 {
                far.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                far.read_exact(&mut payload).await.unwrap();
            }
            far.write_all(last).await.unwrap();
            far.shutdown().await.unwrap();
            drop(far.read_to_end(&mut Vec::new()).await);
        };
        let (mut sender, connection) = builder().handshake(TokioIo::new(near)).await.unwrap();
        let request = Request::get("http://node/").body(HopBody::empty()).unwrap();
        let asked = sender.try_send_request(request);
        let (error, _, _) = tokio::join!(asked, connection, node);
        HopError::of(error.unwrap_err().into_error())
    }

    #[tokio::test]
    async fn what_a_node_says_it_did_not_hear_and_nothing_else_may_be_sent_again() {
        let unheard: [&[u8]; 2] =
            [b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0", b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07"];
        // It heard the request; it has failed; it gave this request up; it is gone.
        let broken: [&[u8]; 4] = [
            b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0",
            b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x02",
            b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02",
            b"",
        ];
        for last in unheard {
            let error = told(last).await;
            assert!(matches!(error, HopError::Unheard(_)), "{last:?}: {error:?}");
        }
        for last in broken {
            let error = told(last).await;
            assert!(matches!(error, HopError::Broken(_)), "{last:?}: {error:?}");
        }
    }
}
