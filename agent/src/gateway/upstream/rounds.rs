//! Questions that several ask at once: whoever comes while one is on its way is answered by the next,
//! so that no answer is older than its question and a server is asked for one thing once at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long the next round waits for one that is not answered: the answer may be lost.
const OVERDUE: Duration = Duration::from_secs(2);

/// One kind of question. `T` is the answer.
#[derive(Debug)]
pub(in crate::gateway) struct Rounds<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    /// Since when somebody asks, if somebody does.
    running: Option<Instant>,
    /// What those wait for who came since the last round began.
    next: Option<Round<T>>,
}

/// One question and who waits for its answer.
#[derive(Debug)]
pub(in crate::gateway) struct Round<T> {
    /// Whether somebody wants others to be told of what is new.
    pub(in crate::gateway) tell: bool,
    answer: watch::Sender<Option<T>>,
}

/// An answer to come.
#[derive(Debug)]
pub(in crate::gateway) struct Answer<T>(watch::Receiver<Option<T>>);

/// The duty to ask, round by round.
#[derive(Debug)]
pub(in crate::gateway) struct Turns<'a, T> {
    rounds: &'a Rounds<T>,
    over: bool,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self(Mutex::new(State { running: None, next: None }))
    }
}

impl<T> Rounds<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the next round; tells whether the caller has to see to it, by [`Rounds::turns`].
    pub(in crate::gateway) fn join(&self, tell: bool) -> (Answer<T>, bool) {
        let mut state = self.state();
        let next = state
            .next
            .get_or_insert_with(|| Round { tell: false, answer: watch::Sender::new(None) });
        next.tell |= tell;
        let answer = Answer(next.answer.subscribe());
        let begins = state.running.is_none_or(|since| since.elapsed() >= OVERDUE);
        if begins {
            state.running = Some(Instant::now());
        }
        (answer, begins)
    }

    /// Sees to the rounds, from now on until nobody has joined one.
    pub(in crate::gateway) fn turns(&self) -> Turns<'_, T> {
        Turns { rounds: self, over: false }
    }
}

impl<T> Turns<'_, T> {
    /// Begins the next round; `None` when nobody waits, and the next who joins has the duty.
    pub(in crate::gateway) fn next(&mut self) -> Option<Round<T>> {
        let mut state = self.rounds.state();
        let next = state.next.take();
        state.running = next.is_some().then(Instant::now);
        self.over = next.is_none();
        next
    }
}

impl<T> Drop for Turns<'_, T> {
    /// Whoever gives the duty up leaves nobody waiting.
    fn drop(&mut self) {
        if !self.over {
            *self.rounds.state() = State { running: None, next: None };
        }
    }
}

impl<T> Round<T> {
    /// Answers all who wait.
    pub(in crate::gateway) fn answer(self, answer: T) {
        self.answer.send_replace(Some(answer));
    }
}

impl<T: Clone> Answer<T> {
    /// Waits for the answer; `None` when nobody will give one.
    pub(in crate::gateway) async fn get(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_while_a_question_is_on_its_way_is_answered_by_the_next_one() {
        let rounds = Rounds::default();
        let (first, begins) = rounds.join(false);
        assert!(begins);
        let mut turns = rounds.turns();
        let round = turns.next().unwrap();
        let (second, begins) = rounds.join(false);
        let (third, also) = rounds.join(true);
        assert!(!begins && !also && !round.tell);
        round.answer(1);
        let round = turns.next().unwrap();
        assert!(round.tell);
        round.answer(2);
        assert!(turns.next().is_none());
        let answers = [first.get().await, second.get().await, third.get().await];
        assert_eq!(answers, [Some(1), Some(2), Some(2)]);
        assert!(rounds.join(false).1, "the next who comes begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_holds_up_the_next_question_for_a_moment_only() {
        let rounds = Rounds::default();
        let (_lost, _) = rounds.join(false);
        let mut first = rounds.turns();
        let lost = first.next().unwrap();
        assert!(!rounds.join(false).1);
        tokio::time::advance(OVERDUE).await;
        let (answer, begins) = rounds.join(false);
        assert!(begins && !rounds.join(false).1);
        let mut second = rounds.turns();
        second.next().unwrap().answer(1);
        assert_eq!(answer.get().await, Some(1));
        assert!(second.next().is_none());
        lost.answer(2);
        assert!(first.next().is_none());
    }

    #[tokio::test]
    async fn a_duty_that_is_given_up_leaves_nobody_waiting() {
        let rounds = Rounds::<u8>::default();
        let (first, _) = rounds.join(false);
        let mut turns = rounds.turns();
        let round = turns.next();
        let (second, _) = rounds.join(false);
        drop((round, turns));
        assert_eq!((first.get().await, second.get().await), (None, None));
        assert!(rounds.join(false).1);
    }
}
