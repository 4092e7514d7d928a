//! What operators and quotas let pass.

use std::time::Duration;

use mcpm_shared::name::Name;

use super::Proxy;
use crate::admission::unix_now;
use crate::error::{EdgeError, Party};
use crate::quota::{Meter, until_next_day};
use crate::tunnel::share::Share;

impl Proxy {
    /// Tells whether an operator lets nobody see the share; asked only where it is not up.
    pub(super) fn is_blocked(&self, name: &Name) -> bool {
        self.rules.is_blocked(name)
            || self.table.last_lease(name).is_some_and(|left| self.owners.is_blocked(&left.owner))
    }

    pub(super) fn blocked(&self) -> EdgeError {
        let config = self.config.load();
        EdgeError::Blocked(config.abuse_contact.as_ref().map(|contact| contact.in_words().into()))
    }
}

/// Counts a request for the visitor's address and the share's owner.
pub(super) fn begin(share: &Share, visitor: Option<&Meter>) -> Result<(), EdgeError> {
    let exhausted = |whose| {
        move |what| EdgeError::Exhausted {
            whose,
            what,
            wait: Duration::from_secs(until_next_day(unix_now())),
        }
    };
    visitor.map_or(Ok(()), Meter::begin).map_err(exhausted(Party::Address))?;
    share.meter().begin().map_err(exhausted(Party::Owner))
}

/// Takes a request back that was counted: another node serves and counts it.
pub(super) fn take_back(share: &Share, visitor: Option<&Meter>) {
    visitor.into_iter().for_each(Meter::take_back);
    share.meter().take_back();
}
