//! Settings that changed while agents are connected.

use std::sync::Arc;

use super::Tunnels;
use crate::config::{Config, ReloadError, Reloaded, Reloader};

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

    /// Reads the settings again on a thread where that may take its time, and says in the log and in
    /// the audit trail what it has done: also when nobody waits for it any more.
    ///
    /// # Errors
    /// When they cannot be read or obeyed; then nothing has changed.
    pub async fn reload(
        self: &Arc<Self>,
        reloader: &Arc<Reloader>,
    ) -> Result<Reloaded, ReloadError> {
        let (tunnels, reloader) = (Arc::clone(self), Arc::clone(reloader));
        let reload = move || {
            let reloaded = reloader.reload()?;
            tunnels.note_reload(&reloaded);
            Ok(reloaded)
        };
        tokio::task::spawn_blocking(reload).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "reload failed");
            Err(ReloadError::Failed)
        })
    }

    /// Says what a reload has done.
    fn note_reload(&self, reloaded: &Reloaded) {
        let (changed, left) = (reloaded.changed.join(","), reloaded.needs_restart.join(","));
        tracing::info!(changed, "settings read again");
        if !left.is_empty() {
            tracing::warn!(settings = left, "these settings stay as they were until a restart");
        }
        self.debts.audit("settings.reload", "operator", "settings", changed);
    }
}
