//! As many workers of a runtime at work as its load needs.
//!
//! A runtime of tokio has as many workers as the machine has processors, and wakes another for each
//! bit of work that one of them has to spare. Where all of it fits on one processor, that costs a
//! fifth of the processor time and more, and the answers come later for it. So the surplus workers
//! sleep, each in a task that blocks it, until those that are awake are busy.

use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};

mod dormitory;
mod plan;

use self::dormitory::Dormitory;
use self::plan::{Plan, Seen};

/// Between two looks at the load: by then a burst has used a processor for less than what a person
/// would notice, and 20 looks a second cost next to nothing.
const LOOK: Duration = Duration::from_millis(50);
/// The same while there is next to no load, when each look is one more thing that wakes a processor.
const LOOK_AT_REST: Duration = Duration::from_millis(250);
/// For so long a worker sleeps at a time: whatever a runtime may keep for one worker alone, beside what
/// is known of here, waits no longer, and no session is given up for it
/// ([`DEAD_AFTER`](crate::proto::DEAD_AFTER)).
const NAP: Duration = Duration::from_secs(10);
/// The same for each worker, so that of many no more than one wakes in this time.
const NAP_EACH: Duration = Duration::from_secs(1);
/// What the thread that looks needs of a stack, in bytes: nothing that it calls goes deep.
const STACK: usize = 128 * 1024;

/// Lets workers of a runtime sleep while they are not needed; calls all of them once it is dropped.
///
/// It must be dropped before the runtime is shut down: a worker that sleeps does not hear of it.
#[derive(Debug)]
#[must_use = "workers sleep only as long as it lives"]
pub struct Workers(Option<Dormitory>);

impl Workers {
    /// Looks at the load of a runtime of several threads from now on, in a thread of its own.
    ///
    /// Where that thread cannot be started, or the processor time of a process cannot be read
    /// (elsewhere than on Linux and macOS), all workers stay awake.
    pub fn govern(runtime: &Handle) -> Self {
        let workers = runtime.metrics().num_workers();
        if workers < 2 || processor_time().is_none() {
            return Self(None);
        }
        let each = NAP_EACH.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX));
        let dormitory = Dormitory::new(NAP.max(each));
        let governor = Governor { runtime: runtime.clone(), dormitory: dormitory.clone() };
        let thread = thread::Builder::new().name("mcpm-workers".to_owned()).stack_size(STACK);
        match thread.spawn(move || governor.run(workers)) {
            Ok(_detached) => Self(Some(dormitory)),
            Err(error) => {
                tracing::debug!(%error, "no thread to look at the load: all workers stay awake");
                Self(None)
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(dormitory) = &self.0 {
            dormitory.close();
        }
    }
}

/// Decides how many workers sleep.
struct Governor {
    runtime: Handle,
    dormitory: Dormitory,
}

impl Governor {
    fn run(self, workers: usize) {
        let mut plan = Plan::new(workers);
        let mut meter = Meter::new(self.runtime.metrics());
        while !self.dormitory.closed_within(if plan.at_rest() { LOOK_AT_REST } else { LOOK }) {
            let (before, awake) = (plan.awake(), plan.next(meter.look()));
            if awake != before {
                tracing::debug!(awake, before, "as many workers as the load needs");
            }
            self.let_sleep(workers - awake);
        }
    }

    /// Lets so many workers sleep, and calls the others. To be called again and again: a worker may
    /// not fall asleep at once, and none sleeps for ever.
    fn let_sleep(&self, count: usize) {
        for _ in 0..self.dormitory.offer(count) {
            let dormitory = self.dormitory.clone();
            drop(self.runtime.spawn(async move { dormitory.nap() }));
        }
    }
}

impl Drop for Governor {
    /// Whatever ends it, nobody is left asleep.
    fn drop(&mut self) {
        self.dormitory.close();
    }
}

/// Reads how busy a runtime is.
struct Meter {
    metrics: RuntimeMetrics,
    looked: Instant,
    used: Duration,
    parked: Vec<u64>,
}

impl Meter {
    fn new(metrics: RuntimeMetrics) -> Self {
        let mut meter = Self {
            parked: vec![0; metrics.num_workers()],
            metrics,
            looked: Instant::now(),
            used: Duration::ZERO,
        };
        meter.look();
        meter
    }

    /// Returns what happened since the last look.
    fn look(&mut self) -> Seen {
        let (now, used) = (Instant::now(), processor_time().unwrap_or_default());
        let time = now - std::mem::replace(&mut self.looked, now);
        let work = used.saturating_sub(std::mem::replace(&mut self.used, used));
        let mut rested = false;
        for (worker, parked) in self.parked.iter_mut().enumerate() {
            let count = self.metrics.worker_park_unpark_count(worker);
            // It is odd while a worker waits for work.
            rested |= count % 2 == 1 || count != std::mem::replace(parked, count);
        }
        Seen { load: work.as_secs_f64() / time.as_secs_f64().max(1e-6), rested, time }
    }
}

/// The processor time that this process has used, where that can be told.
fn processor_time() -> Option<Duration> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    return rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().ok();
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    None
}

#[cfg(all(test, any(target_os = "linux", target_os = "macos")))]
mod tests;
