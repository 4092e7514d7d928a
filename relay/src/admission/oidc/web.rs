//! HTTPS towards the issuer: bounded answers, no redirects.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::{BoxError, Fetch, Trust};

/// The longest document, in bytes: a set of keys with certificates has some tens of KiB.
const MAX_DOCUMENT: usize = 512 * 1024;

type Inner = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// An HTTPS client.
pub(super) struct Web(Inner);

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

impl Web {
    /// Makes a client that trusts one root, or what the system trusts.
    pub(super) fn new(trust: &Trust) -> Result<Self, BoxError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let config = match trust {
            Trust::Root { path, pem } => builder.with_root_certificates(roots(path, pem)?),
            Trust::System => builder.with_platform_verifier()?,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        // Asked once an hour: no connection is worth keeping.
        let mut client = Client::builder(TokioExecutor::new());
        Ok(Self(client.pool_max_idle_per_host(0).build(connector)))
    }
}

#[async_trait]
impl Fetch for Web {
    async fn get(&self, url: &str) -> Result<Bytes, BoxError> {
        let request = Request::get(url)
            .header(USER_AGENT, concat!("mcpm-relay/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .body(Empty::new())?;
        let answer = self.0.request(request).await.map_err(in_full)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{url} answers with {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await?;
        Ok(body.to_bytes())
    }
}

/// The client's errors say little without their causes.
fn in_full(error: hyper_util::client::legacy::Error) -> BoxError {
    let error: &dyn std::error::Error = &error;
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")).into()
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, BoxError> {
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem) {
        let root = root.map_err(|error| format!("{shown} is no PEM file: {error:?}"))?;
        roots.add(root).map_err(|error| format!("{shown} holds no root: {error}"))?;
    }
    match roots.is_empty() {
        true => Err(format!("{shown} holds no certificate").into()),
        false => Ok(roots),
    }
}
