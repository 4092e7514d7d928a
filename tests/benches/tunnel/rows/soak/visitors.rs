//! The visitors of a soak: some of each kind, all at once, none of them in a hurry.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mcpm_bench::churn;
use mcpm_bench::http1::head;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval, timeout_at};

use crate::load::{Ask, Target, answer};

/// How many there are of each kind, and how long one waits between two requests.
const KEEPING: (usize, Duration) = (32, Duration::from_millis(20));
const CLOSING: (usize, Duration) = (8, Duration::from_millis(50));
const CUTTING: (usize, Duration) = (4, Duration::from_millis(100));
const LISTENING: (usize, Duration) = (32, Duration::from_millis(50));
const CALLING: (usize, Duration) = (8, Duration::from_millis(100));
/// Bytes of an answer that is cut, and how many of them are read before.
const LONG: usize = 64 * 1024 * 1024;
const READ: usize = 256 * 1024;
/// How long one listens: the first of them so long, each further one a second longer, up to the
/// most.
const LISTENS_SECS: u64 = 3;
const LISTENS_MORE: usize = 10;

/// How visitors fared.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests with an answer.
    pub(super) answered: AtomicUsize,
    /// Answers that were cut, and streams of events that were left.
    pub(super) cut: AtomicUsize,
    /// Requests to agents that come and go, at a moment without one.
    pub(super) turned_away: AtomicUsize,
    /// Requests that failed.
    pub(super) failed: AtomicUsize,
    /// What the first of them died of.
    first: Mutex<Option<String>>,
}

/// How one visit ended well.
enum Visit {
    Answered,
    Cut,
    TurnedAway,
}

impl Tally {
    fn note(&self, kind: &str, visit: anyhow::Result<Visit>) {
        let counter = match visit {
            Ok(Visit::Answered) => &self.answered,
            Ok(Visit::Cut) => &self.cut,
            Ok(Visit::TurnedAway) => &self.turned_away,
            Err(error) => {
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| format!("{kind}: {error:#}"));
                &self.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what the first request that failed died of.
    pub(super) fn first_failure(&self) -> Option<String> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All visitors. They hang up when this is dropped.
pub(super) struct Visitors {
    tasks: JoinSet<()>,
    tally: Arc<Tally>,
}

impl Visitors {
    /// Lets them come, to the share of `target` and to those that come and go beside it.
    pub(super) fn come(target: &Target) -> Self {
        let mut all = Self { tasks: JoinSet::new(), tally: Arc::default() };
        all.some(KEEPING, |_, tick, tally| keep(target.clone(), tick, tally));
        all.some(CLOSING, |_, tick, tally| close(target.clone(), tick, tally));
        all.some(CUTTING, |_, tick, tally| cut(target.clone(), tick, tally));
        all.some(LISTENING, |index, tick, tally| {
            let more = u64::try_from(index % LISTENS_MORE).unwrap_or_default();
            listen(target.clone(), Duration::from_secs(LISTENS_SECS + more), tick, tally)
        });
        all.some(CALLING, |index, tick, tally| call(target.clone(), index, tick, tally));
        all
    }

    fn some<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        (count, every): (usize, Duration),
        visitor: impl Fn(usize, Interval, Arc<Tally>) -> F,
    ) {
        for index in 0..count {
            self.tasks.spawn(visitor(index, interval(every), Arc::clone(&self.tally)));
        }
    }

    /// Lets all of them hang up, in the midst of what they do, and returns how they fared.
    pub(super) async fn leave(mut self) -> Arc<Tally> {
        self.tasks.shutdown().await;
        self.tally
    }
}

/// Asks again and again on one connection.
async fn keep(target: Target, mut tick: Interval, tally: Arc<Tally>) {
    let request = target.text(&target.small, false);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tick.tick().await;
        let connection = async {
            let mut stream = target.connect().await?;
            loop {
                tick.tick().await;
                stream.write_all(request.as_bytes()).await.context("send a request")?;
                answer(&mut stream, &mut buffer).await?;
                tally.note("kept alive", Ok(Visit::Answered));
            }
        };
        tally.note("kept alive", connection.await);
    }
}

/// Asks on a connection of its own each time.
async fn close(target: Target, mut tick: Interval, tally: Arc<Tally>) {
    let request = target.text(&target.small, true);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tick.tick().await;
        let visit = async {
            let mut stream = target.connect().await?;
            stream.write_all(request.as_bytes()).await.context("send a request")?;
            answer(&mut stream, &mut buffer).await?;
            Ok(Visit::Answered)
        };
        tally.note("on a new connection", visit.await);
    }
}

/// Asks for much and hangs up before it has come.
async fn cut(target: Target, mut tick: Interval, tally: Arc<Tally>) {
    let request = target.text(&Ask::get(&format!("/bulk/{LONG}")), false);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tick.tick().await;
        let visit = async {
            let mut stream = target.connect().await?;
            stream.write_all(request.as_bytes()).await.context("send a request")?;
            let mut left = READ;
            while left > 0 {
                let read = stream.read(&mut buffer).await.context("read a long answer")?;
                ensure!(read > 0, "a long answer ended early");
                left = left.saturating_sub(read);
            }
            Ok(Visit::Cut)
        };
        tally.note("cut", visit.await);
    }
}

/// Listens to events for a while and hangs up.
async fn listen(target: Target, listens: Duration, mut tick: Interval, tally: Arc<Tally>) {
    let request = target.text(&Ask::get("/events"), false);
    loop {
        tick.tick().await;
        let visit = async {
            let mut stream = target.connect().await?;
            stream.write_all(request.as_bytes()).await.context("send a request")?;
            let mut buffer = Vec::new();
            let head = head(&mut stream, &mut buffer).await?.context("an answer with events")?;
            ensure!(head.contains(" 200 "), "events are answered {head:?}");
            let (until, mut heard) = (Instant::now() + listens, buffer.len());
            while let Ok(read) = timeout_at(until, stream.read_buf(&mut buffer)).await {
                let read = read.context("read events")?;
                ensure!(read > 0, "the events ended");
                heard += read;
                buffer.clear();
            }
            ensure!(heard > 0, "nothing was heard for {listens:?}");
            Ok(Visit::Cut)
        };
        tally.note("events", visit.await);
    }
}

/// Calls at agents that come and go. Any answer is good, only none is not.
async fn call(target: Target, index: usize, mut tick: Interval, tally: Arc<Tally>) {
    for round in 0.. {
        tick.tick().await;
        let host = format!("{}.localhost", churn::name(index, round));
        let target = Target::plain(target.addr, &host);
        let request = target.text(&target.small, true);
        let visit = async {
            let mut stream = target.connect().await?;
            stream.write_all(request.as_bytes()).await.context("send a request")?;
            let head = head(&mut stream, &mut Vec::new()).await?;
            let head = head.context("an answer, whoever is there")?;
            Ok(if head.contains(" 200 ") { Visit::Answered } else { Visit::TurnedAway })
        };
        tally.note("agents that come and go", visit.await);
    }
}
