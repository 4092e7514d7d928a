//! Settings that changed while agents are connected.

use super::Tunnels;
use crate::config::{Config, Reloaded};

impl Tunnels {
    /// Obeys changed settings, but for what agents must show: see [`Admission::demand`].
    ///
    /// [`Admission::demand`]: crate::admission::Admission::demand
    pub fn obey(&self, config: &Config) {
        let limits = &config.limits;
        self.handshakes.set_per_minute(limits.handshakes_per_minute);
        self.claims.by_key.set_per_minute(limits.claims_per_minute_per_key);
        self.claims.by_address.set_per_minute(limits.claims_per_minute_per_address);
        self.owners.obey(limits);
    }

    /// Says in the log and in the audit trail what a reload has done.
    pub fn note_reload(&self, reloaded: &Reloaded) {
        let (changed, left) = (reloaded.changed.join(","), reloaded.needs_restart.join(","));
        tracing::info!(changed, "settings read again");
        if !left.is_empty() {
            tracing::warn!(settings = left, "these settings stay as they were until a restart");
        }
        self.debts.audit("settings.reload", "operator", "settings", changed);
    }
}
