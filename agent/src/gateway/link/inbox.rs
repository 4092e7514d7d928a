//! The queue between a conversation and whoever reads what comes of one request.
//!
//! The one who fills it reads for everybody else too and must never wait, so a packet that does
//! not fit is handed back. Bounds are in bytes: of one queue, and of all queues of a conversation.
//! An answer is taken whatever the bounds are: a request without one hangs, and there is only one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::Notify;

/// How many bytes may wait in one queue: more than a reader that reads ever leaves.
const QUEUE: usize = 4 * 1024 * 1024;
/// How many bytes may wait in all queues of one conversation.
const TOTAL: usize = 64 * 1024 * 1024;
/// What a packet takes besides its text, so that many small ones count too.
const OVERHEAD: usize = 64;

/// One message on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Packet {
    pub(in crate::gateway) message: Bytes,
    /// Whether it answers the request; nothing of that request follows.
    pub(in crate::gateway) last: bool,
}

impl Packet {
    fn size(&self) -> usize {
        self.message.len() + OVERHEAD
    }
}

/// What all queues of one conversation share.
#[derive(Clone, Debug, Default)]
pub(in crate::gateway) struct Budget(Arc<Pool>);

#[derive(Debug, Default)]
struct Pool {
    used: AtomicUsize,
    /// Tells those who wait that a packet was read, or that a reader left.
    room: Notify,
}

impl Budget {
    fn try_take(&self, size: usize) -> bool {
        let more = |used: usize| used.checked_add(size).filter(|sum| *sum <= TOTAL);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn take(&self, size: usize) {
        self.0.used.fetch_add(size, Ordering::Relaxed);
    }

    fn give_back(&self, size: usize) {
        self.0.used.fetch_sub(size, Ordering::Relaxed);
        self.0.room.notify_waiters();
    }
}

/// A packet that was not taken: there is no room, or no reader.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Full {
    pub(in crate::gateway) packet: Packet,
    /// Whether it is the first one that this queue had no room for.
    pub(in crate::gateway) first: bool,
}

/// Makes a queue of a conversation.
pub(in crate::gateway) fn channel(budget: &Budget) -> (Inbox, Receiver) {
    let state = Mutex::new(State { senders: 1, ..State::default() });
    let shared = Arc::new(Shared { state, arrived: Notify::new(), budget: budget.clone() });
    (Inbox(shared.clone()), Receiver(shared))
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
    budget: Budget,
}

#[derive(Debug, Default)]
struct State {
    packets: VecDeque<Packet>,
    size: usize,
    senders: usize,
    /// Whether the reader has left.
    closed: bool,
    /// Whether there was no room once.
    overflowed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet if there is room. What may wait is in memory already, so it loses nothing by
    /// waiting in an empty queue instead.
    fn put(&self, packet: Packet, may_wait: bool) -> Result<(), Packet> {
        let size = packet.size();
        let mut state = self.state();
        let empty = state.packets.is_empty();
        if state.closed {
            return Err(packet);
        }
        if packet.last || (empty && may_wait) {
            self.budget.take(size);
        } else if !(empty || state.size + size <= QUEUE) || !self.budget.try_take(size) {
            return Err(packet);
        }
        state.size += size;
        state.packets.push_back(packet);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    fn take(&self) -> Poll<Option<Packet>> {
        let mut state = self.state();
        let Some(packet) = state.packets.pop_front() else {
            let over = state.senders == 0 || state.closed;
            return if over { Poll::Ready(None) } else { Poll::Pending };
        };
        state.size -= packet.size();
        drop(state);
        self.budget.give_back(packet.size());
        Poll::Ready(Some(packet))
    }
}

/// The end that is filled. Clones fill the same queue; it ends with the last of them.
#[derive(Debug)]
pub(in crate::gateway) struct Inbox(Arc<Shared>);

impl Clone for Inbox {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(self.0.clone())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let ended = state.senders == 0;
        drop(state);
        if ended {
            self.0.arrived.notify_one();
        }
    }
}

impl Inbox {
    /// Hands a packet over without waiting.
    ///
    /// # Errors
    /// Hands it back when there is no room for it and it is no answer, or when nobody reads.
    pub(in crate::gateway) fn push(&self, packet: Packet) -> Result<(), Full> {
        self.0.put(packet, false).map_err(|packet| {
            let mut state = self.0.state();
            let first = !state.closed && !std::mem::replace(&mut state.overflowed, true);
            Full { packet, first }
        })
    }

    /// Hands a packet over as soon as there is room; drops it when nobody reads any more.
    pub(in crate::gateway) async fn send(&self, mut packet: Packet) {
        loop {
            let room = self.0.budget.0.room.notified();
            tokio::pin!(room);
            // From here on no news is missed.
            room.as_mut().enable();
            packet = match self.0.put(packet, true) {
                Err(packet) if !self.is_closed() => packet,
                _ => return,
            };
            room.await;
        }
    }

    /// Ends the queue for its reader, and takes what that has not read.
    pub(in crate::gateway) fn close(&self) -> VecDeque<Packet> {
        let mut state = self.0.state();
        state.closed = true;
        let size = std::mem::take(&mut state.size);
        let left = std::mem::take(&mut state.packets);
        drop(state);
        self.0.budget.give_back(size);
        self.0.arrived.notify_one();
        left
    }

    /// Tells whether the reader has left.
    pub(in crate::gateway) fn is_closed(&self) -> bool {
        self.0.state().closed
    }

    /// Tells whether both fill the same queue.
    pub(in crate::gateway) fn same_channel(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The end that is read. Dropping it closes the queue.
#[derive(Debug)]
pub(in crate::gateway) struct Receiver(Arc<Shared>);

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        let size = std::mem::take(&mut state.size);
        let left = std::mem::take(&mut state.packets);
        drop(state);
        drop(left);
        self.0.budget.give_back(size);
    }
}

impl Receiver {
    /// Returns the next packet; `None` when there is none and nobody fills the queue any more.
    /// Cancel-safe.
    pub(in crate::gateway) async fn recv(&mut self) -> Option<Packet> {
        // A full queue must not keep its reader from letting others run.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Poll::Ready(packet) = self.0.take() {
                return packet;
            }
            self.0.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests;
