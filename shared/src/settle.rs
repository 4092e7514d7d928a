//! Futures that wake themselves, polled again on the spot.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often in a row a future is polled before others get their turn.
const ROUNDS: usize = 4;

/// The future is being polled; without it, a wake goes on to the runtime.
const POLLED: u8 = 1;
/// It was woken since.
const WOKEN: u8 = 2;

/// Drives a future to its end, and polls it again at once where it was woken while it was polled and
/// is `eager`.
///
/// Parts of one task wake each other: those of hyper do whenever a request has a body. A runtime of
/// several threads takes that for a task that lets others by, and wakes another thread to look for
/// it, which costs more than all of a short request does. Where nothing of the kind is to be expected,
/// to let others by is better: until its next turn more will have come.
///
/// The future comes pinned, in a box or in its caller, for it would take its room twice otherwise.
pub async fn settle<F: Future + Unpin>(mut future: F, eager: impl Fn() -> bool) -> F::Output {
    let own = Arc::new(Own { state: AtomicU8::new(0), task: AtomicWaker::new() });
    let waker = Waker::from(Arc::clone(&own));
    poll_fn(move |cx| {
        own.task.register(cx.waker());
        for _ in 0..ROUNDS {
            own.state.store(POLLED, Ordering::Release);
            let polled = Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
            let woken = own.state.swap(0, Ordering::AcqRel) & WOKEN != 0;
            if polled.is_ready() || !woken {
                return polled;
            }
            if !eager() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// The waker that the future sees.
struct Own {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It writes in any case: what was done before the wake is seen by whoever polls after it.
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & POLLED == 0 {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_wakes_himself_is_polled_again_without_the_runtime() {
        let (count, mut polls) = (Arc::new(Count::default()), 0);
        let waker = Waker::from(Arc::clone(&count));
        let mut kept = None;
        let mut settled = Box::pin(settle(
            poll_fn(|cx| {
                polls += 1;
                if polls == 1 {
                    cx.waker().wake_by_ref();
                }
                kept = Some(cx.waker().clone());
                if polls < 3 { Poll::Pending } else { Poll::Ready(polls) }
            }),
            || true,
        ));
        let mut cx = Context::from_waker(&waker);
        assert!(settled.as_mut().poll(&mut cx).is_pending());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert_eq!(settled.as_mut().poll(&mut cx), Poll::Ready(3));
    }

    #[test]
    fn who_is_woken_from_elsewhere_is_woken_by_the_runtime() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let kept = std::cell::RefCell::new(None);
        let mut settled = Box::pin(settle(
            poll_fn(|cx| {
                *kept.borrow_mut() = Some(cx.waker().clone());
                Poll::<()>::Pending
            }),
            || true,
        ));
        assert!(settled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        kept.borrow_mut().take().unwrap().wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_is_not_eager_lets_others_by_at_once() {
        let (count, mut polls) = (Arc::new(Count::default()), 0);
        let waker = Waker::from(Arc::clone(&count));
        let waking = poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let mut settled = Box::pin(settle(waking, || false));
        assert!(settled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(settled);
        assert_eq!((polls, count.0.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn who_always_wakes_himself_lets_others_by() {
        let (count, mut polls) = (Arc::new(Count::default()), 0);
        let waker = Waker::from(Arc::clone(&count));
        let mut settled = Box::pin(settle(
            poll_fn(|cx| {
                polls += 1;
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            }),
            || true,
        ));
        assert!(settled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(settled);
        assert_eq!((polls, count.0.load(Ordering::Relaxed)), (ROUNDS, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_is_lost_between_threads() {
        let (to, mut from) = tokio::sync::mpsc::channel::<u32>(1);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(settle(
            Box::pin(async move {
                let mut sum = 0;
                while let Some(n) = from.recv().await {
                    sum += n;
                }
                sum
            }),
            || true,
        ));
        for _ in 0..20_000 {
            to.send(1).await.unwrap();
        }
        drop(to);
        assert_eq!(tasks.join_next().await.unwrap().unwrap(), 20_000);
    }
}
