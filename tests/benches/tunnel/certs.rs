//! The certificates of contenders that speak TLS: one authority and one leaf, made for each run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use mcpm_bench::tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The password of the leaf's PKCS #12 file, which must have one.
pub(crate) const PASSWORD: &str = "bench";

/// Certificates as files, and the visitors' trust in them.
pub(crate) struct Certs {
    folder: TempDir,
    /// Speaks TLS as a visitor.
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
        let certs = Self { visitor: tls::visitor()?, folder };
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
