//! Where a remote server is, and the HTTP client that reaches it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::super::GatewayError;
use super::super::body::BoxError;
use crate::model::Vars;

const CONNECT: Duration = Duration::from_secs(15);
const POOL_IDLE: Duration = Duration::from_secs(60);
/// How many connections rest.
const POOL_SIZE: usize = 8;

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A URL, the configured headers, and connections to it.
#[derive(Debug)]
pub(in crate::gateway) struct Endpoint {
    server: String,
    url: Uri,
    headers: HeaderMap,
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

impl Endpoint {
    /// Makes the endpoint of a server; connects to nothing.
    ///
    /// # Errors
    /// The URL or a header is not usable.
    pub(in crate::gateway) fn new(
        server: &str,
        url: &str,
        headers: &Vars,
    ) -> Result<Self, GatewayError> {
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
        let client = client(parsed.scheme_str() == Some("https"))?;
        let headers = configured(server, headers)?;
        Ok(Self { server: server.to_owned(), url: parsed, headers, client })
    }

    /// Returns the server's name.
    pub(in crate::gateway) fn server(&self) -> &str {
        &self.server
    }

    /// Returns the URL.
    pub(in crate::gateway) fn url(&self) -> &Uri {
        &self.url
    }

    /// Returns the path of the URL, which is fit to be shown.
    pub(in crate::gateway) fn path(&self) -> &str {
        self.url.path()
    }

    /// Tells whether the URL looks like one of the old HTTP+SSE transport.
    pub(in crate::gateway) fn is_legacy_sse(&self) -> bool {
        self.url.path().trim_end_matches('/').ends_with("/sse")
    }

    /// Returns the error of a server that was not reached.
    pub(in crate::gateway) fn unreachable(&self, error: impl Into<BoxError>) -> GatewayError {
        GatewayError::Unreachable { server: self.server.clone(), source: error.into() }
    }

    /// Sends a request of ours.
    ///
    /// # Errors
    /// The server was not reached.
    pub(in crate::gateway) async fn call(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        self.call_at(self.url.clone(), method, headers, body).await
    }

    /// Sends a request of ours to another URL of the same server.
    ///
    /// # Errors
    /// The server was not reached.
    pub(in crate::gateway) async fn call_at(
        &self,
        url: Uri,
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
        self.send_to(url, method, headers, body).await
    }

    /// Sends a request with any body; the configured headers are added.
    ///
    /// # Errors
    /// The server was not reached.
    pub(in crate::gateway) async fn send(
        &self,
        method: Method,
        mut headers: HeaderMap,
        body: Body,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        headers.extend(self.headers.clone());
        self.send_to(self.url.clone(), method, headers, body).await
    }

    async fn send_to(
        &self,
        url: Uri,
        method: Method,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        let sent = self.client.request(request).await;
        sent.map_err(|error| self.unreachable(error))
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
        .pool_max_idle_per_host(POOL_SIZE)
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
