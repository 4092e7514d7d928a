//! A certificate as operators are told of it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::UnixTime;
use serde::Serialize;

use super::validity::Validity;
use super::{CertError, CertSource, covers, has_ended, in_full};

/// What is shown to those who connect by TLS, or why nothing is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertStatus {
    /// The hosts that the certificate is good for; none while there is none.
    pub hosts: Vec<String>,
    /// When it ends, in Unix seconds.
    pub ends_at: Option<u64>,
    /// Its SHA-256.
    pub fingerprint: Option<String>,
    /// Why there is none, why clients refuse it, or why it was not renewed.
    pub problem: Option<String>,
}

impl CertStatus {
    /// Looks at what a source shows now.
    #[must_use]
    pub fn of(source: &dyn CertSource) -> Self {
        let (leaf, trouble) = (source.leaf(), source.trouble());
        let problem = match &leaf {
            None => Some(trouble.unwrap_or_else(|| "none was issued yet".to_owned())),
            Some(leaf) if has_ended(leaf) => {
                let why = trouble.map(|trouble| format!(": {trouble}"));
                Some(format!("it has ended, and clients refuse it{}", why.unwrap_or_default()))
            }
            Some(_) => trouble,
        };
        Self {
            hosts: leaf.as_ref().and_then(|leaf| covers::hosts(leaf)).unwrap_or_default(),
            ends_at: leaf.as_ref().and_then(|leaf| Validity::of(leaf)).map(|it| it.not_after),
            fingerprint: source.fingerprint().map(|digest| digest.to_string()),
            problem,
        }
    }
}

/// Remembers why the last look for a newer certificate came to nothing.
#[derive(Debug, Default)]
pub(super) struct LastLook(ArcSwapOption<String>);

impl LastLook {
    /// Notes how a look ended.
    pub(super) fn note(&self, found: Result<bool, CertError>) -> Result<bool, CertError> {
        self.0.store(found.as_ref().err().map(|error| Arc::new(in_full(error))));
        found
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.0.load().as_deref().cloned()
    }
}

/// Tells whether a certificate has so many seconds left, or fewer.
pub(super) fn ends_within(leaf: &[u8], secs: u64) -> bool {
    let now = UnixTime::now().as_secs();
    Validity::of(leaf).is_none_or(|validity| validity.not_after <= now.saturating_add(secs))
}
