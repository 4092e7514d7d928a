//! Whether memory and descriptors stay flat under mixed load, and nothing is left when it ends.
//!
//! One relay with its database in a file, one agent in front of the backend, and a process of agents that
//! come and go and of names that are claimed and released; [`visitors`] are of all kinds at once. After a
//! while to get warm, each process is weighed every few seconds. At the end the visitors hang up in the
//! midst of what they do, the agents end, and the relay's gauges must fall to zero.

mod judge;
mod visitors;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mcpm_bench::outcome::count;
use mcpm_bench::process::Process;
use mcpm_bench::relay::Relay;
use mcpm_bench::table::{Column, Table, shown};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use self::judge::{MOST_PERCENT, Trend};
use self::visitors::{Tally, Visitors};
use super::{Finding, Must, SHORT_REST, rest, room};
use crate::Bench;
use crate::contender::{Security, Way, http_share, ready, relay_with};
use crate::load::Target;
use crate::measure::Plan;

/// How often all are weighed, when there is time: at least as often as [`SAMPLES`] says.
const EVERY: Duration = Duration::from_secs(5);
const SAMPLES: u32 = 30;
/// How long it takes until all is warm, at most; else a fifth of the time.
const WARM: Duration = Duration::from_secs(60);
/// How long the relay may take to come to rest. Requests to an agent that is gone wait 15 seconds.
const SETTLES: Duration = Duration::from_secs(40);
/// What falls to zero when nobody is there any more.
const GAUGES: [&str; 6] =
    ["sessions", "connections", "shares", "streams_open", "requests_in_flight", "held_requests"];

/// A column of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    MiddleMegabytes,
    LastMegabytes,
    MegabytesAnHour,
    MostMegabytes,
    MiddleDescriptors,
    LastDescriptors,
    DescriptorsAnHour,
    RestingMegabytes,
    RestingDescriptors,
}

impl Column for Figure {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::MiddleMegabytes, "MB, middle third"),
        (Self::LastMegabytes, "MB, last third"),
        (Self::MegabytesAnHour, "MB an hour"),
        (Self::MostMegabytes, "most MB"),
        (Self::MiddleDescriptors, "open files, middle third"),
        (Self::LastDescriptors, "open files, last third"),
        (Self::DescriptorsAnHour, "open files an hour"),
        (Self::RestingMegabytes, "MB at rest"),
        (Self::RestingDescriptors, "open files at rest"),
    ];
}

/// A process that is weighed.
struct Watched {
    name: &'static str,
    process: Process,
    megabytes: Vec<(f64, f64)>,
    descriptors: Vec<(f64, f64)>,
}

/// What became of one.
struct Judged {
    name: &'static str,
    megabytes: Trend,
    descriptors: Trend,
    /// Megabytes and descriptors when all visitors had left; `None` where work went on.
    resting: Option<(f64, f64)>,
}

impl Watched {
    fn new(name: &'static str, process: Process) -> Self {
        Self { name, process, megabytes: Vec::new(), descriptors: Vec::new() }
    }

    fn weigh(&self) -> anyhow::Result<(f64, f64)> {
        let megabytes = self.process.weigh_alone().megabytes;
        ensure!(megabytes > 0.0, "{} has ended", self.name);
        Ok((megabytes, count(self.process.descriptors())))
    }

    fn sample(&mut self, at: f64) -> anyhow::Result<()> {
        let (megabytes, descriptors) = self.weigh()?;
        self.megabytes.push((at, megabytes));
        self.descriptors.push((at, descriptors));
        Ok(())
    }

    /// Ends it and judges its samples; one that `rests` is weighed once more.
    async fn end(self, rests: bool) -> anyhow::Result<Judged> {
        let resting = rests.then(|| self.weigh()).transpose()?;
        let trend = |samples: &[(f64, f64)]| Trend::of(samples).context("too few samples");
        let (megabytes, descriptors) = (trend(&self.megabytes)?, trend(&self.descriptors)?);
        self.process.stop().await;
        Ok(Judged { name: self.name, megabytes, descriptors, resting })
    }
}

/// Applies mixed load for a while, and prints a table of what became of memory and descriptors.
pub(crate) async fn measure(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    room()?;
    let minutes = bench.options.minutes.unwrap_or(plan.minutes);
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("relay");
    let data = data.to_str().context("a path that is text")?;
    let args = ["--data-dir", data, "--admin-listen", "127.0.0.1:0"];
    let relay = relay_with(bench.options, folder.path(), Security::None, &args).await?;
    let Relay { process: relay, addr, admin } = relay;
    let admin = admin.context("the relay says where its metrics are")?;
    let (agent, others) = agents(bench, folder.path(), addr).await?;
    let target = Target::plain(addr, "bench.localhost");
    ready(&target, Duration::from_millis(50)).await?;

    eprintln!("soak of {minutes} minutes");
    let visitors = Visitors::come(&target);
    let mut all = [
        Watched::new("mcpm-relay", relay),
        Watched::new("mcpm tunnel", agent),
        Watched::new("agents that come and go", others),
    ];
    watch(&mut all, Duration::from_secs_f64(minutes * 60.0)).await?;
    let tally = visitors.leave().await;
    rest(SHORT_REST).await;
    let [relay, agent, others] = all;
    let (others, agent) = (others.end(false).await?, agent.end(true).await?);
    let (left, took) = settle(admin).await?;
    let all = [relay.end(true).await?, agent, others];
    println!("{}", table(&all).markdown());
    let judged = all.iter().flat_map(growth);
    Ok(judged.chain(ends(&tally, &left, took)).collect())
}

/// Starts the agent that visitors know, and those that come and go.
async fn agents(
    bench: &Bench<'_>,
    folder: &Path,
    addr: SocketAddr,
) -> anyhow::Result<(Process, Process)> {
    let (way, port) = (Way { addr, security: Security::None }, bench.backend.port);
    let agent = http_share(bench.options, &folder.join("mcpm"), port, &way)?;
    let program = bench.options.bins.join("bench-agents");
    let args = ["churn", &port.to_string(), &way.address()];
    let mut others = Process::start("bench-agents", &program, &args)?;
    others.line(|line| (line == "up").then_some(())).await?;
    Ok((agent, others))
}

/// Weighs all again and again, once they are warm.
async fn watch(all: &mut [Watched], length: Duration) -> anyhow::Result<()> {
    let warm = WARM.min(length / 5);
    rest(warm).await;
    let begun = Instant::now();
    let mut tick = interval(EVERY.min(length / SAMPLES));
    while begun.elapsed() < length - warm {
        tick.tick().await;
        for watched in &mut *all {
            watched.sample(begun.elapsed().as_secs_f64())?;
        }
    }
    Ok(())
}

/// Waits until the relay's gauges are at zero; tells which are not, and how long it took.
async fn settle(admin: SocketAddr) -> anyhow::Result<(Vec<String>, Duration)> {
    let (begun, mut tick) = (Instant::now(), interval(Duration::from_millis(200)));
    loop {
        tick.tick().await;
        let left = busy(&metrics(admin).await.context("ask the relay for its metrics")?)?;
        if left.is_empty() || begun.elapsed() > SETTLES {
            return Ok((left, begun.elapsed()));
        }
    }
}

async fn metrics(admin: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Returns the gauges that are not at zero, each with its value.
fn busy(metrics: &str) -> anyhow::Result<Vec<String>> {
    let mut busy = Vec::new();
    for gauge in GAUGES {
        let value = metrics.lines().find_map(|line| {
            line.strip_prefix("mcpm_relay_")?.strip_prefix(gauge)?.strip_prefix(' ')
        });
        let value = value.with_context(|| format!("the relay does not tell its {gauge}"))?;
        if value.trim().parse() != Ok(0.0) {
            busy.push(format!("{gauge} {}", value.trim()));
        }
    }
    Ok(busy)
}

fn table(all: &[Judged]) -> Table<Figure> {
    let mut table = Table::default();
    for Judged { name, megabytes, descriptors, resting } in all {
        let mut figures = vec![
            (Figure::MiddleMegabytes, megabytes.middle),
            (Figure::LastMegabytes, megabytes.last),
            (Figure::MegabytesAnHour, megabytes.per_hour),
            (Figure::MostMegabytes, megabytes.most),
            (Figure::MiddleDescriptors, descriptors.middle),
            (Figure::LastDescriptors, descriptors.last),
            (Figure::DescriptorsAnHour, descriptors.per_hour),
        ];
        if let Some((megabytes, descriptors)) = resting {
            figures.push((Figure::RestingMegabytes, *megabytes));
            figures.push((Figure::RestingDescriptors, *descriptors));
        }
        table.add(name, figures);
    }
    table
}

/// What memory and descriptors of one process must do.
fn growth(judged: &Judged) -> [Finding; 2] {
    let each = [("memory", &judged.megabytes), ("open files", &judged.descriptors)];
    each.map(|(what, trend)| Finding {
        what: format!("soak, {what} of {}, % above the middle third", judged.name),
        is: trend.percent(),
        must: Must::AtMost(MOST_PERCENT),
        beside: String::new(),
    })
}

/// What must have come to nothing.
fn ends(tally: &Tally, left: &[String], took: Duration) -> [Finding; 2] {
    let number = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let mut fared = format!(
        "{} answered, {} cut, {} turned away by agents that were gone",
        number(&tally.answered),
        number(&tally.cut),
        number(&tally.turned_away),
    );
    if let Some(first) = tally.first_failure() {
        fared.push_str(&format!("; the first that failed: {first}"));
    }
    let settled = match left {
        [] => format!("all at zero after {} s", shown(took.as_secs_f64())),
        left => left.join(", "),
    };
    [
        Finding {
            what: "soak, requests that failed".to_owned(),
            is: count(number(&tally.failed)),
            must: Must::AtMost(0.0),
            beside: fared,
        },
        Finding {
            what: "soak, gauges of the relay that stay above zero".to_owned(),
            is: count(left.len()),
            must: Must::AtMost(0.0),
            beside: settled,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_above_zero_are_named() {
        let quiet: String = GAUGES.iter().map(|gauge| format!("mcpm_relay_{gauge} 0\n")).collect();
        assert!(busy(&quiet).unwrap().is_empty());
        let left = busy(&quiet.replace("_sessions 0", "_sessions 2")).unwrap();
        assert_eq!(left, ["sessions 2"]);
        assert!(busy("mcpm_relay_sessions 0").unwrap_err().to_string().contains("connections"));
    }

    #[test]
    fn a_process_that_grows_misses_its_budget() {
        let samples =
            |step: f64| (0..30_u32).map(move |at| (f64::from(at), 20.0 + f64::from(at) * step));
        let trend = |step| Trend::of(&samples(step).collect::<Vec<_>>()).unwrap();
        let judged =
            Judged { name: "relay", megabytes: trend(1.0), descriptors: trend(0.0), resting: None };
        let [memory, descriptors] = growth(&judged);
        assert!(memory.is > MOST_PERCENT && descriptors.is < MOST_PERCENT);
        assert_eq!(memory.what, "soak, memory of relay, % above the middle third");
    }
}
