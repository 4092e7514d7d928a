//! Which assertions came before: bounded and expiring, with the clock as an argument.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest as _, Sha256};

/// How many assertions are remembered at most: ten thousand agents that reconnect with eight
/// connections each in one lifetime of an assertion, with room; 16 MiB at worst.
const CAPACITY: usize = 1 << 17;

/// First half of SHA-256: no two assertions meet by accident, and the memory is of fixed size.
type Key = [u8; 16];

/// Whether an assertion came before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is new, and remembered now.
    First,
    /// It came before.
    Again,
    /// There is no room to remember it, so it must not be admitted.
    Full,
}

/// Remembers assertions until they are no longer good.
#[derive(Debug)]
pub(super) struct ReplayCache {
    keys: HashSet<Key>,
    ends: BTreeMap<u64, Vec<Key>>,
    capacity: usize,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl ReplayCache {
    fn with_capacity(capacity: usize) -> Self {
        Self { keys: HashSet::new(), ends: BTreeMap::new(), capacity }
    }

    /// Looks an assertion up and remembers it through the second `until`.
    pub(super) fn see(&mut self, subject: &str, jti: &str, until: u64, now: u64) -> Seen {
        self.forget(now);
        // The subject belongs to it: nobody can use up another agent's ids.
        let digest = Sha256::new().chain_update(subject).chain_update("/").chain_update(jti);
        let mut key = Key::default();
        key.copy_from_slice(&digest.finalize()[..16]);
        if self.keys.contains(&key) {
            return Seen::Again;
        }
        if self.keys.len() >= self.capacity {
            return Seen::Full;
        }
        self.keys.insert(key);
        self.ends.entry(until).or_default().push(key);
        Seen::First
    }

    fn forget(&mut self, now: u64) {
        while let Some(entry) = self.ends.first_entry()
            && *entry.key() < now
        {
            for key in entry.remove() {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_assertion_is_new_once_per_agent() {
        let mut cache = ReplayCache::default();
        assert_eq!(cache.see("ada", "1", 90, 0), Seen::First);
        assert_eq!(cache.see("ada", "1", 90, 90), Seen::Again);
        assert_eq!(cache.see("bob", "1", 90, 90), Seen::First);
        assert_eq!(cache.see("ada", "2", 90, 90), Seen::First);
    }

    #[test]
    fn a_full_memory_admits_nobody_until_something_ends() {
        let mut cache = ReplayCache::with_capacity(2);
        assert_eq!(cache.see("ada", "1", 10, 0), Seen::First);
        assert_eq!(cache.see("ada", "2", 20, 0), Seen::First);
        assert_eq!(cache.see("ada", "3", 30, 10), Seen::Full);
        assert_eq!(cache.see("ada", "3", 30, 11), Seen::First);
        assert_eq!(cache.keys.len(), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_admitted_twice_while_it_is_good(
            seen in prop::collection::vec((0..6_u8, 1..40_u64), 1..60),
        ) {
            let mut cache = ReplayCache::with_capacity(4);
            let mut admitted = std::collections::BTreeMap::<u8, u64>::new();
            for (step, (jti, life)) in seen.into_iter().enumerate() {
                let now = step as u64 * 3;
                let until = now + life;
                if cache.see("ada", &jti.to_string(), until, now) == Seen::First {
                    prop_assert!(admitted.insert(jti, until).is_none_or(|until| until < now));
                }
                prop_assert!(cache.keys.len() <= 4);
                prop_assert_eq!(cache.keys.len(), cache.ends.values().map(Vec::len).sum::<usize>());
            }
        }
    }
}
