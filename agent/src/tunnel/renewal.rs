//! When a share asks its relay for more time. Pure: the time is an argument, in Unix seconds.
//!
//! A relay answers a renewal only when it refuses. What it grants at most is known from the claim.

use std::time::Duration;

/// How long after a refusal to ask again: doubling from here to there.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// The end of a share, and what is done against it.
#[derive(Debug)]
pub(super) struct Renewal {
    /// What the relay grants at a time, in seconds.
    life: u64,
    /// When the user wants the share to end.
    wanted: Option<u64>,
    /// When it ends, if nothing was refused.
    ends: u64,
    /// The last request, and when the share ended before it.
    asked: Option<(u32, u64)>,
    retry: Duration,
}

impl Renewal {
    /// Plans for a share that the relay lets end at `ends`; `None` when that is late enough.
    pub(super) fn plan(ends: u64, wanted: Option<u64>, now: u64) -> Option<Self> {
        let life = ends.saturating_sub(now).max(1);
        let renewal = Self { life, wanted, ends, asked: None, retry: RETRY };
        renewal.is_needed().then_some(renewal)
    }

    fn is_needed(&self) -> bool {
        self.wanted.is_none_or(|wanted| self.ends < wanted)
    }

    /// Returns how long to wait before asking, or `None` when there is nothing more to ask for.
    pub(super) fn wait(&self, now: u64) -> Option<Duration> {
        let half = Duration::from_secs(self.ends.saturating_sub(now)) / 2;
        self.is_needed().then_some(half.max(Duration::from_secs(1)))
    }

    /// Notes that `request` asks for more time, and returns for how many seconds from now.
    pub(super) fn ask(&mut self, request: u32, now: u64) -> u64 {
        if self.asked.is_some() {
            // Nothing was refused since.
            self.retry = RETRY;
        }
        let left = self.wanted.map(|wanted| wanted.saturating_sub(now).max(1));
        self.asked = Some((request, self.ends));
        self.ends = now.saturating_add(left.unwrap_or(self.life).min(self.life));
        left.unwrap_or(self.life)
    }

    /// Takes a refusal; returns how long to wait before asking again, when it is about this.
    pub(super) fn refused(
        &mut self,
        request: u32,
        retry_after: Option<u64>,
        now: u64,
    ) -> Option<Duration> {
        let (_, before) = self.asked.take_if(|(asked, _)| *asked == request)?;
        self.ends = before;
        let wait = retry_after.map_or(self.retry, Duration::from_secs);
        self.retry = (self.retry * 2).min(MAX_RETRY);
        // In time for a further try, however long the relay would like to rest.
        let half = Duration::from_secs(self.ends.saturating_sub(now)) / 2;
        Some(wait.min(half).max(RETRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_share_that_ends_when_its_user_wants_is_not_renewed() {
        assert!(Renewal::plan(1200, Some(1200), 1000).is_none());
        assert!(Renewal::plan(1300, Some(1200), 1000).is_none());
    }

    #[test]
    fn a_share_without_an_end_is_renewed_for_as_long_as_the_relay_grants() {
        let mut renewal = Renewal::plan(1060, None, 1000).unwrap();
        for round in 1..100 {
            let now = renewal.ends - 30;
            assert_eq!(renewal.wait(renewal.ends - 60), Some(30 * SECOND));
            assert_eq!(renewal.ask(round, now), 60);
            assert_eq!(renewal.ends, now + 60);
        }
    }

    #[test]
    fn a_share_that_shall_live_longer_than_the_relay_grants_is_renewed_until_its_own_end() {
        let mut renewal = Renewal::plan(1065, Some(1200), 1000).unwrap();
        assert_eq!(renewal.wait(1000), Some(Duration::from_millis(32_500)));
        assert_eq!(renewal.ask(1, 1032), 168);
        assert_eq!(renewal.ends, 1097);
        assert_eq!(renewal.ask(2, 1150), 50);
        assert_eq!((renewal.ends, renewal.wait(1150)), (1200, None));
    }

    #[test]
    fn a_refused_renewal_is_tried_again_soon_and_ever_less_often() {
        let mut renewal = Renewal::plan(1600, None, 1000).unwrap();
        let mut waits = Vec::new();
        for request in 1..=7 {
            renewal.ask(request, 1300);
            assert_eq!(renewal.refused(request + 1, None, 1300), None, "another request");
            waits.push(renewal.refused(request, None, 1300).unwrap().as_secs());
            assert_eq!(renewal.ends, 1600);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        renewal.ask(8, 1300);
        renewal.ask(9, 1500);
        assert_eq!(renewal.refused(9, None, 1500), Some(SECOND), "one was granted meanwhile");
    }

    #[test]
    fn the_relay_may_ask_for_patience_but_not_until_the_end() {
        let mut renewal = Renewal::plan(1060, None, 1000).unwrap();
        renewal.ask(1, 1030);
        assert_eq!(renewal.refused(1, Some(5), 1030), Some(5 * SECOND));
        renewal.ask(2, 1035);
        assert_eq!(renewal.refused(2, Some(600), 1040), Some(10 * SECOND));
        renewal.ask(3, 1065);
        assert_eq!(renewal.refused(3, Some(600), 1065), Some(SECOND));
    }
}
