//! What one party uses of the relay, and how much it may: counted in atomics, written elsewhere.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// The length of a day, in seconds. Days of quotas begin at midnight UTC.
pub const DAY_SECS: u64 = 24 * 3600;
/// Stands in an atomic for the absence of a limit.
const UNLIMITED: u64 = u64::MAX;
/// How many parts the map of [`Meters`] has, so that requests rarely wait for each other.
const SHARDS: usize = 32;

/// What one party may use. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// Names in an hour that were not the party's own before.
    pub names_per_hour: Option<u64>,
    /// Requests in a day.
    pub requests_per_day: Option<u64>,
    /// Bytes of bodies in a day, in both directions together.
    pub bytes_per_day: Option<u64>,
    /// Requests open at once.
    pub max_streams: Option<u64>,
}

impl Allowance {
    /// Tells whether anything is limited that visitors' requests use.
    #[must_use]
    pub fn limits_requests(&self) -> bool {
        let Self { names_per_hour: _, requests_per_day, bytes_per_day, max_streams } = self;
        requests_per_day.is_some() || bytes_per_day.is_some() || max_streams.is_some()
    }
}

/// Amounts of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies from visitors.
    pub bytes_in: u64,
    /// Bytes of bodies to visitors.
    pub bytes_out: u64,
}

impl Amounts {
    /// Tells whether there is nothing in it.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Returns both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
        }
    }

    /// Returns what this is more than `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            bytes_in: self.bytes_in.saturating_sub(other.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(other.bytes_out),
        }
    }
}

/// Which amount of a day is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The requests.
    Requests,
    /// The bytes.
    Bytes,
}

/// Counts what one party uses. All of it is relaxed: a quota may be overrun by as many requests as
/// there are processors, and nothing waits.
#[derive(Debug)]
pub struct Meter {
    names_per_hour: AtomicU64,
    requests_per_day: AtomicU64,
    bytes_per_day: AtomicU64,
    max_streams: AtomicU64,
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// What was used today, and is not counted here: by other nodes, or before this one started.
    elsewhere_requests: AtomicU64,
    elsewhere_bytes: AtomicU64,
    streams: AtomicU64,
}

impl Meter {
    /// Makes a meter that has counted nothing.
    #[must_use]
    pub fn new(allowance: Allowance) -> Self {
        let zero = || AtomicU64::new(0);
        let meter = Self {
            names_per_hour: zero(),
            requests_per_day: zero(),
            bytes_per_day: zero(),
            max_streams: zero(),
            requests: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
            elsewhere_requests: zero(),
            elsewhere_bytes: zero(),
            streams: zero(),
        };
        meter.allow(allowance);
        meter
    }

    /// Replaces what the party may use; what it has open stays open.
    pub fn allow(&self, allowance: Allowance) {
        let Allowance { names_per_hour, requests_per_day, bytes_per_day, max_streams } = allowance;
        for (limit, value) in [
            (&self.names_per_hour, names_per_hour),
            (&self.requests_per_day, requests_per_day),
            (&self.bytes_per_day, bytes_per_day),
            (&self.max_streams, max_streams),
        ] {
            limit.store(value.unwrap_or(UNLIMITED), Ordering::Relaxed);
        }
    }

    /// Counts one more request.
    ///
    /// # Errors
    /// When what the party may use in a day is used up; then it is not counted.
    pub fn begin(&self) -> Result<(), Exhausted> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let elsewhere = self.elsewhere_requests.load(Ordering::Relaxed);
        let exhausted =
            if before.saturating_add(elsewhere) >= self.requests_per_day.load(Ordering::Relaxed) {
                Exhausted::Requests
            } else if self.is_out_of_bytes() {
                Exhausted::Bytes
            } else {
                return Ok(());
            };
        self.requests.fetch_sub(1, Ordering::Relaxed);
        Err(exhausted)
    }

    /// Counts a request less that was counted: somebody else counts it.
    pub fn take_back(&self) {
        // A day may have begun since.
        let less = |requests: u64| requests.checked_sub(1);
        let _none = self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Tells whether the bytes of the day are used up.
    #[must_use]
    pub fn is_out_of_bytes(&self) -> bool {
        let limit = self.bytes_per_day.load(Ordering::Relaxed);
        if limit == UNLIMITED {
            return false;
        }
        let parts = [&self.bytes_in, &self.bytes_out, &self.elsewhere_bytes];
        parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.load(Ordering::Relaxed)))
            >= limit
    }

    /// Counts bytes from a visitor.
    pub fn add_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes to a visitor.
    pub fn add_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts one more open request; `false`, and nothing counted, when there are as many as
    /// allowed.
    #[must_use]
    pub fn open(&self) -> bool {
        let before = self.streams.fetch_add(1, Ordering::Relaxed);
        let allowed = before < self.max_streams.load(Ordering::Relaxed);
        if !allowed {
            self.close();
        }
        allowed
    }

    /// Counts one open request less.
    pub fn close(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns how many new names the party may have in an hour, where these are limited. They are
    /// counted in the store, for all nodes together.
    #[must_use]
    pub fn names_limit(&self) -> Option<u64> {
        let limit = self.names_per_hour.load(Ordering::Relaxed);
        (limit != UNLIMITED).then_some(limit)
    }

    /// Returns what was counted here today.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        Amounts {
            requests: self.requests.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Notes what was used today and is not counted here.
    pub fn set_elsewhere(&self, amounts: Amounts) {
        let bytes = amounts.bytes_in.saturating_add(amounts.bytes_out);
        self.elsewhere_requests.store(amounts.requests, Ordering::Relaxed);
        self.elsewhere_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Begins a new day, and returns what was counted here in the old one.
    pub fn turn_day(&self) -> Amounts {
        self.set_elsewhere(Amounts::default());
        Amounts {
            requests: self.requests.swap(0, Ordering::Relaxed),
            bytes_in: self.bytes_in.swap(0, Ordering::Relaxed),
            bytes_out: self.bytes_out.swap(0, Ordering::Relaxed),
        }
    }

    /// Tells whether the party is so quiet that forgetting it gives it little: nothing is open, and
    /// of nothing it has used a hundredth of its day.
    fn is_quiet(&self) -> bool {
        let little = |used: u64, limit: &AtomicU64| used <= limit.load(Ordering::Relaxed) / 100;
        let Amounts { requests, bytes_in, bytes_out } = self.amounts();
        self.streams.load(Ordering::Relaxed) == 0
            && little(requests, &self.requests_per_day)
            && little(bytes_in.saturating_add(bytes_out), &self.bytes_per_day)
    }
}

/// How many seconds are left of the day at `now`.
#[must_use]
pub fn until_next_day(now: u64) -> u64 {
    DAY_SECS - now % DAY_SECS
}

/// A meter for each key, in bounded memory. Which keys use little is forgotten first; what finds no
/// room is not counted, because whoever can send from so many addresses is not stopped by a count
/// of each.
#[derive(Debug)]
pub struct Meters<K> {
    shards: [Mutex<HashMap<K, Arc<Meter>>>; SHARDS],
    hasher: RandomState,
    allowance: Allowance,
    max_per_shard: usize,
    day: AtomicU64,
}

impl<K: Hash + Eq + Clone> Meters<K> {
    /// Makes meters of which each has the same allowance, `max` of them at most.
    #[must_use]
    pub fn new(allowance: Allowance, max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            allowance,
            max_per_shard: max.div_ceil(SHARDS),
            day: AtomicU64::new(0),
        }
    }

    /// Returns the meter of a key; `None` when there is no room for another.
    #[must_use]
    pub fn meter(&self, key: &K) -> Option<Arc<Meter>> {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = shard.get(key) {
            return Some(Arc::clone(meter));
        }
        if shard.len() >= self.max_per_shard {
            return None;
        }
        let meter = Arc::new(Meter::new(self.allowance));
        shard.insert(key.clone(), Arc::clone(&meter));
        Some(meter)
    }

    /// Begins a new day where one has begun, and makes room where there is little; called by the
    /// janitor with the present in Unix seconds.
    pub fn tidy(&self, now: u64) {
        let day = now / DAY_SECS;
        let ended = self.day.swap(day, Ordering::Relaxed);
        // What was counted before the first look at a clock is of today.
        let turns = ended != day && ended != 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if turns {
                shard.retain(|_, meter| {
                    let _yesterday = meter.turn_day();
                    Arc::strong_count(meter) > 1
                });
            } else if shard.len() > self.max_per_shard / 2 {
                shard.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_quiet());
            }
            if shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
    }

    /// Returns what each may use.
    #[must_use]
    pub fn allowance(&self) -> Allowance {
        self.allowance
    }

    fn shard(&self, key: &K) -> &Mutex<HashMap<K, Arc<Meter>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        &self.shards[hash]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(limit: u64) -> Allowance {
        Allowance {
            names_per_hour: Some(limit),
            requests_per_day: Some(limit),
            bytes_per_day: Some(limit * 100),
            max_streams: Some(limit),
        }
    }

    #[test]
    fn requests_and_bytes_of_a_day_come_to_an_end() {
        let meter = Meter::new(some(2));
        assert_eq!((meter.begin(), meter.begin()), (Ok(()), Ok(())));
        assert_eq!(meter.begin(), Err(Exhausted::Requests));
        assert_eq!(meter.amounts().requests, 2, "what is refused does not count");
        let meter = Meter::new(some(2));
        meter.add_in(150);
        assert!(meter.begin().is_ok() && !meter.is_out_of_bytes());
        meter.add_out(50);
        assert_eq!(meter.begin(), Err(Exhausted::Bytes));
        meter.allow(Allowance::default());
        assert_eq!(meter.begin(), Ok(()));
    }

    #[test]
    fn what_is_counted_elsewhere_is_taken_back_and_never_more() {
        let meter = Meter::new(some(1));
        meter.begin().unwrap();
        meter.take_back();
        meter.begin().unwrap();
        meter.turn_day();
        meter.take_back();
        assert_eq!(meter.amounts(), Amounts::default());
    }

    #[test]
    fn what_other_nodes_counted_counts_too() {
        let meter = Meter::new(some(3));
        meter.begin().unwrap();
        meter.set_elsewhere(Amounts { requests: 2, bytes_in: 100, bytes_out: 0 });
        assert_eq!(meter.begin(), Err(Exhausted::Requests));
        let yesterday = meter.turn_day();
        assert_eq!(yesterday, Amounts { requests: 1, ..Amounts::default() });
        assert_eq!(meter.begin(), Ok(()));
    }

    #[test]
    fn as_many_are_open_as_allowed() {
        let meter = Meter::new(some(2));
        assert!(meter.open() && meter.open() && !meter.open());
        meter.close();
        assert!(meter.open());
        let free = Meter::new(Allowance::default());
        assert!((0..10_000).all(|_| free.open()));
    }

    #[test]
    fn a_flood_of_keys_finds_no_room_and_those_that_use_much_stay() {
        let meters: Meters<u32> = Meters::new(some(100), 4 * SHARDS);
        let heavy = meters.meter(&0).unwrap();
        (0..50).for_each(|_| heavy.begin().unwrap());
        drop(heavy);
        let found = (1..10_000).filter(|key| meters.meter(key).is_some()).count();
        assert!(found < 4 * SHARDS, "{found}");
        meters.tidy(5 * DAY_SECS);
        assert!((1..10_000).any(|key| meters.meter(&key).is_some()), "the quiet are forgotten");
        assert_eq!(meters.meter(&0).unwrap().amounts().requests, 50);
        meters.tidy(6 * DAY_SECS);
        assert_eq!(meters.meter(&0).unwrap().amounts().requests, 0, "a new day");
    }

    #[test]
    fn a_day_ends_at_midnight() {
        assert_eq!(until_next_day(10 * DAY_SECS), DAY_SECS);
        assert_eq!(until_next_day(10 * DAY_SECS + DAY_SECS - 1), 1);
    }
}
