//! Traces by OpenTelemetry: one span a request, part of the visitor's trace where it has one.
//!
//! The relay decides by the trace's id which requests are traced, so that all nodes decide alike. A
//! visitor that says its trace is not recorded is believed; one that says it is still counts with
//! the ratio, or strangers could fill the collector. What is not traced passes unchanged.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use super::otlp::{self, Sender};
use super::{Facts, ObserveError};
use crate::config::{Config, TracesConfig};
use crate::metrics::Metrics;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest path that a span holds.
const MAX_PATH: usize = 1024;

/// Makes spans of requests.
pub(super) struct Traces {
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    /// Ends what its tracers do when it is dropped.
    _provider: SdkTracerProvider,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces(…)")
    }
}

/// Prepares spans and what sends them.
pub(super) fn open(
    wanted: &TracesConfig,
    config: &Config,
    metrics: &Metrics,
) -> Result<(Traces, Sender), ObserveError> {
    let resource = Resource::builder()
        .with_service_name("mcpm-relay")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", config.node.clone()),
        ])
        .build();
    let (queue, sender) = otlp::open(&wanted.endpoint, &resource, metrics)?;
    let provider = SdkTracerProvider::builder()
        .with_span_processor(queue)
        .with_sampler(Sampler::TraceIdRatioBased(wanted.ratio))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("mcpm-relay");
    let propagator = TraceContextPropagator::new();
    Ok((Traces { tracer, propagator, _provider: provider }, sender))
}

impl Traces {
    /// Begins the span of a request that is to be traced, and makes it the parent of what follows.
    pub(super) fn begin(&self, method: &Method, headers: &mut HeaderMap) -> Option<Span> {
        let empty = Context::new();
        let parent = self.propagator.extract_with_context(&empty, &HeaderExtractor(headers));
        let theirs = parent.span().span_context().clone();
        if theirs.is_valid() && !theirs.is_sampled() {
            return None;
        }
        let builder = SpanBuilder::from_name(name(method)).with_kind(SpanKind::Server);
        let span = self.tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            return None;
        }
        let ours = span.span_context();
        let value = format!("00-{}-{}-01", ours.trace_id(), ours.span_id());
        headers.insert(TRACEPARENT, HeaderValue::from_str(&value).ok()?);
        if !theirs.is_valid() {
            // It belongs to a trace that nobody could read (W3C Trace Context §3.3).
            headers.remove(TRACESTATE);
        }
        Some(Span(span))
    }
}

/// The span of one request.
#[derive(Debug)]
pub(super) struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// Returns the id of the trace that it is part of.
    pub(super) fn trace_id(&self) -> String {
        self.0.span_context().trace_id().to_string()
    }

    /// Ends the span with what became of the request.
    pub(super) fn end(mut self, facts: &Facts) {
        let text = |value: &str| value.chars().take(MAX_PATH).collect::<String>();
        let mut attributes = vec![
            KeyValue::new("http.request.method", known(&facts.method)),
            KeyValue::new("url.scheme", if facts.https { "https" } else { "http" }),
            KeyValue::new("url.path", text(facts.path())),
            KeyValue::new(
                "http.response.body.size",
                i64::try_from(facts.bytes).unwrap_or(i64::MAX),
            ),
        ];
        if let Some(host) = facts.host.as_ref().and_then(|host| host.to_str().ok()) {
            attributes.push(KeyValue::new("server.address", text(host)));
        }
        if let Some(share) = &facts.share {
            attributes.push(KeyValue::new("mcpm.share", share.as_str().to_owned()));
        }
        if let Some(agent) = &facts.agent {
            attributes.push(KeyValue::new("mcpm.agent", agent.clone()));
        }
        if let Some(status) = facts.status {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        }
        if let Some(error) = error(facts) {
            attributes.push(KeyValue::new("error.type", error));
        }
        if facts.status.is_none_or(|status| status.is_server_error()) || !facts.whole {
            self.0.set_status(Status::error(""));
        }
        self.0.set_attributes(attributes);
        self.0.end();
    }
}

/// In one word, how the request failed, if it did.
fn error(facts: &Facts) -> Option<String> {
    match (facts.code, facts.status) {
        (Some(code), _) => Some(code.to_owned()),
        (None, Some(status)) if status.is_server_error() => Some(status.as_u16().to_string()),
        (None, None) => Some("visitor_gone".to_owned()),
        (None, Some(status)) => {
            (!facts.whole && status != StatusCode::SWITCHING_PROTOCOLS).then(|| "cut".to_owned())
        }
    }
}

/// Names of spans are few: a visitor may send any word as a method.
fn name(method: &Method) -> &'static str {
    match known(method) {
        "_OTHER" => "HTTP",
        known => known,
    }
}

/// The method as semantic conventions write it.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}
