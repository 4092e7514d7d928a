//! A store before another one, for the time that the other does not answer.
//!
//! Whoever asks a database that is away waits for time-outs, and everybody behind waits too. So the
//! first failure closes the way: until a ping gets through again, every question fails at once.
//! What can be decided without the store is for the callers to know.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mcpm_shared::name::Name;
use tokio::sync::watch;

use super::{
    AuditEvent, AuditFilter, Beat, Claim, ClaimError, DomainRecord, Feed, Lease, NameRule, NewNode,
    OwnerQuota, SealedRow, Store, StoreError, Tally, TokenRecord, Usage,
};

/// How long one question may take, and one that reads or changes much.
const PATIENCE: Duration = Duration::from_secs(5);
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// How long a ping may take, which tells a slow question from a store that is away.
const PING_PATIENCE: Duration = Duration::from_secs(3);
/// Between pings of a store that is away. No jitter: the nodes of a relay are few.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It did, when it was last asked.
    Up,
    /// It does not; [`Guarded::recover`] asks it again.
    Down,
}

/// A [`Store`] that fails at once while the one behind it does not answer.
#[derive(Debug)]
pub struct Guarded {
    inner: Arc<dyn Store>,
    health: watch::Sender<Health>,
}

/// An error that may come of a store which is away.
trait Absence: From<StoreError> {
    fn is_absence(&self) -> bool;
}

impl Absence for StoreError {
    fn is_absence(&self) -> bool {
        self.is_unreachable()
    }
}

impl Absence for ClaimError {
    fn is_absence(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unreachable())
    }
}

impl Guarded {
    /// Stands before `inner`, which is taken to answer.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, health: watch::Sender::new(Health::Up) }
    }

    /// Tells whether the store answers, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Opens the way again each time that the store comes back, until dropped. Cancel-safe.
    pub async fn recover(&self) {
        let mut health = self.health.subscribe();
        while health.wait_for(|health| *health == Health::Down).await.is_ok() {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                if self.answers().await {
                    break;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tracing::info!("store answers again");
            self.health.send_replace(Health::Up);
        }
    }

    async fn answers(&self) -> bool {
        let ping = tokio::time::timeout(PING_PATIENCE, self.inner.ping()).await;
        matches!(ping, Ok(Ok(())))
    }

    fn close(&self, error: &StoreError) {
        let closed = self.health.send_if_modified(|health| {
            let open = *health == Health::Up;
            *health = Health::Down;
            open
        });
        if closed {
            tracing::error!(error = error as &dyn std::error::Error, "store does not answer");
        }
    }

    async fn ask<T, E: Absence>(
        &self,
        action: &'static str,
        patience: Duration,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if *self.health.borrow() == Health::Down {
            return Err(StoreError::unreachable(action, "it does not answer at present").into());
        }
        match tokio::time::timeout(patience, question).await {
            Ok(Err(error)) if error.is_absence() => {
                self.close(&StoreError::unreachable(action, "it is away"));
                Err(error)
            }
            Ok(done) => done,
            Err(_) => {
                let error = StoreError::unreachable(action, "no answer in time");
                if !self.answers().await {
                    self.close(&error);
                }
                Err(error.into())
            }
        }
    }
}

#[async_trait]
impl Store for Guarded {
    async fn claim(&self, claim: Claim) -> Result<Lease, ClaimError> {
        self.ask("claim a name", PATIENCE, self.inner.claim(claim)).await
    }

    async fn restore(&self, lease: Lease) -> Result<bool, StoreError> {
        self.ask("restore a lease", PATIENCE, self.inner.restore(lease)).await
    }

    async fn renew(
        &self,
        name: &Name,
        generation: u64,
        now: u64,
        expires_at: Option<u64>,
    ) -> Result<bool, StoreError> {
        let renewed = self.inner.renew(name, generation, now, expires_at);
        self.ask("renew a lease", PATIENCE, renewed).await
    }

    async fn release(
        &self,
        name: &Name,
        owner: &str,
        generation: u64,
        now: u64,
    ) -> Result<bool, StoreError> {
        let released = self.inner.release(name, owner, generation, now);
        self.ask("release a lease", PATIENCE, released).await
    }

    async fn release_node(&self, node: &str, now: u64) -> Result<u64, StoreError> {
        let released = self.inner.release_node(node, now);
        self.ask("release the leases of a node", LONG_PATIENCE, released).await
    }

    async fn enter_node(&self, node: NewNode) -> Result<u64, StoreError> {
        self.ask("enter a node", PATIENCE, self.inner.enter_node(node)).await
    }

    async fn beat_node(
        &self,
        id: &str,
        generation: u64,
        draining: bool,
        now: u64,
    ) -> Result<Beat, StoreError> {
        let beat = self.inner.beat_node(id, generation, draining, now);
        self.ask("note that a node lives", PATIENCE, beat).await
    }

    async fn lose_node(
        &self,
        id: &str,
        generation: u64,
        beats: Option<u64>,
    ) -> Result<bool, StoreError> {
        let lost = self.inner.lose_node(id, generation, beats);
        self.ask("take a node out", PATIENCE, lost).await
    }

    async fn release_orphans(&self, now: u64) -> Result<u64, StoreError> {
        let released = self.inner.release_orphans(now);
        self.ask("release the leases of lost nodes", LONG_PATIENCE, released).await
    }

    async fn feed(&self) -> Result<Option<Box<dyn Feed>>, StoreError> {
        self.ask("listen", PATIENCE, self.inner.feed()).await
    }

    async fn lease(&self, name: &Name) -> Result<Option<Lease>, StoreError> {
        self.ask("read a lease", PATIENCE, self.inner.lease(name)).await
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.ask("read the leases", LONG_PATIENCE, self.inner.leases()).await
    }

    async fn live_names(&self, owner: &str, now: u64) -> Result<u64, StoreError> {
        self.ask("count names", PATIENCE, self.inner.live_names(owner, now)).await
    }

    async fn vacate(&self, name: &Name, now: u64) -> Result<Option<String>, StoreError> {
        self.ask("take a name from its owner", PATIENCE, self.inner.vacate(name, now)).await
    }

    async fn set_name_rule(&self, rule: NameRule) -> Result<(), StoreError> {
        self.ask("keep a rule over a name", PATIENCE, self.inner.set_name_rule(rule)).await
    }

    async fn name_rule(&self, name: &Name) -> Result<Option<NameRule>, StoreError> {
        self.ask("read the rule over a name", PATIENCE, self.inner.name_rule(name)).await
    }

    async fn name_rules(&self, after: u64) -> Result<Vec<NameRule>, StoreError> {
        self.ask("read the rules over names", PATIENCE, self.inner.name_rules(after)).await
    }

    async fn set_owner_quota(&self, quota: OwnerQuota) -> Result<(), StoreError> {
        self.ask("keep a quota", PATIENCE, self.inner.set_owner_quota(quota)).await
    }

    async fn owner_quota(&self, owner: &str) -> Result<Option<OwnerQuota>, StoreError> {
        self.ask("read a quota", PATIENCE, self.inner.owner_quota(owner)).await
    }

    async fn owner_quotas_after(&self, revision: u64) -> Result<Vec<OwnerQuota>, StoreError> {
        let after = self.inner.owner_quotas_after(revision);
        self.ask("read the quotas", PATIENCE, after).await
    }

    async fn add_usage(&self, used: Vec<Usage>) -> Result<Vec<Usage>, StoreError> {
        self.ask("add up what owners used", LONG_PATIENCE, self.inner.add_usage(used)).await
    }

    async fn usage(&self, day: u64, limit: u32) -> Result<Vec<Usage>, StoreError> {
        self.ask("read what owners used", LONG_PATIENCE, self.inner.usage(day, limit)).await
    }

    async fn usage_of(&self, owner: &str, since_day: u64) -> Result<Vec<Usage>, StoreError> {
        self.ask("read what an owner used", PATIENCE, self.inner.usage_of(owner, since_day)).await
    }

    async fn owner_quotas(&self) -> Result<Vec<OwnerQuota>, StoreError> {
        self.ask("read the quotas", LONG_PATIENCE, self.inner.owner_quotas()).await
    }

    async fn set_domain(&self, record: DomainRecord, seen: u64) -> Result<bool, StoreError> {
        self.ask("keep a domain", PATIENCE, self.inner.set_domain(record, seen)).await
    }

    async fn domain(&self, domain: &str) -> Result<Option<DomainRecord>, StoreError> {
        self.ask("read a domain", PATIENCE, self.inner.domain(domain)).await
    }

    async fn domains(&self, after: u64) -> Result<Vec<DomainRecord>, StoreError> {
        self.ask("read the domains", LONG_PATIENCE, self.inner.domains(after)).await
    }

    async fn keep_sealed(&self, name: &str, sealed: &str, now: u64) -> Result<(), StoreError> {
        self.ask("keep a certificate", PATIENCE, self.inner.keep_sealed(name, sealed, now)).await
    }

    async fn sealed(&self, name: &str) -> Result<Option<SealedRow>, StoreError> {
        self.ask("read a certificate", PATIENCE, self.inner.sealed(name)).await
    }

    async fn sealed_after(&self, revision: u64) -> Result<Vec<SealedRow>, StoreError> {
        self.ask("read the certificates", LONG_PATIENCE, self.inner.sealed_after(revision)).await
    }

    async fn take_turn(
        &self,
        what: &str,
        holder: &str,
        now: u64,
        ends_at: u64,
    ) -> Result<bool, StoreError> {
        let taken = self.inner.take_turn(what, holder, now, ends_at);
        self.ask("take a turn", PATIENCE, taken).await
    }

    async fn end_turn(&self, what: &str, holder: &str) -> Result<(), StoreError> {
        self.ask("end a turn", PATIENCE, self.inner.end_turn(what, holder)).await
    }

    async fn count(&self, tally: Tally) -> Result<bool, StoreError> {
        self.ask("count", PATIENCE, self.inner.count(tally)).await
    }

    async fn take_back(&self, what: &str, began: u64) -> Result<(), StoreError> {
        self.ask("take a count back", PATIENCE, self.inner.take_back(what, began)).await
    }

    async fn forget_tallies(&self, before: u64) -> Result<u64, StoreError> {
        self.ask("forget counts", LONG_PATIENCE, self.inner.forget_tallies(before)).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn insert_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        self.ask("keep a token", PATIENCE, self.inner.insert_token(token)).await
    }

    async fn token(&self, jti: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.ask("read a token", PATIENCE, self.inner.token(jti)).await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.ask("read the tokens", LONG_PATIENCE, self.inner.tokens()).await
    }

    async fn revoke_token(&self, jti: &str, now: u64) -> Result<bool, StoreError> {
        self.ask("revoke a token", PATIENCE, self.inner.revoke_token(jti, now)).await
    }

    async fn revoked(&self, now: u64) -> Result<Vec<String>, StoreError> {
        self.ask("read the revoked tokens", PATIENCE, self.inner.revoked(now)).await
    }

    async fn audit(&self, event: AuditEvent) -> Result<(), StoreError> {
        self.ask("write the audit trail", PATIENCE, self.inner.audit(event)).await
    }

    async fn audit_events(&self, filter: AuditFilter) -> Result<Vec<AuditEvent>, StoreError> {
        self.ask("read the audit trail", LONG_PATIENCE, self.inner.audit_events(filter)).await
    }

    async fn prune(&self, before: u64) -> Result<u64, StoreError> {
        self.ask("forget what ended", LONG_PATIENCE, self.inner.prune(before)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask("read", PING_PATIENCE, self.inner.ping()).await
    }
}

#[cfg(test)]
mod tests;
