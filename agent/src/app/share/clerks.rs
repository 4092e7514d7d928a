//! Work with files, on threads that may be blocked.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a thread waits for more work: longer than from one look at the files to the next.
const LINGER: Duration = Duration::from_millis(400);

/// Does work on a thread that may be blocked.
///
/// Cancel-safe in the sense that the work is done to its end, unseen.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Work is cancelled only by a runtime that ends, which polls nobody any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// So many threads at most for one kind of work, each for as long as there is some and a little longer.
///
/// Asked for one thing after the other, a runtime starts another thread whenever the last has not quite
/// put its work away, and each leaves some 40 KB behind, of its stack and of its heap.
#[derive(Debug)]
pub(super) struct Clerks(Arc<Office>);

struct Office {
    most: usize,
    /// How long a thread waits for more work.
    linger: Duration,
    desk: Mutex<Desk>,
    /// What wakes who waits for work.
    called: Condvar,
}

#[derive(Default)]
struct Desk {
    jobs: VecDeque<Job>,
    threads: usize,
    /// How many of them wait for work.
    idle: usize,
    closed: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl Clerks {
    pub(super) fn new(most: usize) -> Self {
        Self::lingering(most, LINGER)
    }

    fn lingering(most: usize, linger: Duration) -> Self {
        let (desk, called) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Office { most, linger, desk, called }))
    }

    /// Does work once a thread is free, in the order in which it was asked for.
    ///
    /// Cancel-safe in the sense that the work is done to its end, unseen.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, outcome) = oneshot::channel();
        self.put(Box::new(move || drop(done.send(catch_unwind(AssertUnwindSafe(work))))));
        match outcome.await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            // Work is lost only with a runtime that ends, which polls nobody any more.
            Err(_) => std::future::pending().await,
        }
    }

    fn put(&self, job: Job) {
        let mut desk = self.0.lock();
        desk.jobs.push_back(job);
        if desk.jobs.len() <= desk.idle {
            self.0.called.notify_one();
        } else if desk.threads < self.0.most {
            desk.threads += 1;
            let clerk = Clerk { office: Arc::clone(&self.0), left: false };
            drop(desk);
            drop(tokio::task::spawn_blocking(move || clerk.work()));
        }
    }
}

impl Drop for Clerks {
    /// Nobody waits for more work; what was asked for is done.
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.called.notify_all();
    }
}

impl Office {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Office {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").field("most", &self.most).finish_non_exhaustive()
    }
}

/// One thread, from when it is asked for to its end.
struct Clerk {
    office: Arc<Office>,
    left: bool,
}

impl Clerk {
    fn work(mut self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// Returns the next work; none once there was none for a while, or all who could ask are gone, and
    /// then the thread is not counted any more.
    fn next(&mut self) -> Option<Job> {
        let mut desk = self.office.lock();
        let waits = |desk: &mut Desk| desk.jobs.is_empty() && !desk.closed;
        desk.idle += 1;
        let called = self.office.called.wait_timeout_while(desk, self.office.linger, waits);
        desk = called.unwrap_or_else(PoisonError::into_inner).0;
        desk.idle -= 1;
        let job = desk.jobs.pop_front();
        if job.is_none() {
            // Under the same lock as the look: no work comes in between, and finds nobody.
            desk.threads -= 1;
            self.left = true;
        }
        job
    }
}

impl Drop for Clerk {
    /// One that never came to work is not waited for.
    fn drop(&mut self) {
        if !self.left {
            self.office.lock().threads -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(60);

    /// Waits until something is so, which may take a while.
    async fn until(is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it becomes so");
    }

    fn this() -> std::thread::ThreadId {
        std::thread::current().id()
    }

    #[tokio::test]
    async fn one_thing_after_the_other_is_done_on_one_thread() {
        let clerks = Clerks::lingering(1, LONG);
        let first = clerks.run(this).await;
        for _ in 0..100 {
            assert_eq!(clerks.run(this).await, first);
        }
        assert_eq!(clerks.0.lock().threads, 1);
        assert_ne!(first, this());
    }

    #[tokio::test]
    async fn so_many_things_at_most_are_done_at_once_and_the_others_in_their_order() {
        let clerks = Clerks::new(2);
        let (begun, beginnings) = mpsc::channel();
        let waiting: Vec<_> = (0..4)
            .map(|index| {
                let (begun, (go, gone)) = (begun.clone(), mpsc::channel::<()>());
                let work = move || {
                    begun.send(index).unwrap();
                    gone.recv().unwrap_err();
                };
                clerks.put(Box::new(work));
                go
            })
            .collect();
        let next = || beginnings.recv_timeout(Duration::from_secs(10)).unwrap();
        let mut both = [next(), next()];
        both.sort_unstable();
        assert_eq!(both, [0, 1]);
        assert!(beginnings.recv_timeout(Duration::from_millis(50)).is_err(), "two at most");
        for (index, go) in waiting.into_iter().enumerate() {
            drop(go);
            if index < 2 {
                assert_eq!(next(), index + 2);
            }
        }
    }

    #[tokio::test]
    async fn a_panic_is_that_of_who_asked_and_the_next_is_served() {
        let clerks = Clerks::new(1);
        let asking = AssertUnwindSafe(clerks.run(|| panic!("on purpose")));
        let panic = asking.catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert_eq!(clerks.run(|| 7).await, 7);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_done_also_when_the_clerks_are_gone() {
        let clerks = Clerks::lingering(1, LONG);
        let (done, all_done) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let wait = move || {
            gone.recv().unwrap_err();
        };
        clerks.put(Box::new(wait));
        for index in 0..3 {
            let done = done.clone();
            clerks.put(Box::new(move || done.send(index).unwrap()));
        }
        drop((clerks, done));
        drop(go);
        assert_eq!(all_done.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_thread_that_waits_for_work_ends_with_the_clerks() {
        let clerks = Clerks::lingering(1, LONG);
        clerks.run(|| ()).await;
        let office = Arc::downgrade(&clerks.0);
        until(|| office.upgrade().is_some_and(|office| office.lock().idle == 1)).await;
        drop(clerks);
        until(|| office.strong_count() == 0).await;
    }

    #[tokio::test]
    async fn a_thread_that_had_nothing_to_do_ends_and_another_comes() {
        let clerks = Clerks::lingering(1, Duration::from_millis(1));
        clerks.run(|| ()).await;
        until(|| clerks.0.lock().threads == 0).await;
        assert_eq!(clerks.run(|| 7).await, 7);
    }

    #[test]
    fn a_thread_that_never_came_is_not_counted() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let clerks = Clerks::new(1);
        let _entered = handle.enter();
        clerks.put(Box::new(|| ()));
        assert_eq!(clerks.0.lock().threads, 0);
    }
}
