//! Which share a data stream is for: the names that one session has, by the id in the stream's head.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mcpm_shared::proto::head::{StreamHead, Verdict};
use tokio::sync::watch;

use super::share::Share;

/// How long a stream waits for the message that names its share: the two may overtake each other.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);

/// The shares of one session. It outlives the session on a connection that lingers.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// By id. A relay counts up, so that nearly all come at the end; a map would take twice the room.
    shares: RwLock<Vec<Served>>,
    /// The highest id so far; a relay counts up.
    latest: watch::Sender<u32>,
}

#[derive(Debug)]
struct Served {
    id: u32,
    generation: u64,
    share: Arc<Share>,
}

impl Table {
    /// Adds what the relay said of a share.
    pub(super) fn add(&self, id: u32, generation: u64, share: Arc<Share>) {
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        let served = Served { id, generation, share };
        match shares.binary_search_by_key(&id, |served| served.id) {
            Ok(at) => shares[at] = served,
            Err(at) => shares.insert(at, served),
        }
        drop(shares);
        self.latest.send_if_modified(|latest| std::mem::replace(latest, id.max(*latest)) < id);
    }

    /// Forgets a share.
    pub(super) fn remove(&self, id: u32) {
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(at) = shares.binary_search_by_key(&id, |served| served.id) {
            shares.remove(at);
        }
    }

    /// Finds the share of a stream; one that the relay is about to name is waited for.
    pub(super) async fn find(&self, head: StreamHead) -> Result<Arc<Share>, Verdict> {
        match self.look(head) {
            Err(Verdict::UnknownShare) if *self.latest.borrow() < head.share => {}
            found => return found,
        }
        let mut latest = self.latest.subscribe();
        let named = latest.wait_for(|latest| *latest >= head.share);
        // Too late is as good as never.
        let _named = tokio::time::timeout(CLAIM_PATIENCE, named).await;
        self.look(head)
    }

    fn look(&self, head: StreamHead) -> Result<Arc<Share>, Verdict> {
        let shares = self.shares.read().unwrap_or_else(PoisonError::into_inner);
        let found = shares.binary_search_by_key(&head.share, |served| served.id);
        match found.ok().map(|at| &shares[at]) {
            None => Err(Verdict::UnknownShare),
            Some(served) if served.share.is_over() => Err(Verdict::UnknownShare),
            Some(served) if served.generation != head.generation => Err(Verdict::StaleGeneration),
            Some(served) => Ok(Arc::clone(&served.share)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::share;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_finds_its_own_share_and_generation_and_nothing_else() {
        let table = Table::default();
        let (one, two) = (share("one"), share("two"));
        table.add(1, 7, Arc::clone(&one));
        table.add(2, 9, Arc::clone(&two));
        let name = |found: Arc<Share>| found.wanted.name.to_string();
        assert_eq!(table.find(StreamHead::http(2, 9)).await.map(name).unwrap(), "two");
        let stale = table.find(StreamHead::http(1, 6)).await;
        assert_eq!(stale.unwrap_err(), Verdict::StaleGeneration);
        table.remove(1);
        let before = tokio::time::Instant::now();
        assert_eq!(table.find(StreamHead::http(1, 7)).await.unwrap_err(), Verdict::UnknownShare);
        assert_eq!(before.elapsed(), Duration::ZERO, "an id of the past comes never");
    }

    #[tokio::test(start_paused = true)]
    async fn ids_may_come_in_any_order_and_once_more() {
        let table = Table::default();
        for (id, generation, name) in [(5, 1, "five"), (2, 1, "two"), (9, 1, "nine"), (2, 3, "new")]
        {
            table.add(id, generation, share(name));
        }
        table.remove(7);
        table.remove(9);
        let name = |found: Arc<Share>| found.wanted.name.to_string();
        assert_eq!(table.find(StreamHead::http(5, 1)).await.map(name).unwrap(), "five");
        assert_eq!(table.find(StreamHead::http(2, 3)).await.map(name).unwrap(), "new");
        let gone = [StreamHead::http(2, 1), StreamHead::http(9, 1)].map(|head| table.find(head));
        let [stale, removed] = gone;
        assert_eq!(stale.await.unwrap_err(), Verdict::StaleGeneration);
        assert_eq!(removed.await.unwrap_err(), Verdict::UnknownShare);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_overtakes_the_name_of_its_share_waits_for_it() {
        let table = Arc::new(Table::default());
        let late = async {
            tokio::time::sleep(CLAIM_PATIENCE / 2).await;
            table.add(3, 1, share("late"));
        };
        let (found, ()) = tokio::join!(table.find(StreamHead::http(3, 1)), late);
        assert!(found.is_ok());
        assert_eq!(table.find(StreamHead::http(4, 1)).await.unwrap_err(), Verdict::UnknownShare);
    }
}
