//! What nodes of one relay share: certificates that one has ordered, and proofs that an authority may
//! look for at any of them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::proofs::{Posted, Showing};
use super::{AcmeCert, Kept, parse};
use crate::cert::vault::Change;

/// How often changes of other nodes are looked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a node that ordered waits until all others show its proofs.
pub(super) const SEEN_BY_ALL: Duration = Duration::from_secs(3);
/// How long a proof of another node is shown, which may have died, and how many.
const PROOF_LIFE: Duration = Duration::from_secs(1200);
const MOST_PROOFS: usize = 256;

/// Proofs of other nodes that are shown here.
type Theirs = HashMap<String, (Showing, Instant)>;

impl AcmeCert {
    /// Shows what other nodes got, until dropped.
    pub(super) async fn follow(&self) {
        if !self.vault.is_shared() {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut theirs) = (0, Theirs::new());
        loop {
            ticks.tick().await;
            theirs.retain(|_, (_, since)| since.elapsed() < PROOF_LIFE);
            // That the store does not answer is said by those who guard it.
            let Ok(changes) = self.vault.changes(seen).await else { continue };
            for change in changes {
                seen = seen.max(change.revision);
                self.note(&change, &mut theirs);
            }
        }
    }

    fn note(&self, change: &Change, theirs: &mut Theirs) {
        let name = change.name.strip_suffix(&self.authority);
        let Some(name) = name.and_then(|name| name.strip_suffix('-')) else { return };
        if let Some(domain) = name.strip_prefix("certificate-") {
            if let Some(kept) = change.plain.as_ref().and_then(Kept::read) {
                self.take_from_others(domain, &kept);
            }
        } else if let Some(posted) = Posted::parse(name) {
            // Before another one takes its place: it takes the proof away with it.
            theirs.remove(name);
            let Some(plain) = &change.plain else { return };
            if theirs.len() < MOST_PROOFS
                && let Some(showing) = self.proofs.show_theirs(&posted, plain)
            {
                theirs.insert(name.to_owned(), (showing, Instant::now()));
            }
        }
    }

    fn take_from_others(&self, domain: &str, kept: &Kept) {
        if domain != self.names[0] {
            return self.customs.take(domain, kept);
        }
        if kept.names == self.names
            && let Ok(key) = parse(kept)
            && key.cert.first() != self.current.leaf().as_ref()
        {
            self.current.show(key);
        }
    }
}
