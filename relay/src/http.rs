//! The public listeners: accept, TLS, HTTP/1.1 and HTTP/2, and the whole route table.
//!
//! | host | path | served by |
//! |---|---|---|
//! | apex | `/v1/tunnel` | `tunnel` |
//! | apex | `/s/NAME/…` (with `--paths`) | `proxy` |
//! | apex | `/`, `/healthz`, `/robots.txt` | here |
//! | `NAME.<domain>` | everything | `proxy` |
//! | anything else | | 421 |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use mcpm_shared::proto::TUNNEL_PATH;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Tls};
use crate::error::EdgeError;
use crate::host::{self, Target};
use crate::proxy::{EdgeBody, Proxy, Visitor};
use crate::tunnel::Tunnels;

/// How long a visitor may take for a TLS handshake or a request head (slow loris).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most header fields of a request (hyper's own default, which is nginx's order of magnitude).
const MAX_HEADERS: usize = 100;
/// HTTP/2: concurrent requests of one connection, and its windows.
const H2_STREAMS: u32 = 256;
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// How long to wait when the system has no descriptors left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the public listeners.
#[derive(Debug)]
pub struct Edge {
    /// The settings.
    pub config: Arc<Config>,
    /// Serves visitors.
    pub proxy: Proxy,
    /// Serves agents.
    pub tunnels: Arc<Tunnels>,
    /// Whether the relay is about to stop.
    pub draining: AtomicBool,
    /// Serves each connection.
    pub server: Arc<Server>,
    /// Ends every connection at once when it is cancelled: the grace period is over.
    pub abort: Scope,
}

/// Which routes a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// All of them.
    Public,
    /// The tunnel endpoint alone, under any host.
    Tunnel,
}

/// Accepts connections until the scope is cancelled; those that are open then end after the
/// request they are at.
pub async fn accept(
    edge: Arc<Edge>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Routes,
    scope: Scope,
) {
    while let Some(accepted) = scope.token().run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let (edge, tls, stop) = (Arc::clone(&edge), tls.clone(), scope.clone());
                scope.spawn(async move { connection(edge, stream, peer, tls, routes, stop).await });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    edge: Arc<Edge>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    routes: Routes,
    scope: Scope,
) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%error, "visitor gone before the first byte");
    }
    let Some(tls) = tls else {
        return serve(edge, stream, peer, None, routes, scope).await;
    };
    match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let sni = stream.get_ref().1.server_name().map(str::to_owned);
            // Boxed, so that the state of a plain connection is not as large as both together.
            Box::pin(serve(edge, stream, peer, Some(sni), routes, scope)).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

/// Serves one connection. `tls` is `None` on a plain one, else what SNI named.
async fn serve<S>(
    edge: Arc<Edge>,
    stream: S,
    peer: SocketAddr,
    tls: Option<Option<String>>,
    routes: Routes,
    scope: Scope,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let visitor = Visitor { address: peer.ip().to_canonical(), https: tls.is_some() };
    let sni = tls.flatten();
    let server = Arc::clone(&edge.server);
    let service = service_fn(|request| {
        let (edge, sni) = (Arc::clone(&edge), sni.clone());
        async move { Ok::<_, Infallible>(edge.route(request, visitor, sni.as_deref(), routes).await) }
    });
    let mut serving = pin!(server.0.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = scope.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => ended,
                () = edge.abort.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
}

/// How connections are served: made once, used by all.
pub struct Server(auto::Builder<TokioExecutor>);

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    /// Makes the server of these settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // Without TLS there is nothing to agree on HTTP/2 with.
        if config.tls == Tls::None {
            builder = builder.http1_only();
        }
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(config.limits.max_header_bytes.max(8 * 1024))
            .max_headers(MAX_HEADERS);
        let headers = u32::try_from(config.limits.max_header_bytes).unwrap_or(u32::MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(headers)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        Self(builder)
    }
}

impl Edge {
    /// Sends one request where it belongs.
    async fn route(
        &self,
        request: Request<Incoming>,
        visitor: Visitor,
        sni: Option<&str>,
        routes: Routes,
    ) -> Response<EdgeBody> {
        if routes == Routes::Tunnel {
            return self.apex(request, visitor).await;
        }
        let Some(host) = request_host(&request) else {
            return EdgeError::WrongHost.response(false, None).map(EdgeBody::from);
        };
        let (domain, local) = (self.config.domain.host(), self.config.domain.is_local());
        // A connection whose certificate was chosen for one share must not be used for another:
        // HTTP/2 clients coalesce hosts of one wildcard certificate (RFC 9113 §9.1.2).
        let target = host::classify(host, &domain, local);
        if sni.is_some_and(|sni| host::classify(sni, &domain, local) != target) {
            return EdgeError::WrongHost.response(false, None).map(EdgeBody::from);
        }
        match target {
            Target::Apex => self.apex(request, visitor).await,
            Target::Share(name) => {
                let path = path_of(&request);
                let mut response = self.proxy.serve(&name, path, request, visitor).await;
                self.close_when_draining(&mut response);
                response
            }
            Target::Unknown => EdgeError::WrongHost.response(false, None).map(EdgeBody::from),
        }
    }

    async fn apex(&self, request: Request<Incoming>, visitor: Visitor) -> Response<EdgeBody> {
        let path = request.uri().path();
        if path == TUNNEL_PATH {
            let draining = self.draining.load(Ordering::Relaxed);
            let answer = Box::pin(self.tunnels.upgrade(request, visitor.address, draining)).await;
            return answer.map(|body| EdgeBody::from(Bytes::from(body)));
        }
        if self.config.paths
            && let Some((name, rest)) = host::split_share_path(path)
        {
            let path = match request.uri().query() {
                Some(query) => format!("{rest}?{query}").parse(),
                None => rest.parse(),
            };
            let Ok(path) = path else {
                return EdgeError::Malformed.response(false, None).map(EdgeBody::from);
            };
            let mut response = self.proxy.serve(&name, path, request, visitor).await;
            self.close_when_draining(&mut response);
            return response;
        }
        let reading = request.method() == Method::GET || request.method() == Method::HEAD;
        match path {
            "/" if reading => html(LANDING),
            "/healthz" if reading => text(StatusCode::OK, "ok\n"),
            "/robots.txt" if reading => text(StatusCode::OK, "User-agent: *\nDisallow: /\n"),
            _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
        }
    }

    /// Asks kept-alive visitors to connect anew, to the next process or node.
    fn close_when_draining(&self, response: &mut Response<EdgeBody>) {
        if self.draining.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

/// Returns the one host a request names; `None` when it names none, or two that differ.
fn request_host(request: &Request<Incoming>) -> Option<&str> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let header = headers.next().map(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match (header, authority, headers.next()) {
        (None, Some(host), None) | (Some(Some(host)), None, None) => Some(host),
        (Some(Some(a)), Some(b), None) if a.eq_ignore_ascii_case(b) => Some(b),
        _ => None,
    }
}

fn path_of(request: &Request<Incoming>) -> PathAndQuery {
    let path = request.uri().path_and_query().cloned();
    path.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

const LANDING: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
    <meta name=viewport content=\"width=device-width\"><title>mcpm relay</title>\
    <style>body{font:16px/1.5 system-ui;max-width:36em;margin:12vh auto;padding:0 1em;color:#222}\
    code{background:#eee;padding:.1em .3em}</style><h1>mcpm relay</h1>\
    <p>This host gives MCP servers on people's own machines a public address. To share one: \
    <code>mcpm share NAME --address &lt;this host&gt;</code></p></html>";

fn html(page: &'static str) -> Response<EdgeBody> {
    let mut response = text(StatusCode::OK, page);
    let headers = response.headers_mut();
    let set = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::from(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
