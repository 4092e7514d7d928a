//! The measurements that one contender goes through.

use std::time::Duration;

use mcpm_bench::outcome::count;
use mcpm_bench::table::Column;

use crate::contender::Running;
use crate::load::{Load, apply};

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each contender has its turn.
    pub(crate) repetitions: usize,
    /// How long one load lasts.
    pub(crate) seconds: u64,
    /// How often an agent is started.
    pub(crate) starts: usize,
    /// How many agents are connected to one relay.
    pub(crate) agents: usize,
    /// How many services a client of rathole connects at once.
    pub(crate) services: usize,
    /// How long a soak takes.
    pub(crate) minutes: f64,
}

/// What `docs/performance.md` is made from.
pub(crate) const FULL: Plan =
    Plan { repetitions: 3, seconds: 4, starts: 21, agents: 10_000, services: 500, minutes: 5.0 };
/// A look while working on something.
pub(crate) const QUICK: Plan =
    Plan { repetitions: 1, seconds: 1, starts: 5, agents: 1000, services: 100, minutes: 0.5 };

/// Bytes of one bulk answer: long enough that opening it does not count.
const BULK: usize = 64 * 1024 * 1024;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    C1P50,
    C32Rate,
    C256Rate,
    C256P99,
    Close32Rate,
    Cpu,
    Bulk1,
    Bulk8,
    IdleRelay,
    IdleClient,
    PeakRelay,
    PeakClient,
}

impl Column for Figure {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::C1P50, "c1 p50 ms"),
        (Self::C32Rate, "c32 req/s"),
        (Self::C256Rate, "c256 req/s"),
        (Self::C256P99, "c256 p99 ms"),
        (Self::Close32Rate, "close32 req/s"),
        (Self::Cpu, "CPU s"),
        (Self::Bulk1, "bulk 1 MB/s"),
        (Self::Bulk8, "bulk 8 MB/s"),
        (Self::IdleRelay, "idle MB relay"),
        (Self::IdleClient, "idle MB client"),
        (Self::PeakRelay, "peak MB relay"),
        (Self::PeakClient, "peak MB client"),
    ];
}

/// Measures one contender that is up.
///
/// # Errors
/// When a request fails, or something else answered than what is measured.
pub(crate) async fn measure(plan: &Plan, running: &Running) -> anyhow::Result<Vec<(Figure, f64)>> {
    let duration = Duration::from_secs(plan.seconds);
    let load = |connections| Load { connections, duration, close: false, bulk: None };
    let target = &running.target;
    let mut figures = Vec::new();
    if let Some((relay, client)) = running.weigh() {
        figures.push((Figure::IdleRelay, relay.megabytes));
        figures.push((Figure::IdleClient, client.megabytes));
    }
    // The first requests build connections and fill caches: they are nobody's figures.
    apply(target, Load { duration: duration / 4, ..load(32) }).await?;

    figures.push((Figure::C1P50, apply(target, load(1)).await?.percentile_ms(50)));
    let before = running.weigh();
    let c32 = apply(target, load(32)).await?;
    let after = running.weigh();
    figures.push((Figure::C32Rate, c32.rate()));
    if let (Some(before), Some(after)) = (before, after) {
        let used =
            after.0.cpu_seconds + after.1.cpu_seconds - before.0.cpu_seconds - before.1.cpu_seconds;
        figures.push((Figure::Cpu, used * 100_000.0 / count(c32.requests())));
    }
    let c256 = apply(target, load(256)).await?;
    figures.push((Figure::C256Rate, c256.rate()));
    figures.push((Figure::C256P99, c256.percentile_ms(99)));
    let close = Load { close: true, ..load(32) };
    figures.push((Figure::Close32Rate, apply(target, close).await?.rate()));
    for (figure, streams) in [(Figure::Bulk1, 1), (Figure::Bulk8, 8)] {
        if running.has_bulk() {
            let bulk = Load { bulk: Some(BULK), ..load(streams) };
            figures.push((figure, apply(target, bulk).await?.megabytes()));
        }
    }
    if let Some((relay, client)) = running.weigh() {
        figures.push((Figure::PeakRelay, relay.peak_megabytes));
        figures.push((Figure::PeakClient, client.peak_megabytes));
    }
    running.check()?;
    Ok(figures)
}
