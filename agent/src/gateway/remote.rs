//! A remote server over Streamable HTTP, and the byte-transparent exchange with it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mcpm_shared::access::Principal;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::GatewayError;
use super::body::{BoxError, GatewayBody};
use super::reply;
use crate::mcp::era::{METHOD_HEADER, MODERN, SESSION_HEADER, VERSION_HEADER};
use crate::mcp::line::MAX_LINE;
use crate::mcp::message::{INTERNAL_ERROR, Incoming, Message};
use crate::mcp::sse;
use crate::model::Vars;

const CONNECT: Duration = Duration::from_secs(15);
const POOL_IDLE: Duration = Duration::from_secs(60);
/// How many sessions of visitors are remembered with their owner.
const MAX_OWNERS: usize = 4096;

/// Headers that travel to the server, besides `mcp-…`. A list of what passes, because credentials,
/// addresses and cookies of a visitor are nothing to the server.
const TO_SERVER: [&str; 9] = [
    "accept",
    "accept-language",
    "baggage",
    "content-length",
    "content-type",
    "last-event-id",
    "traceparent",
    "tracestate",
    "user-agent",
];
/// Headers that travel back, besides `mcp-…`.
const TO_CLIENT: [&str; 9] = [
    "allow",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "etag",
    "last-modified",
    "retry-after",
    "x-accel-buffering",
];

pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A remote server.
#[derive(Debug)]
pub(super) struct Remote {
    server: String,
    url: Uri,
    headers: HeaderMap,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    owners: Mutex<Owners>,
}

/// Whose a session is, so that a stolen session id is worth nothing without its credential.
#[derive(Debug, Default)]
struct Owners {
    of: HashMap<String, Principal>,
    oldest: VecDeque<String>,
}

impl Remote {
    pub(super) fn new(server: &str, url: &str, headers: &Vars) -> Result<Self, GatewayError> {
        let wrong = |reason: &str| GatewayError::Url {
            server: server.to_owned(),
            url: url.split('?').next().unwrap_or_default().to_owned(),
            reason: reason.to_owned(),
        };
        let parsed: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() {
            return Err(wrong("it must begin with http:// or https://"));
        }
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("put credentials into `headers` instead"));
        }
        if parsed.path().split('/').any(|segment| segment == "sse") {
            return Err(GatewayError::LegacySse { server: server.to_owned() });
        }
        let client = client(parsed.scheme_str() == Some("https"))?;
        let headers = configured(server, headers)?;
        let server = server.to_owned();
        Ok(Self { server, url: parsed, headers, client, owners: Mutex::default() })
    }

    /// Passes one HTTP exchange through: streaming both ways, cancelled when it is dropped.
    pub(super) async fn exchange<B>(
        &self,
        request: Request<B>,
        principal: &Principal,
    ) -> Response<GatewayBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        if !self.owns(&head.headers, principal) {
            let text = "the session has ended; open another one with `initialize`";
            return reply::error(StatusCode::NOT_FOUND, None, -32000, text);
        }
        let mut headers = pass(&head.headers, &TO_SERVER);
        headers.extend(self.headers.clone());
        let body = body.map_err(Into::into).boxed_unsync();
        match self.send(head.method, headers, body).await {
            Ok(response) => self.answer(response, principal),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "upstream failed");
                let text = format!("cannot reach server `{}`", self.server);
                reply::error(StatusCode::BAD_GATEWAY, None, INTERNAL_ERROR, &text)
            }
        }
    }

    /// A refusal of *our* credentials is not one of the visitor's: passed on, it would start a
    /// login that leads nowhere.
    fn answer(
        &self,
        response: Response<hyper::body::Incoming>,
        principal: &Principal,
    ) -> Response<GatewayBody> {
        let (head, body) = response.into_parts();
        let failed = |text: &str| {
            tracing::warn!(server = %self.server, status = head.status.as_u16(), "upstream refused");
            reply::error(StatusCode::BAD_GATEWAY, None, INTERNAL_ERROR, text)
        };
        match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                failed(&format!("server `{}` refused the credentials of this share", self.server))
            }
            status if status.is_redirection() => {
                failed(&format!("server `{}` answers with a redirect", self.server))
            }
            status => {
                self.note_owner(&head.headers, principal);
                let mut response = Response::new(GatewayBody::upstream(body));
                *response.status_mut() = status;
                *response.headers_mut() = pass(&head.headers, &TO_CLIENT);
                if is_events(&head.headers) {
                    let no = HeaderValue::from_static("no");
                    response.headers_mut().insert("x-accel-buffering", no);
                }
                response
            }
        }
    }

    fn owns(&self, headers: &HeaderMap, principal: &Principal) -> bool {
        let Some(id) = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()) else {
            return true;
        };
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.of.get(id).is_none_or(|owner| owner == principal)
    }

    fn note_owner(&self, headers: &HeaderMap, principal: &Principal) {
        let Some(id) = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()) else { return };
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.of.insert(id.to_owned(), principal.clone()).is_none() {
            owners.oldest.push_back(id.to_owned());
        }
        if owners.oldest.len() > MAX_OWNERS
            && let Some(oldest) = owners.oldest.pop_front()
        {
            owners.of.remove(&oldest);
        }
    }

    /// Sends a request of ours to the server.
    pub(super) async fn call(
        &self,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        headers.extend(self.headers.clone());
        let both = HeaderValue::from_static("application/json, text/event-stream");
        headers.entry(ACCEPT).or_insert(both);
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        self.send(method, headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        let sent = self.client.request(request).await;
        sent.map_err(|error| self.unreachable(error))
    }

    pub(super) fn unreachable(&self, error: impl Into<BoxError>) -> GatewayError {
        GatewayError::Unreachable { server: self.server.clone(), source: error.into() }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Makes one request of ours and returns the answer to it; a session that opens is ended.
    pub(super) async fn ask(&self, request: &'static str) -> Result<Bytes, GatewayError> {
        let mut headers = HeaderMap::new();
        if request.contains("server/discover") {
            headers.insert(VERSION_HEADER, HeaderValue::from_static(MODERN));
            headers.insert(METHOD_HEADER, HeaderValue::from_static("server/discover"));
        }
        let body = Bytes::from_static(request.as_bytes());
        let response = self.call(Method::POST, headers, body).await?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let (server, status) = (self.server.clone(), status.as_u16());
            return Err(GatewayError::Unauthorized { server, status });
        }
        let session = response.headers().get(SESSION_HEADER).cloned();
        let answer = self.read_answer(response).await?;
        if let Some(session) = session {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static(SESSION_HEADER), session)]);
            drop(self.call(Method::DELETE, headers, Bytes::new()).await);
        }
        match answer {
            Some(answer) => Ok(answer),
            None => Err(GatewayError::Url {
                server: self.server.clone(),
                url: self.url.path().to_owned(),
                reason: format!("it answers HTTP {} and no MCP", status.as_u16()),
            }),
        }
    }

    async fn read_answer(
        &self,
        response: Response<hyper::body::Incoming>,
    ) -> Result<Option<Bytes>, GatewayError> {
        let unreadable = |error: BoxError| self.unreachable(error);
        if !is_events(response.headers()) {
            let body = Limited::new(response.into_body(), MAX_LINE).collect().await;
            let body = body.map_err(unreadable)?.to_bytes();
            return Ok(Some(body).filter(|body| Incoming::parse(body).is_ok()));
        }
        let mut body = response.into_body();
        let mut events = sse::Decoder::new(MAX_LINE);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unreadable(error.into()))?;
            if let Ok(data) = frame.into_data() {
                events.push(&data);
            }
            while let Some(event) = events.next_event().map_err(|e| unreadable(e.into()))? {
                let text = std::str::from_utf8(&event.data).unwrap_or_default();
                if Message::parse(text)
                    .is_ok_and(|m| m.kind() == crate::mcp::message::Kind::Response)
                {
                    return Ok(Some(event.data));
                }
            }
        }
        Ok(None)
    }
}

fn client(tls: bool) -> Result<Client<HttpsConnector<HttpConnector>, Body>, GatewayError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(GatewayError::Tls)?;
    let config = if tls {
        config.with_platform_verifier().map_err(GatewayError::Tls)?.with_no_client_auth()
    } else {
        // Reading the platform's roots takes milliseconds that a plain URL does not need.
        config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .build(connector))
}

fn configured(server: &str, headers: &Vars) -> Result<HeaderMap, GatewayError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let wrong = || GatewayError::Header { server: server.to_owned(), header: name.to_owned() };
        let key: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

fn pass(headers: &HeaderMap, passing: &[&str]) -> HeaderMap {
    let passes =
        |name: &HeaderName| name.as_str().starts_with("mcp-") || passing.contains(&name.as_str());
    let pairs = headers.iter().filter(|(name, _)| passes(name));
    let mut out = HeaderMap::new();
    for (name, value) in pairs {
        out.append(name.clone(), value.clone());
    }
    out
}

/// Tells whether a body is a stream of events.
pub(super) fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/event-stream")
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
