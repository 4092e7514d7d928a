//! What the relay shows to an authority that looks for a proof by TLS or HTTP.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::customs::{Customs, Found};
use super::shared::SEEN_BY_ALL;
use crate::cert::vault::Vault;
use crate::cert::{ACME_ALPN, CertError, Current};

/// The proofs that are shown at present. An order has a handful.
#[derive(Default)]
pub(super) struct Proofs(Mutex<Shown>);

#[derive(Default)]
struct Shown {
    /// By token (RFC 8555 §8.3).
    http: HashMap<String, String>,
    /// By name (RFC 8737 §3).
    tls: HashMap<String, Arc<CertifiedKey>>,
}

/// Which proof of another node it is.
pub(super) enum Posted<'a> {
    Http(&'a str),
    Tls(&'a str),
}

impl<'a> Posted<'a> {
    /// Reads the name under which a proof is posted, without the authority.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let tls = name.strip_prefix("proof-tls-").map(Self::Tls);
        tls.or_else(|| name.strip_prefix("proof-http-").map(Self::Http))
    }
}

/// Shows proofs here, and posts them for the other nodes: an authority may come to any of them.
#[derive(Clone, Debug)]
pub(super) struct Board {
    proofs: Arc<Proofs>,
    vault: Arc<Vault>,
    authority: String,
}

/// A proof that is shown, and the name under which it is posted.
#[derive(Debug)]
pub(super) struct OnBoard {
    #[expect(dead_code, reason = "shows the proof until it is dropped")]
    showing: Showing,
    posted: Option<String>,
}

impl Board {
    pub(super) fn new(proofs: Arc<Proofs>, vault: Arc<Vault>, authority: String) -> Self {
        Self { proofs, vault, authority }
    }

    pub(super) async fn tls(&self, name: &str, digest: &[u8]) -> Result<OnBoard, CertError> {
        let showing = self.proofs.show_tls(name, digest)?;
        let posted = self.post(format!("proof-tls-{name}"), digest).await?;
        Ok(OnBoard { showing, posted })
    }

    pub(super) async fn http(&self, token: &str, text: &str) -> Result<OnBoard, CertError> {
        let showing = self.proofs.show_http(token, text);
        let posted = self.post(format!("proof-http-{token}"), text.as_bytes()).await?;
        Ok(OnBoard { showing, posted })
    }

    async fn post(&self, name: String, proof: &[u8]) -> Result<Option<String>, CertError> {
        if !self.vault.is_shared() {
            return Ok(None);
        }
        let row = format!("{name}-{}", self.authority);
        self.vault.save(&row, proof).await?;
        Ok(Some(row))
    }

    /// Returns how long it takes until all nodes show what is posted.
    pub(super) fn wait(&self) -> Duration {
        if self.vault.is_shared() { SEEN_BY_ALL } else { Duration::ZERO }
    }

    /// Takes a proof down, here and elsewhere.
    pub(super) async fn take_down(&self, proof: OnBoard) {
        if let Some(row) = &proof.posted
            && let Err(error) = self.vault.forget(row).await
        {
            // The others forget it by themselves.
            tracing::debug!(error = crate::cert::in_full(&error), "a proof was left behind");
        }
    }
}

/// Shows a proof for as long as it lives.
#[derive(Debug)]
pub(super) struct Showing {
    proofs: Arc<Proofs>,
    shown: Proof,
}

/// What is shown, as far as it takes to know it again: another one may take its place.
#[derive(Debug)]
enum Proof {
    Http { token: String },
    Tls { name: String, key: Arc<CertifiedKey> },
}

impl Proofs {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show_http(self: &Arc<Self>, token: &str, text: &str) -> Showing {
        self.lock().http.insert(token.to_owned(), text.to_owned());
        Showing { proofs: Arc::clone(self), shown: Proof::Http { token: token.to_owned() } }
    }

    pub(super) fn http(&self, token: &str) -> Option<String> {
        self.lock().http.get(token).cloned()
    }

    pub(super) fn show_tls(
        self: &Arc<Self>,
        name: &str,
        digest: &[u8],
    ) -> Result<Showing, CertError> {
        let key = Arc::new(proof_of(name, digest)?);
        self.lock().tls.insert(name.to_owned(), Arc::clone(&key));
        let shown = Proof::Tls { name: name.to_owned(), key };
        Ok(Showing { proofs: Arc::clone(self), shown })
    }

    /// Shows a proof of another node, unless it is one of this node's own.
    pub(super) fn show_theirs(
        self: &Arc<Self>,
        posted: &Posted<'_>,
        plain: &[u8],
    ) -> Option<Showing> {
        match posted {
            Posted::Http(token) if self.http(token).is_none() => {
                Some(self.show_http(token, std::str::from_utf8(plain).ok()?))
            }
            Posted::Tls(name) if self.tls(name).is_none() => self.show_tls(name, plain).ok(),
            _ => None,
        }
    }

    fn tls(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.lock().tls.get(name).cloned()
    }
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proofs(…)")
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        let mut shown = self.proofs.lock();
        match &self.shown {
            Proof::Http { token } => drop(shown.http.remove(token)),
            // Of a node that died, and this one has ordered for the same name since.
            Proof::Tls { name, key }
                if shown.tls.get(name).is_some_and(|it| !Arc::ptr_eq(it, key)) => {}
            Proof::Tls { name, .. } => drop(shown.tls.remove(name)),
        }
    }
}

/// Makes the certificate that proves a name to be ours (RFC 8737 §3).
fn proof_of(name: &str, digest: &[u8]) -> Result<CertifiedKey, CertError> {
    let mut params = CertificateParams::new([name.to_owned()]).map_err(CertError::Make)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let cert = params.self_signed(&key).map_err(CertError::Make)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let private = ring::default_provider().key_provider.load_private_key(private);
    // Not checked against each other, as the extension of a proof is critical and unknown to TLS.
    Ok(CertifiedKey::new(vec![cert.der().clone()], private.map_err(CertError::Unusable)?))
}

/// Chooses between the certificate for everybody and a proof for the authority.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) current: Arc<Current>,
    pub(super) proofs: Arc<Proofs>,
    pub(super) customs: Arc<Customs>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An authority offers this protocol and no other.
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(ACME_ALPN) && offered.next().is_none() {
            return self.proofs.tls(&hello.server_name()?.to_ascii_lowercase());
        }
        match hello.server_name().map_or(Found::Other, |name| self.customs.find(name)) {
            Found::Shown(key) => Some(key),
            // The relay's own certificate would only look like a mistake.
            Found::Missing => None,
            Found::Other => self.current.key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_shown_while_its_guard_lives() {
        let proofs = Arc::new(Proofs::default());
        let http = proofs.show_http("token", "token.thumbprint");
        let tls = proofs.show_tls("a.example", &[7; 32]).unwrap();
        assert_eq!(proofs.http("token").as_deref(), Some("token.thumbprint"));
        assert!(proofs.tls("a.example").is_some());
        drop((http, tls));
        assert!(proofs.http("token").is_none() && proofs.tls("a.example").is_none());
    }

    #[test]
    fn the_end_of_an_older_proof_takes_no_newer_one_away() {
        let proofs = Arc::new(Proofs::default());
        let theirs = proofs.show_theirs(&Posted::Tls("a.example"), &[1; 32]).unwrap();
        let ours = proofs.show_tls("a.example", &[2; 32]).unwrap();
        let shown = proofs.tls("a.example").unwrap();
        drop(theirs);
        assert!(proofs.tls("a.example").is_some_and(|still| Arc::ptr_eq(&still, &shown)));
        drop(ours);
        assert!(proofs.tls("a.example").is_none());
    }
}
