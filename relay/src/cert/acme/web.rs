//! HTTPS towards authorities and DNS providers: bounded answers, bounded waits.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cert::CertError;

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer, in bytes: a chain has a few KiB, a list of zones some hundred.
const MAX_ANSWER: usize = 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there was no answer, to be told from answers that say no.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct NoAnswer(BoxError);

/// An HTTPS client. Clones share connections.
#[derive(Clone)]
pub(super) struct Web(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Web(…)")
    }
}

impl Web {
    /// Makes a client that trusts one root, or what the system trusts.
    pub(super) fn new(root: Option<&Path>) -> Result<Self, CertError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(CertError::Unusable)?;
        let config = match root {
            Some(path) => builder.with_root_certificates(roots(path)?),
            None => builder.with_platform_verifier().map_err(CertError::Unusable)?,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, BoxError> {
        let exchange = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::from_parts(head, Full::new(body)))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(done) => done,
            Err(_) => Err(format!("no answer within {} seconds", PATIENCE.as_secs()).into()),
        }
    }

    /// Asks an API that speaks JSON. `authorization` is a secret.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &str,
        authorization: &HeaderValue,
        body: Option<&impl Serialize>,
    ) -> Result<(StatusCode, Option<T>), BoxError> {
        let agent = concat!("mcpm-relay/", env!("CARGO_PKG_VERSION"));
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(USER_AGENT, agent)
            .header(AUTHORIZATION, authorization);
        let request = match body {
            Some(body) => request
                .header(CONTENT_TYPE, "application/json")
                .body(BodyWrapper::from(serde_json::to_vec(body)?))?,
            None => request.body(BodyWrapper::default())?,
        };
        let (head, body) = self.exchange(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok((head.status, serde_json::from_slice(&body).ok()))
    }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let web = self.clone();
        Box::pin(async move {
            let no_answer = |error| instant_acme::Error::Other(Box::new(NoAnswer(error)));
            let answer = web.exchange(request).await.map_err(no_answer)?;
            Ok(BytesResponse::from(answer))
        })
    }
}

fn roots(path: &Path) -> Result<RootCertStore, CertError> {
    let pem =
        std::fs::read(path).map_err(|source| CertError::Read { path: path.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&pem) {
        let path = path.to_owned();
        let root = root.map_err(|source| CertError::Pem { path, wanted: "certificate", source })?;
        roots.add(root).map_err(CertError::Unusable)?;
    }
    if roots.is_empty() {
        let source = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(CertError::Pem { path: path.to_owned(), wanted: "certificate", source });
    }
    Ok(roots)
}
