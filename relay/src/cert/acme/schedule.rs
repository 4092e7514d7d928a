//! When a certificate is renewed, and when an order that failed is tried again. Pure.

use std::time::Duration;

use crate::cert::validity::Validity;

/// After the first failure; each further one waits three times as long. So there are five in the
/// first hour, which is what Let's Encrypt allows a name.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LAST_RETRY: Duration = Duration::from_secs(6 * 3600);

/// When the authority would like a certificate to be renewed, in Unix seconds (RFC 9773 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suggested {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Returns when to renew a certificate. `chance`, from 0 to 1, spreads the relays of the world.
pub(super) fn renew_at(validity: Validity, suggested: Option<Suggested>, chance: f64) -> u64 {
    let life = validity.life();
    let (start, length) = match suggested {
        Some(window) if window.start <= window.end => (window.start, window.end - window.start),
        // Two thirds of its life, and up to three quarters.
        _ => (validity.not_before + life / 3 * 2, life / 12),
    };
    // Whatever is suggested, there must be time for failures.
    let latest = validity.not_after.saturating_sub(life / 10);
    start.saturating_add(part(length, chance)).min(latest)
}

/// Returns how long to wait after so many failures in a row.
pub(super) fn retry_after(failures: u32, chance: f64) -> Duration {
    let wait = FIRST_RETRY.saturating_mul(3u32.saturating_pow(failures.saturating_sub(1)));
    wait.min(LAST_RETRY).mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
}

fn part(length: u64, chance: f64) -> u64 {
    Duration::from_secs(length).mul_f64(chance.clamp(0.0, 1.0)).as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3600;
    const QUARTER: Validity = Validity { not_before: 1000 * DAY, not_after: 1090 * DAY };

    #[test]
    fn without_advice_it_is_at_two_thirds_of_its_life_and_a_bit() {
        assert_eq!(renew_at(QUARTER, None, 0.0), 1060 * DAY);
        assert_eq!(renew_at(QUARTER, None, 1.0), 1060 * DAY + 7 * DAY + DAY / 2);
    }

    #[test]
    fn advice_is_taken_also_when_it_says_at_once() {
        let window = |start, end| Some(Suggested { start: start * DAY, end: end * DAY });
        assert_eq!(renew_at(QUARTER, window(1050, 1052), 0.5), 1051 * DAY);
        assert_eq!(renew_at(QUARTER, window(900, 901), 0.5), 900 * DAY + DAY / 2);
        assert_eq!(renew_at(QUARTER, window(1200, 1300), 0.5), 1081 * DAY, "never too late");
        assert_eq!(renew_at(QUARTER, window(1052, 1050), 0.0), 1060 * DAY, "nonsense");
    }

    #[test]
    fn retries_come_soon_and_then_seldom() {
        let minutes = |failures| retry_after(failures, 0.5).as_secs() / 60;
        let waits: Vec<u64> = (1..=8).map(minutes).collect();
        assert_eq!(waits, [1, 3, 9, 27, 81, 243, 360, 360]);
        assert!(retry_after(1, 0.0) < retry_after(1, 1.0));
    }

    proptest! {
        #[test]
        fn renewal_leaves_time_before_the_end(
            before in 0..u64::MAX / 4, life in 10..u64::MAX / 4,
            start: u64, end: u64, chance in 0.0..=1.0, advice: bool,
        ) {
            let validity = Validity { not_before: before, not_after: before + life };
            let suggested = advice.then_some(Suggested { start, end });
            prop_assert!(renew_at(validity, suggested, chance) < validity.not_after);
            let wait = retry_after(u32::try_from(start % 100).unwrap(), chance);
            prop_assert!(wait >= Duration::from_secs(48) && wait <= LAST_RETRY.mul_f64(1.2));
        }
    }
}
