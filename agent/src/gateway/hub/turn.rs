//! Work that must not be waited for, and work of which one round at a time is enough.

use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Waker};

use mcpm_shared::scope::Scope;

const IDLE: u8 = 0;
const BUSY: u8 = 1;
/// Asked for since the last round began.
const ASKED: u8 = 2;

/// Work that is done one round at a time: however often it is asked for meanwhile, one more round
/// follows.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU8);

impl Turn {
    /// Asks for a round; tells whether the caller has to see to it, by `while turn.next() { … }`.
    pub(super) fn ask(&self) -> bool {
        self.0.swap(ASKED, Ordering::AcqRel) == IDLE
    }

    /// Begins a round that was asked for; `false` when none was, and the next who asks sees to it.
    pub(super) fn next(&self) -> bool {
        let step = |from, to| {
            self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        loop {
            if step(ASKED, BUSY) {
                return true;
            }
            if step(BUSY, IDLE) {
                return false;
            }
        }
    }
}

/// Begins work here and now, as far as it goes without waiting, so that what it sends is sent in
/// order; a task does the rest.
pub(super) fn set_off(scope: &Scope, work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    let mut nobody = Context::from_waker(Waker::noop());
    if pin!(tokio::task::coop::unconstrained(work.as_mut())).poll(&mut nobody).is_pending() {
        scope.spawn_until_cancelled(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_often_during_a_round_is_done_once_more() {
        let turn = Turn::default();
        assert!(turn.ask());
        assert!(!turn.ask(), "it is seen to");
        assert!(turn.next());
        assert!(!turn.ask());
        assert!(!turn.ask());
        assert!(turn.next());
        assert!(!turn.next());
        assert!(turn.ask(), "nobody sees to it any more");
    }

    #[tokio::test]
    async fn work_is_begun_at_once_and_ended_by_a_task() {
        let scope = Scope::new();
        let (begun, mut said) = tokio::sync::mpsc::channel(4);
        set_off(&scope, async move {
            begun.send(1).await.unwrap();
            tokio::task::yield_now().await;
            begun.send(2).await.unwrap();
        });
        assert_eq!(said.try_recv(), Ok(1));
        assert!(said.try_recv().is_err());
        assert_eq!(said.recv().await, Some(2));
    }
}
