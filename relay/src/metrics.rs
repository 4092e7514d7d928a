//! Every metric of the relay: all names, labels and units stand in this file.
//!
//! Labels are few and fixed: never a share's name, an owner or an address. Handles are clones of
//! atomics, so that counting costs the hot path no lock; families are resolved once, here.

#[cfg(test)]
mod lint;
mod process;
mod reading;

use std::sync::Arc;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use self::reading::{Reading, Sample};

/// Content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets for what a person waits for, in seconds: tool calls take from a millisecond to minutes.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];
/// Buckets up to the hold window.
const HELD_SECONDS: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// Classes of status codes, in order.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// The name was given.
    Given,
    /// The name belongs to somebody else.
    Taken,
    /// The relay keeps the name, or the agent's token does not allow it.
    Forbidden,
    /// The owner has too many shares.
    TooMany,
    /// Too many claims in too short a time.
    Limited,
    /// The store failed.
    Failed,
}

impl ClaimResult {
    fn label(self) -> ClaimLabel {
        let result = match self {
            Self::Given => "given",
            Self::Taken => "taken",
            Self::Forbidden => "forbidden",
            Self::TooMany => "too_many",
            Self::Limited => "limited",
            Self::Failed => "failed",
        };
        ClaimLabel { result }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClaimLabel {
    result: &'static str,
}

/// A code out of the relay's own fixed list; `&'static` keeps visitors' words out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OrderLabel {
    result: &'static str,
}

/// Codes that are shown as 0 from the start, so that the first of each is a rise that alerts can see.
/// One that is missing here appears when it is first counted.
const EDGE_CODES: [&str; 21] = [
    "agent_failed",
    "blocked",
    "busy",
    "content_type",
    "draining",
    "idle",
    "malformed",
    "method",
    "misrouted",
    "not_mcp",
    "not_mcp_answer",
    "offline",
    "quota_exceeded",
    "rate_limited",
    "token_ambiguous",
    "token_expired",
    "token_invalid",
    "token_missing",
    "too_large",
    "unavailable",
    "unknown_share",
];
const REFUSAL_CODES: [&str; 7] = [
    "bad_credential",
    "clock_skew",
    "forbidden",
    "rate_limited",
    "replayed",
    "unavailable",
    "unsupported_version",
];

/// What became of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanResult {
    /// The collector took them.
    Sent,
    /// It did not.
    Failed,
    /// There was no room to keep them until they are sent.
    Dropped,
}

/// What became of a request that was sent to another node.
const HOP_RESULTS: [&str; 4] = ["answered", "broken", "misrouted", "unreachable"];

/// The handles with which the relay counts. Clones are the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    process: Arc<Registry>,
    spans: Family<OrderLabel, Counter>,
    responses: [Counter; CLASSES.len()],
    claims: Family<ClaimLabel, Counter>,
    edge_errors: Family<CodeLabel, Counter>,
    refusals: Family<CodeLabel, Counter>,
    orders: Family<OrderLabel, Counter>,
    hops: Family<OrderLabel, Counter>,
    /// Nodes of this relay that live, this one included; 0 where there is one alone.
    pub nodes: Gauge,
    /// Requests that are at other nodes.
    pub hops_open: Gauge,
    /// Requests that other nodes passed on to this one.
    pub hops_taken: Counter,
    /// From sending a request to another node to the head of its answer, in seconds.
    pub hop_seconds: Histogram,
    /// When the certificate that is shown ends, in Unix seconds; 0 while there is none.
    pub certificate_expiry: Gauge,
    /// Custom domains that are served.
    pub domains: Gauge,
    /// Custom domains that have a certificate of their own.
    pub domain_certificates: Gauge,
    /// When the first of these ends, in Unix seconds; 0 while there is none.
    pub domain_certificate_expiry: Gauge,
    /// Requests between their head and the end of their response.
    pub requests_in_flight: Gauge,
    /// Streams open towards agents.
    pub streams_open: Gauge,
    /// Sessions of agents.
    pub sessions: Gauge,
    /// Connections of agents; a session has up to eight.
    pub connections: Gauge,
    /// Shares that are up.
    pub shares: Gauge,
    /// 1 while the store answers.
    pub store_up: Gauge,
    /// Requests that wait for an agent to come back.
    pub held_requests: Gauge,
    /// Bytes of bodies from visitors.
    pub bytes_in: Counter,
    /// Bytes of bodies to visitors.
    pub bytes_out: Counter,
    /// Requests whose line in the access log was dropped.
    pub access_log_dropped: Counter,
    /// Tunnel handshakes that led to a connection; the others are refusals.
    pub handshakes: Counter,
    /// From a request's head to the head of its response, in seconds.
    pub response_seconds: Histogram,
    /// How long requests were held, in seconds.
    pub held_seconds: Histogram,
    /// From an agent's upgrade request to its answer, in seconds.
    pub handshake_seconds: Histogram,
}

/// Counts one in a gauge for as long as it lives.
#[derive(Debug)]
pub struct Tracked(Gauge);

impl Tracked {
    /// Adds one to a gauge until the guard is dropped.
    #[must_use = "dropping the guard takes the one away again"]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("mcpm_relay");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the relay", version);

        let by_class = Family::<ClassLabel, Counter>::default();
        registry.register("responses", "Answers to visitors by class of status", by_class.clone());
        let responses = CLASSES.map(|class| by_class.get_or_create_owned(&ClassLabel { class }));
        let claims = Family::<ClaimLabel, Counter>::default();
        registry.register("claims", "Claims of names by result", claims.clone());
        let edge_errors = Family::<CodeLabel, Counter>::default();
        let help = "Answers to visitors that the relay itself made, by code";
        registry.register("edge_errors", help, edge_errors.clone());
        let refusals = Family::<CodeLabel, Counter>::default();
        registry.register("refusals", "Agents turned away, by code", refusals.clone());
        let orders = Family::<OrderLabel, Counter>::default();
        registry.register("certificate_orders", "Certificates ordered by result", orders.clone());
        let spans = Family::<OrderLabel, Counter>::default();
        registry.register("trace_spans", "Spans for the collector by result", spans.clone());
        for result in ["issued", "failed"] {
            // From the start, so that the first failure is a rise that alerts can see.
            drop(orders.get_or_create(&OrderLabel { result }));
        }
        for result in ["sent", "failed", "dropped"] {
            drop(spans.get_or_create(&OrderLabel { result }));
        }
        for code in EDGE_CODES {
            drop(edge_errors.get_or_create(&CodeLabel { code }));
        }
        for code in REFUSAL_CODES {
            drop(refusals.get_or_create(&CodeLabel { code }));
        }
        let all = [
            ClaimResult::Given,
            ClaimResult::Taken,
            ClaimResult::Forbidden,
            ClaimResult::TooMany,
            ClaimResult::Limited,
            ClaimResult::Failed,
        ];
        for result in all {
            drop(claims.get_or_create(&result.label()));
        }
        let hops = Family::<OrderLabel, Counter>::default();
        registry.register("hops", "Requests sent to other nodes by result", hops.clone());
        for result in HOP_RESULTS {
            drop(hops.get_or_create(&OrderLabel { result }));
        }
        let mut process = Registry::default();
        process.register_collector(Box::new(process::Process::new()));

        Self {
            orders,
            certificate_expiry: ends(
                &mut registry,
                "certificate_expiry",
                "When the certificate ends, in Unix seconds",
            ),
            domains: gauge(&mut registry, "domains", "Custom domains that are served"),
            domain_certificates: gauge(
                &mut registry,
                "domain_certificates",
                "Custom domains with a certificate of their own",
            ),
            domain_certificate_expiry: ends(
                &mut registry,
                "domain_certificate_expiry",
                "When the first certificate of a custom domain ends, in Unix seconds",
            ),
            responses,
            claims,
            edge_errors,
            refusals,
            requests_in_flight: gauge(&mut registry, "requests_in_flight", "Open requests"),
            streams_open: gauge(&mut registry, "streams_open", "Streams open towards agents"),
            sessions: gauge(&mut registry, "sessions", "Sessions of agents"),
            connections: gauge(&mut registry, "connections", "Connections of agents"),
            shares: gauge(&mut registry, "shares", "Shares that are up"),
            store_up: gauge(&mut registry, "store_up", "Whether the database answers"),
            held_requests: gauge(&mut registry, "held_requests", "Requests waiting for an agent"),
            bytes_in: bytes(&mut registry, "body_in", "Body bytes from visitors"),
            bytes_out: bytes(&mut registry, "body_out", "Body bytes to visitors"),
            handshakes: {
                let handshakes = Counter::default();
                registry.register("handshakes", "Tunnel handshakes accepted", handshakes.clone());
                handshakes
            },
            response_seconds: seconds(
                &mut registry,
                "response_duration",
                "From a request's head to the head of its response",
                &SECONDS,
            ),
            held_seconds: seconds(
                &mut registry,
                "held_duration",
                "How long requests were held for an agent that was away",
                &HELD_SECONDS,
            ),
            handshake_seconds: seconds(
                &mut registry,
                "handshake_duration",
                "From an agent's upgrade request to its answer",
                &SECONDS,
            ),
            access_log_dropped: {
                let dropped = Counter::default();
                let help = "Requests whose line in the access log was dropped";
                registry.register("access_log_dropped", help, dropped.clone());
                dropped
            },
            hops,
            nodes: gauge(&mut registry, "nodes", "Nodes of this relay that live"),
            hops_open: gauge(&mut registry, "hops_open", "Requests that are at other nodes"),
            hops_taken: {
                let taken = Counter::default();
                let help = "Requests that other nodes passed on to this one";
                registry.register("hops_taken", help, taken.clone());
                taken
            },
            hop_seconds: seconds(
                &mut registry,
                "hop_duration",
                "From sending a request to another node to the head of its answer",
                &SECONDS,
            ),
            spans,
            process: Arc::new(process),
            registry: Arc::new(registry),
        }
    }

    /// Counts an answer to a visitor.
    pub fn response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.responses.get(class) {
            counter.inc();
        }
    }

    /// Counts a claim.
    pub fn claim(&self, result: ClaimResult) {
        self.claims.get_or_create(&result.label()).inc();
    }

    /// Counts an answer that the relay made in place of an agent.
    pub fn edge_error(&self, code: &'static str) {
        self.edge_errors.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts a request that was sent to another node.
    pub fn hop(&self, result: &'static str) {
        self.hops.get_or_create(&OrderLabel { result }).inc();
    }

    /// Counts a certificate that was ordered.
    pub fn order(&self, issued: bool) {
        let result = if issued { "issued" } else { "failed" };
        self.orders.get_or_create(&OrderLabel { result }).inc();
    }

    /// Returns what counts spans with this end.
    pub fn spans(&self, result: SpanResult) -> Counter {
        let result = match result {
            SpanResult::Sent => "sent",
            SpanResult::Failed => "failed",
            SpanResult::Dropped => "dropped",
        };
        self.spans.get_or_create_owned(&OrderLabel { result })
    }

    /// Counts an agent that was turned away.
    pub fn refusal(&self, code: &'static str) {
        self.refusals.get_or_create(&CodeLabel { code }).inc();
    }

    /// Returns all metrics as they are now.
    pub fn read(&self) -> Reading {
        Reading::parse(&self.encode())
    }

    /// Returns all metrics as `OpenMetrics` text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)
            .and_then(|()| text::encode_registry(&mut out, &self.process))
            .and_then(|()| text::encode_eof(&mut out))
            .expect("writing to a string cannot fail");
        out
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn ends(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
    gauge
}

fn bytes(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
    counter
}

fn seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracked_gauge_falls_when_its_guard_goes() {
        let metrics = Metrics::new();
        let guard = Tracked::new(&metrics.requests_in_flight);
        assert_eq!(metrics.requests_in_flight.get(), 1);
        drop(guard);
        assert_eq!(metrics.requests_in_flight.get(), 0);
    }

    #[test]
    fn statuses_are_counted_by_class() {
        let metrics = Metrics::new();
        metrics.response(StatusCode::OK);
        metrics.response(StatusCode::ACCEPTED);
        metrics.response(StatusCode::BAD_GATEWAY);
        let text = metrics.encode();
        assert!(text.contains(r#"mcpm_relay_responses_total{class="2xx"} 2"#), "{text}");
        assert!(text.contains(r#"mcpm_relay_responses_total{class="5xx"} 1"#), "{text}");
    }

    #[test]
    fn the_names_of_the_metrics_are_these() {
        let metrics = Metrics::new();
        metrics.claim(ClaimResult::TooMany);
        metrics.edge_error("offline");
        metrics.refusal("bad_credential");
        let text = metrics.encode();
        let types: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| format!("{line}\n"))
            .collect();
        insta::assert_snapshot!(types);
        assert!(text.ends_with("# EOF\n"));
    }
}
