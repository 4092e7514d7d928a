//! How many agents a second one relay takes in.
//!
//! Agents that nobody has seen before come at `bench-agents`, so many at a time: each connects, upgrades
//! with a signed assertion, says hello, claims a name of its own, and goes as soon as that is its. They
//! speak the protocol without the library, and what they use is told beside what the relay uses. Beside
//! them stands what comes nearest with rathole: the services of one client that starts, each with a
//! connection of its own, a shared token instead of a signature, and the connections for visitors that
//! rathole holds ready from the start. A service is less than an agent, and what it takes before its first
//! is left out there, so the two stand side by side and are not divided.

use std::time::Instant;

use anyhow::Context as _;
use mcpm_bench::outcome::count;
use mcpm_bench::process::Process;
use mcpm_bench::relay::{BARE, Relay};
use mcpm_bench::table::{median, shown};

use super::{Finding, Must, SHORT_REST, rest, room};
use crate::Bench;
use crate::contender::{Rathole, Security, Transport, Way, relay_with};
use crate::measure::Plan;

/// How many agents come at a time.
const AT_A_TIME: usize = 32;

/// One way to be taken in.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Tls,
    /// With a database in a file, as most operators have it.
    Sqlite,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Sqlite];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "handshakes",
            Self::Tls => "handshakes, TLS",
            Self::Sqlite => "handshakes, SQLite",
        }
    }

    /// How rathole does what comes nearest.
    fn peer(self, bench: &Bench<'_>) -> Option<anyhow::Result<Transport>> {
        match self {
            _ if !bench.options.rathole.exists() => None,
            Self::Plain => Some(Ok(Transport::WebSocket)),
            Self::Tls => Some(Transport::tls(bench.certs)),
            Self::Sqlite => None,
        }
    }
}

/// What was measured of one way, a value a repetition.
#[derive(Default)]
struct Figures {
    /// Agents per second, milliseconds at the median, and milliseconds of processor time for each
    /// agent: the relay's and the agents'.
    ours: [Vec<f64>; 4],
    /// Services per second, and the server's milliseconds of processor time for each.
    theirs: [Vec<f64>; 2],
}

/// Measures ours beside rathole, in alternating repetitions.
pub(crate) async fn measure(bench: &Bench<'_>, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    room()?;
    let mut all = Kind::ALL.map(|kind| (kind, Figures::default()));
    for repetition in 1..=plan.repetitions {
        for (kind, figures) in &mut all {
            eprintln!("repetition {repetition} of {}: {}", plan.repetitions, kind.name());
            let ours = ours(bench, plan, *kind).await.context(kind.name())?;
            note(&mut figures.ours, ours);
            if let Some(transport) = kind.peer(bench) {
                let theirs = theirs(bench, plan, transport?).await.context("rathole")?;
                note(&mut figures.theirs, theirs);
            }
        }
    }
    Ok(all.into_iter().flat_map(|(kind, figures)| findings(kind, figures)).collect())
}

fn note<const N: usize>(lists: &mut [Vec<f64>; N], values: [f64; N]) {
    lists.iter_mut().zip(values).for_each(|(list, value)| list.push(value));
}

fn findings(kind: Kind, figures: Figures) -> [Finding; 2] {
    let measured = !figures.theirs[0].is_empty();
    let [rate, p50, relay_ms, agents_ms] = figures.ours.map(median).map(Figure);
    let [theirs, theirs_ms] = figures.theirs.map(median).map(Figure);
    // Other work, so no ratio.
    let peer = |theirs: &Figure| {
        measured.then(|| format!("; rathole, a service of one client, unsigned: {theirs}"))
    };
    let beside = |own: String, peer: Option<String>| own + &peer.unwrap_or_default();
    let name = kind.name();
    [
        Finding {
            what: format!("{name}, per second"),
            is: rate.0,
            must: Must::Open,
            beside: beside(format!("{AT_A_TIME} at a time, p50 {p50} ms"), peer(&theirs)),
        },
        Finding {
            what: format!("{name}, CPU ms each at the relay"),
            is: relay_ms.0,
            must: Must::Open,
            beside: beside(format!("the agents' {agents_ms}"), peer(&theirs_ms)),
        },
    ]
}

/// A figure as tables show it.
struct Figure(f64);

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(self.0))
    }
}

async fn ours(bench: &Bench<'_>, plan: &Plan, kind: Kind) -> anyhow::Result<[f64; 4]> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("relay");
    let data = data.to_str().context("a path that is text")?;
    let (security, store) = match kind {
        Kind::Plain => (Security::None, BARE),
        Kind::Tls => (Security::Files(bench.certs), BARE),
        Kind::Sqlite => (Security::None, ["--data-dir", data, "--admin-listen", "none"]),
    };
    let Relay { process: relay, addr, .. } =
        relay_with(bench.options, folder.path(), security, &store).await?;
    let address = Way { addr, security }.address();
    let (at_a_time, millis) = (AT_A_TIME.to_string(), (plan.seconds * 1000).to_string());
    let program = bench.options.bins.join("bench-agents");
    let args = ["handshakes", &at_a_time, &millis, &address];
    let mut agents = Process::start("bench-agents", &program, &args)?;

    agents.line(|line| (line == "begin").then_some(())).await?;
    let used = |agents: &Process| [&relay, agents].map(|process| process.weigh_alone().cpu_seconds);
    let (begun, before) = (Instant::now(), used(&agents));
    let (rate, p50) = agents.line(done).await?;
    let (elapsed, after) = (begun.elapsed(), used(&agents));
    for process in [agents, relay] {
        process.stop().await;
    }
    let each = |at: usize| (after[at] - before[at]) * 1e3 / (rate * elapsed.as_secs_f64());
    Ok([rate, p50, each(0), each(1)])
}

/// What the agents say at the end: how many a second, and milliseconds at the median.
fn done(line: &str) -> Option<(f64, f64)> {
    let (rate, p50) = line.strip_prefix("done ")?.split_once(' ')?;
    Some((rate.parse().ok()?, p50.parse().ok()?))
}

async fn theirs(bench: &Bench<'_>, plan: &Plan, transport: Transport) -> anyhow::Result<[f64; 2]> {
    let folder = tempfile::tempdir()?;
    let services = plan.services;
    let rathole = Rathole::plan_many(folder.path(), bench.backend.port, transport, services)?;
    let mut server = rathole.logging_server(bench.options, "info")?;
    rest(SHORT_REST).await;
    let up = |line: &str| line.contains("Control channel established").then_some(());
    let client = rathole.client(bench.options, rathole.control)?;
    // The clock starts with the first: how long the client itself takes to start is not what this is about.
    server.line(up).await?;
    let (begun, before) = (Instant::now(), server.weigh_alone().cpu_seconds);
    let further = services.checked_sub(1).context("rathole is measured with several services")?;
    for _ in 0..further {
        server.line(up).await?;
    }
    let rate = count(further) / begun.elapsed().as_secs_f64();
    // What it does for a service does not end when the service is up.
    rest(SHORT_REST).await;
    let used = server.weigh_alone().cpu_seconds - before;
    for process in [client, server] {
        process.stop().await;
    }
    Ok([rate, used * 1e3 / count(further)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_tell_how_fast_they_came() {
        assert_eq!(done("done 1234.5 9.75"), Some((1234.5, 9.75)));
        assert_eq!(done("begin"), None);
    }

    #[test]
    fn rathole_stands_beside_ours_where_it_was_measured() {
        let mut figures = Figures::default();
        note(&mut figures.ours, [2000.0, 8.0, 0.25, 0.5]);
        note(&mut figures.theirs, [1000.0, 0.5]);
        let [rate, cpu] = findings(Kind::Plain, figures);
        let theirs = "; rathole, a service of one client, unsigned";
        assert_eq!(rate.beside, format!("32 at a time, p50 8.0 ms{theirs}: 1000"));
        assert_eq!(cpu.beside, format!("the agents' 0.500{theirs}: 0.500"));
        let mut alone = Figures::default();
        note(&mut alone.ours, [2000.0, 8.0, 0.25, 0.5]);
        assert_eq!(findings(Kind::Sqlite, alone)[1].beside, "the agents' 0.500");
    }
}
