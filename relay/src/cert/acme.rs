//! A certificate from an authority (ACME, RFC 8555), renewed when the authority advises it
//! (RFC 9773) or after two thirds of its life.
//!
//! Account and certificate are kept sealed in the data directory. Whatever fails, the certificate
//! that is there stays, and the next attempt waits longer.

mod dns;
#[cfg(test)]
mod fake_dns;
mod order;
#[cfg(test)]
mod pebble;
mod proofs;
mod schedule;
#[cfg(test)]
mod tests;
mod web;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use instant_acme::{Account, AccountCredentials, CertificateIdentifier, NewAccount};
use mcpm_shared::token::Digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use self::order::{OrderError, Prover};
use self::proofs::{Proofs, Resolver};
use self::schedule::Suggested;
use self::web::Web;
use super::validity::Validity;
use super::vault::Vault;
use super::{CertError, CertSource, Current, certified};
use crate::config::{Acme, AcmeProof, Domain};
use crate::metrics::Metrics;

/// How long one order may take: proofs, waits and all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// How often the clock is looked at, which may jump, and bounds for how often the authority is
/// asked for its advice.
const LOOK: Duration = Duration::from_secs(600);
const ADVICE_AGAIN: (Duration, Duration) =
    (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
/// When the authority gave no advice.
const ADVICE_LATER: Duration = Duration::from_secs(6 * 3600);

/// A certificate that the relay orders from an authority and renews.
#[derive(Debug)]
pub struct AcmeCert {
    settings: Acme,
    /// What the certificate must cover.
    names: Vec<String>,
    prover: Prover,
    web: Web,
    vault: Vault,
    /// Tells the files of one authority from those of another.
    authority: String,
    current: Arc<Current>,
    proofs: Arc<Proofs>,
}

/// A certificate as it is kept.
#[derive(Deserialize, Serialize)]
struct Kept {
    names: Vec<String>,
    chain: String,
    key: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What is known of the next renewal.
struct Plan {
    chance: f64,
    suggested: Option<Suggested>,
    ask_again_at: tokio::time::Instant,
}

impl AcmeCert {
    /// Reads the certificate that was ordered before, if any; orders nothing yet.
    ///
    /// # Errors
    /// Fails when a file cannot be read, or was sealed with another relay's key.
    pub fn open(
        settings: &Acme,
        domain: &Domain,
        dir: &Path,
        storage_key: &[u8; 32],
    ) -> Result<Self, CertError> {
        let proofs = Arc::new(Proofs::default());
        let (names, prover) = match (&settings.proof, dns::open(&settings.proof)?) {
            (_, Some((dns, wait))) => {
                (vec![domain.as_str().to_owned(), format!("*.{domain}")], Prover::Dns { dns, wait })
            }
            (AcmeProof::Http, None) => {
                (vec![domain.as_str().to_owned()], Prover::Http(Arc::clone(&proofs)))
            }
            (_, None) => (vec![domain.as_str().to_owned()], Prover::Tls(Arc::clone(&proofs))),
        };
        let authority = Digest::of(settings.directory.as_bytes()).to_string();
        let authority = authority.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let source = Self {
            web: Web::new(settings.ca.as_deref())?,
            settings: settings.clone(),
            names,
            prover,
            vault: Vault::new(dir.join("acme"), storage_key),
            authority,
            current: Arc::new(Current(None.into())),
            proofs,
        };
        if let Some(kept) = source.kept()? {
            source.current.show(parse(&kept.chain, &kept.key)?);
        }
        Ok(source)
    }

    fn file(&self, what: &str) -> String {
        format!("{what}-{}", self.authority)
    }

    fn certificate_file(&self) -> String {
        self.file(&format!("certificate-{}", self.names[0]))
    }

    fn kept(&self) -> Result<Option<Kept>, CertError> {
        let kept = self.vault.load(&self.certificate_file())?;
        // One that is not ours to read is as good as none: a new one is ordered.
        Ok(kept.and_then(|kept| serde_json::from_slice(&kept).ok()))
    }

    /// Opens the account at the authority, or makes one.
    async fn account(&self, anew: bool) -> Result<Account, OrderError> {
        let file = self.file("account");
        let builder = Account::builder_with_http(Box::new(self.web.clone()));
        if !anew
            && let Some(kept) = self.vault.load(&file)?
            && let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&kept)
        {
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact = self.settings.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = self.settings.directory.clone();
        let (account, credentials) = builder.create(&wanted, directory, None).await?;
        let text = serde_json::to_vec(&credentials).map_err(instant_acme::Error::from)?;
        self.vault.save(&file, &Zeroizing::new(text))?;
        tracing::info!(directory = self.settings.directory, "account made at the authority");
        Ok(account)
    }

    /// Orders a certificate, keeps it and shows it.
    async fn order(&self) -> Result<(), OrderError> {
        let replaces = self.leaf().and_then(|leaf| {
            CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
        });
        let account = self.account(false).await?;
        let issued = match self.prover.order(&account, &self.names, replaces).await {
            Err(error) if error.is_lost_account() => {
                tracing::warn!("the authority forgot the account: making another one");
                let account = self.account(true).await?;
                self.prover.order(&account, &self.names, None).await?
            }
            issued => issued?,
        };
        let fresh = parse(&issued.chain, &issued.key)?;
        let kept =
            Kept { names: self.names.clone(), chain: issued.chain, key: (*issued.key).clone() };
        self.current.show(fresh);
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(instant_acme::Error::from)?);
        // Not a failed order: another one would find the same disk, and use up what is allowed.
        if let Err(error) = self.vault.save(&self.certificate_file(), &text) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the new certificate will be lost at the next start");
        }
        Ok(())
    }

    /// Returns when the present certificate should be renewed; `None` says at once.
    async fn due(&self, plan: &mut Plan) -> Option<u64> {
        let leaf = self.leaf()?;
        let validity = Validity::of(&leaf)?;
        if plan.ask_again_at <= tokio::time::Instant::now() {
            let (suggested, again) = match self.advice(&leaf).await {
                Some((window, again)) => (Some(window), again),
                None => (plan.suggested, ADVICE_LATER),
            };
            plan.suggested = suggested;
            plan.ask_again_at =
                tokio::time::Instant::now() + again.clamp(ADVICE_AGAIN.0, ADVICE_AGAIN.1);
        }
        Some(schedule::renew_at(validity, plan.suggested, plan.chance))
    }

    /// Asks the authority when it would like the certificate to be renewed.
    async fn advice(&self, leaf: &CertificateDer<'_>) -> Option<(Suggested, Duration)> {
        let id = CertificateIdentifier::try_from(leaf).ok()?;
        let asked =
            async { self.account(false).await?.renewal_info(&id).await.map_err(Into::into) };
        match asked.await {
            Ok((info, again)) => {
                let at = |time: i64| u64::try_from(time).unwrap_or(0);
                let window = info.suggested_window;
                let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
                Some((Suggested { start: at(start), end: at(end) }, again))
            }
            Err(OrderError::Acme(instant_acme::Error::Unsupported(_))) => None,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "no advice about renewal");
                None
            }
        }
    }
}

#[async_trait]
impl CertSource for AcmeCert {
    fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        let (current, proofs) = (Arc::clone(&self.current), Arc::clone(&self.proofs));
        Arc::new(Resolver { current, proofs })
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.current.leaf()
    }

    fn proves_by_tls(&self) -> bool {
        matches!(self.prover, Prover::Tls(_))
    }

    fn http_proof(&self, token: &str) -> Option<String> {
        self.proofs.http(token)
    }

    async fn renew(&self, metrics: &Metrics) {
        let mut failures = 0;
        let mut plan = Plan::new();
        // One that covers other names than it should is of use, but not for long.
        let mut at_once = self.kept().ok().flatten().is_none_or(|kept| kept.names != self.names);
        loop {
            let due = if at_once { None } else { self.due(&mut plan).await };
            let now = UnixTime::now().as_secs();
            if let Some(left) = due.and_then(|due| due.checked_sub(now)).filter(|left| *left > 0) {
                tokio::time::sleep(LOOK.min(Duration::from_secs(left))).await;
                continue;
            }
            match tokio::time::timeout(ORDER_TIMEOUT, self.order()).await {
                Ok(Ok(())) => {
                    tracing::info!(names = ?self.names, "certificate issued");
                    metrics.order(true);
                    (failures, at_once, plan) = (0, false, Plan::new());
                }
                failed => {
                    let error = match failed {
                        Ok(Err(error)) => error,
                        _ => OrderError::TooLong(ORDER_TIMEOUT),
                    };
                    failures += 1;
                    metrics.order(false);
                    let wait = schedule::retry_after(failures, chance());
                    let again_secs = wait.as_secs();
                    let error = super::in_full(&error);
                    tracing::error!(error, failures, again_secs, "no certificate was issued");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

impl Plan {
    fn new() -> Self {
        let ask_again_at = tokio::time::Instant::now();
        Self { chance: chance(), suggested: None, ask_again_at }
    }
}

/// Returns a random number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers there is no TLS either; half is as good as any.
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

fn parse(chain: &str, key: &str) -> Result<CertifiedKey, CertError> {
    let not_pem = |wanted| move |source| CertError::Pem { path: "order".into(), wanted, source };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(not_pem("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(not_pem("private key"))?;
    certified(chain, key)
}
