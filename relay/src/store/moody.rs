//! A store in memory that goes away when a test says so.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use mcpm_shared::name::Name;

use super::{
    AuditEvent, AuditFilter, Beat, Claim, ClaimError, DomainRecord, Feed, Lease, MemoryStore,
    NameRule, NewNode, OwnerQuota, SealedRow, Store, StoreError, Tally, TokenRecord, Usage,
};

#[derive(Debug, Default)]
pub(crate) struct Moody {
    inner: MemoryStore,
    away: AtomicBool,
    silent: AtomicBool,
    stuck: AtomicBool,
    pings: AtomicU32,
}

impl Moody {
    /// Every question fails.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// No question is answered.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// One question, for the revoked tokens, is not answered.
    pub(crate) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    pub(crate) fn pings(&self) -> u32 {
        self.pings.load(Ordering::Relaxed)
    }

    async fn answer(&self) -> Result<(), StoreError> {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        match self.away.load(Ordering::Relaxed) {
            true => Err(StoreError::unreachable("read", "gone")),
            false => Ok(()),
        }
    }
}

macro_rules! moody_store {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        #[async_trait]
        impl Store for Moody {
            async fn ping(&self) -> Result<(), StoreError> {
                self.pings.fetch_add(1, Ordering::Relaxed);
                self.answer().await
            }
            async fn revoked(&self, now: u64) -> Result<Vec<String>, StoreError> {
                if self.stuck.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                self.answer().await?;
                self.inner.revoked(now).await
            }
            $(async fn $name(&self, $($arg: $kind),*) -> $out {
                self.answer().await?;
                self.inner.$name($($arg),*).await
            })*
        }
    };
}

moody_store! {
    claim(claim: Claim) -> Result<Lease, ClaimError>;
    restore(lease: Lease) -> Result<bool, StoreError>;
    renew(name: &Name, generation: u64, now: u64, end: Option<u64>) -> Result<bool, StoreError>;
    release(name: &Name, owner: &str, generation: u64, now: u64) -> Result<bool, StoreError>;
    release_node(node: &str, now: u64) -> Result<u64, StoreError>;
    enter_node(node: NewNode) -> Result<u64, StoreError>;
    beat_node(id: &str, generation: u64, draining: bool, now: u64) -> Result<Beat, StoreError>;
    lose_node(id: &str, generation: u64, beats: Option<u64>) -> Result<bool, StoreError>;
    release_orphans(now: u64) -> Result<u64, StoreError>;
    feed() -> Result<Option<Box<dyn Feed>>, StoreError>;
    lease(name: &Name) -> Result<Option<Lease>, StoreError>;
    leases() -> Result<Vec<Lease>, StoreError>;
    live_names(owner: &str, now: u64) -> Result<u64, StoreError>;
    vacate(name: &Name, now: u64) -> Result<Option<String>, StoreError>;
    set_name_rule(rule: NameRule) -> Result<(), StoreError>;
    name_rule(name: &Name) -> Result<Option<NameRule>, StoreError>;
    name_rules(after: u64) -> Result<Vec<NameRule>, StoreError>;
    set_owner_quota(quota: OwnerQuota) -> Result<(), StoreError>;
    owner_quotas() -> Result<Vec<OwnerQuota>, StoreError>;
    owner_quota(owner: &str) -> Result<Option<OwnerQuota>, StoreError>;
    owner_quotas_after(revision: u64) -> Result<Vec<OwnerQuota>, StoreError>;
    add_usage(used: Vec<Usage>) -> Result<Vec<Usage>, StoreError>;
    usage(day: u64, limit: u32) -> Result<Vec<Usage>, StoreError>;
    usage_of(owner: &str, since_day: u64) -> Result<Vec<Usage>, StoreError>;
    set_domain(record: DomainRecord, seen: u64) -> Result<bool, StoreError>;
    domain(domain: &str) -> Result<Option<DomainRecord>, StoreError>;
    domains(after: u64) -> Result<Vec<DomainRecord>, StoreError>;
    keep_sealed(name: &str, sealed: &str, now: u64) -> Result<(), StoreError>;
    sealed(name: &str) -> Result<Option<SealedRow>, StoreError>;
    sealed_after(revision: u64) -> Result<Vec<SealedRow>, StoreError>;
    take_turn(what: &str, holder: &str, now: u64, ends_at: u64) -> Result<bool, StoreError>;
    end_turn(what: &str, holder: &str) -> Result<(), StoreError>;
    count(tally: Tally) -> Result<bool, StoreError>;
    take_back(what: &str, began: u64) -> Result<(), StoreError>;
    forget_tallies(before: u64) -> Result<u64, StoreError>;
    insert_token(token: TokenRecord) -> Result<(), StoreError>;
    token(jti: &str) -> Result<Option<TokenRecord>, StoreError>;
    tokens() -> Result<Vec<TokenRecord>, StoreError>;
    revoke_token(jti: &str, now: u64) -> Result<bool, StoreError>;
    audit(event: AuditEvent) -> Result<(), StoreError>;
    audit_events(filter: AuditFilter) -> Result<Vec<AuditEvent>, StoreError>;
    prune(before: u64) -> Result<u64, StoreError>;
}
