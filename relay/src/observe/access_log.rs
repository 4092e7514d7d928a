//! The access log: one line a request, written off the hot path.
//!
//! A request that has ended puts what is known of it into a bounded queue. One task makes lines of
//! it and writes many at once. When the disk is slower than the visitors, lines are dropped and
//! counted; no visitor ever waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt as _, Stdout};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Facts, ObserveError, line};
use crate::config::{AccessLogConfig, AccessLogForm};
use crate::metrics::Metrics;

/// How many requests wait to be written: some megabytes, and at 50,000 requests a second enough for
/// a disk that stops for a sixth of one.
const QUEUE: usize = 8 * 1024;
/// How many are written at once.
const BATCH: usize = 256;

/// Where requests are put that have ended. Clones are the same log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: mpsc::Sender<Box<Facts>>,
    dropped: Counter,
    again: Arc<Notify>,
}

impl AccessLog {
    pub(super) fn add(&self, facts: Box<Facts>) {
        if self.queue.try_send(facts).is_err() {
            self.dropped.inc();
        }
    }

    pub(super) fn reopen(&self) {
        self.again.notify_one();
    }
}

/// What writes the lines.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Box<Facts>>,
    form: AccessLogForm,
    node: Box<str>,
    sink: Sink,
    again: Arc<Notify>,
    dropped: Counter,
    /// Whether the last lines could not be written, which is said once.
    failing: bool,
}

#[derive(Debug)]
enum Sink {
    Stdout(Stdout),
    File(File, PathBuf),
}

/// Opens the log.
///
/// # Errors
/// Fails when its file cannot be written.
pub(super) fn open(
    config: &AccessLogConfig,
    node: &str,
    metrics: &Metrics,
) -> Result<(AccessLog, Writer), ObserveError> {
    let sink = match &config.file {
        Some(path) => {
            let file = to_append().open(path).map_err(|error| failed(path, error))?;
            Sink::File(File::from_std(file), path.clone())
        }
        None => Sink::Stdout(tokio::io::stdout()),
    };
    let (lines, queue) = mpsc::channel(QUEUE);
    let again = Arc::new(Notify::new());
    let dropped = metrics.access_log_dropped.clone();
    let log = AccessLog { queue: lines, dropped: dropped.clone(), again: Arc::clone(&again) };
    let (form, node) = (config.form, node.into());
    Ok((log, Writer { queue, form, node, sink, again, dropped, failing: false }))
}

/// Returns how a file is opened to add to it; a new one may be read by its owner and group, since
/// visitors' addresses are in it.
fn to_append() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options
}

fn failed(path: &Path, source: std::io::Error) -> ObserveError {
    ObserveError::AccessLog { path: path.to_owned(), source }
}

impl Writer {
    /// Writes lines until `stop`, and then those that wait.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let came = tokio::select! {
                biased;
                () = self.again.notified() => {
                    self.reopen().await;
                    continue;
                }
                came = self.queue.recv_many(&mut batch, BATCH) => came,
                () = stop.cancelled() => {
                    self.queue.close();
                    self.queue.recv_many(&mut batch, BATCH).await
                }
            };
            if came == 0 {
                return;
            }
            self.put(&mut batch).await;
        }
    }

    #[expect(clippy::vec_box, reason = "as they come out of the queue, where small items matter")]
    async fn put(&mut self, batch: &mut Vec<Box<Facts>>) {
        let (lines, mut text) = (batch.len(), String::with_capacity(batch.len() * 256));
        for facts in batch.drain(..) {
            line::write(&mut text, self.form, &facts, &self.node);
        }
        let written = match &mut self.sink {
            Sink::Stdout(out) => put(out, &text).await,
            Sink::File(file, _) => put(file, &text).await,
        };
        match written {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.dropped.inc_by(lines as u64);
                if !self.failing {
                    tracing::warn!(%error, "access log cannot be written");
                }
                self.failing = true;
            }
        }
    }

    /// Opens the file anew; where that fails, the one that is open stays.
    async fn reopen(&mut self) {
        let Sink::File(file, path) = &mut self.sink else { return };
        let opened = tokio::fs::OpenOptions::from(to_append()).open(&path).await;
        match opened.map_err(|error| failed(path, error)) {
            Ok(new) => {
                *file = new;
                tracing::info!(path = %path.display(), "access log opened again");
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "access log not opened again"
                );
            }
        }
    }
}

async fn put(out: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    out.write_all(text.as_bytes()).await?;
    out.flush().await
}
