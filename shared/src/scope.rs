//! Structured tasks: every task belongs to a [`Scope`], which can stop and outwait it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
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
        self.tasks.spawn(Until { task, over: self.over() });
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
    #[must_use]
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

/// Waits for a cancellation. To be polled once more costs it next to nothing: a token's own future takes two locks then, which
/// all tasks share that wait for the same token.
#[derive(Debug)]
#[must_use = "it waits only while it is polled"]
pub struct Over(
    // Polls what it has only when that was woken.
    FuturesUnordered<WaitForCancellationFutureOwned>,
);

impl From<CancellationToken> for Over {
    fn from(token: CancellationToken) -> Self {
        Self(FuturesUnordered::from_iter([token.cancelled_owned()]))
    }
}

impl Future for Over {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_next_unpin(cx).map(drop)
    }
}

pin_project! {
    /// A task that ends before its time when its scope does.
    struct Until<F> {
        #[pin]
        task: F,
        over: Over,
    }
}

impl<F: Future<Output = ()>> Future for Until<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.over.poll_unpin(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.task.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_task_that_is_never_done_ends_with_its_scope() {
        let (scope, parent) = (Scope::new(), Scope::new());
        let (left, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        for scope in [&scope, &parent.child()] {
            let left = left.clone();
            scope.spawn_until_cancelled(async move {
                let _left = left;
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        drop(left);
        tokio::task::yield_now().await;
        assert!(gone.try_recv() == Err(tokio::sync::mpsc::error::TryRecvError::Empty));
        scope.cancel();
        parent.cancel();
        assert_eq!(gone.recv().await, None);
        // What is begun too late does nothing.
        scope.spawn_until_cancelled(async { unreachable!("the scope is over") });
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
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
