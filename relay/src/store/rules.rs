//! What operators decide over names and owners.

use mcpm_shared::name::Name;
use serde::Serialize;

use crate::quota::Allowance;

/// What an operator decided over one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameRule {
    /// The name.
    pub name: Name,
    /// The decision.
    #[serde(flatten)]
    pub state: NameState,
    /// Why, in the operator's words.
    pub note: String,
    /// When it was decided.
    pub changed_at: u64,
    /// Counts the decisions over all names; the store sets it.
    #[serde(skip)]
    pub revision: u64,
}

/// Who may claim a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NameState {
    /// Everybody, as if there were no rule.
    Open,
    /// This owner, even where somebody else has a right to the name; or nobody.
    Reserved {
        /// Whom the name is for.
        owner: Option<String>,
    },
    /// Nobody, and a share of this name ends.
    Blocked,
    /// Nobody for a while, so that what still points to the name does not find a stranger.
    Cooling {
        /// Until then, in Unix seconds.
        until: u64,
    },
}

impl NameState {
    /// Tells whether `owner` may claim the name.
    #[must_use]
    pub fn allows(&self, owner: &str, now: u64) -> bool {
        match self {
            Self::Open => true,
            Self::Reserved { owner: wanted } => wanted.as_deref() == Some(owner),
            Self::Blocked => false,
            Self::Cooling { until } => *until <= now,
        }
    }

    /// Tells whether a share that `owner` has up under the name must end.
    #[must_use]
    pub fn ends_share_of(&self, owner: &str) -> bool {
        match self {
            Self::Open => false,
            Self::Reserved { owner: wanted } => wanted.as_deref() != Some(owner),
            Self::Blocked | Self::Cooling { .. } => true,
        }
    }

    /// Tells whether the rule still keeps anybody from anything.
    #[must_use]
    pub fn is_in_force(&self, now: u64) -> bool {
        match self {
            Self::Open => false,
            Self::Reserved { .. } | Self::Blocked => true,
            Self::Cooling { until } => now < *until,
        }
    }
}

/// What an operator decided over one owner: what it is granted, and whether it is shut out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnerQuota {
    /// The owner: see [`crate::admission::Owner`].
    pub owner: String,
    /// How many live shares; absent for what the token or the relay says.
    pub max_shares: Option<u32>,
    /// How many new names in an hour; absent for what the relay says, 0 for no limit.
    pub names_per_hour: Option<u64>,
    /// How many requests in a day, alike.
    pub requests_per_day: Option<u64>,
    /// How many bytes of bodies in a day, alike.
    pub bytes_per_day: Option<u64>,
    /// How many requests open at once, alike.
    pub max_streams: Option<u64>,
    /// Since when the owner may do nothing, where an operator blocked it.
    pub blocked_at: Option<u64>,
    /// Why, in the operator's words.
    pub note: String,
    /// When it was decided last.
    pub changed_at: u64,
    /// Counts the decisions over all owners; the store sets it.
    #[serde(skip)]
    pub revision: u64,
}

impl OwnerQuota {
    /// Tells whether nothing is decided over the owner any more.
    #[must_use]
    pub fn is_default(&self) -> bool {
        let Self { max_shares, names_per_hour, requests_per_day, .. } = self;
        let Self { bytes_per_day, max_streams, blocked_at, .. } = self;
        let amounts = [names_per_hour, requests_per_day, bytes_per_day, max_streams];
        max_shares.is_none() && blocked_at.is_none() && amounts.iter().all(|it| it.is_none())
    }

    /// Returns what the owner may use, where the relay's own word is `default`.
    #[must_use]
    pub fn allowance(&self, default: Allowance) -> Allowance {
        let pick = |own: Option<u64>, default| match own {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => default,
        };
        Allowance {
            names_per_hour: pick(self.names_per_hour, default.names_per_hour),
            requests_per_day: pick(self.requests_per_day, default.requests_per_day),
            bytes_per_day: pick(self.bytes_per_day, default.bytes_per_day),
            max_streams: pick(self.max_streams, default.max_streams),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_name_is_for_its_owner_alone() {
        let for_ada = NameState::Reserved { owner: Some("sub:ada".to_owned()) };
        assert!(for_ada.allows("sub:ada", 0) && !for_ada.ends_share_of("sub:ada"));
        assert!(!for_ada.allows("sub:bob", 0) && for_ada.ends_share_of("sub:bob"));
        let for_nobody = NameState::Reserved { owner: None };
        assert!(!for_nobody.allows("sub:ada", 0) && for_nobody.ends_share_of("sub:ada"));
    }

    #[test]
    fn what_an_owner_was_granted_stands_before_what_the_relay_says() {
        let default = Allowance {
            requests_per_day: Some(10),
            bytes_per_day: Some(10),
            max_streams: Some(10),
            names_per_hour: None,
        };
        let quota = OwnerQuota {
            requests_per_day: Some(99),
            bytes_per_day: Some(0),
            ..OwnerQuota::default()
        };
        assert!(
            !quota.is_default() && OwnerQuota { changed_at: 5, ..Default::default() }.is_default()
        );
        let granted = quota.allowance(default);
        assert_eq!((granted.requests_per_day, granted.bytes_per_day), (Some(99), None));
        assert_eq!((granted.max_streams, granted.names_per_hour), (Some(10), None));
    }

    #[test]
    fn a_name_that_cooled_off_is_free() {
        let cooling = NameState::Cooling { until: 10 };
        assert!(!cooling.allows("sub:ada", 9) && cooling.is_in_force(9));
        assert!(cooling.allows("sub:ada", 10) && !cooling.is_in_force(10));
        assert!(!NameState::Blocked.allows("sub:ada", u64::MAX));
    }
}
