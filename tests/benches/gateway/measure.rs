//! The measurements that one contender goes through.

use std::time::{Duration, Instant};

use mcpm_bench::outcome::count;
use mcpm_bench::process::Process;
use mcpm_bench::table::Column;

use crate::Options;
use crate::contender::{Contender, Maker};
use crate::http::{Crowd, Visitor};
use crate::place::{Place, Running};
use crate::stdio::{Talk, on_thread};
use crate::wire;

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each contender has its turn.
    pub(crate) repetitions: usize,
    /// How long each load lasts.
    load: Duration,
    /// How often a program is started, at most.
    starts: usize,
}

/// What `docs/performance.md` is made from.
pub(crate) const FULL: Plan = Plan { repetitions: 3, load: Duration::from_secs(4), starts: 20 };
/// A look while working on something.
pub(crate) const QUICK: Plan = Plan { repetitions: 1, load: Duration::from_millis(500), starts: 3 };

/// How long starts are repeated: the slow ones need no many times.
const STARTING: Duration = Duration::from_secs(6);
/// How often a program is started at least.
const MIN_STARTS: usize = 3;
/// Visitors at a time, of the load with many.
const MANY: usize = 64;
/// Sessions whose memory is weighed: nearly as many as mcpm keeps, and none is evicted.
const SESSIONS: usize = 60;
/// Calls of which the requests at the server are counted.
const COUNTED: usize = 50;

/// A column of the table of stdio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stdio {
    StartCold,
    StartKnown,
    CallP50,
    CallP99,
    Megabytes,
    Requests,
}

impl Column for Stdio {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::StartCold, "first start → list ms"),
        (Self::StartKnown, "start → list ms"),
        (Self::CallP50, "call p50 ms"),
        (Self::CallP99, "call p99 ms"),
        (Self::Megabytes, "MB"),
        (Self::Requests, "requests a call"),
    ];
}

/// A column of the table of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Http {
    C1P50,
    C1Rate,
    C64Rate,
    C64P99,
    MegabytesAtStart,
    MegabytesAfter,
    SessionKilobytes,
    Requests,
}

impl Column for Http {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::C1P50, "c1 p50 ms"),
        (Self::C1Rate, "c1 calls/s"),
        (Self::C64Rate, "c64 calls/s"),
        (Self::C64P99, "c64 p99 ms"),
        (Self::MegabytesAtStart, "MB at start"),
        (Self::MegabytesAfter, "MB after 64 sessions"),
        (Self::SessionKilobytes, "KB a session"),
        (Self::Requests, "requests a call"),
    ];
}

/// Measures one contender over stdio.
///
/// # Errors
/// When a request fails.
pub(crate) async fn stdio(
    plan: &Plan,
    contender: Contender,
    options: &Options,
) -> anyhow::Result<Vec<(Stdio, f64)>> {
    let mut figures = Vec::new();
    let place = Place::new(contender)?;
    // The first one brings files into memory, and what servers say of themselves into a catalogue.
    start(&place, options).await?;
    if contender.maker == Maker::Mcpm {
        figures.push((Stdio::StartCold, starts(plan, contender, options, None).await?));
    }
    figures.push((Stdio::StartKnown, starts(plan, contender, options, Some(&place)).await?));

    let (process, pipes) = Process::piped(contender.name, place.stdio(options)?)?;
    let load = plan.load;
    let (talk, outcome) = on_thread(load * 2, move || {
        let mut talk = Talk::open(pipes)?;
        let tools = talk.tools()?;
        talk.calls(&tools, load / 4)?;
        let outcome = talk.calls(&tools, load)?;
        Ok((talk, outcome))
    })
    .await?;
    figures.push((Stdio::CallP50, outcome.percentile_ms(50)));
    figures.push((Stdio::CallP99, outcome.percentile_ms(99)));
    figures.push((Stdio::Megabytes, process.weigh_alone().megabytes));
    drop(talk);
    process.ended().await;
    figures.push((Stdio::Requests, stdio_requests(&Place::counting(contender)?, options).await?));
    Ok(figures)
}

/// How many requests the servers get for one call over stdio.
async fn stdio_requests(place: &Place, options: &Options) -> anyhow::Result<f64> {
    let (process, pipes) = Process::piped(place.contender.name, place.stdio(options)?)?;
    let opened = on_thread(Duration::ZERO, move || {
        let mut talk = Talk::open(pipes)?;
        let tools = talk.tools()?;
        // Whatever a first call brings about is not counted.
        for tool in &tools {
            talk.call(&wire::call(tool))?;
        }
        Ok((talk, tools))
    });
    let (mut talk, tools) = opened.await?;
    let before = place.requests().await?;
    let called = on_thread(Duration::ZERO, move || {
        for tool in tools.iter().cycle().take(COUNTED) {
            talk.call(&wire::call(tool))?;
        }
        Ok(talk)
    });
    let talk = called.await?;
    let requests = place.requests().await? - before;
    drop(talk);
    process.ended().await;
    Ok(requests / count(COUNTED))
}

/// The median of several starts in milliseconds: at one place, or each at a place of its own where
/// nothing is known of the servers.
async fn starts(
    plan: &Plan,
    contender: Contender,
    options: &Options,
    place: Option<&Place>,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < plan.starts && (times.len() < MIN_STARTS || begun.elapsed() < STARTING) {
        let fresh;
        let place = match place {
            Some(place) => place,
            None => {
                fresh = Place::new(contender)?;
                &fresh
            }
        };
        times.push(start(place, options).await?);
    }
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e3)
}

/// How long it takes from the start of the program to the answer with its tools.
async fn start(place: &Place, options: &Options) -> anyhow::Result<Duration> {
    let command = place.stdio(options)?;
    let begun = Instant::now();
    let (process, pipes) = Process::piped(place.contender.name, command)?;
    let opened = on_thread(Duration::ZERO, move || {
        let mut talk = Talk::open(pipes)?;
        talk.tools()?;
        Ok((begun.elapsed(), talk))
    });
    let (took, talk) = opened.await?;
    drop(talk);
    process.ended().await;
    Ok(took)
}

/// Measures one contender over HTTP.
///
/// # Errors
/// When a request fails.
pub(crate) async fn http(
    plan: &Plan,
    contender: Contender,
    options: &Options,
) -> anyhow::Result<Vec<(Http, f64)>> {
    let running = Place::new(contender)?.http(options).await?;
    let (tools, mut figures) = http_memory(contender, &running).await?;
    let (target, load) = (&running.target, plan.load);

    let mut one = Crowd::open(target, 1).await?;
    // The first calls build connections and fill caches: they are nobody's figures.
    one.load(&tools, load / 4).await?;
    let c1 = one.load(&tools, load).await?;
    one.close().await;
    figures.push((Http::C1P50, c1.percentile_ms(50)));
    figures.push((Http::C1Rate, c1.rate()));

    let mut many = Crowd::open(target, MANY).await?;
    many.load(&tools, load / 4).await?;
    let c64 = many.load(&tools, load).await?;
    figures.push((Http::MegabytesAfter, running.megabytes()));
    many.close().await;
    figures.push((Http::C64Rate, c64.rate()));
    figures.push((Http::C64P99, c64.percentile_ms(99)));
    running.stop().await;
    figures.push((Http::Requests, http_requests(contender, options).await?));
    Ok(figures)
}

/// The tools of a contender that has hardly done anything, what it holds then, and what each session
/// adds.
async fn http_memory(
    contender: Contender,
    running: &Running,
) -> anyhow::Result<(Vec<String>, Vec<(Http, f64)>)> {
    let mut figures = Vec::new();
    let (mut visitor, tools) = acquainted(running).await?;
    let at_start = running.megabytes();
    figures.push((Http::MegabytesAtStart, at_start));
    if contender.has_sessions() {
        // All on one connection: connections are not what is weighed.
        let mut sessions = vec![visitor.session()];
        for _ in 0..SESSIONS {
            visitor.reopen().await?;
            visitor.call(&tools[0], &wire::call(&tools[0])).await?;
            sessions.push(visitor.session());
        }
        let each = (running.megabytes() - at_start) * 1e3 / count(SESSIONS);
        figures.push((Http::SessionKilobytes, each));
        for session in sessions {
            visitor.resume(session);
            visitor.end_session().await;
        }
    } else {
        visitor.end_session().await;
    }
    Ok((tools, figures))
}

/// How many requests the servers get for one call over HTTP.
async fn http_requests(contender: Contender, options: &Options) -> anyhow::Result<f64> {
    let running = Place::counting(contender)?.http(options).await?;
    let (mut visitor, tools) = acquainted(&running).await?;
    let before = running.place.requests().await?;
    for tool in tools.iter().cycle().take(COUNTED) {
        visitor.call(tool, &wire::call(tool)).await?;
    }
    let requests = running.place.requests().await? - before;
    running.stop().await;
    Ok(requests / count(COUNTED))
}

/// A visitor who has called every tool once, so that all servers are up, and the tools.
async fn acquainted(running: &Running) -> anyhow::Result<(Visitor, Vec<String>)> {
    let mut visitor = Visitor::open(&running.target).await?;
    let tools = visitor.tools().await?;
    for tool in &tools {
        visitor.call(tool, &wire::call(tool)).await?;
    }
    Ok((visitor, tools))
}
