//! Notices that the machine slept: the wall clock went on while the monotonic one stood still.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(2);
/// A difference that no clock adjustment of a healthy machine makes.
const JUMP: Duration = Duration::from_secs(8);

/// Compares wall and monotonic time.
#[derive(Debug)]
pub(super) struct SleepWatch {
    tick: Interval,
    wall: SystemTime,
    monotonic: Instant,
}

impl SleepWatch {
    pub(super) fn new() -> Self {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tick, wall: SystemTime::now(), monotonic: Instant::now() }
    }

    /// Waits until the machine has slept. Cancel-safe.
    pub(super) async fn woke(&mut self) {
        loop {
            self.tick.tick().await;
            let (wall, monotonic) = (SystemTime::now(), Instant::now());
            let jumped = is_jump(
                wall.duration_since(self.wall).unwrap_or_default(),
                monotonic.duration_since(self.monotonic),
            );
            (self.wall, self.monotonic) = (wall, monotonic);
            if jumped {
                return;
            }
        }
    }
}

/// Tells whether the machine slept while `wall` and `monotonic` passed. On systems whose monotonic
/// clock goes on during sleep, a look that comes far too late tells the same.
fn is_jump(wall: Duration, monotonic: Duration) -> bool {
    wall.saturating_sub(monotonic) > JUMP || monotonic > LOOK + JUMP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_told_from_waking_time_and_small_adjustments() {
        let seconds = Duration::from_secs;
        assert!(!is_jump(seconds(2), seconds(2)));
        assert!(!is_jump(seconds(5), seconds(2)));
        assert!(!is_jump(Duration::ZERO, seconds(2)));
        assert!(is_jump(seconds(300), seconds(2)));
        assert!(is_jump(seconds(300), seconds(300)));
    }
}
