//! Rates per key, in bounded memory.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

/// How many keys are remembered before the ones at rest are forgotten, and how many before
/// newcomers are refused: a flood of addresses must not fill the memory.
const SWEEP_AT: usize = 16 * 1024;
const REFUSE_AT: usize = 256 * 1024;

/// A rate limit per key, by the generic cell rate algorithm.
pub struct Keyed<K: Hash + Eq + Clone> {
    limiter: Option<RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone> std::fmt::Debug for Keyed<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed").field("limited", &self.limiter.is_some()).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// Makes a limit of `rate` a second with room for `burst` at once; `None` limits nothing.
    #[must_use]
    pub fn per_second(rate: Option<NonZeroU32>, burst: NonZeroU32) -> Self {
        Self::new(rate.map(|rate| Quota::per_second(rate).allow_burst(burst)))
    }

    /// Makes a limit of `rate` a minute, all of which may come at once.
    #[must_use]
    pub fn per_minute(rate: Option<NonZeroU32>) -> Self {
        Self::new(rate.map(Quota::per_minute))
    }

    fn new(quota: Option<Quota>) -> Self {
        Self { limiter: quota.map(RateLimiter::keyed), clock: DefaultClock::default() }
    }

    /// Counts one event of `key`.
    ///
    /// # Errors
    /// Returns how long to wait when there were too many.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check_key(key).map_err(|until| until.wait_time_from(self.clock.now()))?;
        Ok(())
    }

    /// Forgets keys at rest when many are remembered; called by the janitor. Returns whether the
    /// memory is so full that newcomers should be refused.
    pub fn sweep(&self) -> bool {
        let Some(limiter) = &self.limiter else { return false };
        if limiter.len() > SWEEP_AT {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        limiter.len() > REFUSE_AT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_allowance() {
        let keyed = Keyed::per_minute(NonZeroU32::new(2));
        assert!(keyed.check(&1).is_ok() && keyed.check(&1).is_ok());
        assert!(keyed.check(&1).is_err_and(|wait| wait <= Duration::from_secs(60)));
        assert!(keyed.check(&2).is_ok());
    }

    #[test]
    fn no_rate_means_no_limit() {
        let keyed = Keyed::per_minute(None);
        assert!((0..10_000).all(|_| keyed.check(&0).is_ok()));
    }
}
