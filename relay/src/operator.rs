//! What operators do with names and owners: the same for the command line and the admin API. Every
//! decision leaves a row in the audit trail.

pub mod domains;
mod owners;

use std::collections::BTreeMap;
use std::time::Duration;

use mcpm_shared::name::Name;
use serde::Serialize;

pub use self::owners::{
    Change, OwnerDetail, OwnerEntry, QuotaChange, block_owner, owner, owners, set_quota,
    unblock_owner,
};
use crate::admission::Owner;
use crate::domains::LookupError;
use crate::grants::MAX_SUBJECT_BYTES;
use crate::host::CustomDomain;
use crate::store::{AuditEvent, Lease, NameRule, NameState, Store, StoreError};

/// How long a name rests that was taken from its owner, unless the operator says otherwise: longer
/// than most things point to a share that is gone.
pub const COOLING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why an operator's wish was not fulfilled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The text names no owner.
    #[error(
        "`{0}` is no owner: give a token's subject, sub:SUBJECT, or key:THUMBPRINT, without blanks"
    )]
    Owner(String),
    /// Nobody has the name and no rule keeps it.
    #[error("nobody has the name `{0}`, and nothing keeps it")]
    NothingToRelease(Name),
    /// The domain is the relay's own, or below it.
    #[error("`{0}` is the relay's own: its names are for shares")]
    DomainOfRelay(CustomDomain),
    /// Somebody else has the domain.
    #[error("the domain `{domain}` is for {owner} already")]
    DomainTaken {
        /// The domain.
        domain: CustomDomain,
        /// Whose it is.
        owner: String,
    },
    /// Nobody added the domain.
    #[error("no domain `{0}` was added")]
    NoDomain(CustomDomain),
    /// Somebody changed the domain at the same time.
    #[error("the domain `{0}` was changed at the same time: try again")]
    DomainChanged(CustomDomain),
    /// The DNS does not answer.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads an owner as people write it: a bare word is the subject of a token.
///
/// # Errors
/// Fails on what can own nothing.
pub fn parse_owner(text: &str) -> Result<Owner, OperatorError> {
    let wrong = || OperatorError::Owner(text.to_owned());
    let (make, id): (fn(&str) -> Owner, _) = match text.split_once(':') {
        Some(("key", id)) => (Owner::of_key, id),
        Some(("sub", id)) => (Owner::of_subject, id),
        _ => (Owner::of_subject, text),
    };
    let printable = id.chars().all(|c| !c.is_whitespace() && !c.is_control());
    match !id.is_empty() && id.len() <= MAX_SUBJECT_BYTES && printable {
        true => Ok(make(id)),
        false => Err(wrong()),
    }
}

/// Keeps a name for one owner, or for nobody. A share of somebody else under it ends.
///
/// # Errors
/// Fails when the store does.
pub async fn reserve_name(
    store: &dyn Store,
    name: Name,
    owner: Option<Owner>,
    note: String,
    now: u64,
) -> Result<NameRule, StoreError> {
    let detail = owner.as_ref().map_or(String::new(), |owner| format!("for {owner}"));
    let state = NameState::Reserved { owner: owner.map(|owner| owner.as_str().to_owned()) };
    decide(
        store,
        "name.reserve",
        NameRule { name, state, note, changed_at: now, revision: 0 },
        detail,
    )
    .await
}

/// Keeps everybody from a name. A share under it ends within a second.
///
/// # Errors
/// Fails when the store does.
pub async fn block_name(
    store: &dyn Store,
    name: Name,
    note: String,
    now: u64,
) -> Result<NameRule, StoreError> {
    let detail = note.clone();
    let rule = NameRule { name, state: NameState::Blocked, note, changed_at: now, revision: 0 };
    decide(store, "name.block", rule, detail).await
}

/// What came of releasing a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "released", rename_all = "snake_case")]
pub enum Released {
    /// A reservation or a block was lifted; who had the name before has it still.
    Rule,
    /// The name was taken from its owner.
    Owner {
        /// From whom.
        owner: String,
        /// Until when nobody gets it, in Unix seconds.
        cooling_until: u64,
    },
}

/// Lifts what keeps a name; where nothing does, takes the name from its owner and lets it cool off.
///
/// # Errors
/// Fails when there is nothing to release, or the store fails.
pub async fn release_name(
    store: &dyn Store,
    name: Name,
    cooling: Duration,
    now: u64,
) -> Result<Released, OperatorError> {
    let rule = store.name_rule(&name).await?.map(|rule| rule.state);
    let until = now.saturating_add(cooling.as_secs());
    if matches!(rule, Some(NameState::Reserved { .. } | NameState::Blocked)) {
        set_state(store, name, NameState::Open, String::new(), now).await?;
        return Ok(Released::Rule);
    }
    // The rule first: nobody may slip in between.
    let held = store.lease(&name).await?.filter(|lease| !lease.owner.is_empty());
    let Some(held) = held else {
        if rule.is_some_and(|rule| rule.is_in_force(now)) {
            set_state(store, name, NameState::Open, String::new(), now).await?;
            return Ok(Released::Rule);
        }
        return Err(OperatorError::NothingToRelease(name));
    };
    let detail = format!("taken from {}", held.owner);
    set_state(store, name.clone(), NameState::Cooling { until }, detail, now).await?;
    store.vacate(&name, now).await?;
    Ok(Released::Owner { owner: held.owner, cooling_until: until })
}

async fn set_state(
    store: &dyn Store,
    name: Name,
    state: NameState,
    detail: String,
    now: u64,
) -> Result<(), StoreError> {
    let rule = NameRule { name, state, note: String::new(), changed_at: now, revision: 0 };
    decide(store, "name.release", rule, detail).await.map(drop)
}

async fn decide(
    store: &dyn Store,
    action: &str,
    rule: NameRule,
    detail: String,
) -> Result<NameRule, StoreError> {
    store.set_name_rule(rule.clone()).await?;
    note(store, action, rule.name.as_str(), detail, rule.changed_at).await?;
    Ok(rule)
}

async fn note(
    store: &dyn Store,
    action: &str,
    object: &str,
    detail: String,
    now: u64,
) -> Result<(), StoreError> {
    let (action, actor, object) = (action.to_owned(), "operator".to_owned(), object.to_owned());
    store.audit(AuditEvent { at: now, action, actor, object, detail }).await
}

/// What an operator sees of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameEntry {
    /// The name.
    pub name: Name,
    /// `reserved`, `blocked` or `cooling` by a rule; else `live`, or `kept` for its last owner.
    pub state: &'static str,
    /// The rule in force.
    pub rule: Option<NameRule>,
    /// The lease, live or not; absent where nobody has the name.
    pub lease: Option<Lease>,
}

/// Returns the names that somebody has or a rule keeps, by name.
///
/// # Errors
/// Fails when the store does.
pub async fn names(store: &dyn Store, now: u64) -> Result<Vec<NameEntry>, StoreError> {
    let mut entries = BTreeMap::new();
    for rule in store.name_rules(0).await? {
        let state = match &rule.state {
            NameState::Reserved { .. } => "reserved",
            NameState::Blocked => "blocked",
            NameState::Cooling { until } if now < *until => "cooling",
            NameState::Open | NameState::Cooling { .. } => continue,
        };
        let name = rule.name.clone();
        entries.insert(name.clone(), NameEntry { name, state, rule: Some(rule), lease: None });
    }
    for lease in store.leases().await? {
        if lease.owner.is_empty() {
            continue;
        }
        let state = if lease.is_live(now) { "live" } else { "kept" };
        let name = lease.name.clone();
        let free = || NameEntry { name: name.clone(), state, rule: None, lease: None };
        entries.entry(name.clone()).or_insert_with(free).lease = Some(lease);
    }
    Ok(entries.into_values().collect())
}

#[cfg(test)]
mod tests;
