//! When a certificate is got: at the time that the authority advises, and after a failure later.

use std::time::Duration;

use instant_acme::CertificateIdentifier;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::order::OrderError;
use super::schedule::{self, Suggested};
use super::{AcmeCert, Got, Item};
use crate::cert::validity::Validity;
use crate::metrics::Metrics;

/// How long one order may take: proofs, waits and all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// How long to wait for another node that is at it.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// How often the clock is looked at, which may jump, and bounds for how often the authority is
/// asked for its advice.
const LOOK: Duration = Duration::from_secs(600);
const ADVICE_AGAIN: (Duration, Duration) =
    (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
/// When the authority gave no advice.
const ADVICE_LATER: Duration = Duration::from_secs(6 * 3600);

/// What is known of the next renewal.
pub(super) struct Plan {
    chance: f64,
    suggested: Option<Suggested>,
    pub(super) ask_again_at: tokio::time::Instant,
}

impl Plan {
    pub(super) fn new() -> Self {
        let ask_again_at = tokio::time::Instant::now();
        Self { chance: chance(), suggested: None, ask_again_at }
    }
}

impl AcmeCert {
    /// Gets a certificate and renews it in time, until dropped. `at_once` does not wait for that.
    pub(super) async fn keep_renewed(&self, item: Item<'_>, at_once: bool, metrics: &Metrics) {
        let (mut failures, mut plan, mut at_once) = (0, Plan::new(), at_once);
        if item.customs.is_some() {
            // There may be thousands, and all of them start at once.
            plan.ask_again_at += ADVICE_AGAIN.0.mul_f64(chance());
        }
        loop {
            let due = if at_once { None } else { self.due(item, &mut plan).await };
            let now = UnixTime::now().as_secs();
            if let Some(left) = due.and_then(|due| due.checked_sub(now)).filter(|left| *left > 0) {
                tokio::time::sleep(LOOK.min(Duration::from_secs(left))).await;
                continue;
            }
            let got = tokio::time::timeout(ORDER_TIMEOUT, self.get(item)).await;
            match got.unwrap_or(Err(OrderError::TooLong(ORDER_TIMEOUT))) {
                Ok(Got::Issued) => {
                    tracing::info!(names = ?item.names, "certificate issued");
                    metrics.order(true);
                    self.note_trouble(item, None);
                    (failures, at_once, plan) = (0, false, Plan::new());
                }
                Ok(Got::Taken) => {
                    self.note_trouble(item, None);
                    (failures, at_once, plan) = (0, false, Plan::new());
                }
                Ok(Got::Elsewhere) => tokio::time::sleep(ELSEWHERE).await,
                Ok(Got::Capped(wait)) => {
                    tracing::debug!(names = ?item.names, "too many certificates in this hour");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    failures += 1;
                    metrics.order(false);
                    let wait = schedule::retry_after(failures, chance());
                    let again_secs = wait.as_secs();
                    let error = crate::cert::in_full(&error);
                    self.note_trouble(item, Some(&error));
                    let names = item.names;
                    tracing::error!(
                        error,
                        ?names,
                        failures,
                        again_secs,
                        "no certificate was issued"
                    );
                    tokio::time::sleep(wait).await;
                    // Nobody's visitors are no reason to try the authority's patience.
                    if let (Some(customs), None) = (item.customs, item.shown.leaf()) {
                        customs.wanted(&item.names[0]).await;
                    }
                }
            }
        }
    }

    /// Returns when the present certificate should be renewed; `None` says at once.
    pub(super) async fn due(&self, item: Item<'_>, plan: &mut Plan) -> Option<u64> {
        let leaf = item.shown.leaf()?;
        let validity = Validity::of(&leaf)?;
        if plan.ask_again_at <= tokio::time::Instant::now() {
            let _few = match item.customs {
                Some(customs) => customs.may_ask().await,
                None => None,
            };
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

/// Returns a random number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers there is no TLS either; half is as good as any.
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
