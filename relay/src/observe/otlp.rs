//! Spans on their way to a collector: a bounded queue, one task that sends many at once over HTTP as
//! protobuf, and no thread besides. When the collector is slower than the visitors, spans are
//! dropped and counted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ObserveError;
use crate::metrics::{Metrics, SpanResult};

/// How many spans wait, and how many are sent at once: the defaults of OpenTelemetry's own queue.
const QUEUE: usize = 2048;
const BATCH: usize = 512;
/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take once the relay stops.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Where spans are put that have ended.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: Counter,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What sends them.
#[derive(Debug)]
pub(super) struct Sender {
    spans: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    sent: Counter,
    failed: Counter,
    /// Whether the last spans could not be sent, which is said once.
    failing: bool,
}

/// Opens the way to a collector.
pub(super) fn open(
    endpoint: &str,
    resource: &Resource,
    metrics: &Metrics,
) -> Result<(Queue, Sender), ObserveError> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Web::new()?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| ObserveError::Traces(error.to_string()))?;
    exporter.set_resource(resource);
    let (queue, spans) = mpsc::channel(QUEUE);
    let queue = Queue { spans: queue, dropped: metrics.spans(SpanResult::Dropped) };
    let (sent, failed) = (metrics.spans(SpanResult::Sent), metrics.spans(SpanResult::Failed));
    Ok((queue, Sender { spans, exporter, sent, failed, failing: false }))
}

impl Sender {
    /// Sends spans until `stop`, and then those that wait.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut ticks = tokio::time::interval(GATHER);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let room = BATCH - batch.len();
            let due = tokio::select! {
                came = self.spans.recv_many(&mut batch, room) => match came {
                    0 => break,
                    _ => batch.len() == BATCH,
                },
                _ = ticks.tick() => !batch.is_empty(),
                () = stop.cancelled() => break,
            };
            if due {
                self.send(&mut batch, PATIENCE).await;
            }
        }
        self.spans.close();
        self.spans.recv_many(&mut batch, QUEUE).await;
        if !batch.is_empty() {
            self.send(&mut batch, LAST_WORDS).await;
        }
    }

    async fn send(&mut self, batch: &mut Vec<SpanData>, patience: Duration) {
        let spans = std::mem::replace(batch, Vec::with_capacity(BATCH));
        let count = spans.len() as u64;
        let error = match tokio::time::timeout(patience, self.exporter.export(spans)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        let Some(error) = error else {
            self.sent.inc_by(count);
            self.failing = false;
            return;
        };
        self.failed.inc_by(count);
        if !self.failing {
            tracing::warn!(error, "traces cannot be sent");
        }
        self.failing = true;
    }
}

/// HTTP towards collectors: bounded answers, bounded waits, on the relay's own runtime.
#[derive(Clone)]
struct Web(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Web(…)")
    }
}

impl Web {
    fn new() -> Result<Self, ObserveError> {
        let fail = |error: rustls::Error| ObserveError::Traces(error.to_string());
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(fail)?
            .with_platform_verifier()
            .map_err(fail)?
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }
}

#[async_trait]
impl HttpClient for Web {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let (head, body) = self.0.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        // What another status than success means is the exporter's to say.
        tokio::time::timeout(PATIENCE, exchange).await?
    }
}
