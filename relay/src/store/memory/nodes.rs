//! Nodes that share one memory: several relays in one process, as tests have them.

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{MemoryStore, State};
use crate::store::{Beat, Feed, Lease, NewNode, News, NodeRecord, StoreError};

/// How much news waits for a node that is slow; after more it reads everything anew.
const MAX_NEWS: usize = 1024;

/// Tells all nodes what happens.
#[derive(Debug)]
pub(super) struct Herald(broadcast::Sender<News>);

impl Default for Herald {
    fn default() -> Self {
        Self(broadcast::Sender::new(MAX_NEWS))
    }
}

impl Herald {
    pub(super) fn tell(&self, news: News) {
        // Without nodes nobody listens.
        let _heard = self.0.send(news);
    }

    pub(super) fn tell_of(&self, lease: &Lease) {
        self.tell(News::Lease {
            name: lease.name.clone(),
            generation: lease.generation,
            node: lease.node.clone(),
            ended: lease.released_at.is_some(),
        });
    }

    pub(super) fn listen(&self) -> MemoryFeed {
        MemoryFeed(self.0.subscribe())
    }
}

/// Hears what happens in a store in memory.
#[derive(Debug)]
pub(super) struct MemoryFeed(broadcast::Receiver<News>);

#[async_trait]
impl Feed for MemoryFeed {
    async fn next(&mut self) -> Result<News, StoreError> {
        match self.0.recv().await {
            Ok(news) => Ok(news),
            Err(RecvError::Lagged(_)) => Ok(News::Gap),
            Err(RecvError::Closed) => Err(StoreError::new("listen", "the store is gone")),
        }
    }
}

impl State {
    fn enter(&mut self, node: NewNode) -> u64 {
        let held = self.nodes.get(&node.id);
        let generation = held.map_or(0, |held| held.generation + 1).max(node.now);
        let record = NodeRecord {
            id: node.id.clone(),
            address: node.address,
            generation,
            beats: held.map_or(0, |held| held.beats + 1),
            version: node.version,
            draining: false,
            started_at: node.now,
            seen_at: node.now,
        };
        self.nodes.insert(node.id, record);
        generation
    }

    fn beat(&mut self, id: &str, generation: u64, draining: bool, now: u64) -> Beat {
        let node = self.nodes.get_mut(id).filter(|node| node.generation == generation);
        let known = node.map(|node| {
            node.beats += 1;
            node.draining = draining;
            node.seen_at = now;
        });
        Beat { known: known.is_some(), nodes: self.nodes.values().cloned().collect() }
    }

    fn lose(&mut self, id: &str, generation: u64, beats: Option<u64>) -> bool {
        let same = |node: &NodeRecord| {
            node.generation == generation && beats.is_none_or(|beats| node.beats == beats)
        };
        let lost = self.nodes.get(id).is_some_and(same);
        if lost {
            self.nodes.remove(id);
        }
        lost
    }

    /// Ends the live leases that `of` is true for, and returns them.
    pub(super) fn release_all(&mut self, of: impl Fn(&Lease) -> bool, now: u64) -> Vec<Lease> {
        let live = self.leases.values_mut().filter(|lease| lease.is_live(now) && of(lease));
        live.map(|lease| {
            lease.released_at = Some(now);
            lease.clone()
        })
        .collect()
    }
}

impl MemoryStore {
    pub(super) fn enter(&self, node: NewNode) -> u64 {
        let (id, now) = (node.id.clone(), node.now);
        let mut state = self.state();
        let generation = state.enter(node);
        let released = state.release_all(|lease| lease.node == id, now);
        self.herald.tell(News::Entered(id));
        released.iter().for_each(|lease| self.herald.tell_of(lease));
        generation
    }

    pub(super) fn beat(&self, id: &str, generation: u64, draining: bool, now: u64) -> Beat {
        self.state().beat(id, generation, draining, now)
    }

    pub(super) fn lose(&self, id: &str, generation: u64, beats: Option<u64>) -> bool {
        let lost = self.state().lose(id, generation, beats);
        if lost {
            self.herald.tell(News::Lost(id.to_owned()));
        }
        lost
    }

    pub(super) fn free_orphans(&self, now: u64) -> u64 {
        let mut state = self.state();
        let nodes: Vec<String> = state.nodes.keys().cloned().collect();
        let released = state.release_all(|lease| !nodes.contains(&lease.node), now);
        released.iter().for_each(|lease| self.herald.tell_of(lease));
        released.len() as u64
    }
}
