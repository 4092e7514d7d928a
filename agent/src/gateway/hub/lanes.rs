//! Messages of one client to several servers: one that does not read must not keep the client's
//! from the others.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use mcpm_shared::scope::Scope;

use crate::gateway::upstream::Conn;

/// How many messages may wait for a server that does not read.
const MAX: usize = 64;

/// What waits, by conversation; no entry where nothing does.
type Waiting = HashMap<usize, VecDeque<Bytes>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Waiting>>);

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// Sends a message that is no request, in order with others to the same server, without
    /// waiting for it. A server that does not read for long loses it.
    pub(super) fn send(&self, scope: &Scope, conn: &Arc<Conn>, line: Bytes) {
        let to = conn.clone();
        // The task holds the conversation, so its address stays its own while something waits.
        self.pass(scope, Arc::as_ptr(conn) as usize, line, move |line| {
            let to = to.clone();
            async move { drop(to.notify(line).await) }
        });
    }

    fn pass<F>(
        &self,
        scope: &Scope,
        key: usize,
        line: Bytes,
        send: impl Fn(Bytes) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut lanes = lock(&self.0);
        if let Some(waiting) = lanes.get_mut(&key) {
            if waiting.len() < MAX {
                waiting.push_back(line);
            } else {
                tracing::debug!("a server does not read, a message to it is dropped");
            }
            return;
        }
        // Most go out at once.
        let mut first = Box::pin(send(line));
        let mut nobody = Context::from_waker(Waker::noop());
        let begun = tokio::task::coop::unconstrained(first.as_mut());
        if pin!(begun).poll(&mut nobody).is_ready() {
            return;
        }
        lanes.insert(key, VecDeque::new());
        drop(lanes);
        let all = self.0.clone();
        scope.spawn_until_cancelled(async move {
            first.await;
            while let Some(line) = next(&all, key) {
                send(line).await;
            }
        });
    }
}

/// Takes what waits longest; closes a lane in which nothing does.
fn next(all: &Mutex<Waiting>, key: usize) -> Option<Bytes> {
    let mut lanes = lock(all);
    let line = lanes.get_mut(&key).and_then(VecDeque::pop_front);
    if line.is_none() {
        lanes.remove(&key);
    }
    line
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// A server that reads what a channel holds.
    fn server(lanes: &Lanes, scope: &Scope, key: usize, sink: &mpsc::Sender<Bytes>, line: &str) {
        let sink = sink.clone();
        lanes.pass(scope, key, Bytes::copy_from_slice(line.as_bytes()), move |line| {
            let sink = sink.clone();
            async move { sink.send(line).await.unwrap() }
        });
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_holds_up_no_other_and_gets_all_in_order() {
        let (lanes, scope) = (Lanes::default(), Scope::new());
        let ((jammed, mut slow), (free, mut fast)) = (mpsc::channel(1), mpsc::channel(8));
        for line in ["a", "b", "c", "d"] {
            server(&lanes, &scope, 1, &jammed, line);
            server(&lanes, &scope, 2, &free, line);
        }
        for line in ["a", "b", "c", "d"] {
            assert_eq!(fast.try_recv().unwrap(), line);
        }
        for line in ["a", "b", "c", "d"] {
            assert_eq!(slow.recv().await.unwrap(), line);
        }
        scope.drain(std::time::Duration::from_secs(1)).await;
        assert!(lock(&lanes.0).is_empty(), "no lane is left");
    }

    #[tokio::test]
    async fn a_server_that_never_reads_keeps_no_more_than_a_bound_waiting() {
        let (lanes, scope) = (Lanes::default(), Scope::new());
        let (jammed, _unread) = mpsc::channel(1);
        for _ in 0..1000 {
            server(&lanes, &scope, 1, &jammed, "x");
        }
        assert_eq!(lock(&lanes.0)[&1].len(), MAX);
    }
}
