//! Custom domains: hosts of owners that lead to their shares, once the DNS proves whose they are.
//!
//! What the store says of them is kept in memory and followed, so that nothing is looked up on the
//! path of a request. `check` asks the DNS; [`keep_checked`] does so from time to time.

mod check;
#[cfg(test)]
#[cfg(feature = "acme")]
pub(crate) mod fake_dns;
mod lookup;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub(crate) use self::check::keep;
pub use self::check::{Checker, keep_checked, next_check, record_name, record_value};
pub use self::lookup::{Dns, LookupError};
use crate::host::{self, CustomDomain, Route};
use crate::store::{DomainRecord, DomainState, Store, StoreError};

/// How often changes are looked for: what an operator removes is not served a second later.
const INTERVAL: Duration = Duration::from_millis(500);

/// The custom domains, as this node last saw them. As many as operators added.
#[derive(Debug)]
pub struct Domains {
    routes: ArcSwap<HashMap<CustomDomain, Arc<Route>>>,
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
}

/// All that the store says.
#[derive(Debug, Default)]
struct Seen {
    records: HashMap<CustomDomain, DomainRecord>,
    revision: u64,
}

impl Default for Domains {
    fn default() -> Self {
        let (routes, seen) = (ArcSwap::default(), Mutex::default());
        Self { routes, seen, changed: watch::Sender::new(0) }
    }
}

impl Domains {
    /// Finds where requests go that name `authority`: a host with or without a port.
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<Arc<Route>> {
        let routes = self.routes.load();
        if routes.is_empty() {
            return None;
        }
        let host = host::hostname(authority)?;
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return routes.get(host.to_ascii_lowercase().as_str()).cloned();
        }
        routes.get(host).cloned()
    }

    /// Returns the domains that are served.
    #[must_use]
    pub fn verified(&self) -> Vec<CustomDomain> {
        self.routes.load().keys().cloned().collect()
    }

    /// Tells whether a domain is known, served or not.
    #[must_use]
    pub fn is_known(&self, domain: &CustomDomain) -> bool {
        self.seen().records.contains_key(domain)
    }

    /// Tells when domains changed: counts.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn records(&self) -> Vec<DomainRecord> {
        self.seen().records.values().cloned().collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what changed in the store since the last look.
    ///
    /// # Errors
    /// Fails when the store does; what was known stays.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), StoreError> {
        let after = self.seen().revision;
        let changed = store.domains(after).await?;
        if !changed.is_empty() {
            self.note(changed);
        }
        Ok(())
    }

    /// Follows what operators and other nodes change, until dropped.
    pub async fn follow(&self, store: &dyn Store) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // That the store does not answer is said by those who guard it.
            drop(self.refresh(store).await);
        }
    }

    fn note(&self, changed: Vec<DomainRecord>) {
        let mut seen = self.seen();
        for record in changed {
            seen.revision = seen.revision.max(record.revision);
            if record.state == DomainState::Removed {
                seen.records.remove(&record.domain);
            } else {
                seen.records.insert(record.domain.clone(), record);
            }
        }
        let verified = seen.records.values().filter(|it| it.state == DomainState::Verified);
        let route = |record: &DomainRecord| {
            let (domain, name) = (record.domain.clone(), record.name.clone());
            (domain.clone(), Arc::new(Route { domain, name, owner: record.owner.clone() }))
        };
        // Built anew, because visitors must never wait for a lock; changes are rare.
        self.routes.store(Arc::new(verified.map(route).collect()));
        drop(seen);
        self.changed.send_modify(|changes| *changes += 1);
    }
}
