//! Whether the DNS still says that a domain is its owner's, and when to ask again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rustls::pki_types::UnixTime;

use super::Domains;
use super::lookup::{Dns, LookupError};
use crate::config::Config;
use crate::host::CustomDomain;
use crate::store::{AuditEvent, DomainRecord, DomainState, Store, StoreError};

/// What the record in the DNS is called, before the domain, and how its text begins.
const LABEL: &str = "_mcpm-relay";
const TEXT: &str = "mcpm-relay-verify=";
/// How often the checks that are due are looked for, and how many are made at once.
const LOOK: Duration = Duration::from_secs(15);
const AT_ONCE: usize = 8;
/// A domain that is served is asked for once a day, and one whose proof is missing once an hour: for
/// three days, in which somebody may mend it, it is served still.
const SERVED: u64 = 24 * 3600;
const FAILING: u64 = 3600;
const GRACE: u64 = 3 * 24 * 3600;
/// A new domain is asked for every two minutes, while somebody waits, and later less often.
const NEW: u64 = 120;
const NEW_FOR: u64 = 3600;
const OLD: u64 = 6 * 3600;
/// For how long one node has the checks to itself, in seconds; it asks again each [`LOOK`].
const TURN: u64 = 60;

/// Asks the DNS whose domains are.
#[derive(Clone, Debug)]
pub struct Checker {
    /// Whom to ask.
    pub dns: Dns,
    /// The relay's own domain, where it is known: what `NAME.<domain>` is an alias for counts too.
    pub apex: Option<String>,
}

/// Returns the name of the record that proves a domain.
#[must_use]
pub fn record_name(domain: &CustomDomain) -> String {
    format!("{LABEL}.{domain}")
}

/// Returns what the record that proves a domain must say.
#[must_use]
pub fn record_value(record: &DomainRecord) -> String {
    format!("{TEXT}{}", record.token)
}

impl Checker {
    /// Asks as the settings of a relay say.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let apex = Some(config.domain.as_str().to_owned());
        Self { dns: Dns::new(config.dns_servers.addresses().to_vec()), apex }
    }

    /// Asks the DNS about a domain; returns what is to be kept of it.
    ///
    /// # Errors
    /// Fails when the DNS does not answer, which says nothing of the domain.
    pub async fn check(
        &self,
        record: &DomainRecord,
        now: u64,
    ) -> Result<DomainRecord, LookupError> {
        let name = record_name(&record.domain);
        let texts = self.dns.texts(&name).await?;
        if texts.contains(&record_value(record)) {
            return Ok(judged(record, Ok(()), now));
        }
        let share = self.apex.as_ref().map(|apex| format!("{}.{apex}", record.name));
        // Only an alias that names this very share: one for the relay would do for any owner.
        if let Some(share) = &share
            && self.dns.alias(record.domain.as_str()).await?.as_deref() == Some(share.as_str())
        {
            return Ok(judged(record, Ok(()), now));
        }
        let ours = texts.iter().any(|text| text.starts_with(TEXT));
        let problem = match ours {
            true => format!("the TXT record {name} has another text"),
            false => format!("there is no TXT record {name}"),
        };
        Ok(judged(record, Err(problem), now))
    }
}

/// Returns what is to be kept of a domain after the DNS answered. Pure.
fn judged(record: &DomainRecord, proved: Result<(), String>, now: u64) -> DomainRecord {
    let mut next = record.clone();
    (next.checked_at, next.changed_at) = (Some(now), now);
    match proved {
        Ok(()) => {
            next.state = DomainState::Verified;
            (next.proved_at, next.failing_since) = (Some(now), None);
            next.problem.clear();
        }
        Err(problem) => {
            let since = *next.failing_since.get_or_insert(now);
            next.problem = problem;
            if now >= since.saturating_add(GRACE) {
                next.state = DomainState::Pending;
            }
        }
    }
    next
}

/// Returns when to ask the DNS about a domain again, in Unix seconds. Pure.
#[must_use]
pub fn next_check(record: &DomainRecord) -> u64 {
    let Some(checked) = record.checked_at else { return 0 };
    let pause = match (record.state, record.failing_since) {
        (DomainState::Removed, _) => return u64::MAX,
        (DomainState::Verified, None) => SERVED,
        (DomainState::Verified, Some(_)) => FAILING,
        (DomainState::Pending, _) if checked < record.added_at.saturating_add(NEW_FOR) => NEW,
        (DomainState::Pending, _) => OLD,
    };
    checked.saturating_add(pause)
}

/// Asks the DNS about the domains that are due, on one node for all, until dropped.
pub async fn keep_checked(
    domains: Arc<Domains>,
    checker: Checker,
    store: Arc<dyn Store>,
    holder: String,
) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = UnixTime::now().as_secs();
        let mut due = domains.records();
        due.retain(|record| next_check(record) <= now);
        if due.is_empty() {
            continue;
        }
        let mine = store.take_turn("domains", &holder, now, now + TURN).await;
        if !mine.unwrap_or(false) {
            continue;
        }
        let checks: Vec<_> =
            due.iter().map(|record| check_and_keep(&checker, &*store, record)).collect();
        futures_util::stream::iter(checks).buffer_unordered(AT_ONCE).collect::<()>().await;
        // So that nothing is asked for twice.
        drop(domains.refresh(&*store).await);
    }
}

async fn check_and_keep(checker: &Checker, store: &dyn Store, record: &DomainRecord) {
    let now = UnixTime::now().as_secs();
    let checked = match checker.check(record, now).await {
        Ok(checked) => checked,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, domain = %record.domain, "a domain was not checked");
            return;
        }
    };
    // What an operator changed meanwhile stands, and a store that is away is asked later.
    drop(keep(store, record, checked, "relay").await);
}

/// Keeps what came of a check, unless the domain was changed meanwhile; returns whether.
///
/// # Errors
/// Fails when the store does.
pub(crate) async fn keep(
    store: &dyn Store,
    before: &DomainRecord,
    checked: DomainRecord,
    actor: &str,
) -> Result<bool, StoreError> {
    if !store.set_domain(checked.clone(), before.revision).await? {
        return Ok(false);
    }
    let action = match (before.state, checked.state) {
        (DomainState::Pending, DomainState::Verified) => "domain.verify",
        (DomainState::Verified, DomainState::Pending) => "domain.lapse",
        _ => return Ok(true),
    };
    tracing::info!(domain = %checked.domain, action, "custom domain");
    let event = AuditEvent {
        at: checked.changed_at,
        action: action.to_owned(),
        actor: actor.to_owned(),
        object: checked.domain.to_string(),
        detail: checked.problem,
    };
    store.audit(event).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn record() -> DomainRecord {
        DomainRecord {
            domain: "mcp.example.org".parse().unwrap(),
            owner: "sub:ada".to_owned(),
            name: "calc".parse().unwrap(),
            token: "proof".to_owned(),
            state: DomainState::Pending,
            added_at: NOW,
            checked_at: None,
            proved_at: None,
            failing_since: None,
            problem: String::new(),
            changed_at: NOW,
            revision: 1,
        }
    }

    fn missing() -> Result<(), String> {
        Err("nothing there".to_owned())
    }

    #[test]
    fn a_domain_whose_proof_goes_is_served_for_three_days_and_comes_back_at_once() {
        let proved = judged(&record(), Ok(()), NOW + 5);
        assert_eq!((proved.state, proved.proved_at), (DomainState::Verified, Some(NOW + 5)));
        let lost = judged(&proved, missing(), NOW + 10);
        assert_eq!((lost.state, lost.failing_since), (DomainState::Verified, Some(NOW + 10)));
        let still = judged(&lost, missing(), NOW + 9 + GRACE);
        assert_eq!((still.state, still.problem.as_str()), (DomainState::Verified, "nothing there"));
        let lapsed = judged(&still, missing(), NOW + 10 + GRACE);
        assert_eq!((lapsed.state, lapsed.proved_at), (DomainState::Pending, Some(NOW + 5)));
        let back = judged(&lapsed, Ok(()), NOW + 11 + GRACE);
        assert_eq!((back.state, back.failing_since), (DomainState::Verified, None));
        assert_eq!(back.problem, "");
    }

    #[test]
    fn a_new_domain_is_asked_for_often_and_a_served_one_daily() {
        let after = |record: &DomainRecord| next_check(record) - record.checked_at.unwrap();
        assert_eq!(next_check(&record()), 0);
        let waiting = judged(&record(), missing(), NOW + 60);
        assert_eq!(after(&waiting), NEW);
        assert_eq!(after(&judged(&waiting, missing(), NOW + NEW_FOR)), OLD);
        let served = judged(&waiting, Ok(()), NOW);
        assert_eq!(after(&served), SERVED);
        assert_eq!(after(&judged(&served, missing(), NOW)), FAILING);
        let removed = DomainRecord { state: DomainState::Removed, ..served };
        assert_eq!(next_check(&removed), u64::MAX);
    }
}
