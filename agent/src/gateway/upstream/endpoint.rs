//! Where a remote server is, and the HTTP client that reaches it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mcpm_shared::token::Token;

use super::super::GatewayError;
use super::super::body::BoxError;
use super::super::error::Remedy;
use crate::model::Vars;
use crate::oauth::{Bearer, Credentials, TokenError, missing_scope};

const CONNECT: Duration = Duration::from_secs(15);
const POOL_IDLE: Duration = Duration::from_secs(60);
/// How many connections rest.
const POOL_SIZE: usize = 8;

/// A URL, the configured headers, and connections to it.
#[derive(Debug)]
pub(in crate::gateway) struct Endpoint {
    server: String,
    url: Uri,
    headers: HeaderMap,
    /// The tokens of a login, unless the configured headers say who we are.
    bearer: Option<Bearer>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
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
        credentials: Option<&Credentials>,
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
        let credentials = credentials.filter(|_| !headers.contains_key(AUTHORIZATION));
        let bearer = credentials.map(|credentials| credentials.bearer(server, url));
        Ok(Self { server: server.to_owned(), url: parsed, headers, bearer, client })
    }

    /// Returns the server's name.
    pub(in crate::gateway) fn server(&self) -> &str {
        &self.server
    }

    /// Returns the URL.
    pub(in crate::gateway) fn url(&self) -> &Uri {
        &self.url
    }

    /// Tells whether the URL looks like one of the old HTTP+SSE transport.
    pub(in crate::gateway) fn is_legacy_sse(&self) -> bool {
        self.url.path().trim_end_matches('/').ends_with("/sse")
    }

    /// Returns the error of a server that was not reached.
    pub(in crate::gateway) fn unreachable(&self, error: impl Into<BoxError>) -> GatewayError {
        GatewayError::Unreachable { server: self.server.clone(), source: error.into() }
    }

    /// Returns the error of a server that took what we sent for nothing, with 401 or 403.
    pub(in crate::gateway) fn refusal(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> GatewayError {
        let missing = missing_scope(headers).filter(|_| status == StatusCode::FORBIDDEN);
        let remedy = match (&self.bearer, missing) {
            (None, _) => Remedy::Headers,
            (Some(bearer), Some(missing)) => Remedy::Scope(bearer.scopes_with(&missing)),
            (Some(bearer), None) if bearer.is_logged_in() => Remedy::LoginAgain,
            (Some(_), None) => Remedy::Login,
        };
        GatewayError::Unauthorized { server: self.server.clone(), status: status.as_u16(), remedy }
    }

    /// Sends a request of ours.
    ///
    /// # Errors
    /// The server was not reached, or the login to it has ended.
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
    /// The server was not reached, or the login to it has ended.
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
        let Some((bearer, token)) = self.token().await? else {
            return self.send(url, method, headers, body).await;
        };
        let (to, by, what) = (url.clone(), method.clone(), body.clone());
        let answer = self.send(to, by, with_token(headers.clone(), &token), what).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // The server has looked at nothing but the token, so this is not a second try.
        match bearer.instead_of(&token).await.map_err(|error| self.no_token(error))? {
            Some(token) => self.send(url, method, with_token(headers, &token), body).await,
            None => Ok(answer),
        }
    }

    /// Returns the token for a request, when somebody is logged in.
    async fn token(&self) -> Result<Option<(&Bearer, Token)>, GatewayError> {
        let Some(bearer) = &self.bearer else { return Ok(None) };
        let token = bearer.token().await.map_err(|error| self.no_token(error))?;
        Ok(token.map(|token| (bearer, token)))
    }

    fn no_token(&self, error: TokenError) -> GatewayError {
        let server = self.server.clone();
        match error {
            TokenError::Failed(source) => GatewayError::Login { server, source },
            _ => GatewayError::Unauthorized { server, status: 401, remedy: Remedy::LoginAgain },
        }
    }

    async fn send(
        &self,
        url: Uri,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, GatewayError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        let sent = self.client.request(request).await;
        sent.map_err(|error| self.unreachable(error))
    }
}

fn with_token(mut headers: HeaderMap, token: &Token) -> HeaderMap {
    // A token that is not fit for a header was not taken for one.
    if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose())) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

fn client(tls: bool) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, GatewayError> {
    let config = crate::web::tls(tls).map_err(GatewayError::Tls)?;
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

/// Tells whether a body is a stream of events.
pub(super) fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/event-stream")
}

#[cfg(test)]
mod tests;
