//! Structured tasks: every task belongs to a [`Scope`], which can stop and outwait it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// A group of tasks that end together. Clones are the same scope.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Scope {
    /// Makes a root scope.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a scope that is cancelled with this one, or alone. Its tasks count here too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancel: self.cancel.child_token(), tasks: self.tasks.clone() }
    }

    /// Runs a task. It is not stopped by force: it watches [`Scope::cancelled`] where it waits.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Runs a task that is dropped at its next await point when the scope is cancelled.
    pub fn spawn_until_cancelled(&self, task: impl Future<Output = ()> + Send + 'static) {
        // No `async` around it, nor a function that is: each would keep the room of the task twice.
        self.tasks.spawn(Until { task, over: self.over(), begun: false });
    }

    /// Runs a task that the rest needs: when it ends, even by panic, the scope is cancelled.
    pub fn spawn_essential(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop_all = self.cancel.clone().drop_guard();
        self.spawn(task.map(move |()| drop(stop_all)));
    }

    /// Cancels the scope and its children, without waiting.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Returns a guard that cancels the scope when it is dropped.
    #[must_use]
    pub fn guard(&self) -> DropGuard {
        self.cancel.clone().drop_guard()
    }

    /// Tells whether the scope is cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until the scope is cancelled. Cancel-safe.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Returns what waits until the scope is cancelled, for a task that is polled often.
    pub fn over(&self) -> Over {
        Over::from(self.cancel.clone())
    }

    /// Returns the scope's cancellation token.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until every task has ended by itself, up to `patience`, and tells whether they all
    /// have. Cancel-safe. For the root, as with [`Scope::drain`].
    pub async fn settled(&self, patience: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }

    /// Cancels and waits for every task up to `grace`; returns how many are left. Only the root
    /// drains: children share its tracker.
    pub async fn drain(self, grace: Duration) -> usize {
        self.cancel.cancel();
        self.tasks.close();
        match tokio::time::timeout(grace, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}

pin_project! {
    /// Waits for a cancellation. To be polled once more costs it next to nothing: a token's own future takes two locks then,
    /// which all tasks share that wait for the same token.
    #[derive(Debug)]
    #[must_use = "it waits only while it is polled"]
    pub struct Over {
        #[pin]
        cancelled: WaitForCancellationFutureOwned,
        own: Arc<Own>,
        waker: Waker,
    }
}

/// The waker that the token has.
#[derive(Debug)]
struct Own {
    /// Whether the token is to be asked.
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl From<CancellationToken> for Over {
    fn from(token: CancellationToken) -> Self {
        let own = Arc::new(Own { woken: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&own));
        Self { cancelled: token.cancelled_owned(), own, waker }
    }
}

impl Future for Over {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // Before the look: a wake after it goes to this task.
        this.own.task.register(cx.waker());
        if !this.own.woken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // No wake is lost: nobody has the waker before the first poll, and what wakes later is the end itself.
        this.own.woken.store(false, Ordering::Relaxed);
        let polled = this.cancelled.poll(&mut Context::from_waker(this.waker));
        if polled.is_ready() {
            // Whoever asks again is told the same.
            this.own.woken.store(true, Ordering::Relaxed);
        }
        polled
    }
}

pin_project! {
    /// A task that ends before its time when its scope does.
    struct Until<F> {
        #[pin]
        task: F,
        #[pin]
        over: Over,
        begun: bool,
    }
}

impl<F: Future<Output = ()>> Future for Until<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        // What is begun too late does nothing; what can end now does, though the scope is over.
        if !std::mem::replace(this.begun, true) && this.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match this.task.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.over.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_end_of_an_essential_task_stops_the_rest() {
        let scope = Scope::new();
        let watcher = scope.child();
        scope.spawn(async move { watcher.cancelled().await });
        scope.spawn_essential(async {});
        scope.cancelled().await;
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
    }

    /// A task that rests for ever, and whose end is told.
    fn rest(scope: &Scope, left: &mpsc::Sender<()>) {
        let left = left.clone();
        scope.spawn_until_cancelled(async move {
            let _left = left;
            std::future::pending::<()>().await;
        });
    }

    #[tokio::test]
    async fn tasks_that_rest_are_woken_by_the_end_of_their_scope() {
        let (scope, parent) = (Scope::new(), Scope::new());
        let (left, mut gone) = mpsc::channel(1);
        rest(&scope, &left);
        rest(&parent.child(), &left);
        drop(left);
        tokio::task::yield_now().await;
        assert_eq!(gone.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        scope.cancel();
        parent.cancel();
        assert_eq!(gone.recv().await, None);
    }

    #[tokio::test]
    async fn what_is_begun_too_late_does_nothing_and_what_can_end_does() {
        let (scope, (told, mut heard)) = (Scope::new(), mpsc::channel(2));
        let (early, late) = (told.clone(), told);
        let ends = scope.clone();
        scope.spawn_until_cancelled(async move {
            ends.cancelled().await;
            early.send("early").await.unwrap();
        });
        tokio::task::yield_now().await;
        scope.cancel();
        scope.spawn_until_cancelled(async move { late.send("late").await.unwrap() });
        assert_eq!(heard.recv().await, Some("early"));
        assert_eq!(heard.recv().await, None);
    }

    #[test]
    fn to_wait_for_a_cancellation_wakes_nobody_before_it_comes() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = || Arc::new(Count(AtomicUsize::new(0)));
        let (scope, [before, now]) = (Scope::new(), [count(), count()]);
        let mut over = pin!(scope.over());
        let mut poll = |count: &Arc<Count>| {
            let waker = Waker::from(Arc::clone(count));
            over.as_mut().poll(&mut Context::from_waker(&waker))
        };
        let woken = || [&before, &now].map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!((poll(&before), poll(&now)), (Poll::Pending, Poll::Pending));
        assert_eq!(woken(), [0, 0]);
        scope.cancel();
        assert_eq!(woken(), [0, 1], "it was given to another task");
        assert_eq!((poll(&now), poll(&now)), (Poll::Ready(()), Poll::Ready(())));
    }

    #[test]
    fn the_token_is_asked_again_only_when_it_woke() {
        let scope = Scope::new();
        let mut over = pin!(scope.over());
        assert!(over.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(!over.own.woken.load(Ordering::Relaxed));
        scope.cancel();
        assert!(over.own.woken.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_child_can_be_cancelled_alone() {
        let scope = Scope::new();
        scope.child().cancel();
        assert!(!scope.is_cancelled());
        let child = scope.child();
        scope.cancel();
        assert!(child.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_settles_is_not_cancelled() {
        let scope = Scope::new();
        scope.spawn(tokio::time::sleep(Duration::from_secs(1)));
        assert!(scope.settled(Duration::from_secs(2)).await);
        scope.spawn(std::future::pending());
        assert!(!scope.settled(Duration::from_secs(2)).await);
        assert!(!scope.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_counts_what_is_left() {
        let scope = Scope::new();
        scope.spawn(std::future::pending());
        assert_eq!(scope.drain(Duration::from_secs(1)).await, 1);
    }
}
