//! The port [`Store`]: what a relay must not forget. Leases, agent tokens, operators' decisions and
//! the audit trail.
//!
//! Nothing is written on the path of a visitor's request. Every decision over a name is one atomic
//! operation; clocks are arguments, in Unix seconds. One contract (`store/contract.rs`) holds for
//! [`MemoryStore`] and, with feature `sqlx`, for [`SqlStore`] on SQLite and on PostgreSQL.
//! [`Guarded`] stands before any of them and keeps a database that is away from being waited for.

#[cfg(test)]
mod contract;
mod domains;
mod guarded;
mod memory;
#[cfg(test)]
pub(crate) mod moody;
mod nodes;
mod rules;
#[cfg(feature = "sqlx")]
mod sqlx;
mod tally;
mod usage;

use std::fmt;

use async_trait::async_trait;
use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;
use serde::Serialize;

#[cfg(feature = "sqlx")]
pub use self::sqlx::SqlStore;
#[cfg(all(test, unix, feature = "sqlx"))]
pub(crate) use self::sqlx::private_postgres;
pub use domains::{DomainRecord, DomainState, SealedRow};
pub use guarded::{Guarded, Health};
pub use memory::MemoryStore;
pub use nodes::{Beat, Feed, NewNode, News, NodeRecord};
pub use rules::{NameRule, NameState, OwnerQuota};
pub use tally::{HOUR_SECS, Tally, until_next_hour};
pub use usage::{AuditFilter, Usage};

/// The right of one owner to one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// The name.
    pub name: Name,
    /// Who owns it: see [`crate::admission::Owner`]. Empty when an operator took the name away.
    pub owner: String,
    /// Counts the claims of the name; a higher one fences all lower ones off.
    pub generation: u64,
    /// The node that holds the session.
    pub node: String,
    /// What travels.
    pub mode: ShareMode,
    /// When this generation was claimed.
    pub claimed_at: u64,
    /// When the share ends unless it is renewed.
    pub held_until: Option<u64>,
    /// When the share was given up, or lost with its node.
    pub released_at: Option<u64>,
}

impl Lease {
    /// Tells whether the share is up, or may come back before anybody notices.
    pub fn is_live(&self, now: u64) -> bool {
        self.released_at.is_none() && self.held_until.is_none_or(|until| now < until)
    }

    /// Returns when the share ended, if it has.
    pub fn ended_at(&self, now: u64) -> Option<u64> {
        let expired = self.held_until.filter(|until| *until <= now);
        match (self.released_at, expired) {
            (Some(released), Some(expired)) => Some(released.min(expired)),
            (released, expired) => released.or(expired),
        }
    }
}

/// Asks for a name.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The name wanted.
    pub name: Name,
    /// Who wants it.
    pub owner: String,
    /// The node that holds the session.
    pub node: String,
    /// What travels.
    pub mode: ShareMode,
    /// A generation that was surely given before, from a resume ticket; else 0.
    pub floor_generation: u64,
    /// The present.
    pub now: u64,
    /// When the share shall end unless it is renewed.
    pub expires_at: Option<u64>,
    /// For how many seconds an ended lease keeps others out.
    pub keep_secs: u64,
    /// How many live names the owner may have, this one included, unless the store has an
    /// [`OwnerQuota`] that says otherwise.
    pub max_live: u32,
}

/// Why a name was not given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Somebody else owns it.
    #[error("the name `{0}` belongs to somebody else")]
    Taken(Name),
    /// The operator keeps it from this owner.
    #[error("the operator of this relay keeps the name `{0}`")]
    Kept(Name),
    /// It was taken from its last owner, and nobody gets it yet.
    #[error("the name `{name}` was given up a short time ago and is not free yet")]
    Cooling {
        /// The name.
        name: Name,
        /// When it is free, in Unix seconds.
        until: u64,
    },
    /// The owner has as many live names as allowed.
    #[error("the owner has {max} live share{} already, and no more are allowed", if *max == 1 { "" } else { "s" })]
    TooMany {
        /// The number allowed.
        max: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("the relay's database failed to {action}")]
pub struct StoreError {
    action: &'static str,
    unreachable: bool,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// Makes an error: `action` says what was attempted, as in "claim a name".
    pub fn new(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { action, unreachable: false, source: source.into() }
    }

    /// Makes an error of a store that does not answer: later it may, and then the same will do.
    pub fn unreachable(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { action, unreachable: true, source: source.into() }
    }

    /// Tells whether the store did not answer, rather than refuse.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }
}

/// Returns why a rule keeps a name from who asked.
fn refused_by(rule: &NameState, name: Name) -> ClaimError {
    match rule {
        NameState::Cooling { until } => ClaimError::Cooling { name, until: *until },
        _ => ClaimError::Kept(name),
    }
}

/// A token that the relay issued, as far as the relay keeps it: never the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenRecord {
    /// Its id.
    pub jti: String,
    /// Whom it was issued to.
    pub subject: String,
    /// Patterns of the names it allows.
    pub names: Vec<String>,
    /// How many live shares it allows; absent for the relay's default.
    pub max_shares: Option<u32>,
    /// Thumbprint of the only agent key that may use it.
    pub bound_to: Option<String>,
    /// When it was issued.
    pub issued_at: u64,
    /// When it ends.
    pub expires_at: u64,
    /// When it was revoked.
    pub revoked_at: Option<u64>,
}

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEvent {
    /// When.
    pub at: u64,
    /// What, such as `token.issue` or `name.claim`.
    pub action: String,
    /// Who: an owner, or `operator`.
    pub actor: String,
    /// To what: a name, an owner or the id of a token.
    pub object: String,
    /// More, such as the code of a refusal; may be empty.
    pub detail: String,
}

/// Keeps what a relay must not forget.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Gives a name to its owner, in one atomic step.
    ///
    /// The same owner always wins, and gets a generation above all earlier ones and above the
    /// floor. Another owner wins when the lease ended longer ago than `keep_secs`, or with a floor
    /// that is not below the generation here: then the store forgot whose name it was. An operator's
    /// rule over the name stands above all that.
    async fn claim(&self, claim: Claim) -> Result<Lease, ClaimError>;

    /// Keeps a lease that was given from memory while the store did not answer, or the new end of
    /// one; `false` when a later claim came first or the name is somebody else's. Then the share
    /// must end.
    async fn restore(&self, lease: Lease) -> Result<bool, StoreError>;

    /// Moves the end of a live lease; `false` when this generation is not live.
    async fn renew(
        &self,
        name: &Name,
        generation: u64,
        now: u64,
        expires_at: Option<u64>,
    ) -> Result<bool, StoreError>;

    /// Ends a lease; `false` when this generation of this owner is not live.
    async fn release(
        &self,
        name: &Name,
        owner: &str,
        generation: u64,
        now: u64,
    ) -> Result<bool, StoreError>;

    /// Ends all leases of a node: called when the node starts, for those that it died with.
    async fn release_node(&self, node: &str, now: u64) -> Result<u64, StoreError>;

    /// Makes a process a node, under a generation above all earlier ones of its name, and ends the
    /// leases that an earlier process of the name held.
    async fn enter_node(&self, node: NewNode) -> Result<u64, StoreError>;

    /// Notes that a node lives, if it still is one, and returns all nodes.
    async fn beat_node(
        &self,
        id: &str,
        generation: u64,
        draining: bool,
        now: u64,
    ) -> Result<Beat, StoreError>;

    /// Takes a node out; `false` when it came anew since, or with `beats`, beat since.
    async fn lose_node(
        &self,
        id: &str,
        generation: u64,
        beats: Option<u64>,
    ) -> Result<bool, StoreError>;

    /// Ends the leases of nodes that are none any more; returns how many.
    async fn release_orphans(&self, now: u64) -> Result<u64, StoreError>;

    /// Hears from now on what happens at any node; `None` where only one process can use the store.
    async fn feed(&self) -> Result<Option<Box<dyn Feed>>, StoreError> {
        Ok(None)
    }

    /// Returns the lease of a name, live or not.
    async fn lease(&self, name: &Name) -> Result<Option<Lease>, StoreError>;

    /// Returns all leases, live or not, by name.
    async fn leases(&self) -> Result<Vec<Lease>, StoreError>;

    /// Counts the live names of an owner.
    async fn live_names(&self, owner: &str, now: u64) -> Result<u64, StoreError>;

    /// Takes a name from its owner, live or not, and returns who that was. The generation stays.
    async fn vacate(&self, name: &Name, now: u64) -> Result<Option<String>, StoreError>;

    /// Keeps an operator's decision over a name in place of an earlier one, as the latest of all.
    async fn set_name_rule(&self, rule: NameRule) -> Result<(), StoreError>;

    /// Returns the decision over a name.
    async fn name_rule(&self, name: &Name) -> Result<Option<NameRule>, StoreError>;

    /// Returns the decisions after a revision, by revision; after 0, all. Lifted ones are among
    /// them as [`NameState::Open`].
    async fn name_rules(&self, after: u64) -> Result<Vec<NameRule>, StoreError>;

    /// Keeps what an operator decides over an owner in place of an earlier decision, as the latest
    /// of all.
    async fn set_owner_quota(&self, quota: OwnerQuota) -> Result<(), StoreError>;

    /// Returns the decision over an owner.
    async fn owner_quota(&self, owner: &str) -> Result<Option<OwnerQuota>, StoreError>;

    /// Returns the decisions after a revision, by revision.
    async fn owner_quotas_after(&self, revision: u64) -> Result<Vec<OwnerQuota>, StoreError>;

    /// Adds to what owners used, in one write, and returns how much it is now with what others
    /// added.
    async fn add_usage(&self, used: Vec<Usage>) -> Result<Vec<Usage>, StoreError>;

    /// Returns what owners used in a day: those with the most requests, at most `limit`.
    async fn usage(&self, day: u64, limit: u32) -> Result<Vec<Usage>, StoreError>;

    /// Returns what one owner used from a day on, by day.
    async fn usage_of(&self, owner: &str, since_day: u64) -> Result<Vec<Usage>, StoreError>;

    /// Returns what operators decided, by owner.
    async fn owner_quotas(&self) -> Result<Vec<OwnerQuota>, StoreError>;

    /// Keeps a custom domain if it is still as it was at revision `seen`, which is 0 where there is
    /// no record; `false` when it is not.
    async fn set_domain(&self, record: DomainRecord, seen: u64) -> Result<bool, StoreError>;

    /// Returns one custom domain, also one that was removed a short time ago.
    async fn domain(&self, domain: &str) -> Result<Option<DomainRecord>, StoreError>;

    /// Returns the custom domains that changed after a revision, by revision; after 0, all. Removed
    /// ones are among them.
    async fn domains(&self, after: u64) -> Result<Vec<DomainRecord>, StoreError>;

    /// Keeps something sealed in place of what was there; an empty text forgets it.
    async fn keep_sealed(&self, name: &str, sealed: &str, now: u64) -> Result<(), StoreError>;

    /// Returns something sealed; `None` when there is nothing or it was forgotten.
    async fn sealed(&self, name: &str) -> Result<Option<SealedRow>, StoreError>;

    /// Returns what is sealed and changed after a revision, by revision; forgotten ones are among
    /// them.
    async fn sealed_after(&self, revision: u64) -> Result<Vec<SealedRow>, StoreError>;

    /// Gives the turn at something to `holder` until a time; `false` while somebody else has it. Who
    /// has it may take it again, to keep it for longer.
    async fn take_turn(
        &self,
        what: &str,
        holder: &str,
        now: u64,
        ends_at: u64,
    ) -> Result<bool, StoreError>;

    /// Gives a turn back.
    async fn end_turn(&self, what: &str, holder: &str) -> Result<(), StoreError>;

    /// Counts something once more, in one atomic step; `false`, and nothing counted, when it
    /// happened in this window as often as it may. A node whose clock is behind counts in the latest
    /// window there is.
    async fn count(&self, tally: Tally) -> Result<bool, StoreError>;

    /// Takes one count back, where the window is still the latest.
    async fn take_back(&self, what: &str, began: u64) -> Result<(), StoreError>;

    /// Forgets what was counted in windows that began before a time; returns how much.
    async fn forget_tallies(&self, before: u64) -> Result<u64, StoreError>;

    /// Tells whether other nodes may use the same store.
    fn is_shared(&self) -> bool {
        false
    }

    /// Keeps a token that was just issued.
    async fn insert_token(&self, token: TokenRecord) -> Result<(), StoreError>;

    /// Returns one token.
    async fn token(&self, jti: &str) -> Result<Option<TokenRecord>, StoreError>;

    /// Returns all tokens, oldest first.
    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    /// Revokes a token; `false` when there is none with this id. The first revocation counts.
    async fn revoke_token(&self, jti: &str, now: u64) -> Result<bool, StoreError>;

    /// Returns the ids of tokens that are revoked and would be good otherwise.
    async fn revoked(&self, now: u64) -> Result<Vec<String>, StoreError>;

    /// Adds to the audit trail.
    async fn audit(&self, event: AuditEvent) -> Result<(), StoreError>;

    /// Returns the newest events of the audit trail that a filter lets pass, newest first.
    async fn audit_events(&self, filter: AuditFilter) -> Result<Vec<AuditEvent>, StoreError>;

    /// Returns the newest events of the audit trail, newest first.
    async fn audit_trail(&self, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        self.audit_events(AuditFilter::newest(limit)).await
    }

    /// Forgets leases, tokens, events and amounts that ended before a time; returns how many.
    async fn prune(&self, before: u64) -> Result<u64, StoreError>;

    /// Tells whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
}
