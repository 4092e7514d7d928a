//! What a load generator found out.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

/// How long the last answers may take after no request is begun any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// How requests were answered.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seconds from each request's first byte to its answer's last; sorted by [`gather`].
    pub latencies: Vec<f64>,
    /// Bytes of bodies.
    pub bytes: usize,
    /// How long it took, to the last answer.
    pub elapsed: Duration,
}

impl Outcome {
    /// How many requests were answered.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.latencies.len()
    }

    /// Requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        count(self.latencies.len()) / self.elapsed.as_secs_f64()
    }

    /// Megabytes (10⁶) per second.
    #[must_use]
    pub fn megabytes(&self) -> f64 {
        count(self.bytes) / 1e6 / self.elapsed.as_secs_f64()
    }

    /// The latency in milliseconds that `percent` of the requests did not exceed.
    #[must_use]
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(f64::NAN) * 1e3
    }
}

/// A number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
#[must_use]
pub fn count(number: usize) -> f64 {
    number as f64
}

/// Runs all connections, which begin requests for `duration`, and puts their parts together.
///
/// # Errors
/// When one of them fails: a contender that drops requests is not measured, it is broken.
pub async fn gather<F>(
    duration: Duration,
    connections: impl Iterator<Item = F>,
) -> anyhow::Result<Outcome>
where
    F: Future<Output = anyhow::Result<Outcome>> + Send + 'static,
{
    let started = Instant::now();
    let mut running: JoinSet<_> = connections.collect();
    let mut total = Outcome::default();
    let all = async {
        while let Some(part) = running.join_next().await {
            let part = part.context("a connection's task")??;
            total.latencies.extend(part.latencies);
            total.bytes += part.bytes;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(duration + PATIENCE, all).await.context("an answer does not come")??;
    total.elapsed = started.elapsed();
    total.latencies.sort_by(f64::total_cmp);
    Ok(total)
}
