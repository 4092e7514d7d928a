//! As many workers of a runtime at work as its load needs.
//!
//! A runtime of tokio has as many workers as the machine has processors, and wakes another for each
//! bit of work that one of them has to spare. Where all of it fits on one processor, that costs a
//! fifth of the processor time and more, and the answers come later for it. So the surplus workers
//! sleep, each in a task that blocks it, until those that are awake are busy.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};

mod plan;

use self::plan::{Plan, Seen};

/// Between two looks at the load.
const LOOK: Duration = Duration::from_millis(50);
/// The same while there is next to none.
const LOOK_AT_REST: Duration = Duration::from_millis(500);
/// A task that puts a worker to sleep comes to its turn within this time, or is not needed.
const TO_BED: Duration = Duration::from_secs(1);
/// What the thread that looks needs of a stack, in bytes.
const STACK: usize = 128 * 1024;

/// Lets workers of a runtime sleep while they are not needed; all are awake again once this is dropped.
///
/// It must be dropped before the runtime is shut down: a worker that sleeps does not hear of it.
#[derive(Debug)]
#[must_use = "workers sleep only as long as it lives"]
pub struct Workers(Option<Arc<Dormitory>>);

impl Workers {
    /// Looks at the load of a runtime of several threads from now on, in a thread of its own.
    ///
    /// Without one, or where the processor time of a process cannot be read (Windows), all workers
    /// stay awake.
    pub fn govern(runtime: &Handle) -> Self {
        let workers = runtime.metrics().num_workers();
        if workers < 2 || processor_time().is_none() {
            return Self(None);
        }
        let dormitory = Arc::new(Dormitory::default());
        let governor = Governor { runtime: runtime.clone(), dormitory: Arc::clone(&dormitory) };
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
            dormitory.change(|beds| beds.closed = true);
        }
    }
}

/// Decides how many workers sleep.
struct Governor {
    runtime: Handle,
    dormitory: Arc<Dormitory>,
}

impl Governor {
    fn run(self, workers: usize) {
        let mut plan = Plan::new(workers);
        let mut meter = Meter::new(self.runtime.metrics());
        while !self.dormitory.closed_within(if plan.at_rest() { LOOK_AT_REST } else { LOOK }) {
            let asleep = workers - plan.next(meter.look());
            let before = self.dormitory.lock().wanted;
            self.dormitory.change(|beds| beds.wanted = asleep);
            if asleep > before {
                self.put_to_bed();
            }
        }
    }

    /// Puts one more worker to sleep.
    fn put_to_bed(&self) {
        let dormitory = Arc::clone(&self.dormitory);
        drop(self.runtime.spawn(async move {
            // The task that a worker does next cannot be taken from it by others. This one takes its
            // place, and nobody misses it.
            drop(tokio::spawn(async {}));
            dormitory.sleep();
        }));
        if self.dormitory.full_within(TO_BED) {
            // The one that fell asleep may have been the one to listen to the sockets, and may have
            // had work left. What comes from without wakes another, which then looks for both.
            drop(self.runtime.spawn(async {}));
        }
    }
}

/// Where workers sleep.
#[derive(Debug, Default)]
struct Dormitory {
    beds: Mutex<Beds>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Beds {
    wanted: usize,
    taken: usize,
    closed: bool,
}

impl Beds {
    fn full(&self) -> bool {
        self.closed || self.taken >= self.wanted
    }
}

impl Dormitory {
    fn lock(&self) -> MutexGuard<'_, Beds> {
        self.beds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Beds)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Blocks the thread until there are fewer beds than sleepers; not at all where none is free.
    fn sleep(&self) {
        let mut beds = self.lock();
        if beds.full() {
            return;
        }
        beds.taken += 1;
        self.changed.notify_all();
        while !beds.closed && beds.taken <= beds.wanted {
            beds = self.changed.wait(beds).unwrap_or_else(PoisonError::into_inner);
        }
        beds.taken -= 1;
    }

    /// Waits until every bed is taken, and says whether they are.
    fn full_within(&self, time: Duration) -> bool {
        self.wait(time, Beds::full)
    }

    /// Waits until it is closed, and says whether it is.
    fn closed_within(&self, time: Duration) -> bool {
        self.wait(time, |beds| beds.closed)
    }

    fn wait(&self, time: Duration, until: impl Fn(&Beds) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |beds| !until(beds));
        until(&waited.unwrap_or_else(PoisonError::into_inner).0)
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
    #[cfg(unix)]
    return rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().ok();
    #[cfg(not(unix))]
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::Barrier;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::{Builder, Runtime};
    use tokio::task::JoinSet;

    use super::*;

    fn runtime(workers: usize) -> Runtime {
        Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("a runtime")
    }

    /// Waits until so many workers sleep.
    fn asleep(workers: &Workers, count: usize) {
        let dormitory = workers.0.as_ref().expect("governed");
        let all = |beds: &Beds| beds.wanted == count && beds.taken == count;
        assert!(dormitory.wait(Duration::from_secs(60), all), "{:?}", dormitory.lock());
    }

    #[test]
    fn those_that_are_not_needed_sleep_until_they_are() {
        let runtime = runtime(4);
        let workers = Workers::govern(runtime.handle());
        asleep(&workers, 3);
        // Each of these blocks its worker until there are four, and uses no processor.
        let barrier = Arc::new(Barrier::new(4));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let barrier = Arc::clone(&barrier);
            tasks.spawn_on(async move { drop(barrier.wait()) }, runtime.handle());
        }
        assert_eq!(runtime.block_on(tasks.join_all()).len(), 4);
        asleep(&workers, 3);
        drop(workers);
        // This waits for every worker.
        drop(runtime);
    }

    #[test]
    fn one_worker_needs_nobody_to_govern_it() {
        assert!(Workers::govern(runtime(1).handle()).0.is_none());
    }

    /// A worker that falls asleep leaves nothing behind that others do not do.
    #[test]
    fn nothing_stops_while_workers_fall_asleep_and_wake() {
        let runtime = runtime(2);
        let dormitory = Arc::new(Dormitory::default());
        let governor =
            Governor { runtime: runtime.handle().clone(), dormitory: Arc::clone(&dormitory) };
        let done = runtime.spawn(async {
            let mut pairs = JoinSet::new();
            for _ in 0..32 {
                pairs.spawn(back_and_forth(500));
            }
            pairs.join_all().await.into_iter().sum::<usize>()
        });
        let mut naps = 0;
        while !done.is_finished() {
            dormitory.change(|beds| beds.wanted = 1);
            governor.put_to_bed();
            naps += dormitory.lock().taken;
            // Everything has to get on with the other one alone for a while.
            thread::sleep(Duration::from_millis(2));
            dormitory.change(|beds| beds.wanted = 0);
        }
        assert_eq!(runtime.block_on(done).expect("no panic"), 32 * 500);
        assert!(naps > 0);
    }

    /// Sends a byte there and back so many times, between two tasks, and returns how often it came.
    async fn back_and_forth(times: usize) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let addr = listener.local_addr().expect("an address");
        let echo = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.expect("write");
            }
        });
        let mut stream = TcpStream::connect(addr).await.expect("connect");
        let (mut came, mut byte) = (0, [0]);
        for _ in 0..times {
            stream.write_all(&[1]).await.expect("write");
            came += stream.read_exact(&mut byte).await.expect("read");
        }
        drop(stream);
        echo.await.expect("echo");
        came
    }
}
