//! What is counted for all nodes together, so that they share one limit.

/// The length of an hour, in seconds. Windows begin at the full hour, in UTC.
pub const HOUR_SECS: u64 = 3600;

/// Something of which only so much may happen in a window of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// What is counted, and for whom.
    pub what: String,
    /// When the window began, in Unix seconds.
    pub began: u64,
    /// How often it may happen in one window.
    pub limit: u64,
}

impl Tally {
    /// Counts something in the hour of `now`.
    #[must_use]
    pub fn of_hour(what: String, now: u64, limit: u64) -> Self {
        Self { what, began: now - now % HOUR_SECS, limit }
    }
}

/// How many seconds are left of the hour at `now`.
#[must_use]
pub fn until_next_hour(now: u64) -> u64 {
    HOUR_SECS - now % HOUR_SECS
}
