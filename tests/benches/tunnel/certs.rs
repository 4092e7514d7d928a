//! The certificates of contenders that speak TLS: one authority and one leaf, made for each run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The password of the leaf's PKCS #12 file, which must have one.
pub(crate) const PASSWORD: &str = "bench";

/// Certificates as files, and the visitors' trust in them.
pub(crate) struct Certs {
    folder: TempDir,
    /// Speaks TLS 1.3 as a visitor with as little work as possible: each connection is a full
    /// handshake, but what the server proves is not looked at.
    pub(crate) visitor: TlsConnector,
}

impl Certs {
    /// Makes the certificates.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "bench authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let root = authority.self_signed(&key)?;
        let issuer = Issuer::new(authority, key);
        let names = ["localhost", "bench.localhost", "127.0.0.1"].map(str::to_owned);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let certs = Self { visitor: visitor()?, folder };
        std::fs::write(certs.authority(), root.pem())?;
        std::fs::write(certs.leaf(), leaf.pem())?;
        std::fs::write(certs.key(), key.serialize_pem())?;
        Ok(certs)
    }

    /// PEM file of the authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// PEM file of the leaf.
    pub(crate) fn leaf(&self) -> PathBuf {
        self.folder.path().join("leaf.pem")
    }

    /// PEM file of the leaf's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Leaf and key as a PKCS #12 file, which openssl makes.
    ///
    /// # Errors
    /// When there is no openssl.
    pub(crate) fn pkcs12(&self) -> anyhow::Result<PathBuf> {
        let file = self.folder.path().join("leaf.p12");
        let made = Command::new("openssl")
            .args(["pkcs12", "-export", "-passout", &format!("pass:{PASSWORD}"), "-in"])
            .arg(self.leaf())
            .arg("-inkey")
            .arg(self.key())
            .arg("-out")
            .arg(&file)
            .stdin(Stdio::null())
            .status()
            .context("run openssl")?;
        ensure!(made.success(), "openssl ended with {made}");
        Ok(file)
    }
}

fn visitor() -> anyhow::Result<TlsConnector> {
    let mut provider = ring::default_provider();
    // The cheapest one here; servers go by what the visitor prefers.
    provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind(algorithms)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate: whose cost is not to be measured does not check them.
#[derive(Debug)]
struct Blind(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// The TLS of a backend that speaks it itself.
pub(crate) fn acceptor(leaf: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let leaf = CertificateDer::from_pem_file(leaf)?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
