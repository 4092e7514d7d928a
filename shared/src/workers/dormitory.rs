//! Where workers sleep, and how they get there without leaving anything behind.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task;

/// Beds for workers.
#[derive(Clone, Debug)]
pub(super) struct Dormitory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For how long a worker sleeps at a time.
    nap: Duration,
    beds: Mutex<Beds>,
    /// What wakes sleepers.
    called: Condvar,
    /// What wakes whoever waits for the end.
    closed: Condvar,
    /// What wakes whoever waits for sleepers.
    changed: Condvar,
}

/// How many workers are to sleep, and do.
#[derive(Debug, Default)]
pub(super) struct Beds {
    pub wanted: usize,
    /// How many naps are on their way: from when they are spawned to when somebody sleeps, or does not.
    pub offered: usize,
    pub taken: usize,
    pub closed: bool,
}

impl Dormitory {
    /// Has beds for naps that take so long at most.
    pub(super) fn new(nap: Duration) -> Self {
        let (called, closed, changed) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { nap, beds: Mutex::default(), called, closed, changed }))
    }

    /// Wants so many workers asleep; calls those that are too many, and returns how many naps are
    /// missing.
    pub(super) fn offer(&self, wanted: usize) -> usize {
        let mut beds = self.lock();
        let fewer = wanted < beds.wanted;
        beds.wanted = wanted;
        let missing = wanted.saturating_sub(beds.taken + beds.offered);
        beds.offered += missing;
        drop(beds);
        if fewer {
            self.0.called.notify_all();
        }
        missing
    }

    /// Calls everybody, for good.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.called.notify_all();
        self.0.closed.notify_all();
    }

    /// Puts the worker whose task this is to sleep, while one is to sleep.
    pub(super) fn nap(&self) {
        let ready = self.lock().are_free() && self.hand_over();
        self.sleep(ready);
    }

    /// Leaves what the worker has to others, and says whether it can sleep now.
    ///
    /// Two things are out of their reach: tasks that have yielded on it (its list of deferred wakers),
    /// and the task that it runs next (its LIFO slot). `block_in_place` wakes the former and moves the
    /// latter to the queue that others steal from (tokio 1.54, `maybe_move_runtime`). It also offers
    /// the worker to a thread for blocking work, which may be quicker than we are: then this thread has
    /// no worker to put to sleep. Two empty tasks follow: the second pushes the first out of the slot,
    /// which makes sure that another worker is up, to steal and to listen to the sockets.
    fn hand_over(&self) -> bool {
        if std::panic::catch_unwind(|| task::block_in_place(|| ())).is_err() {
            tracing::warn!("no thread to be had, so all workers stay awake from now on");
            self.close();
            return false;
        }
        if !at_work() {
            return false;
        }
        let runtime = Handle::current();
        drop(runtime.spawn(async {}));
        drop(runtime.spawn(async {}));
        true
    }

    /// Ends an offer, and blocks the thread, if it is ready for that, while there is a bed for it.
    fn sleep(&self, ready: bool) {
        let mut beds = self.lock();
        beds.offered -= 1;
        if ready && beds.are_free() {
            beds.taken += 1;
            self.0.changed.notify_all();
            let stays = |beds: &mut Beds| !beds.closed && beds.taken <= beds.wanted;
            let woken = self.0.called.wait_timeout_while(beds, self.0.nap, stays);
            beds = woken.unwrap_or_else(PoisonError::into_inner).0;
            beds.taken -= 1;
        }
        drop(beds);
        self.0.changed.notify_all();
    }

    /// Waits until it is closed, and says whether it is.
    pub(super) fn closed_within(&self, time: Duration) -> bool {
        let waited = self.0.closed.wait_timeout_while(self.lock(), time, |beds| !beds.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Waits until the beds are as they should be, and says whether they are.
    #[cfg(test)]
    pub(super) fn wait(&self, time: Duration, until: impl Fn(&Beds) -> bool) -> bool {
        let waited = self.0.changed.wait_timeout_while(self.lock(), time, |beds| !until(beds));
        until(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn lock(&self) -> MutexGuard<'_, Beds> {
        self.0.beds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beds {
    fn are_free(&self) -> bool {
        !self.closed && self.taken < self.wanted
    }
}

/// Tells whether this thread is still that of its worker: another one may have been quicker to go on
/// in its place while it could have been blocked. Without a worker, whoever yields is woken at once.
pub(super) fn at_work() -> bool {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let yielded = pin!(task::yield_now()).poll(&mut Context::from_waker(&waker));
    yielded.is_pending() && !woken.0.load(Ordering::Relaxed)
}

/// Whether somebody was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
