//! The local HTTP listener of `run --http` and `share --port`.
//!
//! A web page can make a browser call a port on this machine, so every request must name a host
//! that means this machine and, if it comes from a page, a page of this machine (DNS rebinding).

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use mcpm_shared::access::{AccessPolicy, Denied, Presented, Principal, strip_credentials};
use mcpm_shared::scope::Scope;
use mcpm_shared::settle::settle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::admission::until_denied;
use super::{Gateway, GatewayBody};
use crate::hint::Hint;

/// The path of the MCP endpoint.
pub const PATH: &str = super::http::MCP_PATH;

/// The path of the stream of HTTP+SSE, for clients that know no newer transport.
pub const SSE_PATH: &str = super::http::SSE_PATH;

/// How long a connection may take to end on shutdown.
const GRACE: Duration = Duration::from_secs(2);
/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(30);

/// Where and for whom to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The host or address to bind.
    pub host: String,
    /// The port; 0 takes any free one.
    pub port: u16,
    /// Names besides those of this machine that a request may be addressed to.
    pub allowed_hosts: Vec<String>,
    /// Who may visit; everybody who reaches the port when absent. Changes apply at once.
    pub access: Option<watch::Receiver<AccessPolicy>>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: 0, allowed_hosts: Vec::new(), access: None }
    }
}

/// Why we cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The port is taken.
    #[error("port {port} on {host} is in use")]
    Busy {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {host}:{port}")]
    Bind {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Hint for ListenError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Busy { .. } => {
                Some("Choose another one with `--port`, or any free one with `--port 0`".to_owned())
            }
            Self::Bind { .. } => Some("Choose an address of this machine with `--host`".to_owned()),
        }
    }
}

/// Serves a gateway at `/mcp`, and at `/sse` and `/messages`, until the scope ends; returns the bound address.
///
/// # Errors
/// The port is taken or the address is not ours.
pub async fn listen(
    gateway: Gateway,
    options: ListenOptions,
    scope: &Scope,
) -> Result<SocketAddr, ListenError> {
    let (host, port) = (options.host.clone(), options.port);
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ListenError::Busy { host: host.clone(), port },
        _ => ListenError::Bind { host: host.clone(), port, source },
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let listener = TcpListener::bind((bare, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut allowed_hosts = options.allowed_hosts;
    // A name that was chosen to be bound is a name to be called by.
    allowed_hosts.push(bare.to_owned());
    let gate = Gate { gateway, allowed_hosts, access: options.access };
    let connections = scope.clone();
    scope.spawn_until_cancelled(accept(listener, gate, connections));
    Ok(address)
}

async fn accept(listener: TcpListener, gate: Gate, scope: Scope) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = Box::pin(serve(stream, gate.clone(), scope.clone()));
                scope.spawn(settle(serving, || true));
            }
            Err(error) => {
                // Most likely out of file descriptors; some connection will give one back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, gate: Gate, scope: Scope) {
    // Without this a streamed answer waits 40 ms for an acknowledgement.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let gate = gate.clone();
        async move { Ok::<_, Infallible>(gate.handle(request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = scope.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended badly");
    }
}

#[derive(Clone, Debug)]
struct Gate {
    gateway: Gateway,
    allowed_hosts: Vec<String>,
    access: Option<watch::Receiver<AccessPolicy>>,
}

impl Gate {
    async fn handle(&self, mut request: Request<Incoming>) -> Response<GatewayBody> {
        if !self.is_for_us(request.headers(), request.uri()) {
            return plain(StatusCode::FORBIDDEN, "this host or origin may not call this port\n");
        }
        let principal = match self.admit(&mut request) {
            Ok(principal) => principal,
            Err(denied) => return refuse(denied),
        };
        let Some(access) = &self.access else {
            return self.gateway.dispatch(request, &principal).await;
        };
        let denied = || {
            let visitor = principal.clone();
            let admits = move |policy: &AccessPolicy, now| policy.admits(&visitor, now);
            until_denied(access.clone(), admits)
        };
        let answer = self.gateway.dispatch_unless(request, &principal, denied).await;
        answer.unwrap_or_else(|| refuse(Denied::Invalid))
    }

    fn is_for_us(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().ok());
        let authority = match (uri.authority(), text(HOST)) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(Some(host))) => host,
            _ => return false,
        };
        if !self.is_host(host_of(authority)) {
            return false;
        }
        match text(ORIGIN) {
            None => true,
            Some(None) => false,
            Some(Some(origin)) => match origin.split_once("://") {
                Some((_, page)) => {
                    page.eq_ignore_ascii_case(authority) || self.is_page(host_of(page))
                }
                None => false,
            },
        }
    }

    /// Addresses are safe to be called by: rebinding needs a name that its owner can point anywhere.
    fn is_host(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok() || self.is_page(host)
    }

    /// A page of another machine is a stranger, whether it comes from a name or from an address.
    fn is_page(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
            || host.eq_ignore_ascii_case("localhost")
            || self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn admit(&self, request: &mut Request<Incoming>) -> Result<Principal, Denied> {
        let Some(access) = &self.access else { return Ok(Principal::Anonymous) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (grant, passes) = {
            let uri = request.uri();
            let presented = Presented::from_request(request.headers(), uri.query());
            let policy = access.borrow();
            let grant = policy.evaluate(&presented.at(uri.path(), uri.query()), now)?;
            let passes = policy.passes(&grant.principal);
            (grant, passes)
        };
        if let Some(passes) = passes {
            request.extensions_mut().insert(passes);
        }
        strip_credentials(request.headers_mut(), grant.source, true);
        Ok(grant.principal)
    }
}

fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::full(text));
    *response.status_mut() = status;
    response
}

fn refuse(denied: Denied) -> Response<GatewayBody> {
    let body = serde_json::json!({ "code": denied.code(), "message": denied.to_string() });
    let mut response = super::reply::json(StatusCode::UNAUTHORIZED, body.to_string());
    let challenge = HeaderValue::from_static(denied.challenge());
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
