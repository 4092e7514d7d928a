//! The sessions that are up, and how many there are of one kind: each agent that comes asks for that,
//! and all of them come at once after a restart, so nobody walks over all sessions.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use super::session::Session;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: HashMap<String, Arc<Session>>,
    of_key: Counts<String>,
    of_address: Counts<IpAddr>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<Session>> {
        self.by_id.get(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values()
    }

    /// Returns how many sessions a key has.
    pub(super) fn of_key(&self, key: &str) -> usize {
        self.of_key.count(key)
    }

    /// Returns how many sessions came from an address, as rates count it.
    pub(super) fn of_address(&self, address: IpAddr) -> usize {
        self.of_address.count(&address)
    }

    pub(super) fn insert(&mut self, session: Arc<Session>) {
        self.remove(&session.id);
        self.of_key.add(session.admitted.subject.as_str());
        self.of_address.add(&session.peer);
        self.by_id.insert(session.id.clone(), session);
    }

    /// Takes a session out; one that is gone already changes nothing.
    pub(super) fn remove(&mut self, id: &str) {
        if let Some(session) = self.by_id.remove(id) {
            self.of_key.take(session.admitted.subject.as_str());
            self.of_address.take(&session.peer);
        }
    }
}

/// How many there are of each; those of which there is none take no room.
#[derive(Debug)]
struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Counts<K> {
    fn count<Q: Hash + Eq + ?Sized>(&self, of: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.0.get(of).copied().unwrap_or_default()
    }

    fn add<Q: Hash + Eq + ToOwned<Owned = K> + ?Sized>(&mut self, of: &Q)
    where
        K: Borrow<Q>,
    {
        match self.0.get_mut(of) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(of.to_owned(), 1)),
        }
    }

    fn take<Q: Hash + Eq + ?Sized>(&mut self, of: &Q)
    where
        K: Borrow<Q>,
    {
        match self.0.get_mut(of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use mcpm_shared::scope::Scope;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::super::tests::admitted;
    use super::*;
    use crate::admission::Admitted;

    fn session(id: u8, key: u8, address: u8) -> Arc<Session> {
        let admitted = Admitted { subject: key.to_string(), ..admitted() };
        let peer = IpAddr::from([127, 0, 0, address]);
        Arc::new(Session::new(id.to_string(), admitted, peer, mpsc::channel(1).0, Scope::new()))
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_walk_over_all_whoever_comes_and_goes(
            steps in prop::collection::vec((any::<bool>(), 0..6u8, 0..3u8, 0..3u8), 0..60)
        ) {
            let mut sessions = Sessions::default();
            for (comes, id, key, address) in steps {
                if comes {
                    sessions.insert(session(id, key, address));
                } else {
                    sessions.remove(&id.to_string());
                }
                for n in 0..3 {
                    let (key, address) = (n.to_string(), IpAddr::from([127, 0, 0, n]));
                    let of = |is: &dyn Fn(&Session) -> bool| {
                        sessions.all().filter(|session| is(session)).count()
                    };
                    let of_key = of(&|session| session.admitted.subject == key);
                    prop_assert_eq!(sessions.of_key(&key), of_key);
                    let of_address = of(&|session| session.peer == address);
                    prop_assert_eq!(sessions.of_address(address), of_address);
                }
            }
            let ids: Vec<String> = sessions.all().map(|session| session.id.clone()).collect();
            ids.iter().for_each(|id| sessions.remove(id));
            prop_assert!(sessions.of_key.0.is_empty() && sessions.of_address.0.is_empty());
        }
    }
}
