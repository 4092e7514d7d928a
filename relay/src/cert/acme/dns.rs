//! The port [`Dns`]: writes the TXT records by which an authority sees that a domain is ours.

mod cloudflare;
mod desec;
mod exec;
mod rfc2136;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::web::Web;
use crate::cert::CertError;
use crate::config::{AcmeProof, DnsProvider};

/// One TXT record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Txt {
    /// The full name without the root's dot, such as `_acme-challenge.share.example.com`.
    pub(super) name: String,
    /// The text, which is no secret.
    pub(super) value: String,
}

/// A record could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub(super) struct DnsError {
    action: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl DnsError {
    pub(super) fn new(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { action: action.into(), source: source.into() }
    }
}

/// Writes TXT records. A name may have several: the domain and its wildcard are proved under one.
#[async_trait]
pub(super) trait Dns: fmt::Debug + Send + Sync {
    /// Adds a record to those of its name; one that is there already is no error.
    async fn add(&self, txt: &Txt) -> Result<(), DnsError>;

    /// Removes a record; one that is not there is no error.
    async fn remove(&self, txt: &Txt) -> Result<(), DnsError>;

    /// How long a record usually takes to be seen everywhere.
    fn usual_wait(&self) -> Duration;
}

/// A provider, and how long its records take to be seen.
pub(super) type Provider = (Arc<dyn Dns>, Duration);

/// Opens the provider that the settings name.
pub(super) fn open(proof: &AcmeProof) -> Result<Option<Provider>, CertError> {
    let AcmeProof::Dns { provider, token, wait, .. } = proof else { return Ok(None) };
    let token =
        || token.as_ref().ok_or_else(|| CertError::Order("the DNS token is missing".to_owned()));
    let wrong = |error: DnsError| CertError::Order(crate::cert::in_full(&error));
    let dns: Arc<dyn Dns> = match provider {
        DnsProvider::Exec(program) => Arc::new(exec::Exec::new(program.clone())),
        DnsProvider::Rfc2136(server) => {
            Arc::new(rfc2136::Server::new(server, token()?).map_err(wrong)?)
        }
        DnsProvider::Cloudflare => {
            Arc::new(cloudflare::Cloudflare::new(Web::new(None)?, token()?).map_err(wrong)?)
        }
        DnsProvider::Desec => {
            Arc::new(desec::Desec::new(Web::new(None)?, token()?).map_err(wrong)?)
        }
    };
    let wait = wait.unwrap_or_else(|| dns.usual_wait());
    Ok(Some((dns, wait)))
}

/// Makes the value of a header that no log shows.
fn secret_header(text: &str) -> Result<http::HeaderValue, DnsError> {
    let mut value = http::HeaderValue::try_from(text)
        .map_err(|_| DnsError::new("use the token", "it has characters that no header has"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use mcpm_shared::scope::Scope;

    use super::*;

    pub(super) fn txt(value: &str) -> Txt {
        Txt { name: "_acme-challenge.a.example.com".to_owned(), value: value.to_owned() }
    }

    /// Serves an API until the test ends; returns where.
    pub(super) async fn serve(router: axum::Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Scope::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}")
    }
}
