//! Who is here: name → share. The only mutable state that tunnels and visitors have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mcpm_shared::name::Name;
use tokio::sync::watch;
use tokio::time::Instant;

use super::share::Share;

/// How many requests of one name wait for its agent to come back.
const MAX_WAITING: usize = 256;
/// How many names may be known without being live; beyond that they are not waited for.
const MAX_AWAY: usize = 64 * 1024;

/// Whether a name is served right now.
#[derive(Clone, Debug)]
pub enum Presence {
    /// By this share.
    Live(Arc<Share>),
    /// Its agent is gone.
    Away {
        /// Since then.
        since: Instant,
        /// Whether it may be back in a moment: it did not say goodbye.
        held: bool,
        /// The lease it had; absent when only the store knows of one.
        left: Option<Left>,
    },
}

/// The lease of a share whose agent is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The name.
    pub name: Name,
    /// Who owns it.
    pub owner: String,
    /// The generation that ended.
    pub generation: u64,
}

/// One known name.
#[derive(Debug)]
pub struct Entry {
    presence: watch::Sender<Presence>,
    waiting: AtomicUsize,
}

/// Counts one waiting request while it is held.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    fn new(presence: Presence) -> Self {
        Self { presence: watch::Sender::new(presence), waiting: AtomicUsize::new(0) }
    }

    /// Returns whether the name is served.
    pub fn presence(&self) -> Presence {
        self.presence.borrow().clone()
    }

    /// Waits until a share with a generation above `not` serves the name, up to `hold` after its
    /// agent went. `None` when it did not come back or too many wait already. Cancel-safe.
    pub async fn wait_live(&self, not: u64, hold: Duration) -> Option<Arc<Share>> {
        let mut changes = self.presence.subscribe();
        let since = match &*changes.borrow_and_update() {
            Presence::Live(share) if share.facts.generation > not => {
                return Some(Arc::clone(share));
            }
            Presence::Live(_) => Instant::now(),
            Presence::Away { held: false, .. } => return None,
            Presence::Away { since, .. } => *since,
        };
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let _counted = Waiting(&self.waiting);
        let back = changes
            .wait_for(|now| matches!(now, Presence::Live(share) if share.facts.generation > not));
        match tokio::time::timeout_at(since + hold, back).await {
            Ok(Ok(presence)) => match &*presence {
                Presence::Live(share) => Some(Arc::clone(share)),
                Presence::Away { .. } => None,
            },
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// What came of putting a share into the table.
#[derive(Debug)]
pub enum Installed {
    /// It serves the name; the share it displaced must be told.
    Serving(Option<Arc<Share>>),
    /// A later claim of the same name came first.
    Superseded,
}

/// The names that this relay knows to be served, or served a moment ago.
#[derive(Debug, Default)]
pub struct Table {
    entries: RwLock<HashMap<Name, Arc<Entry>>>,
}

impl Table {
    /// Returns the entry of a name.
    pub fn find(&self, name: &Name) -> Option<Arc<Entry>> {
        self.read().get(name).cloned()
    }

    /// Returns the entry of a name that is known from elsewhere to be leased; `None` when too many
    /// such names are here.
    pub fn expect(&self, name: &Name) -> Option<Arc<Entry>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if !entries.contains_key(name) && entries.len() >= MAX_AWAY {
            return None;
        }
        let away = || {
            Arc::new(Entry::new(Presence::Away { since: Instant::now(), held: true, left: None }))
        };
        Some(Arc::clone(entries.entry(name.clone()).or_insert_with(away)))
    }

    /// Returns the last lease that is known here of a name, whether its share is up or away.
    pub fn last_lease(&self, name: &Name) -> Option<Left> {
        match self.find(name)?.presence() {
            Presence::Live(share) => Some(Left {
                name: name.clone(),
                owner: share.facts.owner.clone(),
                generation: share.facts.generation,
            }),
            Presence::Away { left, .. } => left,
        }
    }

    /// Makes `share` the one that serves its name, unless a later generation does already.
    pub fn install(&self, share: &Arc<Share>) -> Installed {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let live = Presence::Live(Arc::clone(share));
        let Some(entry) = entries.get(&share.facts.name) else {
            entries.insert(share.facts.name.clone(), Arc::new(Entry::new(live)));
            return Installed::Serving(None);
        };
        let (latest, displaced) = match entry.presence() {
            Presence::Live(present) => (present.facts.generation, Some(present)),
            Presence::Away { left, .. } => (left.map_or(0, |left| left.generation), None),
        };
        if latest > share.facts.generation {
            return Installed::Superseded;
        }
        entry.presence.send_replace(live);
        if let Some(displaced) = &displaced {
            displaced.end();
        }
        Installed::Serving(displaced)
    }

    /// Notes that the agent of `share` is gone; with `held`, requests wait for it. Changes nothing
    /// when another share serves the name by now.
    pub fn away(&self, share: &Arc<Share>, held: bool) {
        share.end();
        let Some(entry) = self.find(&share.facts.name) else { return };
        entry.presence.send_if_modified(|presence| match presence {
            Presence::Live(present) if Arc::ptr_eq(present, share) => {
                let facts = &share.facts;
                let left = Left {
                    name: facts.name.clone(),
                    owner: facts.owner.clone(),
                    generation: facts.generation,
                };
                *presence = Presence::Away { since: Instant::now(), held, left: Some(left) };
                true
            }
            Presence::Live(_) | Presence::Away { .. } => false,
        });
    }

    /// Forgets names whose agents are away for longer than `keep`, and returns the leases they had.
    pub fn sweep(&self, keep: Duration) -> Vec<Left> {
        let now = Instant::now();
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let gone = |entry: &Entry| match &*entry.presence.borrow() {
            Presence::Away { since, .. } => {
                now.duration_since(*since) > keep && entry.waiting.load(Ordering::Relaxed) == 0
            }
            Presence::Live(_) => false,
        };
        let forgotten: Vec<Left> = entries
            .extract_if(|_, entry| gone(entry))
            .filter_map(|(_, entry)| match entry.presence() {
                Presence::Away { left, .. } => left,
                Presence::Live(_) => None,
            })
            .collect();
        if entries.len() * 4 < entries.capacity() {
            entries.shrink_to_fit();
        }
        forgotten
    }

    /// Returns the shares that are up.
    pub fn live(&self) -> Vec<Arc<Share>> {
        let live = |entry: &Arc<Entry>| match entry.presence() {
            Presence::Live(share) => Some(share),
            Presence::Away { .. } => None,
        };
        self.read().values().filter_map(live).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Name, Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}
