//! Certificates that the relay makes itself: for development, tests and closed networks.
//!
//! In a data directory it makes an authority of its own once, and certificates by that one, which it
//! renews: agents and visitors trust the authority, and notice nothing. What trusts it need not
//! trust it with the rest of the world: it is good for the relay's own hosts only (RFC 5280
//! §4.2.1.10). A certificate that an earlier version made stays, because agents have pinned it.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::status::{LastLook, ends_within};
use super::validity::Validity;
use super::{CertError, CertSource, Current, certified, in_full, private_file};
use crate::config::Domain;

const DAY: u64 = 24 * 3600;
/// Apple's systems refuse certificates of a private authority that last longer than 825 days.
const LIFE: u64 = 820 * DAY;
/// Sooner than it would be worth a word: nobody shall notice a renewal.
const RENEWED_BEFORE: u64 = 30 * DAY;

/// A certificate for a domain, its subdomains and loopback.
#[derive(Debug)]
pub struct SelfSigned {
    current: Arc<Current>,
    /// `None` keeps nothing and renews nothing.
    kept: Option<Kept>,
    last_look: LastLook,
}

/// What is made for which domain, and where it is kept.
#[derive(Debug)]
struct Kept {
    domain: Domain,
    /// Certificate and key in one file.
    leaf: PathBuf,
    /// The authority: what others trust, and what must stay here.
    ca: PathBuf,
    ca_key: PathBuf,
}

impl SelfSigned {
    /// Makes a certificate that lives in memory, signed by itself.
    ///
    /// # Errors
    /// Fails when the certificate cannot be made.
    pub fn generate(domain: &Domain) -> Result<Self, CertError> {
        let pem = alone(domain)?;
        let key = parse(Path::new("memory"), pem.as_bytes())?;
        Ok(Self { current: Current::new(key), kept: None, last_look: LastLook::default() })
    }

    /// Reads the domain's certificate from a directory, or makes it there, together with the
    /// authority that signs it.
    ///
    /// # Errors
    /// Fails when a file cannot be read or made, or holds something else.
    pub fn open(dir: &Path, domain: &Domain) -> Result<Self, CertError> {
        // Colons of IPv6 addresses are not for file names everywhere.
        let stem = format!("self-signed-{}", domain.as_str().replace(':', "-"));
        let at = |end| dir.join(format!("{stem}{end}"));
        let (leaf, ca, ca_key) = (at(".pem"), at(".ca.pem"), at(".ca.key"));
        let kept = Kept { domain: domain.clone(), leaf, ca, ca_key };
        let key = match read(&kept.leaf)? {
            Some(pem) => parse(&kept.leaf, &pem)?,
            None => kept.issue(LIFE)?,
        };
        kept.complain();
        let last_look = LastLook::default();
        let source = Self { current: Current::new(key), kept: Some(kept), last_look };
        // Where that fails the old one stays, and whoever watches the certificate says why.
        drop(source.refresh());
        Ok(source)
    }
}

impl CertSource for SelfSigned {
    fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.current) as _
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.current.leaf()
    }

    fn authority(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| kept.ca.as_path()).filter(|ca| ca.exists())
    }

    fn renewed_at(&self) -> Option<u64> {
        self.authority()?;
        let validity = Validity::of(&self.leaf()?)?;
        Some(validity.not_after.saturating_sub(RENEWED_BEFORE))
    }

    fn refresh(&self) -> Result<bool, CertError> {
        self.last_look.note(self.look())
    }

    fn trouble(&self) -> Option<String> {
        self.last_look.trouble()
    }
}

impl SelfSigned {
    /// Makes a new certificate where the present one is about to end.
    fn look(&self) -> Result<bool, CertError> {
        let Some(kept) = &self.kept else { return Ok(false) };
        if self.leaf().is_some_and(|leaf| !ends_within(&leaf, RENEWED_BEFORE)) {
            return Ok(false);
        }
        self.current.show(kept.issue(LIFE)?);
        Ok(true)
    }
}

impl Kept {
    /// Makes a certificate that is good for so many seconds, and keeps it in place of the one that
    /// was there.
    fn issue(&self, life: u64) -> Result<CertifiedKey, CertError> {
        let issuer = self.authority()?;
        let mut hosts = names(&self.domain);
        // Hardly a client takes a wildcard over a whole top-level domain, and some that heed the
        // authority's bounds refuse everything for it.
        hosts.retain(|host| !host.starts_with('*') || host.matches('.').count() > 1);
        let mut params = of_leaf(&self.domain, hosts)?;
        let now = UnixTime::now().as_secs();
        let at = |secs| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs);
        // Clocks of others may be late.
        (params.not_before, params.not_after) = (at(now.saturating_sub(DAY)), at(now + life));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(CertError::Make)?;
        let cert = params.signed_by(&key, &issuer).map_err(CertError::Make)?;
        let pem = in_one(&cert.pem(), &key);
        write_private(&self.leaf, pem.as_bytes())?;
        parse(&self.leaf, pem.as_bytes())
    }

    /// Reads the authority, or makes it where there is none.
    fn authority(&self) -> Result<Issuer<'static, KeyPair>, CertError> {
        let params = of_authority(&self.domain)?;
        let trusted = read(&self.ca)?;
        let key = match read(&self.ca_key)? {
            Some(pem) => key_pair(&self.ca_key, &pem)?,
            // Another one in its place would be trusted by nobody.
            None if trusted.is_some() => {
                let (path, source) = (self.ca_key.clone(), ErrorKind::NotFound.into());
                return Err(CertError::Read { path, source });
            }
            None => {
                let key = KeyPair::generate().map_err(CertError::Make)?;
                write_private(&self.ca_key, Zeroizing::new(key.serialize_pem()).as_bytes())?;
                key
            }
        };
        let cert = params.self_signed(&key).map_err(CertError::Make)?;
        match trusted {
            // Whoever trusts another one would refuse what this key signs, and nobody would know.
            Some(pem) if !is_one_authority(&der(&self.ca, &pem)?, cert.der()) => {
                return Err(CertError::Authority {
                    cert: self.ca.clone(),
                    key: self.ca_key.clone(),
                });
            }
            Some(_) => {}
            None => {
                write_private(&self.ca, cert.pem().as_bytes())?;
                tracing::info!(file = %self.ca.display(), "made an authority for the certificate");
            }
        }
        Ok(Issuer::new(params, key))
    }

    /// Says at once what would come out in two years only, when nobody has the right files anymore:
    /// that the authority cannot sign the next certificate.
    fn complain(&self) {
        if self.ca.exists()
            && let Err(error) = self.authority()
        {
            let error = in_full(&error);
            tracing::warn!(error, "the authority cannot make the next certificate");
        }
    }
}

/// Tells whether two certificates are of one authority to whoever checks what it signed, which goes
/// by its name and its key (RFC 5280 §6.1.4).
fn is_one_authority(one: &[u8], other: &[u8]) -> bool {
    fn of(der: &[u8]) -> Option<(&[u8], &[u8])> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        Some((cert.tbs_certificate.subject.as_raw(), cert.tbs_certificate.subject_pki.raw))
    }
    of(one).is_some_and(|one| of(other) == Some(one))
}

/// The authority in full: the same whenever it is asked for, so that its name fits.
fn of_authority(domain: &Domain) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(CertError::Make)?;
    params.distinguished_name.push(DnType::CommonName, format!("mcpm-relay at {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Names of people and programs have no bounds: it shall not vouch for them either.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2049, 12, 31));
    // What is below a name that is permitted is permitted, too.
    let hosts = names(domain).into_iter().filter(|name| !name.starts_with('*'));
    let permitted = hosts.map(|host| match host.parse::<IpAddr>() {
        Ok(ip) => {
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, whole))
        }
        Err(_) => GeneralSubtree::DnsName(host),
    });
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted.collect(),
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

fn of_leaf(domain: &Domain, hosts: Vec<String>) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(hosts).map_err(CertError::Make)?;
    params.distinguished_name.push(DnType::CommonName, domain.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// Makes a certificate that is signed by itself, with its key.
fn alone(domain: &Domain) -> Result<Zeroizing<String>, CertError> {
    let mut params = of_leaf(domain, names(domain))?;
    // What is trusted is the pin, and a date would only end it without warning.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let cert = params.self_signed(&key).map_err(CertError::Make)?;
    Ok(in_one(&cert.pem(), &key))
}

/// Writes a certificate and its key as PEM in one text.
fn in_one(cert: &str, key: &KeyPair) -> Zeroizing<String> {
    let key = Zeroizing::new(key.serialize_pem());
    Zeroizing::new(format!("{cert}{}", *key))
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
    certified(vec![der(path, pem)?], private(path, pem)?)
}

fn der(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, CertError> {
    let (path, wanted) = (path.to_owned(), "certificate");
    CertificateDer::from_pem_slice(pem).map_err(|source| CertError::Pem { path, wanted, source })
}

fn private(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertError> {
    let (path, wanted) = (path.to_owned(), "private key");
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| CertError::Pem { path, wanted, source })
}

fn key_pair(path: &Path, pem: &[u8]) -> Result<KeyPair, CertError> {
    KeyPair::try_from(&private(path, pem)?).map_err(CertError::Make)
}

/// Reads a file, where there is one.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, CertError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CertError::Read { path: path.to_owned(), source }),
    }
}

/// Writes a file in one step, for its owner only.
fn write_private(path: &Path, pem: &[u8]) -> Result<(), CertError> {
    private_file::write(path, pem)
        .map_err(|source| CertError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::client::{WebPkiServerVerifier, verify_server_name};
    use rustls::crypto::ring;
    use rustls::pki_types::ServerName;
    use rustls::server::ParsedCertificate;

    use super::*;
    use crate::cert::CertStatus;

    fn covers(source: &SelfSigned, name: &str) -> bool {
        let leaf = source.leaf().unwrap();
        let cert = ParsedCertificate::try_from(&leaf).unwrap();
        verify_server_name(&cert, &ServerName::try_from(name).unwrap()).is_ok()
    }

    /// Tells whether a client that trusts this authority, and nothing else, takes a certificate.
    fn trusts(ca: &Path, leaf: &CertificateDer<'_>, name: &str) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verifier = verifier.build().unwrap();
        verifier.verify_server_cert(leaf, &[], &name, &[], UnixTime::now()).map(drop)
    }

    fn domain() -> Domain {
        "share.example.com".parse().unwrap()
    }

    #[test]
    fn it_is_renewed_before_its_end_by_the_authority_that_others_trust() {
        let dir = tempfile::tempdir().unwrap();
        let source = SelfSigned::open(dir.path(), &domain()).unwrap();
        let ca = source.authority().unwrap().to_owned();
        let trusted = std::fs::read(&ca).unwrap();
        let well = |source: &SelfSigned| {
            for name in ["share.example.com", "calc.share.example.com", "localhost", "127.0.0.1"] {
                trusts(&ca, &source.leaf().unwrap(), name).unwrap();
            }
            assert!(!source.refresh().unwrap(), "it has time");
        };
        well(&source);
        let kept = source.kept.as_ref().unwrap();
        let soon = || kept.issue(RENEWED_BEFORE - DAY).unwrap();

        // While it runs, and at a start.
        source.current.show(soon());
        assert!(source.refresh().unwrap());
        well(&source);
        let old = soon().cert[0].clone();
        let again = SelfSigned::open(dir.path(), &domain()).unwrap();
        assert_ne!(again.leaf().unwrap(), old);
        well(&again);
        assert_eq!(std::fs::read(&ca).unwrap(), trusted);
    }

    #[test]
    fn its_authority_is_good_for_the_relays_own_hosts_only() {
        let dir = tempfile::tempdir().unwrap();
        let source = SelfSigned::open(dir.path(), &domain()).unwrap();
        let issuer = source.kept.as_ref().unwrap().authority().unwrap();
        for name in ["bank.example", "example.com", "192.0.2.7"] {
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            let cert = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
            let refused = trusts(source.authority().unwrap(), cert.der(), name);
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("NameConstraintViolation"), "{error}");
        }
        let ca = CertificateDer::from_pem_file(source.authority().unwrap()).unwrap();
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        let usage = ca.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.email_protection, "{usage:?}");
    }

    #[test]
    fn an_authority_signs_only_with_its_own_key_and_under_its_own_name() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = SelfSigned::open(dir.path(), &domain()).unwrap();
        let kept = source.kept.as_ref().unwrap();
        let (own_cert, own_key) = (&kept.ca, std::fs::read(&kept.ca_key).unwrap());
        let old = kept.issue(DAY).unwrap().cert[0].clone();
        let refused = || {
            let again = SelfSigned::open(dir.path(), &domain()).unwrap();
            assert_eq!(again.leaf().as_ref(), Some(&old), "the old one stays");
            let error = again.refresh().unwrap_err();
            assert!(matches!(error, CertError::Authority { .. }), "{error}");
        };

        let other = SelfSigned::open(elsewhere.path(), &domain()).unwrap();
        std::fs::copy(&other.kept.as_ref().unwrap().ca_key, &kept.ca_key).unwrap();
        refused();
        std::fs::write(&kept.ca_key, &own_key).unwrap();
        let key = key_pair(&kept.ca_key, &own_key).unwrap();
        let namesake = of_authority(&"other.example".parse().unwrap()).unwrap();
        write_private(own_cert, namesake.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
        refused();
    }

    #[test]
    fn a_pin_beside_an_authority_holds_until_a_known_time() {
        let dir = tempfile::tempdir().unwrap();
        let source = SelfSigned::open(dir.path(), &domain()).unwrap();
        let left = source.renewed_at().unwrap() - UnixTime::now().as_secs();
        assert_eq!(left.div_ceil(DAY), 790);
        assert_eq!(SelfSigned::generate(&domain()).unwrap().renewed_at(), None);
    }

    #[test]
    fn a_certificate_of_before_stays_and_so_does_its_pin() {
        let dir = tempfile::tempdir().unwrap();
        let pem = alone(&domain()).unwrap();
        write_private(&dir.path().join("self-signed-share.example.com.pem"), pem.as_bytes())
            .unwrap();
        let source = SelfSigned::open(dir.path(), &domain()).unwrap();
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(source.leaf().unwrap(), leaf);
        assert!(!source.refresh().unwrap());
        assert_eq!(source.authority(), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_authority_whose_key_is_gone_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let source = SelfSigned::open(dir.path(), &domain()).unwrap();
        let kept = source.kept.as_ref().unwrap();
        let old = kept.issue(DAY).unwrap();
        std::fs::remove_file(&kept.ca_key).unwrap();
        let again = SelfSigned::open(dir.path(), &domain()).unwrap();
        assert_eq!(again.leaf().as_ref(), old.cert.first());
        let error = again.refresh().unwrap_err().to_string();
        assert!(error.ends_with("self-signed-share.example.com.ca.key"), "{error}");
        let problem = CertStatus::of(&again).problem.unwrap();
        assert!(problem.contains("self-signed-share.example.com.ca.key"), "{problem}");
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
