//! Certificates of custom domains: for those that the DNS has proved, and for no other name.
//!
//! A domain gets its first order when it is verified, and after a failure only when a visitor has
//! asked for it since: as long as a domain does not lead here, ordering is of no use.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::order::{OrderError, Prover};
use super::{AcmeCert, Item, Kept, parse};
use crate::cert::validity::{Alarm, Validity};
use crate::cert::vault::Vault;
use crate::cert::{ALARM_INTERVAL, CertError, Current};
use crate::domains::Domains;
use crate::host::CustomDomain;
use crate::metrics::Metrics;

/// Orders under way at once, and shorter questions to the authority and the store.
const ORDERS: usize = 4;
const QUESTIONS: usize = 16;
/// What orders are counted as.
const COUNTED: &str = "orders/domains";
/// How long until a store that is away is asked again.
const STORE_AWAY: Duration = Duration::from_secs(10);
/// How often metrics are brought up to date.
const REPORT: Duration = Duration::from_secs(60);

/// The certificates of custom domains.
#[derive(Debug)]
pub(super) struct Customs {
    domains: Arc<Domains>,
    prover: Prover,
    slots: ArcSwap<HashMap<CustomDomain, Arc<Slot>>>,
    orders: Semaphore,
    questions: Semaphore,
    /// How many may be ordered in an hour, by all nodes together.
    per_hour: u32,
}

/// What there is for a name that somebody asks for.
pub(super) enum Found {
    /// It is no custom domain.
    Other,
    /// It is one that has no certificate yet, which is wanted now.
    Missing,
    Shown(Arc<CertifiedKey>),
}

/// The certificate of one domain, and whether somebody misses it.
#[derive(Debug)]
struct Slot {
    shown: Current,
    wanted: Notify,
}

impl Customs {
    /// Orders at most so many in an hour; with none of them, custom domains get no certificates.
    pub(super) fn new(domains: Arc<Domains>, prover: Prover, per_hour: u32) -> Self {
        Self {
            domains,
            prover,
            slots: ArcSwap::default(),
            orders: Semaphore::new(ORDERS),
            questions: Semaphore::new(QUESTIONS),
            per_hour,
        }
    }

    fn is_on(&self) -> bool {
        self.per_hour > 0
    }

    pub(super) fn prove_by_tls(&self) -> bool {
        self.is_on() && matches!(self.prover, Prover::Tls(_))
    }

    /// Returns what to show who asks for a name by TLS.
    pub(super) fn find(&self, sni: &str) -> Found {
        let slots = self.slots.load();
        if slots.is_empty() {
            return Found::Other;
        }
        let slot = slots.get(sni).or_else(|| slots.get(sni.to_ascii_lowercase().as_str()));
        let Some(slot) = slot else { return Found::Other };
        match slot.shown.key() {
            Some(key) => Found::Shown(key),
            None => {
                slot.wanted.notify_one();
                Found::Missing
            }
        }
    }

    /// Waits until somebody asked for a domain since its last failure.
    pub(super) async fn wanted(&self, domain: &str) {
        let slot = self.slots.load().get(domain).cloned();
        if let Some(slot) = slot {
            slot.wanted.notified().await;
        }
    }

    /// Waits until few others are ordered.
    pub(super) async fn may_order(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.orders.acquire().await.ok()
    }

    /// Waits until few others ask the authority or the store for something.
    pub(super) async fn may_ask(&self) -> Option<SemaphorePermit<'_>> {
        self.questions.acquire().await.ok()
    }

    /// Counts an order, or says how long to wait before there may be one.
    ///
    /// # Errors
    /// Fails when the store does.
    pub(super) async fn capped(&self, vault: &Vault) -> Result<Option<Duration>, CertError> {
        vault.count(COUNTED, u64::from(self.per_hour)).await
    }

    /// Takes over a certificate that another node ordered.
    pub(super) fn take(&self, domain: &str, kept: &Kept) {
        let slot = self.slots.load().get(domain).cloned();
        if let Some(slot) = slot
            && let Ok(key) = parse(kept)
            && key.cert.first() != slot.shown.leaf().as_ref()
        {
            slot.shown.show(key);
            slot.wanted.notify_one();
        }
    }

    /// Gets and renews the certificates of all verified domains, until dropped.
    pub(super) async fn run(&self, source: &AcmeCert, metrics: &Metrics) {
        if !self.is_on() {
            return std::future::pending().await;
        }
        let mut changed = self.domains.changed();
        let mut tended = FuturesUnordered::new();
        let mut stops: HashMap<CustomDomain, CancellationToken> = HashMap::new();
        let mut reports = tokio::time::interval(REPORT);
        let mut alarmed = None;
        loop {
            for (domain, slot) in self.renew_slots() {
                let stop = CancellationToken::new();
                stops.insert(domain.clone(), stop.clone());
                tended.push(self.tend(source, domain, slot, stop, metrics));
            }
            let slots = self.slots.load_full();
            stops.retain(|domain, stop| {
                let stays = slots.contains_key(domain);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            tokio::select! {
                // Whichever comes, nothing of the others is lost.
                _ = changed.changed() => {}
                Some(()) = tended.next() => {}
                _ = reports.tick() => self.report(&mut alarmed, metrics),
            }
        }
    }

    /// Makes a slot for each domain that is verified now, and returns the new ones.
    fn renew_slots(&self) -> Vec<(CustomDomain, Arc<Slot>)> {
        let (old, mut new, mut slots) = (self.slots.load_full(), Vec::new(), HashMap::new());
        for domain in self.domains.verified() {
            let slot = old.get(&domain).cloned().unwrap_or_else(|| {
                let slot = Arc::new(Slot { shown: Current::none(), wanted: Notify::new() });
                new.push((domain.clone(), Arc::clone(&slot)));
                slot
            });
            slots.insert(domain, slot);
        }
        if !new.is_empty() || slots.len() != old.len() {
            self.slots.store(Arc::new(slots));
        }
        new
    }

    /// Gets and renews the certificate of one domain, until it is no longer verified.
    async fn tend(
        &self,
        source: &AcmeCert,
        domain: CustomDomain,
        slot: Arc<Slot>,
        stop: CancellationToken,
        metrics: &Metrics,
    ) {
        let names = [domain.as_str().to_owned()];
        let item =
            Item { names: &names, prover: &self.prover, shown: &slot.shown, customs: Some(self) };
        let tending = async {
            if let Err(error) = self.take_kept(source, item).await {
                let error = crate::cert::in_full(&error);
                tracing::error!(error, %domain, "the kept certificate cannot be used");
            }
            source.keep_renewed(item, false, metrics).await;
        };
        stop.run_until_cancelled(tending).await;
        // One that only lost its proof may get it back.
        if !self.domains.is_known(&domain)
            && let Err(error) = source.vault.forget(&source.row(domain.as_str())).await
        {
            tracing::warn!(error = crate::cert::in_full(&error), %domain, "certificate not forgotten");
        }
    }

    /// Shows the certificate that was kept, if any; a store that is away is waited for, because
    /// nobody should order again what there is.
    async fn take_kept(&self, source: &AcmeCert, item: Item<'_>) -> Result<(), OrderError> {
        loop {
            let few = self.may_ask().await;
            let taken = source.take_over(item).await;
            drop(few);
            match taken {
                Err(OrderError::Cert(CertError::Store(_))) => tokio::time::sleep(STORE_AWAY).await,
                taken => return taken.map(drop),
            }
        }
    }

    /// Brings the metrics up to date, and says once a day which certificates end soon.
    fn report(&self, alarmed: &mut Option<Instant>, metrics: &Metrics) {
        let (slots, now) = (self.slots.load(), UnixTime::now().as_secs());
        let validity = |slot: &Slot| slot.shown.leaf().and_then(|leaf| Validity::of(&leaf));
        let good: Vec<_> =
            slots.iter().filter_map(|(domain, slot)| Some((domain, validity(slot)?))).collect();
        metrics.domain_certificates.set(i64::try_from(good.len()).unwrap_or(i64::MAX));
        let first = good.iter().min_by_key(|(_, validity)| validity.not_after);
        let ends = first.map_or(0, |(_, validity)| validity.not_after);
        metrics.domain_certificate_expiry.set(i64::try_from(ends).unwrap_or(i64::MAX));
        let late = good.iter().filter(|(_, validity)| validity.alarm(now) != Alarm::None).count();
        if late > 0 && alarmed.is_none_or(|at| at.elapsed() >= ALARM_INTERVAL) {
            *alarmed = Some(Instant::now());
            let first = first.map(|(domain, _)| domain.as_str());
            tracing::warn!(
                late,
                first,
                "certificates of custom domains end soon and were not renewed"
            );
        }
    }
}

#[cfg(test)]
#[cfg(feature = "sqlx")]
mod tests;
