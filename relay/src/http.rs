//! The public listeners: accept, TLS, HTTP/1.1 and HTTP/2, and the whole route table.
//!
//! | host | path | served by |
//! |---|---|---|
//! | apex | `/v1/tunnel` | `tunnel` |
//! | apex | `/s/NAME/…` (with `--paths`) | `proxy` |
//! | apex | `/`, `/.well-known/security.txt`, `/healthz`, `/robots.txt` | `pages` |
//! | `NAME.<domain>`, custom domains | everything | `proxy` |
//! | anything else | | 421 |
//!
//! With `--http-listen`, a listener for plain HTTP has routes of its own: see `redirect`.

mod forwarded;
mod lingering;
pub mod node;
mod pages;
mod patience;
mod proxy_header;
mod redirect;
mod resting;
mod server;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::ahead::Ahead;
use mcpm_shared::name::Name;
use mcpm_shared::proto::TUNNEL_PATH;
use mcpm_shared::scope::Scope;
use mcpm_shared::settle::settle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::lingering::Lingering;
use self::pages::{nothing_here, text};
use self::patience::{HEAD_TIMEOUT, HeadTimer};
use self::proxy_header::ProxyHeaderError;
use self::resting::Open;
pub use self::server::{Server, Stop};
use crate::admission::unix_now;
use crate::cert::{ACME_ALPN, CertSource};
use crate::config::{Config, Domain, Live, PublicUrl};
use crate::domains::Domains;
use crate::error::EdgeError;
use crate::host::{self, Target};
use crate::observe::{Observers, Seen};
use crate::proxy::{EdgeBody, Proxy, Visitor};
use crate::tunnel::Tunnels;

/// Where whom to write to is looked for (RFC 9116 §3).
const SECURITY_TXT: &str = "/.well-known/security.txt";
/// How long to wait when the system has no descriptors left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the public listeners.
#[derive(Debug)]
pub struct Edge {
    /// The settings.
    pub config: Live,
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
    pub server: ArcSwap<Server>,
    /// Those who look at requests, where anybody does.
    pub observers: ArcSwapOption<Observers>,
    /// Ends every connection at once when it is cancelled: the grace period is over.
    pub abort: Scope,
}

/// The host under which names are shared, as every request needs it.
#[derive(Clone, Debug)]
pub struct Apex {
    host: String,
    local: bool,
    domains: Arc<Domains>,
}

impl Apex {
    /// Prepares a domain, and those of owners beside it.
    #[must_use]
    pub fn new(domain: &Domain, domains: Arc<Domains>) -> Self {
        // Without brackets, as hosts of requests are compared.
        Self { host: domain.as_str().to_owned(), local: domain.is_local(), domains }
    }

    fn classify(&self, host: &str) -> Target {
        match host::classify(host, &self.host, self.local) {
            Target::Unknown => self.domains.find(host).map_or(Target::Unknown, Target::Custom),
            target => target,
        }
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

/// Accepts connections until `listening` is cancelled, and then those that wait already. They are
/// tasks of `stop.visitors`.
pub async fn accept(
    edge: Arc<Edge>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Routes,
    listening: Scope,
    stop: Stop,
) {
    let serve = |(stream, peer): (TcpStream, SocketAddr)| {
        let (edge, tls, stop) = (Arc::clone(&edge), tls.clone(), stop.clone());
        let visitors = stop.visitors.clone();
        // Boxed here, so that its kilobytes of state are not moved once more by each layer.
        visitors.spawn(Box::pin(connection(edge, stream, peer, tls, routes, stop)));
    };
    while let Some(accepted) = listening.token().run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok(accepted) => serve(accepted),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The system has told these visitors that they are connected.
    while let Some(Ok(accepted)) = listener.accept().now_or_never() {
        serve(accepted);
    }
}

async fn connection(
    edge: Arc<Edge>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    routes: Routes,
    stop: Stop,
) {
    let Some(peer) = behind(&edge, &mut stream, peer).await else { return };
    if !cfg!(target_os = "linux")
        && let Err(error) = stream.set_nodelay(true)
    {
        return tracing::debug!(%error, "visitor gone before the first byte");
    }
    let (stream, timer) = patience::watch(stream, edge.config.load().timing.idle);
    let Some(tls) = tls else {
        let connection = Connection::new(edge, peer, None, routes);
        return serve_http1(connection, (stream, timer), stop.visitors).await;
    };
    match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(Ahead::new(stream))).await {
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
                // Its visitor is told which requests were heard (RFC 9113 §6.8).
                Box::pin(serve_http2(connection, stream, stop)).await;
            } else {
                Box::pin(serve_http1(connection, (stream, timer), stop.visitors)).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

/// Returns who is behind a connection: its peer, or whom a proxy in front names.
async fn behind(edge: &Edge, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
    if !edge.config.load().proxy_protocol.contains(peer.ip()) {
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
    /// What is open on it.
    open: Arc<Open>,
    /// Whether the request that came last has a body.
    uploads: AtomicBool,
}

impl Connection {
    /// Makes the connection. `tls` is `None` on a plain one, else what SNI named.
    fn new(
        edge: Arc<Edge>,
        peer: SocketAddr,
        tls: Option<Option<&str>>,
        routes: Routes,
    ) -> Arc<Self> {
        let (address, https) = (peer.ip().to_canonical(), tls.is_some());
        let visitor = Visitor { address, https, by_path: false, hop: None };
        let meant = tls.flatten().map(|sni| edge.apex.classify(sni));
        let proxied = edge.config.load().trusted_proxies.contains(visitor.address);
        let (open, uploads) = (Arc::default(), AtomicBool::new(false));
        Arc::new(Self { edge, visitor, meant, proxied, routes, open, uploads })
    }

    /// Returns who makes a request.
    fn visitor<B>(&self, request: &Request<B>) -> Visitor {
        if !self.proxied {
            return self.visitor;
        }
        let config = self.edge.config.load();
        let trusted = &config.trusted_proxies;
        let address = forwarded::visitor(request.headers(), self.visitor.address, trusted);
        let https = forwarded::https(request.headers()).unwrap_or(self.visitor.https);
        Visitor { address, https, ..self.visitor }
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<EdgeBody>, Infallible> {
        self.uploads.store(!request.body().is_end_stream(), Ordering::Relaxed);
        let mut seen = self.look(&mut request);
        let hsts = self.hsts(&request);
        let mut response = self.edge.route(request, &self, &mut seen).await;
        if let Some(hsts) = hsts {
            // In place of what a server behind a share says: the host is the relay's.
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts);
        }
        seen.answered(response.status());
        response.body_mut().show(seen);
        Ok(response)
    }

    /// Lets those who look at requests begin to.
    fn look(&self, request: &mut Request<Incoming>) -> Seen {
        let observers = self.edge.observers.load();
        let Some(observers) = &*observers else { return Seen::default() };
        let visitor = self.visitor(request);
        observers.begin(request, visitor.address, visitor.https)
    }

    /// Returns what browsers are told of HTTPS, where they came by it: by plain HTTP nobody may say
    /// so (RFC 6797 §7.2).
    fn hsts<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let age = self.edge.config.load().hsts?;
        let value = HeaderValue::try_from(format!("max-age={}", age.as_secs())).ok()?;
        self.visitor(request).https.then_some(value)
    }
}

async fn serve_http1<S>(connection: Arc<Connection>, on: (S, HeadTimer), scope: Scope)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (edge, (stream, timer)) = (Arc::clone(&connection.edge), on);
    let of_requests = Arc::clone(&connection);
    let uploads = move || of_requests.uploads.load(Ordering::Relaxed);
    let service = service_fn(move |request| Arc::clone(&connection).answer(request));
    let mut builder = edge.server.load().http1.clone();
    let serving = builder.timer(timer).serve_connection(TokioIo::new(stream), service);
    let finish = http1::UpgradeableConnection::graceful_shutdown;
    drive(serving.with_upgrades(), uploads, finish, &edge.abort, &scope).await;
}

async fn serve_http2<S>(connection: Arc<Connection>, stream: S, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let edge = Arc::clone(&connection.edge);
    let (open, many) = (Arc::clone(&connection.open), connection.proxied);
    let service = service_fn(move |request| {
        let counted = connection.open.one();
        let answer = Arc::clone(&connection).answer(request);
        async move { answer.await.map(|response| response.map(|body| counted.until_end(body))) }
    });
    let server = edge.server.load_full();
    let io = TokioIo::new(Lingering::new(stream));
    let serving = server.http2.serve_connection(io, service);
    let finish = http2::Connection::graceful_shutdown;
    let (scope, patience) = (stop.visitors.child(), edge.config.load().timing.idle);
    // hyper waits for the preface, for requests and for windows as long as it takes; its pings find
    // out who is gone, and not who rests for ever.
    tokio::select! {
        () = drive(serving, || false, finish, &edge.abort, &scope) => {}
        () = open.rested(patience, many, &scope) => {}
        () = open.told(&stop.goaways, &scope) => {}
    }
}

/// Drives one connection to its end; where its request `uploads` a body, what wakes itself goes on at
/// once. Once the scope is cancelled it is told to `finish`.
async fn drive<C>(
    serving: C,
    uploads: impl Fn() -> bool,
    finish: impl Fn(Pin<&mut C>),
    abort: &Scope,
    scope: &Scope,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = settle(serving.as_mut(), uploads) => ended,
        () = scope.over() => {
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
    /// Obeys changed settings: in what was made of them, and by connections from now on.
    pub fn obey(&self, config: &Config) {
        self.server.store(Arc::new(Server::new(config)));
        self.proxy.obey(config);
        self.tunnels.obey(config);
    }

    /// Sends one request where it belongs.
    async fn route(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        seen: &mut Seen,
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
            Target::Apex => self.apex(request, visitor, seen).await,
            Target::Share(name) => self.share(&name, request, visitor, seen).await,
            Target::Custom(route) => {
                let mut request = request;
                // The proxy lets nobody answer but a share of the domain's owner.
                request.extensions_mut().insert(Arc::clone(&route));
                self.share(&route.name, request, visitor, seen).await
            }
            Target::Unknown => EdgeError::WrongHost.response(false, None).map(EdgeBody::from),
        }
    }

    async fn share(
        &self,
        name: &Name,
        request: Request<Incoming>,
        visitor: Visitor,
        seen: &mut Seen,
    ) -> Response<EdgeBody> {
        let path = path_of(&request);
        let mut response = self.proxy.serve(name, path, request, visitor, seen).await;
        self.close_when_draining(&mut response);
        response
    }

    async fn tunnel(&self, request: Request<Incoming>, visitor: Visitor) -> Response<EdgeBody> {
        let draining = self.draining.load(Ordering::Relaxed);
        let answer = Box::pin(self.tunnels.upgrade(request, visitor.address, draining)).await;
        answer.map(|body| EdgeBody::from(Bytes::from(body)))
    }

    async fn apex(
        &self,
        request: Request<Incoming>,
        visitor: Visitor,
        seen: &mut Seen,
    ) -> Response<EdgeBody> {
        let path = request.uri().path();
        if path == TUNNEL_PATH {
            return self.tunnel(request, visitor).await;
        }
        if self.config.load().paths
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
            let mut response = self.proxy.serve(&name, path, request, visitor, seen).await;
            self.close_when_draining(&mut response);
            return response;
        }
        let reading = request.method() == Method::GET || request.method() == Method::HEAD;
        match path {
            "/" if reading => pages::landing(self.config.load().abuse_contact.as_ref()),
            SECURITY_TXT if reading => {
                pages::security_txt(self.config.load().abuse_contact.as_ref(), unix_now())
            }
            "/healthz" if reading => text(StatusCode::OK, "ok\n"),
            "/robots.txt" if reading => text(StatusCode::OK, "User-agent: *\nDisallow: /\n"),
            _ => nothing_here(),
        }
    }

    /// Asks kept-alive visitors to connect anew, to the next process or node. A connection that
    /// switches protocols is kept alive for nothing, and says there that it switches.
    fn close_when_draining(&self, response: &mut Response<EdgeBody>) {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !switches && self.draining.load(Ordering::Relaxed) {
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

#[cfg(test)]
mod tests;
