//! Reaches a relay: TCP, perhaps through a proxy, TLS, and the WebSocket upgrade.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use mcpm_shared::ahead::Ahead;
use mcpm_shared::assertion::{self, Proof};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::{HANDSHAKE_TIMEOUT, Refusal, SUBPROTOCOL, TUNNEL_PATH};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Digest;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::address::RelayAddress;
use super::error::TunnelError;
use super::{proof, tls};
use crate::credentials::ProofSource;

/// How long TCP and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer of a proxy that is read, and of a refusal.
const MAX_ANSWER: usize = 16 * 1024;

/// The HTTP proxy between here and the relay, as the environment names it.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// Value of `HTTPS_PROXY`.
    pub https_proxy: Option<String>,
    /// Value of `NO_PROXY`.
    pub no_proxy: Option<String>,
}

impl ProxySettings {
    /// Returns the proxy on the way to `relay`. Like curl, `HTTPS_PROXY` is for https alone; what
    /// listens on this machine is never reached through one.
    ///
    /// # Errors
    /// When a proxy is to be used and its setting does not say which.
    pub(super) fn towards(&self, relay: &RelayAddress) -> Result<Option<Intercept>, TunnelError> {
        let proxy = self.https_proxy.as_deref().map_or("", str::trim);
        if proxy.is_empty() || !relay.is_https() || relay.is_loopback() {
            return Ok(None);
        }
        let Ok(uri) = relay.origin().parse::<Uri>() else { return Ok(None) };
        let no = self.no_proxy.as_deref().unwrap_or_default();
        if Matcher::builder().all("http://any").no(no).build().intercept(&uri).is_none() {
            return Ok(None);
        }
        let found = Matcher::builder().all(proxy).build().intercept(&uri);
        // A port that is none is no error to the parser.
        let found = found.filter(|proxy| proxy.uri().authority().is_some_and(has_honest_port));
        let found = found.ok_or(TunnelError::ProxySetting("it is not the URL of a proxy"))?;
        if found.uri().scheme_str() != Some("http") {
            return Err(TunnelError::ProxySetting("only http:// proxies are supported"));
        }
        Ok(Some(found))
    }
}

/// All that is needed to dial a relay, again and again.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) relay: RelayAddress,
    pub(super) key: AgentKey,
    pub(super) proof: ProofSource,
    pub(super) proxy: Option<Intercept>,
    pub(super) tls: Option<TlsConnector>,
}

/// Either kind of stream below HTTP.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

impl Dialer {
    /// Dials the relay and switches to WebSocket. Cancel-safe: an unfinished dial is dropped.
    pub(super) async fn dial(&self, scope: &Scope) -> Result<Upgraded, TunnelError> {
        let timeout = || TunnelError::Timeout { relay: self.relay.origin() };
        // First, so that the relay is not kept waiting.
        let proof = proof::present(&self.proof).await?;
        let tcp = self.connect();
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, tcp).await.map_err(|_| timeout())??;
        let stream: Box<dyn Socket> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let secured = self.secure(tls, tcp);
                Box::new(
                    tokio::time::timeout(CONNECT_TIMEOUT, secured)
                        .await
                        .map_err(|_| timeout())??,
                )
            }
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.upgrade(stream, &proof, scope))
            .await
            .map_err(|_| timeout())?
    }

    pub(super) async fn connect(&self) -> Result<TcpStream, TunnelError> {
        let failed =
            |source| TunnelError::Connect { relay: self.relay.origin(), source: Arc::new(source) };
        let tcp = match &self.proxy {
            Some(proxy) => self.through(proxy).await?,
            None => {
                TcpStream::connect((self.relay.host(), self.relay.port())).await.map_err(failed)?
            }
        };
        tcp.set_nodelay(true).map_err(failed)?;
        Ok(tcp)
    }

    /// Asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6).
    async fn through(&self, proxy: &Intercept) -> Result<TcpStream, TunnelError> {
        let uri = proxy.uri();
        let name = uri.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or(""));
        let fail = |message: String| TunnelError::Proxy { proxy: name.to_owned(), message };
        let (host, port) = (bare_host(uri), uri.port_u16().unwrap_or(80));
        let mut tcp =
            TcpStream::connect((host, port)).await.map_err(|error| fail(error.to_string()))?;
        let target = match self.relay.host() {
            host if host.contains(':') => format!("[{host}]:{}", self.relay.port()),
            host => format!("{host}:{}", self.relay.port()),
        };
        let mut ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(auth) = proxy.basic_auth() {
            ask.extend_from_slice(b"Proxy-Authorization: ");
            ask.extend_from_slice(auth.as_bytes());
            ask.extend_from_slice(b"\r\n");
        }
        ask.extend_from_slice(b"\r\n");
        tcp.write_all(&ask).await.map_err(|error| fail(error.to_string()))?;
        let status = read_connect_answer(&mut tcp).await.map_err(|e| fail(e.to_string()))?;
        if (200..300).contains(&status) { Ok(tcp) } else { Err(fail(format!("HTTP {status}"))) }
    }

    pub(super) async fn secure(
        &self,
        tls: &TlsConnector,
        tcp: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<Ahead<TcpStream>>, TunnelError> {
        let failed = |source: io::Error| match tls::pin_mismatch(&source) {
            Some(shown) => TunnelError::Pin { relay: self.relay.origin(), shown },
            None => TunnelError::Tls {
                relay: self.relay.origin(),
                untrusted: is_untrusted(&source),
                source: Arc::new(tls::in_words(source)),
            },
        };
        let name = ServerName::try_from(self.relay.host())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        tls.connect(name, Ahead::new(tcp)).await.map_err(failed)
    }

    async fn upgrade(
        &self,
        stream: Box<dyn Socket>,
        proof: &Proof,
        scope: &Scope,
    ) -> Result<Upgraded, TunnelError> {
        let lost = |error: hyper::Error| TunnelError::Lost(error.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        scope.spawn_until_cancelled(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upgrade connection ended");
            }
        });
        let nonce = websocket_nonce();
        let response = sender.send_request(self.request(&nonce, proof)?).await.map_err(lost)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.map(HeaderValue::as_bytes)
            != Some(derive_accept_key(nonce.as_bytes()).as_bytes())
        {
            let status = response.status().as_u16();
            return Err(TunnelError::NotARelay { relay: self.relay.origin(), status });
        }
        hyper::upgrade::on(response).await.map_err(lost)
    }

    fn request(
        &self,
        nonce: &str,
        proof: &Proof,
    ) -> Result<Request<Empty<bytes::Bytes>>, TunnelError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let jwt = assertion::sign(&self.key, &self.relay.origin(), proof, now)
            .map_err(|error| TunnelError::Lost(error.to_string()))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {jwt}"))
            .map_err(|error| TunnelError::Lost(error.to_string()))?;
        bearer.set_sensitive(true);
        Request::builder()
            .method(Method::GET)
            .uri(TUNNEL_PATH)
            .header(header::HOST, self.relay.authority())
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, nonce)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .header(header::USER_AGENT, concat!("mcpm/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, bearer)
            .body(Empty::new())
            .map_err(|error| TunnelError::Lost(error.to_string()))
    }

    /// Reads why the relay said no.
    async fn refusal(&self, response: Response<Incoming>) -> TunnelError {
        let relay = self.relay.origin();
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => TunnelError::Refused { relay, refusal: Box::new(refusal) },
            Err(_) => TunnelError::NotARelay { relay, status },
        }
    }
}

/// Makes a `Sec-WebSocket-Key` (RFC 6455 §4.1). It protects nothing, so poor randomness is no harm.
fn websocket_nonce() -> String {
    let mut nonce = [0; 16];
    if getrandom::fill(&mut nonce).is_err() {
        nonce = *b"mcpm tunnel key!";
    }
    STANDARD.encode(nonce)
}

fn has_honest_port(authority: &Authority) -> bool {
    authority.port_u16().is_some() || authority.as_str() == authority.host()
}

/// Returns the host of a URL as the resolver wants it: an IPv6 address without brackets.
fn bare_host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

async fn read_connect_answer(tcp: &mut TcpStream) -> io::Result<u16> {
    let mut answer = Vec::new();
    loop {
        // Byte by byte: what follows the head belongs to the relay.
        answer.push(tcp.read_u8().await?);
        if answer.ends_with(b"\r\n\r\n") {
            break;
        }
        if answer.len() > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(&answer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    parsed.code.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no status"))
}

fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Connects to a relay and returns the SHA-256 of the certificate it shows, trusting nothing.
///
/// # Errors
/// When it cannot be reached or shows none.
pub async fn fetch_fingerprint(
    relay: &RelayAddress,
    proxy: &ProxySettings,
) -> Result<Digest, TunnelError> {
    let (config, seen) = tls::looking()?;
    let connector = TlsConnector::from(Arc::new(config));
    let dialer = Dialer {
        relay: relay.clone(),
        key: AgentKey::generate(),
        proof: ProofSource::default(),
        proxy: proxy.towards(relay)?,
        tls: None,
    };
    let look = async {
        let tcp = dialer.connect().await?;
        dialer.secure(&connector, tcp).await.map(|_| ())
    };
    let timeout = |_| TunnelError::Timeout { relay: relay.origin() };
    let outcome = tokio::time::timeout(CONNECT_TIMEOUT, look).await.map_err(timeout)?;
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    match (seen, outcome) {
        (Some(digest), _) => Ok(digest),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(TunnelError::NotARelay { relay: relay.origin(), status: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn towards(
        relay: &str,
        https_proxy: &str,
        no_proxy: &str,
    ) -> Result<Option<Uri>, &'static str> {
        let settings = ProxySettings {
            https_proxy: Some(https_proxy.to_owned()),
            no_proxy: Some(no_proxy.to_owned()),
        };
        match settings.towards(&relay.parse().unwrap()) {
            Ok(found) => Ok(found.map(|proxy| proxy.uri().clone())),
            Err(TunnelError::ProxySetting(why)) => Err(why),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_proxy_is_for_https_relays_elsewhere() {
        let proxy = "http://proxy.corp:3128";
        let found = towards("https://relay.example", proxy, "").unwrap().unwrap();
        assert_eq!((bare_host(&found), found.port_u16()), ("proxy.corp", Some(3128)));
        for relay in
            ["http://relay.example", "https://localhost:8443", "https://[::1]", "127.0.0.1"]
        {
            assert_eq!(towards(relay, proxy, ""), Ok(None), "{relay}");
        }
        assert_eq!(towards("https://relay.example", proxy, "example"), Ok(None));
        assert_eq!(towards("https://relay.example", "", ""), Ok(None));
    }

    #[test]
    fn a_proxy_at_an_ipv6_address_is_connected_to_without_brackets() {
        let found = towards("https://relay.example", "http://u:p@[2001:db8::1]:3128", "").unwrap();
        assert_eq!(bare_host(&found.unwrap()), "2001:db8::1");
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_that_names_the_variable() {
        for proxy in ["http://", "ftp://proxy", "http://pro xy:1", "proxy:notaport", "proxy:70000"]
        {
            assert!(towards("https://relay.example", proxy, "").is_err(), "{proxy}");
            assert_eq!(towards("https://relay.example", proxy, "*"), Ok(None), "{proxy}");
        }
        let why = towards("https://relay.example", "socks5://proxy:1080", "").unwrap_err();
        let error = TunnelError::ProxySetting(why);
        assert!(error.to_string().contains("HTTPS_PROXY"), "{error}");
        assert!(error.to_string().contains("http://"), "{error}");
    }
}
