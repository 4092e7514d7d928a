//! A certificate that the relay makes itself: for loopback, tests and teams that pin it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::{CertError, CertSource, Current, certified};
use crate::config::Domain;

/// A self-signed certificate for a domain, its subdomains and loopback.
#[derive(Debug)]
pub struct SelfSigned(Arc<Current>);

impl SelfSigned {
    /// Makes a certificate that lives in memory.
    ///
    /// # Errors
    /// Fails when the certificate cannot be made.
    pub fn generate(domain: &Domain) -> Result<Self, CertError> {
        let pem = make(domain)?;
        parse(Path::new("memory"), pem.as_bytes()).map(|key| Self(Current::new(key)))
    }

    /// Reads the domain's certificate from a directory, or makes it there, so that its fingerprint
    /// stays the same.
    ///
    /// # Errors
    /// Fails when the file cannot be read or made, or holds something else.
    pub fn open(dir: &Path, domain: &Domain) -> Result<Self, CertError> {
        // Colons of IPv6 addresses are not for file names everywhere.
        let file = format!("self-signed-{}.pem", domain.as_str().replace(':', "-"));
        let path = dir.join(file);
        match std::fs::read(&path).map(Zeroizing::new) {
            Ok(pem) => parse(&path, &pem),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pem = make(domain)?;
                write_private(&path, pem.as_bytes())
                    .map_err(|source| CertError::Write { path: path.clone(), source })?;
                parse(&path, pem.as_bytes())
            }
            Err(source) => Err(CertError::Read { path, source }),
        }
        .map(|key| Self(Current::new(key)))
    }
}

impl CertSource for SelfSigned {
    fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.0) as _
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.0.leaf()
    }
}

/// Makes a certificate and its key, both as PEM in one text.
fn make(domain: &Domain) -> Result<Zeroizing<String>, CertError> {
    let mut params = CertificateParams::new(names(domain)).map_err(CertError::Make)?;
    params.distinguished_name.push(DnType::CommonName, domain.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // What is trusted is the pin, and a date would only end it without warning.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let cert = params.self_signed(&key).map_err(CertError::Make)?;
    let key = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{}", cert.pem(), *key)))
}

fn names(domain: &Domain) -> Vec<String> {
    let mut names = vec![domain.as_str().to_owned()];
    if domain.address().is_none() {
        names.push(format!("*.{domain}"));
    }
    names.extend(["localhost", "*.localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    names
}

fn parse(path: &Path, pem: &[u8]) -> Result<CertifiedKey, CertError> {
    let not_pem = |wanted| move |source| CertError::Pem { path: path.to_owned(), wanted, source };
    let cert = CertificateDer::from_pem_slice(pem).map_err(not_pem("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(not_pem("private key"))?;
    certified(vec![cert], key)
}

fn write_private(path: &Path, pem: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(pem)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use rustls::client::verify_server_name;
    use rustls::pki_types::ServerName;
    use rustls::server::ParsedCertificate;

    use super::*;

    fn covers(source: &SelfSigned, name: &str) -> bool {
        let current = source.0.0.load_full().unwrap();
        let cert = ParsedCertificate::try_from(&current.cert[0]).unwrap();
        verify_server_name(&cert, &ServerName::try_from(name).unwrap()).is_ok()
    }

    #[test]
    fn it_covers_the_apex_its_subdomains_and_loopback() {
        let source = SelfSigned::generate(&"share.example.com".parse().unwrap()).unwrap();
        for name in ["share.example.com", "calc.share.example.com", "localhost", "127.0.0.1"] {
            assert!(covers(&source, name), "{name}");
        }
        assert!(!covers(&source, "example.com"));
        let address = SelfSigned::generate(&"192.0.2.7".parse().unwrap()).unwrap();
        assert!(covers(&address, "192.0.2.7"));
    }

    #[test]
    fn its_fingerprint_stays_the_same_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let domain = "share.example.com".parse().unwrap();
        let first = SelfSigned::open(dir.path(), &domain).unwrap().fingerprint();
        assert_eq!(SelfSigned::open(dir.path(), &domain).unwrap().fingerprint(), first);
        let other = SelfSigned::open(dir.path(), &"::1".parse().unwrap()).unwrap();
        assert_ne!(other.fingerprint(), first);
        #[cfg(unix)]
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("self-signed-localhost.pem");
        std::fs::write(&path, "nothing").unwrap();
        let error = SelfSigned::open(dir.path(), &Domain::localhost()).unwrap_err();
        assert!(matches!(error, CertError::Pem { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nothing");
    }
}
