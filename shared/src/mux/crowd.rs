//! Whether many streams of a connection write at the same time, so that their frames can share a
//! message.

/// From how many open streams on there may be a crowd.
const STREAMS: usize = 8;
/// How many writes others made while they were let by, if that was worth it.
const WORTH: usize = 2;
/// How often in a row it may be in vain before it is given up.
const PATIENCE: u8 = 8;
/// After how many rounds without it is tried again.
const AGAIN: u8 = 32;

/// Decides for each round of a connection's driver whether others go before it.
///
/// A task that is woken runs next, before those that have waited: woken by the first of many streams
/// the driver would send their frames one by one. Behind the others it finds the frames of all, for
/// one message. Where there are no others, to step back only wakes another thread; so it is tried now
/// and then, and kept up while it gathers something.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// How often had been written when others were let by in this round.
    since: Option<usize>,
    /// How often it may be in vain yet.
    patience: u8,
    /// Rounds since it was given up.
    rounds: u8,
}

impl Crowd {
    /// Tells whether the driver steps back now, to be polled again behind the others; never twice in
    /// a row. `open` streams are there, and one was written to `writes` times so far.
    pub(super) fn steps_back(&mut self, open: usize, writes: usize) -> bool {
        if let Some(since) = self.since.take() {
            let worth = writes.wrapping_sub(since) >= WORTH;
            self.patience = if worth { PATIENCE } else { self.patience.saturating_sub(1) };
            return false;
        }
        if open <= STREAMS {
            return false;
        }
        if self.patience == 0 {
            self.rounds += 1;
            if self.rounds < AGAIN {
                return false;
            }
            self.rounds = 0;
        }
        self.since = Some(writes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs rounds in which others write so often when they are let by; returns how often they were.
    fn let_by(crowd: &mut Crowd, rounds: usize, others: usize) -> usize {
        let mut writes = usize::MAX - 3;
        let mut count = 0;
        for _ in 0..rounds {
            writes = writes.wrapping_add(1);
            if crowd.steps_back(STREAMS + 1, writes) {
                writes = writes.wrapping_add(others);
                assert!(!crowd.steps_back(STREAMS + 1, writes), "twice in a row");
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_crowd_is_found_within_some_rounds_and_let_by_in_each() {
        let mut crowd = Crowd::default();
        assert!(let_by(&mut crowd, usize::from(AGAIN), 10) == 1);
        assert_eq!(let_by(&mut crowd, 100, 10), 100);
    }

    #[test]
    fn where_nobody_else_writes_it_is_given_up_and_tried_now_and_then() {
        let mut crowd = Crowd::default();
        let_by(&mut crowd, usize::from(AGAIN), 10);
        assert_eq!(let_by(&mut crowd, usize::from(PATIENCE), 0), usize::from(PATIENCE));
        assert_eq!(let_by(&mut crowd, 10 * usize::from(AGAIN), 0), 10);
    }

    #[test]
    fn few_streams_are_no_crowd() {
        let mut crowd = Crowd::default();
        assert!((0..1000).all(|writes| !crowd.steps_back(STREAMS, writes)));
    }
}
