//! How long to wait before the next try: exponential with full jitter, so that a thousand agents
//! do not come back at the same moment. Pure: randomness comes from outside.

use std::time::Duration;

/// The first bound (design §5).
const FIRST: Duration = Duration::from_millis(100);
/// The last bound (design §5).
const LAST: Duration = Duration::from_secs(15);

/// Yields waiting times between zero and a bound that doubles from 0.1 s to 15 s.
#[derive(Debug)]
pub struct Backoff<R> {
    bound: Duration,
    random: R,
}

impl<R: FnMut() -> f64> Backoff<R> {
    /// Starts anew. `random` gives numbers in `0.0..1.0`.
    pub fn new(random: R) -> Self {
        Self { bound: FIRST, random }
    }

    /// Starts anew after a success.
    pub fn reset(&mut self) {
        self.bound = FIRST;
    }
}

impl<R: FnMut() -> f64> Iterator for Backoff<R> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.bound.mul_f64((self.random)().clamp(0.0, 1.0));
        self.bound = (self.bound * 2).min(LAST);
        Some(wait)
    }
}

/// Returns a number in `0.0..1.0` from the system's randomness.
#[must_use]
pub fn system_random() -> f64 {
    let bits = getrandom::u32().unwrap_or(u32::MAX / 2);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_from_a_tenth_of_a_second_to_fifteen() {
        let waits: Vec<u128> = Backoff::new(|| 1.0).take(10).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]);
    }

    #[test]
    fn jitter_reaches_down_to_zero_and_reset_starts_anew() {
        let mut backoff = Backoff::new(|| 0.0);
        assert!(backoff.by_ref().take(9).all(|wait| wait.is_zero()));
        backoff.reset();
        assert_eq!(backoff.bound, FIRST);
        assert!((0..100).all(|_| (0.0..1.0).contains(&system_random())));
    }
}
