//! What a node does all the time: beat, hear what happens anywhere, and give up who is silent.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mcpm_shared::name::Name;
use tokio::time::{Instant, MissedTickBehavior};

use super::Nodes;
use super::peer::Peer;
use crate::admission::unix_now;
use crate::store::{Beat, Lease, News, NodeRecord, StoreError};
use crate::tunnel::Tunnels;
use crate::tunnel::control::superseded;
use crate::tunnel::table::Elsewhere;

/// A node that was silent for so many beats is given up.
const SILENT_BEATS: u32 = 5;
/// How often everything is read anew although nothing seems to be missed.
const REREAD: Duration = Duration::from_secs(60);
/// How long to wait before listening again, after that failed.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);
/// How long agents of a node that was given up get for what is in flight.
const REHOME_GRACE: Duration = Duration::from_secs(30);

/// When each node was last seen to beat, by this node's own clock.
#[derive(Debug, Default)]
struct Watch {
    beats: HashMap<String, (u64, u64, Instant)>,
    /// Since when this node's own beats go through, one after the other and in time.
    well_since: Option<Instant>,
    /// When the last one did.
    last: Option<Instant>,
}

impl Watch {
    /// Notes what a beat found, and returns the nodes that were silent for `patience`. Nobody is
    /// silent before this node itself was well for as long: a database that was away kept all of
    /// them from beating, and a machine that stood still kept this one from hearing.
    fn silent(
        &mut self,
        nodes: &[NodeRecord],
        patience: Duration,
        now: Instant,
    ) -> Vec<NodeRecord> {
        let before = self.last.replace(now);
        if before.is_some_and(|before| now.duration_since(before) > patience / 2) {
            self.well_since = None;
        }
        let well_since = *self.well_since.get_or_insert(now);
        self.beats.retain(|id, _| nodes.iter().any(|node| node.id == *id));
        let mut silent = Vec::new();
        for node in nodes {
            let seen = (node.generation, node.beats);
            let last = self.beats.entry(node.id.clone()).or_insert((seen.0, seen.1, now));
            if (last.0, last.1) != seen {
                *last = (seen.0, seen.1, now);
            }
            if now.duration_since(last.2.max(well_since)) >= patience {
                silent.push(node.clone());
            }
        }
        silent
    }
}

impl Nodes {
    /// Does what a node does, until dropped. Returns when another process took the node's name: then
    /// this one must end.
    pub async fn keep(&self, tunnels: &Tunnels) {
        tokio::select! {
            () = self.beat(tunnels) => {}
            () = self.follow(tunnels) => {}
            () = self.read_again(tunnels) => {}
        }
    }

    /// Reads who lives and who serves what, before the first visitor comes.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn warm(&self, tunnels: &Tunnels) -> Result<(), StoreError> {
        let beat = self.say_alive().await?;
        self.meet(&beat.nodes, tunnels);
        self.read_leases(tunnels).await
    }

    async fn say_alive(&self) -> Result<Beat, StoreError> {
        let generation = self.generation.load(Ordering::Relaxed);
        let draining = self.draining.load(Ordering::Relaxed);
        self.store.beat_node(&self.id, generation, draining, unix_now()).await
    }

    async fn beat(&self, tunnels: &Tunnels) {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut watch, mut beats_overtaken) = (Watch::default(), 0);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.beat_now.notified() => {}
            }
            let Ok(beat) = self.say_alive().await else {
                // That the store does not answer is said by those who guard it.
                watch.well_since = None;
                continue;
            };
            let overtaken = beat.nodes.iter().any(|node| node.id == self.id);
            match (beat.known, overtaken) {
                (true, _) => beats_overtaken = 0,
                (false, false) if self.left.load(Ordering::Relaxed) => {}
                (false, false) => self.come_back(tunnels).await,
                // A successor on the same machine, to which this process gives way.
                (false, true) if self.draining.load(Ordering::Relaxed) => {}
                (false, true) => {
                    beats_overtaken += 1;
                    if beats_overtaken > SILENT_BEATS {
                        let id = self.id.as_str();
                        return tracing::error!(node.id = id, "another process has this name");
                    }
                }
            }
            self.meet(&beat.nodes, tunnels);
            let patience = self.heartbeat * SILENT_BEATS;
            for silent in watch.silent(&beat.nodes, patience, Instant::now()) {
                self.give_up(&silent).await;
            }
        }
    }

    /// Becomes a node again after the others gave this one up, and tells its agents to connect anew:
    /// their names may be somebody else's by now.
    async fn come_back(&self, tunnels: &Tunnels) {
        tracing::warn!(node.id = self.id, "the other nodes gave this one up; it begins anew");
        if self.register().await.is_ok() {
            for session in tunnels.sessions() {
                session.go_away("the relay lost sight of this node", REHOME_GRACE);
            }
        }
    }

    /// Takes a silent node out, unless it beat meanwhile, and frees its names.
    async fn give_up(&self, node: &NodeRecord) {
        if node.id == self.id {
            return;
        }
        match self.store.lose_node(&node.id, node.generation, Some(node.beats)).await {
            Ok(true) => tracing::warn!(node.id = node.id, "node is silent and was given up"),
            Ok(false) | Err(_) => return,
        }
        if let Err(error) = self.store.release_orphans(unix_now()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "leases not released");
        }
    }

    /// Notes who the nodes are, and where.
    fn meet(&self, nodes: &[NodeRecord], tunnels: &Tunnels) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|id, _| nodes.iter().any(|node| node.id == *id));
        for node in nodes.iter().filter(|node| node.id != self.id) {
            let known = peers.get(&node.id).is_some_and(|peer| {
                peer.generation == node.generation && peer.address == node.address
            });
            if !known {
                let peer = Peer::new(&node.id, &node.address, node.generation);
                peers.insert(node.id.clone(), Arc::new(peer));
            }
        }
        drop(peers);
        self.metrics.nodes.set(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
        tunnels.nodes.store(Arc::new(nodes.to_vec()));
    }

    /// Hears what happens, and reads everything anew whenever some of it may have been missed.
    async fn follow(&self, tunnels: &Tunnels) {
        loop {
            // It listens before everything is read: what happens between is heard.
            if let Ok(Some(mut feed)) = self.store.feed().await {
                self.doubt();
                loop {
                    match feed.next().await {
                        Ok(news) => self.hear(news, tunnels),
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::warn!(error, "nothing is heard of the other nodes");
                            break;
                        }
                    }
                }
            }
            tokio::time::sleep(LISTEN_PAUSE).await;
        }
    }

    fn hear(&self, news: News, tunnels: &Tunnels) {
        match news {
            News::Lease { node, .. } if node == self.id => {}
            News::Lease { name, generation, ended: true, .. } => {
                tunnels.table.ended_elsewhere(&name, generation, false);
            }
            News::Lease { name, generation, node, ended: false } => {
                let at = Elsewhere { node: node.into(), generation };
                if let Some(displaced) = tunnels.table.elsewhere(&name, at) {
                    tracing::info!(share.name = %name, "name was claimed at another node");
                    displaced.session.revoke(displaced.facts.id, superseded(&name));
                }
            }
            News::Lost(node) => {
                let names = tunnels.table.lose(|id| id == node);
                tracing::info!(node.id = node, names, "node gone");
                self.beat_now.notify_one();
            }
            News::Entered(node) => {
                // Whoever had its name before is gone.
                tunnels.table.lose(|id| id == node && id != self.id);
                self.beat_now.notify_one();
            }
            News::Gap => {
                self.beat_now.notify_one();
                self.doubt();
            }
        }
    }

    async fn read_again(&self, tunnels: &Tunnels) {
        let mut ticks = tokio::time::interval(REREAD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.reread.notified() => {}
            }
            if self.read_leases(tunnels).await.is_err() {
                // What is known stays in force meanwhile.
                tokio::time::sleep(LISTEN_PAUSE).await;
                self.doubt();
            }
        }
    }

    /// Reads all leases, and puts the table right.
    async fn read_leases(&self, tunnels: &Tunnels) -> Result<(), StoreError> {
        let leases = self.store.leases().await?;
        let now = unix_now();
        for lease in leases.iter().filter(|lease| lease.is_live(now)) {
            let news = News::Lease {
                name: lease.name.clone(),
                generation: lease.generation,
                node: lease.node.clone(),
                ended: false,
            };
            self.hear(news, tunnels);
        }
        let leases: HashMap<&Name, &Lease> =
            leases.iter().map(|lease| (&lease.name, lease)).collect();
        for (name, generation) in tunnels.table.all_elsewhere() {
            // A later claim, heard while the leases were read, has a higher generation.
            let ended = |lease: &&Lease| !lease.is_live(now) && lease.generation >= generation;
            if leases.get(&name).is_none_or(ended) {
                // Perhaps with its node: its agent may be back in a moment.
                tunnels.table.ended_elsewhere(&name, generation, true);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn node(id: &str, beats: u64) -> NodeRecord {
        NodeRecord {
            id: id.to_owned(),
            address: "127.0.0.1:1".to_owned(),
            generation: 1,
            beats,
            version: String::new(),
            draining: false,
            started_at: 0,
            seen_at: 0,
        }
    }

    fn ids(nodes: &[NodeRecord]) -> Vec<&str> {
        nodes.iter().map(|node| node.id.as_str()).collect()
    }

    #[test]
    fn a_node_that_beats_no_more_is_silent_after_a_while() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert!(watch.silent(&[node("a", 1), node("b", 1)], PATIENCE, start).is_empty());
        let later = start + PATIENCE / 2;
        assert!(watch.silent(&[node("a", 2), node("b", 1)], PATIENCE, later).is_empty());
        let silent = watch.silent(&[node("a", 2), node("b", 1)], PATIENCE, start + PATIENCE);
        assert_eq!(ids(&silent), ["b"]);
    }

    #[test]
    fn nobody_is_silent_while_this_node_could_not_hear() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert!(watch.silent(&[node("b", 1)], PATIENCE, start).is_empty());
        // The database was away for an hour, for all of them.
        watch.well_since = None;
        let back = start + Duration::from_secs(3600);
        assert!(watch.silent(&[node("b", 1)], PATIENCE, back).is_empty());
        assert!(watch.silent(&[node("b", 1)], PATIENCE, back + PATIENCE / 2).is_empty());
        let silent = watch.silent(&[node("b", 1)], PATIENCE, back + PATIENCE);
        assert_eq!(ids(&silent), ["b"]);
    }

    #[test]
    fn nobody_is_silent_because_this_node_stood_still() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert!(watch.silent(&[node("b", 1)], PATIENCE, start).is_empty());
        let woken = start + 2 * PATIENCE;
        assert!(watch.silent(&[node("b", 1)], PATIENCE, woken).is_empty());
        assert!(watch.silent(&[node("b", 1)], PATIENCE, woken + PATIENCE / 2).is_empty());
        let silent = watch.silent(&[node("b", 1)], PATIENCE, woken + PATIENCE);
        assert_eq!(ids(&silent), ["b"]);
    }

    #[test]
    fn a_new_process_of_the_same_name_is_not_silent() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert!(watch.silent(&[node("b", 7)], PATIENCE, start).is_empty());
        assert!(watch.silent(&[node("b", 7)], PATIENCE, start + PATIENCE / 2).is_empty());
        let anew = NodeRecord { generation: 2, ..node("b", 7) };
        assert!(watch.silent(&[anew], PATIENCE, start + PATIENCE).is_empty());
    }
}
