//! Who is here: name → share. The only mutable state that tunnels and visitors have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use mcpm_shared::name::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::share::Share;

/// How many requests of one name wait for its agent to come back.
const MAX_WAITING: usize = 256;
/// How many names may be known without being live; beyond that they are not waited for.
const MAX_AWAY: usize = 64 * 1024;
/// How many names may be known in all: the shares of all nodes, several times over.
const MAX_KNOWN: usize = 1024 * 1024;

/// Whether a name is served right now.
#[derive(Clone, Debug)]
pub enum Presence {
    /// By this share.
    Live(Arc<Share>),
    /// By another node.
    Elsewhere(Elsewhere),
    /// Its agent is gone.
    Away {
        /// Since then.
        since: Instant,
        /// Whether it may be back in a moment: it did not say goodbye.
        held: bool,
        /// The lease it had; absent when it was never served here.
        left: Option<Left>,
        /// The highest generation that is known to have served it.
        seen: u64,
    },
}

/// A share that another node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The node.
    pub node: Arc<str>,
    /// The generation of the lease.
    pub generation: u64,
}

/// Where a name is served.
#[derive(Clone, Debug)]
pub enum Place {
    /// By a share of this node.
    Here(Arc<Share>),
    /// By another node.
    There(Elsewhere),
}

impl Presence {
    /// Returns the highest generation that is known.
    fn generation(&self) -> u64 {
        match self {
            Self::Live(share) => share.facts.generation,
            Self::Elsewhere(at) => at.generation,
            Self::Away { seen, .. } => *seen,
        }
    }

    /// Returns where the name is served by a generation above `not`.
    fn place(&self, not: u64) -> Option<Place> {
        match self {
            _ if self.generation() <= not => None,
            Self::Live(share) => Some(Place::Here(Arc::clone(share))),
            Self::Elsewhere(at) => Some(Place::There(at.clone())),
            Self::Away { .. } => None,
        }
    }

    fn lost(seen: u64, held: bool) -> Self {
        Self::Away { since: Instant::now(), held, left: None, seen }
    }
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

/// One known name. There may be very many: a watch channel takes some 300 bytes more.
#[derive(Debug)]
pub struct Entry {
    presence: RwLock<Presence>,
    changed: Notify,
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
        let (presence, changed) = (RwLock::new(presence), Notify::new());
        Self { presence, changed, waiting: AtomicUsize::new(0) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Presence> {
        self.presence.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the name is served.
    pub fn presence(&self) -> Presence {
        self.read().clone()
    }

    /// Changes where the name is served, and wakes who waits for that, when `change` says that it did.
    fn update(&self, change: impl FnOnce(&mut Presence) -> bool) -> bool {
        let changed = change(&mut self.presence.write().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }

    fn set(&self, presence: Presence) {
        let before = std::mem::replace(
            &mut *self.presence.write().unwrap_or_else(PoisonError::into_inner),
            presence,
        );
        self.changed.notify_waiters();
        // What it held goes without the lock.
        drop(before);
    }

    /// Waits until a share with a generation above `not` serves the name, here or elsewhere, up to
    /// `hold` after its agent went. `None` when it did not come back or too many wait already.
    /// Cancel-safe.
    pub async fn wait(&self, not: u64, hold: Duration) -> Option<Place> {
        let since = match self.presence() {
            Presence::Live(_) | Presence::Elsewhere(_) => Instant::now(),
            Presence::Away { held: false, .. } => return None,
            Presence::Away { since, .. } => since,
        };
        self.wait_until(not, since + hold).await
    }

    /// Waits until a share with a generation above `not` serves the name. `None` when none did until
    /// `deadline`, or too many wait already. Cancel-safe.
    pub async fn wait_until(&self, not: u64, deadline: Instant) -> Option<Place> {
        let found = self.read().place(not);
        if found.is_some() {
            return found;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let _counted = Waiting(&self.waiting);
        tokio::time::timeout_at(deadline, self.served(not)).await.ok()
    }

    /// Waits until a share with a generation above `not` serves the name. Cancel-safe.
    async fn served(&self, not: u64) -> Place {
        loop {
            // Before the look: what changes after it wakes this.
            let changed = self.changed.notified();
            if let Some(place) = self.read().place(not) {
                return place;
            }
            changed.await;
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
    /// How many of them were only heard of, as of the last sweep, and since.
    expected: AtomicUsize,
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
        if let Some(entry) = entries.get(name) {
            return Some(Arc::clone(entry));
        }
        if self.expected.load(Ordering::Relaxed) >= MAX_AWAY || entries.len() >= MAX_KNOWN {
            return None;
        }
        self.expected.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::new(Presence::lost(0, true)));
        entries.insert(name.clone(), Arc::clone(&entry));
        Some(entry)
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
            Presence::Elsewhere(_) => None,
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
        let before = entry.presence();
        if before.generation() > share.facts.generation {
            return Installed::Superseded;
        }
        let displaced = match before {
            Presence::Live(present) => Some(present),
            Presence::Elsewhere(_) | Presence::Away { .. } => None,
        };
        entry.set(live);
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
        entry.update(|presence| match presence {
            Presence::Live(present) if Arc::ptr_eq(present, share) => {
                let facts = &share.facts;
                let left = Left {
                    name: facts.name.clone(),
                    owner: facts.owner.clone(),
                    generation: facts.generation,
                };
                let seen = facts.generation;
                *presence = Presence::Away { since: Instant::now(), held, left: Some(left), seen };
                true
            }
            Presence::Live(_) | Presence::Elsewhere(_) | Presence::Away { .. } => false,
        });
    }

    /// Notes that another node serves a name, unless that is old news. Returns the share that served
    /// it here, whose agent must be told.
    pub fn elsewhere(&self, name: &Name, at: Elsewhere) -> Option<Arc<Share>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(name) else {
            if entries.len() >= MAX_KNOWN {
                tracing::error!(share.name = %name, "too many names are known");
            } else {
                entries.insert(name.clone(), Arc::new(Entry::new(Presence::Elsewhere(at))));
            }
            return None;
        };
        let before = entry.presence();
        if before.generation() >= at.generation {
            return None;
        }
        entry.set(Presence::Elsewhere(at));
        match before {
            Presence::Live(displaced) => {
                displaced.end();
                Some(displaced)
            }
            Presence::Elsewhere(_) | Presence::Away { .. } => None,
        }
    }

    /// Notes that a generation which another node served has ended; with `held`, requests wait for
    /// its agent.
    pub fn ended_elsewhere(&self, name: &Name, generation: u64, held: bool) {
        let Some(entry) = self.find(name) else { return };
        entry.update(|presence| match presence {
            Presence::Elsewhere(at) if at.generation <= generation => {
                *presence = Presence::lost(generation, held);
                true
            }
            _ => false,
        });
    }

    /// Notes that nodes are gone: their agents may be back in a moment, elsewhere. Returns how many
    /// names they served.
    pub fn lose(&self, is_lost: impl Fn(&str) -> bool) -> usize {
        let mut lost = 0;
        for entry in self.read().values() {
            lost += usize::from(entry.update(|presence| match presence {
                Presence::Elsewhere(at) if is_lost(&at.node) => {
                    *presence = Presence::lost(at.generation, true);
                    true
                }
                _ => false,
            }));
        }
        lost
    }

    /// Returns the names that other nodes serve, with their generations.
    pub fn all_elsewhere(&self) -> Vec<(Name, u64)> {
        let elsewhere = |(name, entry): (&Name, &Arc<Entry>)| match &*entry.read() {
            Presence::Elsewhere(at) => Some((name.clone(), at.generation)),
            Presence::Live(_) | Presence::Away { .. } => None,
        };
        self.read().iter().filter_map(elsewhere).collect()
    }

    /// Forgets names whose agents are away for longer than `keep`, and returns the leases they had.
    pub fn sweep(&self, keep: Duration) -> Vec<Left> {
        let now = Instant::now();
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut expected = 0;
        let mut gone = |entry: &Entry| match &*entry.read() {
            Presence::Away { since, left, .. } => {
                let gone =
                    now.duration_since(*since) > keep && entry.waiting.load(Ordering::Relaxed) == 0;
                expected += usize::from(!gone && left.is_none());
                gone
            }
            Presence::Live(_) | Presence::Elsewhere(_) => false,
        };
        let forgotten: Vec<Left> = entries
            .extract_if(|_, entry| gone(entry))
            .filter_map(|(_, entry)| match entry.presence() {
                Presence::Away { left, .. } => left,
                Presence::Live(_) | Presence::Elsewhere(_) => None,
            })
            .collect();
        if entries.len() * 4 < entries.capacity() {
            entries.shrink_to_fit();
        }
        self.expected.store(expected, Ordering::Relaxed);
        forgotten
    }

    /// Returns the shares that are up.
    pub fn live(&self) -> Vec<Arc<Share>> {
        let live = |entry: &Arc<Entry>| match entry.presence() {
            Presence::Live(share) => Some(share),
            Presence::Elsewhere(_) | Presence::Away { .. } => None,
        };
        self.read().values().filter_map(live).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Name, Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(15);

    fn at(node: &str, generation: u64) -> Elsewhere {
        Elsewhere { node: node.into(), generation }
    }

    fn calc() -> Name {
        "calc".parse().unwrap()
    }

    #[test]
    fn old_news_of_other_nodes_changes_nothing() {
        let (table, calc) = (Table::default(), calc());
        let now = || match table.find(&calc).unwrap().presence() {
            Presence::Elsewhere(at) => at,
            other => panic!("{other:?}"),
        };
        table.elsewhere(&calc, at("b", 7));
        for late in [at("a", 6), at("a", 7)] {
            table.elsewhere(&calc, late);
            assert_eq!(now(), at("b", 7));
        }
        table.ended_elsewhere(&calc, 6, false);
        assert_eq!(now(), at("b", 7), "an earlier generation ended");
        assert_eq!(table.lose(|node| node == "a"), 0);
        table.elsewhere(&calc, at("c", 8));
        assert_eq!(now(), at("c", 8));
        assert_eq!(table.all_elsewhere(), [(calc.clone(), 8)]);
        // What ended does not come back by news that was on its way.
        table.ended_elsewhere(&calc, 8, false);
        table.elsewhere(&calc, at("c", 8));
        assert!(matches!(table.find(&calc).unwrap().presence(), Presence::Away { seen: 8, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_only_heard_of_are_bounded_however_many_are_served() {
        let (table, name) = (Table::default(), |n: usize| format!("n{n}").parse::<Name>().unwrap());
        for n in 0..=MAX_AWAY {
            table.elsewhere(&name(n), at("b", 7));
        }
        for n in 0..MAX_AWAY {
            assert!(table.expect(&name(1_000_000 + n)).is_some(), "{n}");
        }
        assert!(table.expect(&name(999_999)).is_none());
        assert!(table.expect(&name(0)).is_some(), "who is known is found");
        tokio::time::advance(HOLD).await;
        table.sweep(HOLD / 2);
        assert!(table.expect(&name(999_999)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_lost_node_goes_where_its_agent_went() {
        let (table, calc) = (Table::default(), calc());
        table.elsewhere(&calc, at("b", 7));
        assert_eq!(table.lose(|node| node == "b"), 1);
        let entry = table.find(&calc).unwrap();
        let come = async {
            tokio::task::yield_now().await;
            table.elsewhere(&calc, at("c", 8));
        };
        let (place, ()) = tokio::join!(entry.wait(0, HOLD), come);
        assert!(matches!(place, Some(Place::There(found)) if found == at("c", 8)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_share_that_was_given_up_elsewhere() {
        let (table, calc) = (Table::default(), calc());
        table.elsewhere(&calc, at("b", 7));
        table.ended_elsewhere(&calc, 7, false);
        let (entry, before) = (table.find(&calc).unwrap(), Instant::now());
        assert!(entry.wait(0, HOLD).await.is_none());
        assert_eq!(before.elapsed(), Duration::ZERO);
        // Whoever was sent here expects more than is known here.
        assert!(entry.wait_until(7, before + HOLD).await.is_none());
        assert_eq!(before.elapsed(), HOLD);
    }
}
