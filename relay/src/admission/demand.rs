//! What agents must show, where that changes while the relay runs.

use std::sync::Arc;

use super::{Admission, oidc};
use crate::config::AuthMode;

/// What agents must show, ready to be demanded.
#[derive(Debug)]
pub struct Demand {
    auth: AuthMode,
    issuer: Option<oidc::Prepared>,
}

impl Admission {
    /// Makes what demanding this of agents takes; changes nothing yet.
    ///
    /// # Errors
    /// Says what of it cannot be demanded.
    pub fn prepare(&self, auth: &AuthMode) -> Result<Demand, String> {
        let issuer = match (auth, &self.issuer) {
            (AuthMode::Oidc(settings), Some(issuer)) => {
                let prepared = issuer.prepare(Arc::clone(settings));
                Some(prepared.map_err(|error| format!("bad setting `oidc-ca`: {error}"))?)
            }
            _ => None,
        };
        Ok(Demand { auth: auth.clone(), issuer })
    }

    /// Demands this of agents from now on: for secrets that were rotated, and for what else is asked
    /// of the tokens of the same provider. Sessions that are up stay.
    pub fn demand(&self, Demand { auth, issuer: prepared }: Demand) {
        if let (Some(prepared), Some(issuer)) = (prepared, &self.issuer) {
            issuer.obey(prepared);
        }
        self.auth.store(Arc::new(auth));
    }
}
