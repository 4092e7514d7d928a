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
    /// What wakes whoever waits for them.
    changed: Condvar,
}

/// How many workers are to sleep, and do.
#[derive(Debug, Default)]
pub(super) struct Beds {
    pub wanted: usize,
    /// How many naps nobody has begun yet.
    pub offered: usize,
    pub taken: usize,
    pub closed: bool,
}

impl Dormitory {
    /// Has beds for naps that take so long at most.
    pub(super) fn new(nap: Duration) -> Self {
        let (beds, called, changed) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { nap, beds, called, changed }))
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
        self.0.changed.notify_all();
    }

    /// Puts the worker whose task this is to sleep, while one is to sleep.
    ///
    /// What has yielded on a worker is woken by that worker alone, and what it does next cannot be
    /// taken from it: both would wait until it wakes. The first step wakes the former and moves the
    /// latter to where others find it. What is spawned then takes the place of what is done next: the
    /// second moves the first to where others can take it, which wakes one of them, to look for work
    /// and to listen to the sockets.
    pub(super) fn nap(&self) {
        if !self.begin() {
            return;
        }
        task::block_in_place(|| ());
        if !at_work() {
            return;
        }
        let runtime = Handle::current();
        drop(runtime.spawn(async {}));
        drop(runtime.spawn(async {}));
        self.sleep();
    }

    /// Begins a nap, and says whether it is still wanted.
    fn begin(&self) -> bool {
        let mut beds = self.lock();
        beds.offered = beds.offered.saturating_sub(1);
        self.0.changed.notify_all();
        beds.are_free()
    }

    /// Blocks the thread while it has a bed; not at all where none is free.
    fn sleep(&self) {
        let mut beds = self.lock();
        if !beds.are_free() {
            return;
        }
        beds.taken += 1;
        self.0.changed.notify_all();
        let stays = |beds: &mut Beds| !beds.closed && beds.taken <= beds.wanted;
        let woken = self.0.called.wait_timeout_while(beds, self.0.nap, stays);
        woken.unwrap_or_else(PoisonError::into_inner).0.taken -= 1;
        self.0.changed.notify_all();
    }

    /// Waits until it is closed, and says whether it is.
    pub(super) fn closed_within(&self, time: Duration) -> bool {
        self.wait(time, |beds| beds.closed)
    }

    /// Waits until the beds are as they should be, and says whether they are.
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
fn at_work() -> bool {
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
