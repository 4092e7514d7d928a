//! Fetching from the web: our idea of TLS, bounded answers, bounded waits, no step down by redirects.
//!
//! This module does not know what is fetched.

use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use url::Url;

use crate::hint::Hint;

const CONNECT: Duration = Duration::from_secs(10);
/// How long a download may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a download may take in all: a bundle of the largest size over a slow line.
const DOWNLOAD: Duration = Duration::from_secs(900);
const MAX_REDIRECTS: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Caller = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Returns our TLS: ring, TLS 1.2 or later, and the platform's roots when `https` will be spoken.
///
/// # Errors
/// When the platform's roots cannot be read.
pub fn tls(https: bool) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(if https {
        config.with_platform_verifier()?.with_no_client_auth()
    } else {
        // Reading the platform's roots takes milliseconds that a plain URL does not need.
        config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    })
}

/// A client that only gets.
#[derive(Debug)]
pub struct Web {
    plain: Caller,
    secure: OnceLock<Caller>,
}

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest answer, in bytes.
    pub body: usize,
    /// How long the whole exchange may take.
    pub patience: Duration,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// What it is: any status but a redirect that was followed.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The address is none that we call.
    #[error("`{0}` is not an http:// or https:// address without credentials")]
    Address(String),
    /// Nobody answered, or not to the end.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host.
        host: String,
        /// What went wrong.
        source: BoxError,
    },
    /// The answer took too long.
    #[error("{host} did not answer within {} s", patience.as_secs())]
    TimedOut {
        /// The host.
        host: String,
        /// How long was waited.
        patience: Duration,
    },
    /// The answer is too long.
    #[error("{host} answered with more than {limit} bytes")]
    TooBig {
        /// The host.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// The answer is an error, or sends us where we do not go.
    #[error("{host} answered with status {}", status.as_u16())]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: StatusCode,
    },
    /// What was downloaded cannot be kept.
    #[error("cannot keep what was downloaded")]
    Keep(#[source] std::io::Error),
}

impl Hint for WebError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Tls(_) => None,
            Self::Address(_) => Some("Check the address".to_owned()),
            Self::Unreachable { .. } | Self::TimedOut { .. } => {
                Some("Check the network, or try again later".to_owned())
            }
            Self::Status { .. } | Self::TooBig { .. } => {
                Some("Check the address, or try again later".to_owned())
            }
            Self::Keep(_) => Some("Make room on the disk".to_owned()),
        }
    }
}

impl Web {
    /// Makes a client; connects to nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, WebError> {
        Ok(Self { plain: caller(false)?, secure: OnceLock::new() })
    }

    /// Gets one answer, over redirects that are no step down.
    ///
    /// # Errors
    /// When there is no answer within the limits. A status that tells of an error is an answer.
    pub async fn get(
        &self,
        url: &Url,
        headers: HeaderMap,
        limits: Limits,
    ) -> Result<Answer, WebError> {
        let host = host(url);
        let fetch = async {
            let (head, body) = self.open(url, headers).await?.into_parts();
            let body = Limited::new(body, limits.body).collect().await.map_err(|source| {
                if source.is::<LengthLimitError>() {
                    WebError::TooBig { host: host.clone(), limit: limits.body }
                } else {
                    WebError::Unreachable { host: host.clone(), source }
                }
            })?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        let patience = limits.patience;
        timeout(patience, fetch)
            .await
            .map_err(|_| WebError::TimedOut { host: host.clone(), patience })?
    }

    /// Writes what is at `url` to `out`, at most `limit` bytes, and returns its SHA-256.
    ///
    /// # Errors
    /// When it is not there, too long or too slow. `out` may have a part of it then.
    pub async fn download(
        &self,
        url: &Url,
        out: &mut (impl Write + Send),
        limit: usize,
    ) -> Result<[u8; 32], WebError> {
        let host = host(url);
        let fetch = self.stream(url, out, limit);
        let late = |_| WebError::TimedOut { host, patience: DOWNLOAD };
        timeout(DOWNLOAD, fetch).await.map_err(late)?
    }

    async fn stream(
        &self,
        url: &Url,
        out: &mut (impl Write + Send),
        limit: usize,
    ) -> Result<[u8; 32], WebError> {
        let host = || host(url);
        let late = |_| WebError::TimedOut { host: host(), patience: SILENCE };
        let answer = timeout(SILENCE, self.open(url, HeaderMap::new())).await.map_err(late)??;
        if answer.status() != StatusCode::OK {
            return Err(WebError::Status { host: host(), status: answer.status() });
        }
        let mut body = answer.into_body();
        let (mut hash, mut length) = (Sha256::new(), 0_usize);
        while let Some(frame) = timeout(SILENCE, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(|error| unreachable(url, error))?;
            let Some(data) = frame.data_ref() else { continue };
            length = length.saturating_add(data.len());
            if length > limit {
                return Err(WebError::TooBig { host: host(), limit });
            }
            hash.update(data);
            out.write_all(data).map_err(WebError::Keep)?;
        }
        Ok(hash.finalize().into())
    }

    async fn open(&self, url: &Url, headers: HeaderMap) -> Result<Response<Incoming>, WebError> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&at, headers.clone()).await?;
            let status = answer.status();
            let followed = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
            match elsewhere(&at, answer.headers()).filter(|_| followed) {
                Some(target) => at = target,
                None if followed => return Err(WebError::Status { host: host(&at), status }),
                None => return Ok(answer),
            }
        }
        Err(unreachable(url, "it redirects for ever"))
    }

    async fn send(
        &self,
        url: &Url,
        mut headers: HeaderMap,
    ) -> Result<Response<Incoming>, WebError> {
        let caller = match url.scheme() {
            "https" => self.secure()?,
            "http" => self.plain.clone(),
            _ => return Err(WebError::Address(shown(url))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WebError::Address(shown(url)));
        }
        let uri: Uri = url.as_str().parse().map_err(|_| WebError::Address(shown(url)))?;
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("mcpm/", env!("CARGO_PKG_VERSION"))),
        );
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        caller.request(request).await.map_err(|error| unreachable(url, error))
    }

    fn secure(&self) -> Result<Caller, WebError> {
        if let Some(caller) = self.secure.get() {
            return Ok(caller.clone());
        }
        let caller = caller(true)?;
        Ok(self.secure.get_or_init(|| caller).clone())
    }
}

fn caller(https: bool) -> Result<Caller, WebError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(https).map_err(WebError::Tls)?)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector))
}

/// Returns where a redirect leads, unless that is a step down from TLS.
fn elsewhere(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let to = from.join(headers.get(LOCATION)?.to_str().ok()?).ok()?;
    (to.scheme() == "https" || from.scheme() == "http").then_some(to)
}

fn unreachable(url: &Url, error: impl Into<BoxError>) -> WebError {
    WebError::Unreachable { host: host(url), source: error.into() }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or("nobody").to_owned()
}

/// Says which address is meant, without what may be secret in it.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host(url), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_never_leaves_tls() {
        let at = |from: &str, to: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static(to));
            elsewhere(&Url::parse(from).unwrap(), &headers).map(String::from)
        };
        assert_eq!(at("https://a.example/x", "/y").unwrap(), "https://a.example/y");
        assert_eq!(at("http://a.example/x", "https://b.example/").unwrap(), "https://b.example/");
        assert_eq!(at("https://a.example/x", "http://a.example/y"), None);
        assert_eq!(at("https://a.example/x", "file:///etc/passwd"), None);
    }

    #[tokio::test]
    async fn only_the_web_is_called_and_never_with_credentials_in_the_address() {
        let web = Web::new().unwrap();
        let limits = Limits { body: 10, patience: Duration::from_secs(5) };
        for url in ["ftp://x.example/", "file:///etc/passwd", "https://me:s3cret@x.example/"] {
            let url = Url::parse(url).unwrap();
            let error = web.get(&url, HeaderMap::new(), limits).await.unwrap_err();
            assert!(matches!(error, WebError::Address(_)), "{error}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
