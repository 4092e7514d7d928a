//! What operators see of owners, grant them, and how they shut them out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::note;
use crate::admission::Owner;
use crate::quota::{Amounts, DAY_SECS};
use crate::store::{OwnerQuota, Store, StoreError, Usage};

/// How many days of use an operator is shown, today among them.
const DAYS: u64 = 7;
/// How many owners' use is looked up for a list.
const MAX_USED: u32 = 10_000;

/// What an operator sees of an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnerEntry {
    /// The owner.
    pub owner: String,
    /// How many names of theirs are live.
    pub live: u64,
    /// How many names they have, live or kept.
    pub names: u64,
    /// How many tokens of theirs are good.
    pub tokens: u64,
    /// How many live shares an operator granted them; absent for what the token or the relay says.
    pub max_shares: Option<u32>,
    /// Since when they may do nothing, where an operator blocked them.
    pub blocked_at: Option<u64>,
    /// What they used today (UTC), as far as it is written: every ten seconds.
    pub today: Amounts,
}

/// All that an operator sees of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerDetail {
    /// As in the list.
    #[serde(flatten)]
    pub entry: OwnerEntry,
    /// What was decided over them; absent where nothing was.
    pub quota: Option<OwnerQuota>,
    /// What they used in the last days, by day.
    pub usage: Vec<Usage>,
}

/// Returns all who have a name, a token or a quota, or used something today.
///
/// # Errors
/// Fails when the store does.
pub async fn owners(store: &dyn Store, now: u64) -> Result<Vec<OwnerEntry>, StoreError> {
    let mut entries = BTreeMap::new();
    let mut entry = |owner: &str, change: &dyn Fn(&mut OwnerEntry)| {
        let new = || OwnerEntry { owner: owner.to_owned(), ..OwnerEntry::default() };
        change(entries.entry(owner.to_owned()).or_insert_with(new));
    };
    for lease in store.leases().await? {
        if !lease.owner.is_empty() {
            entry(&lease.owner, &|it| {
                it.names += 1;
                it.live += u64::from(lease.is_live(now));
            });
        }
    }
    for token in store.tokens().await? {
        if token.revoked_at.is_none() && now < token.expires_at {
            entry(Owner::of_subject(&token.subject).as_str(), &|it| it.tokens += 1);
        }
    }
    for quota in store.owner_quotas().await?.iter().filter(|quota| !quota.is_default()) {
        entry(&quota.owner, &|it| {
            it.max_shares = quota.max_shares;
            it.blocked_at = quota.blocked_at;
        });
    }
    for used in store.usage(now / DAY_SECS, MAX_USED).await? {
        entry(&used.owner, &|it| it.today = used.amounts);
    }
    Ok(entries.into_values().collect())
}

/// Returns what is known of one owner; zeros for one who never was here.
///
/// # Errors
/// Fails when the store does.
pub async fn owner(store: &dyn Store, owner: &Owner, now: u64) -> Result<OwnerDetail, StoreError> {
    let owner = owner.as_str();
    let found = owners(store, now).await?.into_iter().find(|entry| entry.owner == owner);
    let none = || OwnerEntry { owner: owner.to_owned(), ..OwnerEntry::default() };
    let quota = store.owner_quota(owner).await?.filter(|quota| !quota.is_default());
    let since = (now / DAY_SECS).saturating_sub(DAYS - 1);
    let usage = store.usage_of(owner, since).await?;
    Ok(OwnerDetail { entry: found.unwrap_or_else(none), quota, usage })
}

/// What becomes of one part of a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// It stays.
    #[default]
    Keep,
    /// The token's or the relay's word counts again.
    Reset,
    /// It is this.
    To(T),
}

impl<T: Copy> Change<T> {
    /// Makes a change of what is written in place of everything: absent is what the relay says.
    #[must_use]
    pub fn replacing(value: Option<T>) -> Self {
        value.map_or(Self::Reset, Self::To)
    }

    fn apply(self, kept: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Reset => *kept = None,
            Self::To(value) => *kept = Some(value),
        }
    }
}

/// What becomes of a quota. Of all but shares, 0 lifts the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaChange {
    /// Live shares.
    pub max_shares: Change<u32>,
    /// New names in an hour.
    pub names_per_hour: Change<u64>,
    /// Requests in a day.
    pub requests_per_day: Change<u64>,
    /// Bytes of bodies in a day.
    pub bytes_per_day: Change<u64>,
    /// Requests open at once.
    pub max_streams: Change<u64>,
}

/// Changes what an owner is granted. What is up or open stays.
///
/// # Errors
/// Fails when the store does.
pub async fn set_quota(
    store: &dyn Store,
    owner: &Owner,
    change: QuotaChange,
    now: u64,
) -> Result<OwnerQuota, StoreError> {
    let mut quota = decided(store, owner, now).await?;
    change.max_shares.apply(&mut quota.max_shares);
    change.names_per_hour.apply(&mut quota.names_per_hour);
    change.requests_per_day.apply(&mut quota.requests_per_day);
    change.bytes_per_day.apply(&mut quota.bytes_per_day);
    change.max_streams.apply(&mut quota.max_streams);
    store.set_owner_quota(quota.clone()).await?;
    note(store, "owner.quota", owner.as_str(), in_words(&quota), now).await?;
    Ok(quota)
}

/// Shuts an owner out: everything of theirs ends within a second, and nothing begins.
///
/// # Errors
/// Fails when the store does.
pub async fn block_owner(
    store: &dyn Store,
    owner: &Owner,
    why: String,
    now: u64,
) -> Result<OwnerQuota, StoreError> {
    let quota = decided(store, owner, now).await?;
    let blocked_at = Some(quota.blocked_at.unwrap_or(now));
    let quota = OwnerQuota { blocked_at, note: why.clone(), ..quota };
    store.set_owner_quota(quota.clone()).await?;
    note(store, "owner.block", owner.as_str(), why, now).await?;
    Ok(quota)
}

/// Lets a blocked owner in again; `false` when they were not blocked.
///
/// # Errors
/// Fails when the store does.
pub async fn unblock_owner(store: &dyn Store, owner: &Owner, now: u64) -> Result<bool, StoreError> {
    let quota = decided(store, owner, now).await?;
    if quota.blocked_at.is_none() {
        return Ok(false);
    }
    let quota = OwnerQuota { blocked_at: None, note: String::new(), ..quota };
    store.set_owner_quota(quota).await?;
    note(store, "owner.unblock", owner.as_str(), String::new(), now).await?;
    Ok(true)
}

/// Returns what was decided over an owner, to be changed now.
async fn decided(store: &dyn Store, owner: &Owner, now: u64) -> Result<OwnerQuota, StoreError> {
    let none = || OwnerQuota { owner: owner.as_str().to_owned(), ..OwnerQuota::default() };
    let quota = store.owner_quota(owner.as_str()).await?.unwrap_or_else(none);
    Ok(OwnerQuota { changed_at: now, ..quota })
}

/// Says what is granted, as the audit trail keeps it.
fn in_words(quota: &OwnerQuota) -> String {
    let shares = quota.max_shares.map(|max| format!("{max} shares"));
    let amount = |value: Option<u64>, what: &str| {
        value.map(|value| match value {
            0 => format!("unlimited {what}"),
            value => format!("{value} {what}"),
        })
    };
    let parts = [
        shares,
        amount(quota.names_per_hour, "names an hour"),
        amount(quota.requests_per_day, "requests a day"),
        amount(quota.bytes_per_day, "bytes a day"),
        amount(quota.max_streams, "open requests"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "default".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    const NOW: u64 = 1_800_000_000;

    fn ada() -> Owner {
        Owner::of_subject("ada")
    }

    async fn trail(store: &MemoryStore) -> Vec<String> {
        let trail = store.audit_trail(9).await.unwrap();
        trail.iter().map(|it| format!("{} {} {}", it.action, it.object, it.detail)).collect()
    }

    #[tokio::test]
    async fn a_quota_is_changed_part_by_part() {
        let store = MemoryStore::new();
        let change = QuotaChange {
            max_shares: Change::To(3),
            requests_per_day: Change::To(500),
            bytes_per_day: Change::To(0),
            ..QuotaChange::default()
        };
        set_quota(&store, &ada(), change, NOW).await.unwrap();
        let change = QuotaChange { max_shares: Change::Reset, ..QuotaChange::default() };
        let quota = set_quota(&store, &ada(), change, NOW + 1).await.unwrap();
        assert_eq!((quota.max_shares, quota.requests_per_day), (None, Some(500)));
        assert_eq!(
            trail(&store).await,
            [
                "owner.quota sub:ada 500 requests a day, unlimited bytes a day",
                "owner.quota sub:ada 3 shares, 500 requests a day, unlimited bytes a day",
            ]
        );
    }

    #[tokio::test]
    async fn a_block_leaves_the_quota_and_says_why() {
        let store = MemoryStore::new();
        let change = QuotaChange { max_shares: Change::To(3), ..QuotaChange::default() };
        set_quota(&store, &ada(), change, NOW).await.unwrap();
        block_owner(&store, &ada(), "spam".to_owned(), NOW + 1).await.unwrap();
        let again = block_owner(&store, &ada(), "more spam".to_owned(), NOW + 2).await.unwrap();
        assert_eq!((again.blocked_at, again.max_shares), (Some(NOW + 1), Some(3)));
        assert_eq!(owners(&store, NOW).await.unwrap()[0].blocked_at, Some(NOW + 1));
        assert!(unblock_owner(&store, &ada(), NOW + 3).await.unwrap());
        assert!(!unblock_owner(&store, &ada(), NOW + 3).await.unwrap());
        let quota = store.owner_quota("sub:ada").await.unwrap().unwrap();
        assert_eq!((quota.blocked_at, quota.max_shares, quota.note.as_str()), (None, Some(3), ""));
        assert_eq!(trail(&store).await[0], "owner.unblock sub:ada ");
        assert_eq!(trail(&store).await[2], "owner.block sub:ada spam");
    }

    #[tokio::test]
    async fn what_an_owner_used_is_shown_by_day() {
        let store = MemoryStore::new();
        let day = NOW / DAY_SECS;
        let amounts = Amounts { requests: 5, bytes_in: 10, bytes_out: 20 };
        let used = |day| Usage { day, owner: "sub:ada".to_owned(), amounts };
        store.add_usage(vec![used(day), used(day - 1), used(day - 30)]).await.unwrap();
        let detail = owner(&store, &ada(), NOW).await.unwrap();
        assert_eq!(detail.usage, [used(day - 1), used(day)]);
        assert_eq!((detail.entry.today, detail.quota), (amounts, None));
        let stranger = owner(&store, &Owner::of_key("x"), NOW).await.unwrap();
        assert_eq!((stranger.entry.live, stranger.usage.len()), (0, 0));
    }
}
