//! How many workers a load needs.

use std::time::Duration;

/// Another worker wakes once those awake use more of their processors than this: less than all of
/// them, since work that comes at random waits long for a worker that is nearly always busy.
const BUSY: f64 = 0.85;
/// One goes to sleep while the others would use less of theirs. More than `BUSY`, since the same work
/// takes less with fewer; where it does not, they wake again, and `PATIENCE` makes that rare.
const CALM: f64 = 0.9;
/// A process that uses less of a processor has next to nothing to do.
const REST: f64 = 0.05;
/// For so long the load is calm before a worker goes to sleep.
const PATIENCE: Duration = Duration::from_millis(500);
/// It doubles up to this, each time that the worker is needed again soon.
const MOST_PATIENCE: Duration = Duration::from_secs(16);

/// What was seen since the last look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The processor time that the process used, in processors.
    pub load: f64,
    /// Whether a worker that is awake ran out of work.
    pub rested: bool,
    /// How long ago the last look was.
    pub time: Duration,
}

/// How many workers are to be awake, from look to look.
#[derive(Debug)]
pub(super) struct Plan {
    workers: usize,
    awake: usize,
    /// For how long the load has been calm.
    calm: Duration,
    /// For how long it has to be.
    patience: Duration,
    /// How long ago a worker went to sleep.
    slept: Duration,
    load: f64,
}

impl Plan {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            awake: workers,
            calm: Duration::ZERO,
            patience: PATIENCE,
            slept: MOST_PATIENCE,
            load: 0.0,
        }
    }

    /// How many workers are to be awake.
    pub(super) fn awake(&self) -> usize {
        self.awake
    }

    /// Whether one worker is awake, and has next to nothing to do.
    pub(super) fn at_rest(&self) -> bool {
        self.awake == 1 && self.load < REST
    }

    /// Takes in what was seen, and returns how many workers are to be awake: at least one.
    ///
    /// One goes to sleep at a time; as many wake as are awake.
    pub(super) fn next(&mut self, seen: Seen) -> usize {
        self.load = seen.load;
        self.slept = self.slept.saturating_add(seen.time);
        if !seen.rested || seen.load > BUSY * self.awake as f64 {
            self.wake();
        } else if self.awake > 1 && seen.load < CALM * (self.awake - 1) as f64 {
            self.calm += seen.time;
            if self.calm >= self.patience {
                self.awake -= 1;
                (self.calm, self.slept) = (Duration::ZERO, Duration::ZERO);
            }
        } else {
            self.calm = Duration::ZERO;
        }
        self.awake
    }

    fn wake(&mut self) {
        self.calm = Duration::ZERO;
        if self.awake == self.workers {
            return;
        }
        self.awake = self.workers.min(2 * self.awake);
        let soon = self.slept < 4 * self.patience;
        self.patience = if soon { MOST_PATIENCE.min(2 * self.patience) } else { PATIENCE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(50);

    fn seen(load: f64) -> Seen {
        Seen { load, rested: true, time: LOOK }
    }

    /// Looks at a load so often, and returns how many were awake after each.
    fn looks(plan: &mut Plan, load: f64, times: usize) -> Vec<usize> {
        (0..times).map(|_| plan.next(seen(load))).collect()
    }

    /// Looks until a worker goes to sleep, and returns how long that took.
    fn until_sleep(plan: &mut Plan, load: f64) -> Duration {
        let before = plan.awake;
        let looks = (1..10_000).find(|_| plan.next(seen(load)) < before).expect("a calm load");
        LOOK * looks
    }

    #[test]
    fn all_but_one_go_to_sleep_one_after_the_other() {
        let mut plan = Plan::new(4);
        let ten = [[4; 9].as_slice(), &[3; 10], &[2; 10], &[1; 20]].concat();
        assert_eq!(looks(&mut plan, 0.0, 49), ten);
        assert!(plan.at_rest());
    }

    #[test]
    fn as_many_wake_as_are_awake_while_they_are_busy() {
        let mut plan = Plan::new(6);
        looks(&mut plan, 0.0, 100);
        assert_eq!(looks(&mut plan, 0.8, 2), [1, 1], "one can do that");
        assert_eq!(looks(&mut plan, 0.9, 2), [2, 2], "two are not busy with it");
        assert_eq!(looks(&mut plan, 5.9, 3), [4, 6, 6]);
        assert_eq!(looks(&mut plan, 4.6, 20), [6; 20], "five would be busy with it");
        assert!(!plan.at_rest());
    }

    #[test]
    fn a_worker_that_never_rests_gets_help_whatever_it_does() {
        let mut plan = Plan::new(2);
        looks(&mut plan, 0.0, 100);
        assert_eq!(plan.next(Seen { rested: false, ..seen(0.0) }), 2);
    }

    #[test]
    fn a_worker_that_was_needed_again_soon_waits_longer_to_sleep() {
        let mut plan = Plan::new(2);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(until_sleep(&mut plan, 0.5).as_millis());
            plan.next(seen(1.0));
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 16_000, 16_000]);
        until_sleep(&mut plan, 0.5);
        looks(&mut plan, 0.5, 20 * 64);
        plan.next(seen(1.0));
        assert_eq!(until_sleep(&mut plan, 0.5), PATIENCE, "it had slept long");
    }
}
