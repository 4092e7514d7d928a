//! Times as people say them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time of day in Unix seconds.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads how long something shall last, as people write it: `8h`, `7days`. Ends are told to the
/// second, so less than one would end what it is for before it begins.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) {
        return Err("it must be at least one second".to_owned());
    }
    Ok(time)
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
    fn lifetimes_last_a_second_or_more() {
        assert_eq!(lifetime("8h"), Ok(Duration::from_secs(28_800)));
        assert_eq!(lifetime("1s"), Ok(Duration::from_secs(1)));
        for text in ["0s", "500ms", "soon", "-1s", "99999999999999999999y"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_said_in_their_largest_unit() {
        assert_eq!(ago_or_in(100, 100), "0s ago");
        assert_eq!(ago_or_in(100, 7_500), "2h ago");
        assert_eq!(ago_or_in(86_400 * 7 + 5_000, 0), "in 7days");
    }
}
