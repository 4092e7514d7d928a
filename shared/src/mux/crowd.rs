//! How many streams a connection has, and whether many of them talked of late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// With how many streams that talk it is worth to gather their frames. Streams that rest do not count: to
/// wait for frames that do not come costs the one that talks a turn of the runtime each time.
const CROWD: usize = 8;
/// How many rounds of the driver are looked at together: long enough that in a crowd each has its say.
const SPAN: u32 = 64;

/// What a connection and its streams share.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: AtomicUsize,
    /// The number of the present span.
    span: AtomicU32,
    /// How many streams have talked in it.
    pub(super) talked: AtomicUsize,
}

impl Streams {
    /// Returns how many are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Begins the next span and returns how many talked in the last and are there still.
    fn turn(&self) -> usize {
        self.span.fetch_add(1, Ordering::Relaxed);
        // Streams that come and go one after the other are no crowd.
        self.talked.swap(0, Ordering::Relaxed).min(self.open())
    }
}

/// The part of one stream, which is open while it lives.
#[derive(Debug)]
pub(super) struct Member {
    streams: Arc<Streams>,
    /// The span in which it talked last.
    span: Option<u32>,
}

impl Member {
    pub(super) fn new(streams: &Arc<Streams>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        Self { streams: Arc::clone(streams), span: None }
    }

    /// Notes that bytes passed.
    pub(super) fn talks(&mut self) {
        let span = Some(self.streams.span.load(Ordering::Relaxed));
        if self.span != span {
            self.span = span;
            self.streams.talked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The driver's own view, which changes from one span to the next.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    rounds: u32,
    is_there: bool,
}

impl Crowd {
    /// Counts a round of the driver, and tells whether many streams talked in the last span.
    pub(super) fn is_there(&mut self, streams: &Streams) -> bool {
        self.rounds += 1;
        if self.rounds == SPAN {
            *self = Self { rounds: 0, is_there: streams.turn() > CROWD };
        }
        self.is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One span in which the first so many of them talk, each in its turn.
    fn span(crowd: &mut Crowd, streams: &Streams, members: &mut [Member]) -> bool {
        let mut is_there = false;
        for round in 0..SPAN as usize {
            if let Some(member) = members.get_mut(round % members.len().max(1)) {
                member.talks();
            }
            is_there = crowd.is_there(streams);
        }
        is_there
    }

    #[test]
    fn a_crowd_is_of_those_that_talk_and_not_of_those_that_rest() {
        let (streams, mut crowd) = (Arc::new(Streams::default()), Crowd::default());
        let mut members: Vec<Member> = (0..32).map(|_| Member::new(&streams)).collect();
        for (talking, expected) in
            [(32, true), (1, false), (CROWD, false), (CROWD + 1, true), (0, false)]
        {
            assert_eq!(span(&mut crowd, &streams, &mut members[..talking]), expected, "{talking}");
        }
        assert_eq!(streams.open(), 32);
    }

    #[test]
    fn streams_that_come_and_go_are_no_crowd() {
        let (streams, mut crowd) = (Arc::new(Streams::default()), Crowd::default());
        for _ in 0..2 * SPAN {
            Member::new(&streams).talks();
            assert!(!crowd.is_there(&streams));
        }
        assert_eq!(streams.open(), 0);
    }
}
