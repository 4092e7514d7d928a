//! The port [`CertSource`]: the certificate that the relay shows to visitors and agents.

mod files;
mod self_signed;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mcpm_shared::token::Digest;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use files::CertFiles;
pub use self_signed::SelfSigned;

/// How often a source is asked for a newer certificate: renewals come weeks before an end.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be made.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not fit, or the key is of an unknown kind.
    #[error("the certificate and its key cannot be used together")]
    Unusable(#[source] rustls::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
}

/// Gives the certificate to show, and may change it while the relay serves.
pub trait CertSource: fmt::Debug + Send + Sync + 'static {
    /// Returns the resolver to build a TLS server with.
    fn resolver(&self) -> Arc<dyn ResolvesServerCert>;

    /// Returns the SHA-256 of the present leaf certificate, which agents may pin.
    fn fingerprint(&self) -> Digest;

    /// Looks for a newer certificate and shows it from now on; `true` when there was one.
    ///
    /// # Errors
    /// Fails when there is one that cannot be used; the old one stays.
    fn refresh(&self) -> Result<bool, CertError> {
        Ok(false)
    }
}

/// Builds the TLS server of a source: HTTP/2 and HTTP/1.1, TLS 1.2 and 1.3, no client certificates.
///
/// # Errors
/// Fails when the crypto provider lacks the protocol versions, which ring does not.
pub fn server_config(source: &dyn CertSource) -> Result<ServerConfig, CertError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(CertError::Unusable)?
        .with_no_client_auth()
        .with_cert_resolver(source.resolver());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Asks a source for newer certificates from time to time, until dropped.
pub async fn keep_fresh(source: Arc<dyn CertSource>) {
    let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match source.refresh() {
            Ok(true) => {
                let fingerprint = source.fingerprint();
                tracing::info!(tls.fingerprint = %fingerprint, "certificate renewed");
            }
            Ok(false) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "cannot use the new certificate; the old one stays");
            }
        }
    }
}

/// The certificate shown now; all names get the same one.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl Current {
    fn new(key: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(key)))
    }

    fn fingerprint(&self) -> Digest {
        Digest::of(self.0.load().cert.first().map_or(&[], AsRef::as_ref))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, CertError> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertError::Unusable)
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;
    use rustls::client::danger::HandshakeSignatureValid;
    use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, SignatureScheme};

    use super::*;

    /// Accepts the one certificate with this fingerprint, as an agent that pins it.
    #[derive(Debug)]
    struct Pinned(Digest);

    impl ServerCertVerifier for Pinned {
        fn verify_server_cert(
            &self,
            leaf: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            assert!(self.0.matches(leaf));
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = ring::default_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = ring::default_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    #[tokio::test]
    async fn a_client_that_pins_the_fingerprint_gets_http_2() {
        let source = SelfSigned::generate(&"share.example.com".parse().unwrap()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config(&source).unwrap()));
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(source.fingerprint())))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("calc.share.example.com").unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let (served, connected) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
        connected.unwrap();
        assert_eq!(served.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    }
}
