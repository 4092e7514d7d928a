use std::io::{Read as _, Write as _};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};

use super::*;

/// Longer than anything here takes, on any machine.
const LONG: Duration = Duration::from_secs(60);

fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("a runtime")
}

fn governor(runtime: &Runtime) -> Governor {
    Governor { runtime: runtime.handle().clone(), dormitory: Dormitory::new(10 * LONG) }
}

impl Governor {
    /// Lets so many workers sleep, as often as it takes, until so many do.
    fn see_asleep(&self, count: usize) {
        let begun = Instant::now();
        self.let_sleep(count);
        while !self.dormitory.wait(LOOK, |beds| beds.taken == count) {
            assert!(begun.elapsed() < LONG, "{count} to sleep: {:?}", self.dormitory);
            self.let_sleep(count);
        }
    }
}

#[test]
fn those_that_are_not_needed_sleep_until_they_are() {
    let runtime = runtime(2);
    let workers = Workers::govern(runtime.handle());
    let dormitory = workers.0.as_ref().expect("governed");
    assert!(dormitory.wait(LONG, |beds| beds.taken == 1), "{dormitory:?}");
    both_meet(&runtime);
    assert!(dormitory.wait(LONG, |beds| beds.taken == 1), "{dormitory:?}");
    drop(workers);
    ends(runtime);
}

#[test]
fn one_worker_needs_nobody_to_govern_it() {
    assert!(Workers::govern(runtime(1).handle()).0.is_none());
}

#[test]
fn nobody_is_left_asleep_when_the_governor_ends() {
    let runtime = runtime(3);
    let governor = governor(&runtime);
    governor.see_asleep(2);
    drop(governor);
    ends(runtime);
}

#[test]
fn a_nap_ends_by_itself_and_is_offered_again() {
    let runtime = runtime(2);
    let dormitory = Dormitory::new(Duration::from_millis(200));
    let governor = Governor { runtime: runtime.handle().clone(), dormitory };
    for _ in 0..3 {
        governor.see_asleep(1);
        assert!(governor.dormitory.wait(LONG, |beds| beds.taken + beds.offered == 0));
    }
}

#[test]
fn a_nap_that_comes_too_late_is_none() {
    let runtime = runtime(2);
    let governor = governor(&runtime);
    let (blocked, is_blocked) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
    for _ in 0..2 {
        let (blocked, may_go_on) = (blocked.clone(), Arc::clone(&may_go_on));
        drop(runtime.spawn(async move {
            blocked.send(()).expect("somebody waits");
            may_go_on.lock().expect("no panic").recv().expect("somebody says so");
        }));
    }
    is_blocked.recv().and_then(|()| is_blocked.recv()).expect("both workers");
    governor.let_sleep(1);
    governor.let_sleep(0);
    governor.let_sleep(1);
    assert!(governor.dormitory.wait(LONG, |beds| beds.offered == 1), "one nap is on its way");
    governor.let_sleep(0);
    go_on.send(()).and_then(|()| go_on.send(())).expect("both workers");
    assert!(governor.dormitory.wait(LONG, |beds| beds.offered == 0), "it was begun");
    both_meet(&runtime);
}

/// Has two tasks wait for each other, which blocks both workers and uses no processor.
fn both_meet(runtime: &Runtime) {
    let barrier = Arc::new(Barrier::new(2));
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let barrier = Arc::clone(&barrier);
        tasks.spawn_on(
            async move {
                barrier.wait();
            },
            runtime.handle(),
        );
    }
    assert_eq!(runtime.block_on(tasks.join_all()).len(), 2);
}

#[test]
fn a_thread_whose_worker_is_elsewhere_is_not_at_work() {
    let runtime = runtime(1);
    let work = runtime.spawn(async {
        let before = dormitory::at_work();
        let (sender, answer) = mpsc::channel();
        drop(Handle::current().spawn(async move { sender.send(()).expect("somebody waits") }));
        // There is no other worker, so the answer is by whoever goes on in our place, and keeps it.
        tokio::task::block_in_place(|| answer.recv().expect("an answer"));
        (before, dormitory::at_work())
    });
    assert_eq!(runtime.block_on(work).expect("no panic"), (true, false));
    assert!(!dormitory::at_work(), "there is no worker here");
    ends(runtime);
}

/// Drops the runtime, which waits for every worker.
fn ends(runtime: Runtime) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        drop(runtime);
        done.send(()).expect("somebody waits");
    });
    is_done.recv_timeout(LONG).expect("no worker sleeps");
}

/// How far each of several tasks has come.
#[derive(Clone, Debug)]
struct Progress(Arc<(Mutex<Vec<u64>>, Condvar)>);

impl Progress {
    fn new(tasks: usize) -> Self {
        Self(Arc::new((Mutex::new(vec![0; tasks]), Condvar::new())))
    }

    fn step(&self, task: usize) {
        self.0.0.lock().expect("no panic")[task] += 1;
        self.0.1.notify_all();
    }

    /// Waits until each task has got on.
    fn all_get_on(&self) {
        let steps = self.0.0.lock().expect("no panic");
        let before = steps.clone();
        let stuck = |steps: &mut Vec<u64>| steps.iter().zip(&before).any(|(now, was)| now <= was);
        let waited = self.0.1.wait_timeout_while(steps, LONG, stuck).expect("no panic");
        assert!(!waited.1.timed_out(), "{before:?} are still {:?}", waited.0);
    }
}

/// Puts one of two workers to sleep again and again, and sees that each of so many tasks gets on while
/// it sleeps.
fn get_on<W>(count: usize, work: impl Fn(Box<dyn Fn() + Send>) -> W)
where
    W: Future<Output = ()> + Send + 'static,
{
    let (runtime, progress) = (runtime(2), Progress::new(count));
    let governor = governor(&runtime);
    let mut tasks = JoinSet::new();
    for task in 0..count {
        let progress = progress.clone();
        tasks.spawn_on(work(Box::new(move || progress.step(task))), runtime.handle());
    }
    for _ in 0..50 {
        governor.see_asleep(1);
        progress.all_get_on();
        governor.see_asleep(0);
    }
    drop(governor);
    drop(tasks);
    ends(runtime);
}

#[test]
fn those_who_yield_get_on_while_workers_sleep() {
    for tasks in [1, 4] {
        get_on(tasks, |step| async move {
            loop {
                step();
                yield_now().await;
            }
        });
    }
}

#[test]
fn those_who_talk_get_on_while_workers_sleep() {
    get_on(4, |step| async move {
        let (mut one, mut other) = pair().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut byte = [0];
            while other.read_exact(&mut byte).await.is_ok() {
                other.write_all(&byte).await.expect("write");
            }
        });
        loop {
            one.write_all(&[1]).await.expect("write");
            one.read_exact(&mut [0]).await.expect("read");
            step();
        }
    });
}

#[test]
fn those_who_read_what_never_ends_get_on_while_workers_sleep() {
    get_on(4, |step| async move {
        let (mut one, mut other) = pair().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while other.write_all(&[0; 4096]).await.is_ok() {} });
        loop {
            one.read_exact(&mut [0; 16]).await.expect("read");
            step();
        }
    });
}

#[test]
fn those_who_wait_for_others_get_on_while_workers_sleep() {
    let runtime = runtime(2);
    let governor = governor(&runtime);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
    let addr = listener.local_addr().expect("an address");
    let echo = runtime.spawn(async move {
        let mut stream = listener.accept().await.expect("accept").0;
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.expect("write");
        }
    });
    let mut stream = std::net::TcpStream::connect(addr).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    for round in 0..100 {
        governor.see_asleep(1);
        stream.write_all(&[round]).expect("write");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [round]);
        governor.see_asleep(0);
    }
    drop(stream);
    runtime.block_on(echo).expect("no panic");
    drop(governor);
    ends(runtime);
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let addr = listener.local_addr().expect("an address");
    let (one, other) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (one.expect("connect"), other.expect("accept").0)
}
