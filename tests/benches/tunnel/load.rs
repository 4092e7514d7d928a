//! The load generator: many connections on one thread, as little HTTP/1.1 as it takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where to connect to.
    pub(crate) addr: SocketAddr,
    /// The value of `Host`.
    pub(crate) host: String,
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Connections at a time.
    pub(crate) connections: usize,
    /// How long new requests are begun.
    pub(crate) duration: Duration,
    /// A new connection for each request.
    pub(crate) close: bool,
    /// Ask for this many bytes instead of the small answer.
    pub(crate) bulk: Option<usize>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Seconds from each request's first byte to its answer's last, sorted.
    latencies: Vec<f64>,
    /// Bytes of bodies.
    bytes: usize,
    /// How long it took, to the last answer.
    elapsed: Duration,
}

impl Outcome {
    /// How many requests were answered.
    pub(crate) fn requests(&self) -> usize {
        self.latencies.len()
    }

    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        count(self.latencies.len()) / self.elapsed.as_secs_f64()
    }

    /// Megabytes (10⁶) per second.
    pub(crate) fn megabytes(&self) -> f64 {
        count(self.bytes) / 1e6 / self.elapsed.as_secs_f64()
    }

    /// The latency in milliseconds that `percent` of the requests did not exceed.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(f64::NAN) * 1e3
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Applies `load` and waits for the last answer.
///
/// # Errors
/// When one request fails: a contender that drops requests is not measured, it is broken.
pub(crate) async fn apply(target: &Target, load: Load) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        connections.spawn(connection(target.clone(), load, started + load.duration));
    }
    let mut total = Outcome::default();
    let all = async {
        while let Some(part) = connections.join_next().await {
            let part = part.context("a connection's task")??;
            total.latencies.extend(part.latencies);
            total.bytes += part.bytes;
        }
        anyhow::Ok(())
    };
    let patience = load.duration + Duration::from_secs(30);
    tokio::time::timeout(patience, all).await.with_context(|| format!("{load:?} hangs"))??;
    total.elapsed = started.elapsed();
    total.latencies.sort_by(f64::total_cmp);
    Ok(total)
}

async fn connection(target: Target, load: Load, deadline: Instant) -> anyhow::Result<Outcome> {
    let path = load.bulk.map_or_else(|| "/".to_owned(), |bytes| format!("/bulk/{bytes}"));
    let close = if load.close { "connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{close}\r\n", target.host);
    let mut outcome = Outcome::default();
    let mut buffer = vec![0; 256 * 1024];
    let mut open = None;
    while Instant::now() < deadline {
        let begun = Instant::now();
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => connect(target.addr).await?,
        };
        stream.write_all(request.as_bytes()).await.context("send a request")?;
        outcome.bytes += answer(&mut stream, &mut buffer).await?;
        outcome.latencies.push(begun.elapsed().as_secs_f64());
        if !load.close {
            open = Some(stream);
        }
    }
    Ok(outcome)
}

async fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await.with_context(|| format!("connect to {addr}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer and returns the length of its body.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut filled = 0;
    let (head_len, body_len) = loop {
        let read = stream.read(&mut buffer[filled..]).await.context("read an answer")?;
        ensure!(read > 0, "the connection ended before an answer");
        filled += read;
        if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break (end + 4, content_length(&buffer[..end])?);
        }
        ensure!(filled < buffer.len(), "an answer's head does not end");
    };
    let mut left = (head_len + body_len).checked_sub(filled).context("more than was asked for")?;
    while left > 0 {
        let read = stream.read(buffer).await.context("read a body")?;
        ensure!(read > 0, "the connection ended within a body");
        left = left.checked_sub(read).context("more than was asked for")?;
    }
    Ok(body_len)
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head).context("a head that is text")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the answer is {head:?}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    length.with_context(|| format!("an answer with a length, not {head:?}"))
}
