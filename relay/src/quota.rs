//! Rates per key, and what one party may use in a day: in bounded memory.

mod meter;

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use governor::clock::{Clock as _, DefaultClock};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DefaultKeyedStateStore, ShrinkableKeyedStateStore};
use governor::{Quota, RateLimiter};

pub use self::meter::{Allowance, Amounts, DAY_SECS, Exhausted, Meter, Meters, until_next_day};

/// How many keys are remembered before the ones at rest are forgotten, and how many before
/// newcomers are refused: a flood of addresses must not fill the memory.
const SWEEP_AT: usize = 16 * 1024;
const REFUSE_AT: usize = 256 * 1024;
/// How long a newcomer waits when too many are remembered: until the janitor came by again.
const FULL_WAIT: Duration = Duration::from_secs(1);

/// A rate limit per key, by the generic cell rate algorithm.
pub struct Keyed<K: Hash + Eq + Clone> {
    limited: ArcSwapOption<Limited<K>>,
    clock: DefaultClock,
}

struct Limited<K: Hash + Eq + Clone> {
    quota: Quota,
    limiter: RateLimiter<K, Keys<K>, DefaultClock>,
    keys: Keys<K>,
    refuse_at: usize,
    full: AtomicBool,
}

impl<K: Hash + Eq + Clone> std::fmt::Debug for Keyed<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed")
            .field("limited", &self.limited.load().is_some())
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// Makes a limit of `rate` a second with room for `burst` at once; `None` limits nothing.
    #[must_use]
    pub fn per_second(rate: Option<NonZeroU32>, burst: NonZeroU32) -> Self {
        Self::new(rate.map(|rate| Quota::per_second(rate).allow_burst(burst)), REFUSE_AT)
    }

    /// Makes a limit of `rate` a minute, all of which may come at once.
    #[must_use]
    pub fn per_minute(rate: Option<NonZeroU32>) -> Self {
        Self::new(rate.map(Quota::per_minute), REFUSE_AT)
    }

    fn new(quota: Option<Quota>, refuse_at: usize) -> Self {
        let clock = DefaultClock::default();
        let limited = quota.map(|quota| Arc::new(Limited::new(quota, refuse_at, &clock)));
        Self { limited: ArcSwapOption::new(limited), clock }
    }

    /// Limits to `rate` a second with room for `burst` from now on; what was counted by another
    /// rate is forgotten.
    pub fn set_per_second(&self, rate: Option<NonZeroU32>, burst: NonZeroU32) {
        self.set(rate.map(|rate| Quota::per_second(rate).allow_burst(burst)));
    }

    /// Limits to `rate` a minute from now on; what was counted by another rate is forgotten.
    pub fn set_per_minute(&self, rate: Option<NonZeroU32>) {
        self.set(rate.map(Quota::per_minute));
    }

    fn set(&self, quota: Option<Quota>) {
        if quota != self.limited.load().as_ref().map(|limited| limited.quota) {
            let limited = quota.map(|quota| Limited::new(quota, REFUSE_AT, &self.clock));
            self.limited.store(limited.map(Arc::new));
        }
    }

    /// Counts one event of `key`.
    ///
    /// # Errors
    /// Returns how long to wait when there were too many, or when there is no room to remember a
    /// newcomer.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        let limited = self.limited.load();
        let Some(limited) = limited.as_ref() else { return Ok(()) };
        if limited.full.load(Ordering::Relaxed) && !limited.keys.0.contains_key(key) {
            return Err(FULL_WAIT);
        }
        limited.limiter.check_key(key).map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forgets keys at rest when many are remembered; called by the janitor. Returns whether the
    /// memory is so full that newcomers are refused until the next sweep.
    pub fn sweep(&self) -> bool {
        let limited = self.limited.load();
        let Some(limited) = limited.as_ref() else { return false };
        if limited.limiter.len() > SWEEP_AT.min(limited.refuse_at) {
            limited.limiter.retain_recent();
            limited.limiter.shrink_to_fit();
        }
        let full = limited.limiter.len() > limited.refuse_at;
        limited.full.store(full, Ordering::Relaxed);
        full
    }
}

impl<K: Hash + Eq + Clone> Limited<K> {
    fn new(quota: Quota, refuse_at: usize, clock: &DefaultClock) -> Self {
        let keys = Keys(Arc::default());
        let limiter = RateLimiter::new(quota, keys.clone(), clock.clone());
        Self { quota, limiter, keys, refuse_at, full: AtomicBool::new(false) }
    }
}

/// The state per key, which a limiter keeps to itself: shared, so that it can be asked for a key.
struct Keys<K: Hash + Eq + Clone>(Arc<DefaultKeyedStateStore<K>>);

impl<K: Hash + Eq + Clone> Clone for Keys<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> StateStore for Keys<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, decide)
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Keys<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        ShrinkableKeyedStateStore::retain_recent(self.0.as_ref(), drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(self.0.as_ref());
    }

    fn len(&self) -> usize {
        ShrinkableKeyedStateStore::len(self.0.as_ref())
    }

    fn is_empty(&self) -> bool {
        ShrinkableKeyedStateStore::is_empty(self.0.as_ref())
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
    fn a_changed_rate_counts_at_once_and_the_same_one_forgets_nothing() {
        let keyed = Keyed::per_minute(NonZeroU32::new(1));
        assert!(keyed.check(&1).is_ok());
        keyed.set_per_minute(NonZeroU32::new(1));
        assert!(keyed.check(&1).is_err());
        keyed.set_per_minute(NonZeroU32::new(2));
        assert!(keyed.check(&1).is_ok() && keyed.check(&1).is_ok() && keyed.check(&1).is_err());
        keyed.set_per_minute(None);
        assert!(keyed.check(&1).is_ok());
    }

    #[test]
    fn no_rate_means_no_limit() {
        let keyed = Keyed::per_minute(None);
        assert!((0..10_000).all(|_| keyed.check(&0).is_ok()));
    }

    #[test]
    fn newcomers_wait_while_too_many_keys_are_remembered() {
        let quota = NonZeroU32::new(2).map(Quota::per_hour);
        let keyed = Keyed::new(quota, 2);
        assert!((0..3).all(|key| keyed.check(&key).is_ok()));
        assert!(keyed.sweep());
        assert_eq!(keyed.check(&3), Err(FULL_WAIT));
        assert!(keyed.check(&0).is_ok(), "who is known keeps its allowance");
    }

    #[test]
    fn there_is_room_again_after_keys_came_to_rest() {
        let quota = Quota::with_period(Duration::from_nanos(1));
        let keyed = Keyed::new(quota, 2);
        assert!((0..3).all(|key| keyed.check(&key).is_ok()));
        assert!(!keyed.sweep());
        assert!(keyed.check(&3).is_ok());
    }
}
