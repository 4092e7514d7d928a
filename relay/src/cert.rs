//! The port [`CertSource`]: the certificate that the relay shows to visitors and agents.

#[cfg(feature = "acme")]
mod acme;
mod any;
mod covers;
mod files;
mod private_file;
mod self_signed;
mod status;
mod validity;
#[cfg(feature = "acme")]
mod vault;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use mcpm_shared::token::Digest;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;

use self::validity::{Alarm, Validity};
use crate::metrics::Metrics;
use crate::store::StoreError;

#[cfg(feature = "acme")]
pub use acme::AcmeCert;
pub(crate) use any::AnyCert;
pub use covers::Uncovered;
pub use files::CertFiles;
pub use self_signed::SelfSigned;
pub use status::CertStatus;
#[cfg(feature = "acme")]
pub use vault::{Place, Vault};

/// How often a source is asked for a newer certificate: renewals come weeks before an end.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is said that a certificate is about to end.
const ALARM_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// The protocol by which an authority asks for a proof (RFC 8737 §4).
pub const ACME_ALPN: &[u8] = b"acme-tls/1";

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
    /// Others trust an authority that is not the one whose key is here.
    #[error("{} is not the certificate of the key {}", cert.display(), key.display())]
    Authority {
        /// What others trust.
        cert: PathBuf,
        /// What would sign for it.
        key: PathBuf,
    },
    /// A sealed file was not sealed with this relay's key, or is damaged.
    #[error("{} cannot be opened with this relay's key", .0.display())]
    Sealed(PathBuf),
    /// A sealed row of the database was not sealed with this relay's key, or is damaged.
    #[error("`{0}` in the table `certificates` cannot be opened with this relay's key")]
    SealedRow(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The relay cannot order certificates.
    #[error("cannot order certificates: {0}")]
    Order(String),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
}

/// Gives the certificate to show, and may change it while the relay serves.
#[async_trait]
pub trait CertSource: fmt::Debug + Send + Sync + 'static {
    /// Returns the resolver to build a TLS server with.
    fn resolver(&self) -> Arc<dyn ResolvesServerCert>;

    /// Returns the present leaf certificate; `None` while there is none to show yet.
    fn leaf(&self) -> Option<CertificateDer<'static>>;

    /// Returns the SHA-256 of the present leaf certificate, which agents may pin.
    fn fingerprint(&self) -> Option<Digest> {
        self.leaf().map(|leaf| Digest::of(&leaf))
    }

    /// Looks for a newer certificate and shows it from now on; `true` when there was one.
    ///
    /// # Errors
    /// Fails when there is one that cannot be used; the old one stays.
    fn refresh(&self) -> Result<bool, CertError> {
        Ok(false)
    }

    /// Returns why the last attempt to get a certificate came to nothing.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Returns the file with the authority that made the certificate, for those who shall trust it,
    /// where the relay made both.
    fn authority(&self) -> Option<&Path> {
        None
    }

    /// Returns when such an authority makes the next certificate, in Unix seconds: until then a pin
    /// of the present one holds.
    fn renewed_at(&self) -> Option<u64> {
        None
    }

    /// Tells whether an authority comes to the relay's own listeners before there is a certificate.
    fn proves_at_listeners(&self) -> bool {
        false
    }

    /// Tells whether an authority may ask for a proof by TLS: then [`ACME_ALPN`] is agreed to.
    fn proves_by_tls(&self) -> bool {
        false
    }

    /// Returns what an authority wants to read at `/.well-known/acme-challenge/TOKEN`, if it asked.
    fn http_proof(&self, _token: &str) -> Option<String> {
        None
    }

    /// Gets new certificates in time, until dropped.
    async fn renew(&self, _metrics: &Metrics) {
        std::future::pending::<()>().await;
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
    if source.proves_by_tls() {
        config.alpn_protocols.push(ACME_ALPN.to_vec());
    }
    Ok(config)
}

/// Asks a source for newer certificates from time to time, and whenever `asked` says so, tells of
/// those that are about to end, and lets the source order new ones; until dropped.
pub async fn keep_fresh(source: Arc<dyn CertSource>, asked: Arc<Notify>, metrics: Arc<Metrics>) {
    tokio::join!(source.renew(&metrics), watch(source.as_ref(), &asked, &metrics));
}

async fn watch(source: &dyn CertSource, asked: &Notify, metrics: &Metrics) {
    let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown = source.leaf();
    let (mut complaint, mut warned) = (None, None);
    loop {
        let by_hand = tokio::select! {
            _ = ticks.tick() => false,
            () = asked.notified() => true,
        };
        // The same broken pair is told of once, not every half minute.
        let found = source.refresh().map_err(|error| in_full(&error));
        if let Err(error) = &found
            && (by_hand || complaint.as_ref() != Some(error))
        {
            tracing::error!(error, "cannot use the new certificate; the old one stays");
        }
        complaint = found.err();
        let leaf = source.leaf();
        if leaf != shown {
            let fingerprint = leaf.as_ref().map(|leaf| Digest::of(leaf).to_string());
            tracing::info!(tls.fingerprint = fingerprint, "certificate renewed");
            (shown, warned) = (leaf, None);
        } else if by_hand && complaint.is_none() {
            tracing::info!("the certificate is the newest there is");
        }
        tell_of_end(shown.as_ref(), &mut warned, metrics);
    }
}

/// Tells whether a certificate has ended, and clients refuse it.
#[must_use]
pub fn has_ended(leaf: &CertificateDer<'_>) -> bool {
    let now = UnixTime::now().as_secs();
    Validity::of(leaf).is_some_and(|validity| validity.alarm(now) == Alarm::Over)
}

/// Sets the metric, and says once a day when the end is near.
fn tell_of_end(
    leaf: Option<&CertificateDer<'_>>,
    warned: &mut Option<tokio::time::Instant>,
    metrics: &Metrics,
) {
    let Some(validity) = leaf.and_then(|leaf| Validity::of(leaf)) else { return };
    metrics.certificate_expiry.set(i64::try_from(validity.not_after).unwrap_or(i64::MAX));
    let now = UnixTime::now().as_secs();
    let alarm = validity.alarm(now);
    if alarm == Alarm::None || warned.is_some_and(|at| at.elapsed() < ALARM_INTERVAL) {
        return;
    }
    *warned = Some(tokio::time::Instant::now());
    let hours_left = validity.not_after.saturating_sub(now) / 3600;
    match alarm {
        Alarm::Over => tracing::error!("the certificate has ended: clients refuse it"),
        _ => tracing::warn!(hours_left, "the certificate ends soon and was not renewed"),
    }
}

/// Returns an error and its causes as one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The certificate shown now; all names get the same one.
#[derive(Debug)]
struct Current(ArcSwapOption<CertifiedKey>);

impl Current {
    fn new(key: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(ArcSwapOption::from_pointee(key)))
    }

    #[cfg(feature = "acme")]
    fn none() -> Self {
        Self(ArcSwapOption::empty())
    }

    #[cfg(feature = "acme")]
    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn show(&self, key: CertifiedKey) {
        self.0.store(Some(Arc::new(key)));
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.0.load().as_ref().and_then(|key| key.cert.first().cloned())
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
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
    use rustls::pki_types::ServerName;

    use super::*;

    #[tokio::test]
    async fn a_client_gets_http_2_and_the_certificate_whose_fingerprint_it_pinned() {
        let source = SelfSigned::generate(&"share.example.com".parse().unwrap()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config(&source).unwrap()));
        let provider = Arc::new(ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCert::new(&provider)))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("calc.share.example.com").unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let (served, connected) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
        let connected = connected.unwrap();
        let leaf = connected.get_ref().1.peer_certificates().unwrap().first();
        assert_eq!(leaf.map(|leaf| Digest::of(leaf)), source.fingerprint());
        assert_eq!(served.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    }

    /// Writes a new pair, as if some seconds later: file systems may count time in seconds.
    fn write_pair(dir: &std::path::Path, later: u64, fitting: bool) -> Digest {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let key = if fitting { &made.signing_key } else { &other };
        for (file, text) in [("cert.pem", made.cert.pem()), ("key.pem", key.serialize_pem())] {
            std::fs::write(dir.join(file), text).unwrap();
            let file = std::fs::File::options().append(true).open(dir.join(file)).unwrap();
            let at = std::time::SystemTime::now() + Duration::from_secs(later);
            file.set_modified(at).unwrap();
        }
        Digest::of(made.cert.der())
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_pair_is_shown_when_asked_and_a_broken_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_pair(dir.path(), 0, true);
        let at = |file| dir.path().join(file);
        let source = Arc::new(CertFiles::open(&at("cert.pem"), &at("key.pem")).unwrap());
        let (asked, metrics) = (Arc::new(Notify::new()), Arc::new(Metrics::new()));
        let scope = mcpm_shared::scope::Scope::new();
        let fresh = keep_fresh(Arc::clone(&source) as _, Arc::clone(&asked), Arc::clone(&metrics));
        scope.spawn_until_cancelled(fresh);
        // Everything is at rest before paused time goes on.
        let rest = || tokio::time::sleep(Duration::from_millis(1));
        rest().await;
        assert!(metrics.certificate_expiry.get() > 1_700_000_000);

        write_pair(dir.path(), 5, false);
        asked.notify_one();
        rest().await;
        assert_eq!(source.fingerprint(), Some(first));
        tokio::time::sleep(REFRESH_INTERVAL).await;
        assert_eq!(source.fingerprint(), Some(first), "nor later");

        let second = write_pair(dir.path(), 10, true);
        asked.notify_one();
        rest().await;
        assert_eq!(source.fingerprint(), Some(second));
        let third = write_pair(dir.path(), 15, true);
        tokio::time::sleep(REFRESH_INTERVAL).await;
        assert_eq!(source.fingerprint(), Some(third), "without being asked");
        scope.cancel();
    }
}
