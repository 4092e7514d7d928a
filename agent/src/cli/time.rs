//! Times as people say them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time of day in Unix seconds.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Says when `at` is, seen from `now` (both in Unix seconds): `2h ago`, `in 7days`.
pub(super) fn ago_or_in(at: u64, now: u64) -> String {
    if at > now { format!("in {}", rough(at - now)) } else { format!("{} ago", rough(now - at)) }
}

/// Says a span in its largest unit only.
pub(super) fn rough(secs: u64) -> String {
    let unit = [86_400, 3_600, 60].into_iter().find(|unit| secs >= *unit).unwrap_or(1);
    humantime::format_duration(Duration::from_secs(secs / unit * unit)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_their_largest_unit() {
        assert_eq!(ago_or_in(100, 100), "0s ago");
        assert_eq!(ago_or_in(100, 7_500), "2h ago");
        assert_eq!(ago_or_in(86_400 * 7 + 5_000, 0), "in 7days");
    }
}
