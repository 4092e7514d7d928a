//! Metrics of the process itself, under the names that every Prometheus client uses. They are read
//! when somebody asks; nothing is counted.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// How many of Linux's clock ticks are a second in what it tells programs (`USER_HZ`, which is 100
/// on all machines that we build for).
const TICKS: f64 = 100.0;

/// Tells of this process.
#[derive(Debug)]
pub(super) struct Process {
    /// When it started, in Unix seconds.
    started: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: now.as_secs_f64() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let started = ConstGauge::new(self.started);
        let help = "When the relay started, in Unix seconds.";
        put(&mut encoder, "process_start_time", help, Some(&Unit::Seconds), &started)?;
        let Some(now) = Usage::now() else { return Ok(()) };
        let help = "Time of processors used, by the program and the system for it.";
        let cpu = ConstCounter::new(now.cpu_seconds);
        put(&mut encoder, "process_cpu", help, Some(&Unit::Seconds), &cpu)?;
        let help = "Memory in use.";
        let memory = ConstGauge::new(now.resident_bytes);
        put(&mut encoder, "process_resident_memory", help, Some(&Unit::Bytes), &memory)?;
        let fds = ConstGauge::new(now.open_fds);
        put(&mut encoder, "process_open_fds", "Open files and connections.", None, &fds)?;
        let Some(most) = now.max_fds else { return Ok(()) };
        let help = "How many files and connections may be open.";
        put(&mut encoder, "process_max_fds", help, None, &ConstGauge::new(most))
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &dyn EncodeMetric,
) -> Result<(), fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

/// What the process uses now.
#[derive(Debug)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: i64,
    open_fds: i64,
    /// `None` where there is no limit.
    max_fds: Option<i64>,
}

impl Usage {
    /// Asks the system; `None` where it is not Linux, or tells nothing.
    fn now() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
        // One of them is the listing's own.
        let open_fds = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        Some(Self {
            cpu_seconds: cpu_seconds(&read("stat")?)?,
            resident_bytes: resident_bytes(&read("status")?)?,
            open_fds: i64::try_from(open_fds).ok()?,
            max_fds: read("limits").as_deref().and_then(max_fds),
        })
    }
}

/// Fields 14 and 15 of `stat` (proc(5)); the second field may hold blanks and ends with `)`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) / TICKS)
}

fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The soft limit; `unlimited` is none.
fn max_fds(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_understood() {
        let stat = "4242 (a (b) c) S 1 4242 4242 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 99 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t   2048 kB\n"), Some(2 * 1024 * 1024));
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax open files   1024   524288   files";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files   unlimited   unlimited   files"), None);
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let now = Usage::now().unwrap();
        assert!(now.resident_bytes > 1024 * 1024, "{now:?}");
        assert!(now.open_fds >= 3, "{now:?}");
    }
}
