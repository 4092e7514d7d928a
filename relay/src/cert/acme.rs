//! Certificates from an authority (ACME, RFC 8555), renewed when the authority advises it (RFC 9773)
//! or after two thirds of their life: one for the relay's own domain, and one for each custom domain.
//!
//! Account and certificates are kept sealed in a [`Vault`]. Whatever fails, the certificate that is
//! there stays, and the next attempt waits longer.

mod customs;
mod dns;
mod order;
#[cfg(test)]
mod pebble;
mod proofs;
mod renewal;
mod schedule;
mod shared;
#[cfg(test)]
mod tests;
mod web;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use instant_acme::{Account, AccountCredentials, CertificateIdentifier, NewAccount};
use mcpm_shared::token::Digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use self::customs::Customs;
use self::order::{OrderError, Prover};
use self::proofs::{Board, Proofs, Resolver};
use self::web::Web;
use super::validity::Validity;
use super::vault::{Plain, Vault};
use super::{CertError, CertSource, Current, certified};
use crate::config::{Acme, AcmeChallenge, AcmeProof, Domain};
use crate::domains::Domains;
use crate::metrics::Metrics;

/// Certificates that the relay orders from an authority and renews.
#[derive(Debug)]
pub struct AcmeCert {
    settings: Acme,
    /// What the certificate of the relay's own domain must cover.
    names: Vec<String>,
    prover: Prover,
    web: Web,
    vault: Arc<Vault>,
    /// Tells what is of one authority from what is of another.
    authority: String,
    current: Arc<Current>,
    proofs: Arc<Proofs>,
    customs: Arc<Customs>,
    /// Why the relay's own domain has no newer certificate, after an attempt that failed.
    trouble: Mutex<Option<String>>,
}

/// One certificate that is ordered and renewed.
#[derive(Clone, Copy)]
struct Item<'a> {
    names: &'a [String],
    prover: &'a Prover,
    shown: &'a Current,
    /// For one of a custom domain.
    customs: Option<&'a Customs>,
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

impl Kept {
    /// One that is not ours to read is as good as none: a new one is ordered.
    fn read(plain: &Plain) -> Option<Self> {
        serde_json::from_slice(plain).ok()
    }
}

/// What came of an attempt to get a certificate.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// The authority issued it.
    Issued,
    /// Another node had ordered it.
    Taken,
    /// Another node is about to order it.
    Elsewhere,
    /// As many were ordered as may be in an hour.
    Capped(std::time::Duration),
}

impl AcmeCert {
    /// Reads the certificate that was ordered before, if any; orders nothing yet.
    ///
    /// # Errors
    /// Fails when it cannot be read, or was sealed with another relay's key.
    pub async fn open(
        settings: &Acme,
        domain: &Domain,
        vault: Vault,
        domains: Arc<Domains>,
    ) -> Result<Self, CertError> {
        let (vault, proofs) = (Arc::new(vault), Arc::new(Proofs::default()));
        let authority = Digest::of(settings.directory.as_bytes()).to_string();
        let authority: String =
            authority.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let board = Board::new(Arc::clone(&proofs), Arc::clone(&vault), authority.clone());
        let apex = domain.as_str().to_owned();
        let (names, prover) = match (&settings.proof, dns::open(&settings.proof)?) {
            (_, Some((dns, wait))) => {
                (vec![apex, format!("*.{domain}")], Prover::Dns { dns, wait })
            }
            (AcmeProof::Http, None) => (vec![apex], Prover::Http(board.clone())),
            (_, None) => (vec![apex], Prover::Tls(board.clone())),
        };
        let theirs = match settings.customs.challenge {
            AcmeChallenge::Http => Prover::Http(board),
            // Nobody but their owners writes their DNS.
            AcmeChallenge::TlsAlpn | AcmeChallenge::Dns => Prover::Tls(board),
        };
        let per_hour = settings.customs.orders_per_hour;
        let source = Self {
            web: Web::new(settings.ca.as_deref())?,
            settings: settings.clone(),
            names,
            prover,
            vault,
            authority,
            current: Arc::new(Current::none()),
            proofs,
            customs: Arc::new(Customs::new(domains, theirs, per_hour)),
            trouble: Mutex::default(),
        };
        if let Some(kept) = source.kept(&source.names[0]).await? {
            source.current.show(parse(&kept)?);
        }
        Ok(source)
    }

    /// Returns the certificate of the relay's own domain.
    fn apex(&self) -> Item<'_> {
        let (names, prover, shown) = (&self.names, &self.prover, &self.current);
        Item { names, prover, shown, customs: None }
    }

    /// Notes what became of an attempt, for those who ask for the relay's own domain.
    fn note_trouble(&self, item: Item<'_>, trouble: Option<&str>) {
        if item.customs.is_none() {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) =
                trouble.map(str::to_owned);
        }
    }

    /// Returns the name under which a certificate is kept.
    fn row(&self, name: &str) -> String {
        format!("certificate-{name}-{}", self.authority)
    }

    async fn kept(&self, name: &str) -> Result<Option<Kept>, CertError> {
        let kept = self.vault.load(&self.row(name)).await?;
        Ok(kept.as_ref().and_then(Kept::read))
    }

    /// Opens the account at the authority, or makes one.
    async fn account(&self, anew: bool) -> Result<Account, OrderError> {
        let row = format!("account-{}", self.authority);
        let builder = Account::builder_with_http(Box::new(self.web.clone()));
        if !anew
            && let Some(kept) = self.vault.load(&row).await?
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
        self.vault.save(&row, &Zeroizing::new(text)).await?;
        tracing::info!(directory = self.settings.directory, "account made at the authority");
        Ok(account)
    }

    /// Gets a certificate: takes over what another node ordered, or orders one while no other node
    /// does.
    async fn get(&self, item: Item<'_>) -> Result<Got, OrderError> {
        let _few = match item.customs {
            Some(customs) => customs.may_order().await,
            None => None,
        };
        let work = async {
            if self.take_over(item).await? {
                return Ok(Got::Taken);
            }
            if let Some(customs) = item.customs
                && let Some(wait) = customs.capped(&self.vault).await?
            {
                return Ok(Got::Capped(wait));
            }
            self.order(item).await.map(|()| Got::Issued)
        };
        let done = self.vault.in_turn(&self.row(&item.names[0]), work).await?;
        done.unwrap_or(Ok(Got::Elsewhere))
    }

    /// Shows what is kept, where that is another certificate than the one that is shown.
    async fn take_over(&self, item: Item<'_>) -> Result<bool, OrderError> {
        let Some(kept) = self.kept(&item.names[0]).await? else { return Ok(false) };
        if kept.names != item.names {
            return Ok(false);
        }
        let key = parse(&kept)?;
        let (leaf, now) = (key.cert.first(), UnixTime::now().as_secs());
        let ends = leaf.and_then(|leaf| Validity::of(leaf)).map_or(0, |it| it.not_after);
        if leaf == item.shown.leaf().as_ref() || ends <= now {
            return Ok(false);
        }
        item.shown.show(key);
        Ok(true)
    }

    /// Orders a certificate, keeps it and shows it.
    async fn order(&self, item: Item<'_>) -> Result<(), OrderError> {
        let replaces = item.shown.leaf().and_then(|leaf| {
            CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
        });
        let account = self.account(false).await?;
        let issued = match item.prover.order(&account, item.names, replaces).await {
            Err(error) if error.is_lost_account() => {
                tracing::warn!("the authority forgot the account: making another one");
                let account = self.account(true).await?;
                item.prover.order(&account, item.names, None).await?
            }
            issued => issued?,
        };
        let (names, key) = (item.names.to_vec(), (*issued.key).clone());
        let kept = Kept { names, chain: issued.chain, key };
        item.shown.show(parse(&kept)?);
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(instant_acme::Error::from)?);
        // Not a failed order: another one would find the same disk, and use up what is allowed.
        if let Err(error) = self.vault.save(&self.row(&item.names[0]), &text).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the new certificate will be lost at the next start");
        }
        Ok(())
    }
}

#[async_trait]
impl CertSource for AcmeCert {
    fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        let (current, proofs) = (Arc::clone(&self.current), Arc::clone(&self.proofs));
        Arc::new(Resolver { current, proofs, customs: Arc::clone(&self.customs) })
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.current.leaf()
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn proves_at_listeners(&self) -> bool {
        !matches!(self.prover, Prover::Dns { .. })
    }

    fn proves_by_tls(&self) -> bool {
        matches!(self.prover, Prover::Tls(_)) || self.customs.prove_by_tls()
    }

    fn http_proof(&self, token: &str) -> Option<String> {
        self.proofs.http(token)
    }

    async fn renew(&self, metrics: &Metrics) {
        // One that covers other names than it should is of use, but not for long.
        let kept = self.kept(&self.names[0]).await.ok().flatten();
        let at_once = kept.is_none_or(|kept| kept.names != self.names);
        tokio::join!(
            self.keep_renewed(self.apex(), at_once, metrics),
            self.customs.run(self, metrics),
            self.follow(),
        );
    }
}

fn parse(kept: &Kept) -> Result<CertifiedKey, CertError> {
    let not_pem = |wanted| move |source| CertError::Pem { path: "order".into(), wanted, source };
    let chain = CertificateDer::pem_slice_iter(kept.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(not_pem("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(kept.key.as_bytes()).map_err(not_pem("private key"))?;
    certified(chain, key)
}
