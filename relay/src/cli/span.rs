//! Lengths of time on the command line.

use std::time::Duration;

/// Reads a length of time such as `90d` or `1h 30m`; says what one looks like.
pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text)
        .map_err(|_| "a length of time is written as 90d, 12h, 30m or 45s, or as several of these")
}
