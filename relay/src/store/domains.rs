//! What the store keeps of custom domains and certificates.

use mcpm_shared::name::Name;
use serde::Serialize;

use crate::host::CustomDomain;

/// A custom domain and the share that its requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainRecord {
    /// The domain.
    pub domain: CustomDomain,
    /// Whose it is: only a share of this owner answers. See [`crate::admission::Owner`].
    pub owner: String,
    /// The name of the share.
    pub name: Name,
    /// What the record in the DNS must say. Everybody may read it there, so it is no secret.
    pub token: String,
    /// Whether it is served.
    pub state: DomainState,
    /// When it was added.
    pub added_at: u64,
    /// When the DNS was asked last.
    pub checked_at: Option<u64>,
    /// When the DNS last said what it must.
    pub proved_at: Option<u64>,
    /// Since when the DNS says something else.
    pub failing_since: Option<u64>,
    /// What the DNS says instead; empty where all is well.
    pub problem: String,
    /// When the record was changed last.
    #[serde(skip)]
    pub changed_at: u64,
    /// Counts the changes of all domains; the store sets it.
    #[serde(skip)]
    pub revision: u64,
}

/// Whether a custom domain is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// Not yet, or not any more: the DNS must prove it first.
    Pending,
    /// Served.
    Verified,
    /// Taken out by an operator.
    Removed,
}

impl DomainState {
    /// Returns the state in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Removed => "removed",
        }
    }
}

/// Something of an authority that only relays with the right key can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRow {
    /// Its name, which is sealed with it.
    pub name: String,
    /// The sealed text; empty where it was forgotten.
    pub sealed: String,
    /// Counts the changes of all; the store sets it.
    pub revision: u64,
}
