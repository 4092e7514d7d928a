//! Whom the agent trusts: the platform's roots, a CA file beside them, or one pinned certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mcpm_shared::token::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::error::TunnelError;

/// Whom to trust beside or instead of the platform's roots.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM file with further certificate authorities.
    pub ca: Option<PathBuf>,
    /// SHA-256 of the only certificate to trust, in hexadecimal, colons allowed.
    pub fingerprint: Option<String>,
}

/// Builds the TLS client for HTTP/1.1, which the tunnel's upgrade needs.
///
/// # Errors
/// When the CA file or the fingerprint cannot be used.
pub(super) fn client(options: &TlsOptions) -> Result<ClientConfig, TunnelError> {
    let provider = Arc::new(ring::default_provider());
    let setting = |message: String| TunnelError::TlsSetting(message);
    let verifier: Arc<dyn ServerCertVerifier> = match (&options.fingerprint, &options.ca) {
        (Some(text), _) => {
            let digest = parse_fingerprint(text).ok_or_else(|| {
                setting(format!("the fingerprint `{text}` is not 64 hexadecimal digits"))
            })?;
            Arc::new(Pinned { digest, provider: Arc::clone(&provider) })
        }
        (None, Some(path)) => {
            let roots = read_roots(path)?;
            let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider));
            Arc::new(verifier.map_err(|e| setting(format!("the CA file cannot be used: {e}")))?)
        }
        (None, None) => {
            let verifier = Verifier::new(Arc::clone(&provider));
            Arc::new(verifier.map_err(|e| setting(format!("no trusted roots were found: {e}")))?)
        }
    };
    build(provider, verifier)
}

fn build(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TunnelError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TunnelError::TlsSetting(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads a SHA-256 written with or without colons, in either case.
#[must_use]
pub fn parse_fingerprint(text: &str) -> Option<Digest> {
    let hex: String = text.chars().filter(|c| *c != ':' && !c.is_whitespace()).collect();
    hex.to_ascii_lowercase().strip_prefix("sha256").unwrap_or(&hex).parse().ok()
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, TunnelError> {
    let fail =
        |why: String| TunnelError::TlsSetting(format!("cannot use {}: {why}", path.display()));
    let roots: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))?.collect();
    match roots {
        Ok(roots) if roots.is_empty() => Err(fail("there is no certificate in it".to_owned())),
        Ok(roots) => Ok(roots),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// Trusts one certificate, whoever signed it and whatever it is called.
#[derive(Debug)]
struct Pinned {
    digest: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.digest.matches(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = OtherError(Arc::new(PinMismatch(Digest::of(end_entity))));
        Err(rustls::CertificateError::Other(mismatch).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Another certificate than the pinned one was shown.
#[derive(Debug, thiserror::Error)]
#[error("the certificate {0} is not the pinned one")]
struct PinMismatch(Digest);

/// Returns the fingerprint of the certificate that was shown, when a handshake failed because it
/// is not the pinned one.
pub(super) fn pin_mismatch(error: &io::Error) -> Option<Digest> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<PinMismatch>().map(|mismatch| mismatch.0)
}

/// Says in plain words why a certificate is not trusted, or that no TLS was spoken. Other errors stay
/// as they are.
pub(super) fn in_words(error: io::Error) -> io::Error {
    use rustls::CertificateError as Fault;
    let said = |words: String| io::Error::new(error.kind(), words);
    let words = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(fault)) => match fault {
            Fault::UnknownIssuer => "its certificate is not signed by anybody this machine trusts",
            Fault::Expired | Fault::ExpiredContext { .. } => {
                "its certificate has expired, or the clock of this machine is wrong"
            }
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or the clock of this machine is wrong"
            }
            Fault::NotValidForNameContext { presented, .. } => {
                return said(format!("its certificate is for another name{}", names(presented)));
            }
            Fault::NotValidForName => "its certificate is for another name",
            Fault::Revoked => "its certificate was revoked",
            fault => return said(format!("its certificate cannot be verified ({fault})")),
        },
        Some(Error::InvalidMessage(_)) => "what answers there does not speak TLS",
        _ => return error,
    };
    said(words.to_owned())
}

/// Lists the names of a certificate, which webpki gives as `DnsName("relay.example")`. They are a
/// stranger's: there may be many, and anything may be in them.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let (_, name) = name.strip_suffix(')')?.split_once('(')?;
        Some(name.trim_matches('"').escape_default().take(MAX_NAME).collect())
    };
    let mut names: Vec<String> = presented.iter().filter_map(bare).take(MAX_NAMES + 1).collect();
    if names.is_empty() {
        return String::new();
    }
    if let Some(more) = names.get_mut(MAX_NAMES) {
        "…".clone_into(more);
    }
    format!(": {}", names.join(", "))
}

/// How many names of a certificate are shown, and how much of each: a DNS name has 253 letters.
const MAX_NAMES: usize = 3;
const MAX_NAME: usize = 253;

/// Where a fingerprint that was seen is noted.
pub(super) type Seen = Arc<Mutex<Option<Digest>>>;

/// Looks at a certificate and trusts nothing: the handshake ends with it.
#[derive(Debug)]
struct Looking {
    seen: Seen,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Digest::of(end_entity));
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns a client that only looks, and where it notes the fingerprint it saw.
pub(super) fn looking() -> Result<(ClientConfig, Seen), TunnelError> {
    let provider = Arc::new(ring::default_provider());
    let seen = Seen::default();
    let verifier = Looking { seen: Arc::clone(&seen), provider: Arc::clone(&provider) };
    Ok((build(provider, Arc::new(verifier))?, seen))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn fingerprints_are_written_in_many_ways() {
        let plain = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let colons: Vec<String> =
            plain.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).to_uppercase()).collect();
        for text in [plain, &colons.join(":"), &format!("SHA256:{plain}")] {
            assert_eq!(parse_fingerprint(text), Some(Digest::of(b"abc")), "{text}");
        }
        assert_eq!(parse_fingerprint("abc"), None);
    }

    #[test]
    fn a_ca_file_that_is_none_is_named() {
        let options = TlsOptions { ca: Some("/nonexistent.pem".into()), fingerprint: None };
        let error = client(&options).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
        assert!(error.is_terminal(true));
    }
    #[test]
    fn another_certificate_than_the_pinned_one_is_told_from_other_failures() {
        let provider = Arc::new(ring::default_provider());
        let pinned = Pinned { digest: Digest::of(b"mine"), provider };
        let verify = |certificate: &'static [u8]| {
            let name = ServerName::try_from("relay.example").unwrap();
            let certificate = CertificateDer::from(certificate);
            pinned.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
        };
        assert!(verify(b"mine").is_ok());
        let failed = io::Error::new(io::ErrorKind::InvalidData, verify(b"theirs").unwrap_err());
        assert_eq!(pin_mismatch(&failed), Some(Digest::of(b"theirs")));
        let expired = Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert_eq!(pin_mismatch(&io::Error::other(expired)), None);
    }

    #[test]
    fn why_a_certificate_is_not_trusted_is_said_in_plain_words() {
        use rustls::CertificateError as Fault;
        let said = |fault: Fault| {
            let error =
                io::Error::new(io::ErrorKind::InvalidData, Error::InvalidCertificate(fault));
            in_words(error).to_string()
        };
        let (time, not_after) = (UnixTime::now(), UnixTime::since_unix_epoch(Duration::ZERO));
        let of = |presented: &[&str]| Fault::NotValidForNameContext {
            expected: ServerName::try_from("relay.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (a, b) = ("DnsName(\"a.example\")", "DnsName(\"\u{1b}[2J\")");
        for (fault, words) in [
            (of(&[a, "IpAddress(192.0.2.1)"]), "another name: a.example, 192.0.2.1"),
            (of(&[a, a, b, a, a]), "another name: a.example, a.example, \\u{1b}[2J, …"),
            (of(&[]), "another name"),
            (Fault::UnknownIssuer, "not signed by anybody this machine trusts"),
            (Fault::ExpiredContext { time, not_after }, "has expired"),
            (Fault::NotValidYetContext { time, not_before: time }, "not valid yet"),
            (Fault::NotValidForName, "another name"),
            (Fault::BadEncoding, "cannot be verified (BadEncoding)"),
        ] {
            let said = said(fault);
            assert!(said.ends_with(words) || said.contains(&format!("{words}, or")), "{said}");
        }
        let other = io::Error::other("the network is down");
        assert_eq!(in_words(other).to_string(), "the network is down");
    }
}
