//! The public listeners: accept, TLS, HTTP/1.1 and HTTP/2, and the whole route table.
//!
//! | host | path | served by |
//! |---|---|---|
//! | apex | `/v1/tunnel` | `tunnel` |
//! | apex | `/s/NAME/…` (with `--paths`) | `proxy` |
//! | apex | `/`, `/healthz`, `/robots.txt` | here |
//! | `NAME.<domain>` | everything | `proxy` |
//! | anything else | | 421 |
//!
//! With `--http-listen`, a listener for plain HTTP has routes of its own: see `redirect`.

mod forwarded;
mod patience;
mod proxy_header;
mod redirect;
mod server;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::proto::TUNNEL_PATH;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::patience::HEAD_TIMEOUT;
use self::proxy_header::ProxyHeaderError;
pub use self::server::Server;
use crate::cert::{ACME_ALPN, CertSource};
use crate::config::{Config, Domain, PublicUrl};
use crate::error::EdgeError;
use crate::host::{self, Target};
use crate::proxy::{EdgeBody, Proxy, Visitor};
use crate::tunnel::Tunnels;

/// How long to wait when the system has no descriptors left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the public listeners.
#[derive(Debug)]
pub struct Edge {
    /// The settings.
    pub config: Arc<Config>,
    /// Scheme and port of public URLs.
    pub public: PublicUrl,
    /// The source of the certificate, which may have proofs to show.
    pub cert: Option<Arc<dyn CertSource>>,
    /// Tells hosts apart.
    pub apex: Apex,
    /// Serves visitors.
    pub proxy: Proxy,
    /// Serves agents.
    pub tunnels: Arc<Tunnels>,
    /// Whether the relay is about to stop.
    pub draining: AtomicBool,
    /// Serves each connection.
    pub server: Server,
    /// Ends every connection at once when it is cancelled: the grace period is over.
    pub abort: Scope,
}

/// The host under which names are shared, as every request needs it.
#[derive(Clone, Debug)]
pub struct Apex {
    host: String,
    local: bool,
}

impl Apex {
    /// Prepares a domain.
    #[must_use]
    pub fn new(domain: &Domain) -> Self {
        // Without brackets, as hosts of requests are compared.
        Self { host: domain.as_str().to_owned(), local: domain.is_local() }
    }

    fn classify(&self, host: &str) -> Target {
        host::classify(host, &self.host, self.local)
    }
}

/// Which routes a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// All of them.
    Public,
    /// The tunnel endpoint alone, under any host.
    Tunnel,
    /// What sends visitors to HTTPS.
    Redirect,
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
                // Boxed here, so that its kilobytes of state are not moved once more by each layer.
                scope.spawn(Box::pin(connection(edge, stream, peer, tls, routes, stop)));
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
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    routes: Routes,
    scope: Scope,
) {
    let Some(peer) = behind(&edge, &mut stream, peer).await else { return };
    if !cfg!(target_os = "linux")
        && let Err(error) = stream.set_nodelay(true)
    {
        return tracing::debug!(%error, "visitor gone before the first byte");
    }
    let Some(tls) = tls else {
        return serve_http1(Connection::new(edge, peer, None, routes), stream, scope).await;
    };
    match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let http2 = session.alpn_protocol() == Some(b"h2");
            if session.alpn_protocol() == Some(ACME_ALPN) {
                // An authority has seen what it came for.
                return;
            }
            let connection = Connection::new(edge, peer, Some(session.server_name()), routes);
            // Boxed, so that the state of a plain connection is not as large as all together.
            if http2 {
                Box::pin(serve_http2(connection, stream, scope)).await;
            } else {
                Box::pin(serve_http1(connection, stream, scope)).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

/// Returns who is behind a connection: its peer, or whom a proxy in front names.
async fn behind(edge: &Edge, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
    if !edge.config.proxy_protocol.contains(peer.ip()) {
        return Some(peer);
    }
    match tokio::time::timeout(HEAD_TIMEOUT, proxy_header::read(stream)).await {
        Ok(Ok(source)) => Some(source.unwrap_or(peer)),
        // Load balancers open and close connections to see whether somebody is there.
        Ok(Err(ProxyHeaderError::Io(_))) | Err(_) => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a connection from the proxy in front was refused");
            None
        }
    }
}

/// What the requests of one connection have in common.
struct Connection {
    edge: Arc<Edge>,
    visitor: Visitor,
    /// What the certificate was chosen for, where TLS named a server.
    meant: Option<Target>,
    /// Whether requests come from a proxy whose word on its visitors is good.
    proxied: bool,
    routes: Routes,
    /// Whether there was a request.
    asked: AtomicBool,
}

impl Connection {
    /// Makes the connection. `tls` is `None` on a plain one, else what SNI named.
    fn new(
        edge: Arc<Edge>,
        peer: SocketAddr,
        tls: Option<Option<&str>>,
        routes: Routes,
    ) -> Arc<Self> {
        let visitor =
            Visitor { address: peer.ip().to_canonical(), https: tls.is_some(), by_path: false };
        let meant = tls.flatten().map(|sni| edge.apex.classify(sni));
        let proxied = edge.config.trusted_proxies.contains(visitor.address);
        Arc::new(Self { edge, visitor, meant, proxied, routes, asked: AtomicBool::new(false) })
    }

    /// Returns who makes a request.
    fn visitor<B>(&self, request: &Request<B>) -> Visitor {
        if !self.proxied {
            return self.visitor;
        }
        let trusted = &self.edge.config.trusted_proxies;
        let address = forwarded::visitor(request.headers(), self.visitor.address, trusted);
        let https = forwarded::https(request.headers()).unwrap_or(self.visitor.https);
        Visitor { address, https, ..self.visitor }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<EdgeBody>, Infallible> {
        self.asked.store(true, Ordering::Relaxed);
        Ok(self.edge.route(request, &self).await)
    }

    /// Waits until the visitor should have asked something and has not.
    async fn overdue(&self) {
        tokio::time::sleep(HEAD_TIMEOUT).await;
        if self.asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

async fn serve_http1<S>(connection: Arc<Connection>, stream: S, scope: Scope)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let edge = Arc::clone(&connection.edge);
    let (stream, timer) = patience::watch(stream);
    let service = service_fn(move |request| Arc::clone(&connection).answer(request));
    let mut builder = edge.server.http1.clone();
    let serving = builder.timer(timer).serve_connection(TokioIo::new(stream), service);
    let finish = http1::UpgradeableConnection::graceful_shutdown;
    drive(serving.with_upgrades(), finish, &edge.abort, &scope).await;
}

async fn serve_http2<S>(connection: Arc<Connection>, stream: S, scope: Scope)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let edge = Arc::clone(&connection.edge);
    let asking = Arc::clone(&connection);
    let service = service_fn(move |request| Arc::clone(&asking).answer(request));
    let serving = edge.server.http2.serve_connection(TokioIo::new(stream), service);
    let finish = http2::Connection::graceful_shutdown;
    // hyper waits for the preface and the first request as long as it takes; later, pings find
    // out who is gone.
    tokio::select! {
        () = drive(serving, finish, &edge.abort, &scope) => {}
        () = connection.overdue() => tracing::debug!("visitor asked nothing"),
    }
}

/// Drives one connection to its end. Once the scope is cancelled it is told to `finish`.
async fn drive<C>(serving: C, finish: impl Fn(Pin<&mut C>), abort: &Scope, scope: &Scope)
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = scope.cancelled() => {
            finish(serving.as_mut());
            tokio::select! {
                ended = serving => ended,
                () = abort.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

impl Edge {
    /// Sends one request where it belongs.
    async fn route(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<EdgeBody> {
        let visitor = connection.visitor(&request);
        match (connection.routes, request.uri().path()) {
            (Routes::Public, _) => {}
            (Routes::Tunnel, TUNNEL_PATH) => return self.tunnel(request, visitor).await,
            (Routes::Tunnel, _) => return nothing_here(),
            (Routes::Redirect, _) => return self.redirect(&request),
        }
        let Some(host) = request_host(&request) else {
            return EdgeError::WrongHost.response(false, None).map(EdgeBody::from);
        };
        let target = self.apex.classify(host);
        // A connection whose certificate was chosen for one share must not be used for another:
        // HTTP/2 clients coalesce hosts of one wildcard certificate (RFC 9113 §9.1.2).
        if connection.meant.as_ref().is_some_and(|meant| *meant != target) {
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

    async fn tunnel(&self, request: Request<Incoming>, visitor: Visitor) -> Response<EdgeBody> {
        let draining = self.draining.load(Ordering::Relaxed);
        let answer = Box::pin(self.tunnels.upgrade(request, visitor.address, draining)).await;
        answer.map(|body| EdgeBody::from(Bytes::from(body)))
    }

    async fn apex(&self, request: Request<Incoming>, visitor: Visitor) -> Response<EdgeBody> {
        let path = request.uri().path();
        if path == TUNNEL_PATH {
            return self.tunnel(request, visitor).await;
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
            let visitor = Visitor { by_path: true, ..visitor };
            let mut response = self.proxy.serve(&name, path, request, visitor).await;
            self.close_when_draining(&mut response);
            return response;
        }
        let reading = request.method() == Method::GET || request.method() == Method::HEAD;
        match path {
            "/" if reading => html(LANDING),
            "/healthz" if reading => text(StatusCode::OK, "ok\n"),
            "/robots.txt" if reading => text(StatusCode::OK, "User-agent: *\nDisallow: /\n"),
            _ => nothing_here(),
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
fn request_host<B>(request: &Request<B>) -> Option<&str> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let header = headers.next().map(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match (header, authority, headers.next()) {
        (None, Some(host), None) | (Some(Some(host)), None, None) => Some(host),
        (Some(Some(a)), Some(b), None) if a.eq_ignore_ascii_case(b) => Some(b),
        _ => None,
    }
}

fn path_of<B>(request: &Request<B>) -> PathAndQuery {
    let path = request.uri().path_and_query().cloned();
    path.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

const LANDING: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
    <meta name=viewport content=\"width=device-width\"><title>mcpm relay</title>\
    <style>body{font:16px/1.5 system-ui;max-width:36em;margin:12vh auto;padding:0 1em;color:#222}\
    code{background:#eee;padding:.1em .3em}</style><h1>mcpm relay</h1>\
    <p>This host gives MCP servers on people's own machines a public address. To share one: \
    <code>mcpm share NAME --address &lt;this host&gt;</code></p></html>";

fn nothing_here() -> Response<EdgeBody> {
    text(StatusCode::NOT_FOUND, "nothing here\n")
}

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

#[cfg(test)]
mod tests;
