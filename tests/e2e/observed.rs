//! What others learn of a relay at work: collectors of traces, readers of the access log, and the
//! dashboards and alerts in `deploy/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use harness::{Service, TestAgent, TestRelay, full, soon, visitor};
use http::Response;
use http_body_util::BodyExt as _;
use mcpm_relay::Config;
use mcpm_relay::config::{AccessLogConfig, AccessLogForm, TracesConfig};
use mcpm_relay::metrics::{Reading, Sample};
use mcpm_shared::access::AccessPolicy;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::Value;
use tokio::sync::mpsc;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector on a real socket, and what it is sent.
async fn collector() -> (Service, mpsc::Receiver<ExportTraceServiceRequest>) {
    let (send, sent) = mpsc::channel(64);
    let service = Service::start(move |request| {
        let send = send.clone();
        async move {
            assert_eq!(request.uri().path(), "/v1/traces");
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            send.send(ExportTraceServiceRequest::decode(body).unwrap()).await.unwrap();
            Response::new(full(""))
        }
    })
    .await;
    (service, sent)
}

/// Waits for the span of a request for a share.
async fn span_of(share: &str, sent: &mut mpsc::Receiver<ExportTraceServiceRequest>) -> Span {
    soon("the span arrives", async {
        loop {
            let export = sent.recv().await.unwrap();
            let spans = export.resource_spans.into_iter().flat_map(|it| it.scope_spans);
            let mut spans = spans.flat_map(|it| it.spans);
            if let Some(span) = spans.find(|span| attribute(span, "mcpm.share") == share) {
                return span;
            }
        }
    })
    .await
}

fn attribute(span: &Span, key: &str) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// The value of a header as the service behind the share saw it.
fn header<'a>(seen: &'a Value, name: &str) -> Option<&'a str> {
    let headers = seen["headers"].as_array().unwrap();
    headers.iter().find(|pair| pair[0] == name)?[1].as_str()
}

#[tokio::test]
async fn a_request_reaches_the_collector_as_part_of_its_visitors_trace() {
    let (collector, mut sent) = collector().await;
    let traces = Some(TracesConfig { endpoint: collector.url(), ratio: 1.0 });
    let relay = TestRelay::with(Config { traces, ..Config::for_tests() }).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "traced", &service, AccessPolicy::public()).await;
    let asked = visitor()
        .get(format!("{}/a/path?s=hush-link", info.url))
        .header("traceparent", PARENT)
        .header("tracestate", "vendor=1")
        .header("cookie", "session=hush-cookie");
    let seen: Value = asked.send().await.unwrap().json().await.unwrap();

    let span = span_of("traced", &mut sent).await;
    assert_eq!((hex(&span.trace_id).as_str(), span.name.as_str()), (TRACE, "GET"));
    assert_eq!(hex(&span.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(attribute(&span, "http.response.status_code"), "200");
    assert!(attribute(&span, "url.path").ends_with("/a/path"), "{span:?}");
    assert!(!attribute(&span, "mcpm.agent").is_empty());
    assert!(!format!("{span:?}").contains("hush"), "{span:?}");
    let parent = format!("00-{TRACE}-{}-01", hex(&span.span_id));
    assert_eq!(header(&seen, "traceparent"), Some(parent.as_str()), "the server is its child");
    assert_eq!(header(&seen, "tracestate"), Some("vendor=1"));
}

#[tokio::test]
async fn without_a_collector_the_visitors_trace_passes_as_it_is() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "plain", &service, AccessPolicy::public()).await;
    let asked = visitor().get(&info.url).header("traceparent", PARENT);
    let asked = asked.header("tracestate", "vendor=1");
    let seen: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(header(&seen, "traceparent"), Some(PARENT));
    assert_eq!(header(&seen, "tracestate"), Some("vendor=1"));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let traces = Some(TracesConfig { endpoint: "http://127.0.0.1:9".to_owned(), ratio: 1.0 });
    let relay = TestRelay::with(Config { traces, ..Config::for_tests() }).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "alone", &service, AccessPolicy::public()).await;
    assert_eq!(visitor().get(&info.url).send().await.unwrap().status(), 200);
    harness::eventually("the spans are counted as lost", || async {
        let reading = metrics(&relay).await;
        (reading.at("mcpm_relay_trace_spans_total", "result", "failed") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let access_log = Some(AccessLogConfig { form: AccessLogForm::Json, file: Some(file.clone()) });
    let mut config = Config { access_log, ..Config::for_tests() };
    config.timing.hold = std::time::Duration::ZERO;
    let relay = TestRelay::with(config).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "logged", &service, AccessPolicy::public()).await;
    let client = visitor();
    let asked = client.post(format!("{}/x?s=hush", info.url)).bearer_auth("hush");
    let answer = asked.header("cookie", "a=hush").body("hush").send().await.unwrap();
    let length = answer.bytes().await.unwrap().len();
    assert_eq!(client.get(relay.url("/s/nobody/")).send().await.unwrap().status(), 404);
    relay.relay.shutdown().await;

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("hush"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |share: &str| lines.iter().find(|line| line["share"] == share).unwrap();
    let served = line("logged");
    assert_eq!((&served["status"], &served["bytes"]), (&200.into(), &length.into()));
    assert_eq!((&served["method"], &served["complete"]), (&"POST".into(), &true.into()));
    assert_eq!(served["path"], "/s/logged/x");
    assert_eq!(served["agent"].as_str().unwrap(), agent.key.thumbprint());
    assert_eq!(line("nobody")["error"], "unknown_share");
    assert!(lines.iter().any(|line| line["path"] == "/v1/tunnel" && line["status"] == 101));
}

async fn metrics(relay: &TestRelay) -> Reading {
    let url = format!("http://{}/metrics", relay.relay.admin_addr().unwrap());
    Reading::parse(&visitor().get(url).send().await.unwrap().text().await.unwrap())
}

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(file)
}

/// The metrics that a text names, each with the `{…}` behind it.
fn named(text: &str) -> Vec<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in ["mcpm_relay_", "process_"].iter().flat_map(|start| text.match_indices(start)) {
        if text[..at].chars().next_back().is_some_and(is_name) {
            continue;
        }
        let end = text[at..].find(|c| !is_name(c)).map_or(text.len(), |end| at + end);
        let selector = text[end..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        found.push((&text[at..end], selector.unwrap_or_default()));
    }
    found
}

/// Checks one `label="value"` of a selector against the samples of its metric.
fn is_known(pair: &str, samples: &[&Sample]) -> bool {
    let (label, value) = pair.split_once(['=', '!']).unwrap();
    let values: BTreeSet<&str> = samples.iter().map(|sample| sample.label(label)).collect();
    let wanted = value.trim_matches(['=', '~', '"', '\\']);
    // Prometheus itself adds where a sample comes from.
    ["job", "instance"].contains(&label) || wanted.split('|').all(|one| values.contains(one))
}

#[tokio::test]
async fn dashboards_and_alerts_name_only_metrics_and_labels_that_exist() {
    let reading = metrics(&TestRelay::start().await).await;
    for file in ["grafana/dashboard.json", "prometheus/alerts.yml"] {
        let text = std::fs::read_to_string(deployed(file)).unwrap();
        let named = named(&text);
        assert!(named.len() > 10, "{file} names few metrics");
        for (name, selector) in named {
            let samples: Vec<_> = reading.all(name).collect();
            assert!(!samples.is_empty(), "{file} names {name}, which no relay has");
            for pair in selector.split(',').filter(|pair| !pair.is_empty()) {
                assert!(is_known(pair, &samples), "{file}: {name} never has {pair}");
            }
        }
    }
}

#[tokio::test]
async fn the_documentation_names_every_metric() {
    let reading = metrics(&TestRelay::start().await).await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/relay.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for Sample { name, .. } in reading.samples() {
        let ends = ["_bucket", "_sum", "_count"];
        let family = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let is_there =
            [name.as_str(), family].iter().any(|name| docs.contains(&format!("`{name}")));
        assert!(is_there, "docs/relay.md does not name {family}");
    }
}

#[test]
fn the_grafana_dashboard_is_whole() {
    let text = std::fs::read_to_string(deployed("grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            assert!(target["expr"].as_str().unwrap().contains(r#"job=~"$job""#), "{target}");
        }
    }
}

/// Prometheus itself reads the alerts, and fires those that its own test says.
#[tokio::test]
async fn prometheus_takes_the_alerts() {
    if !harness::peers::programs(&["promtool"]) {
        return;
    }
    let run = |args: &[&str]| harness::peers::peer("promtool").unwrap().args(args).output();
    let rules = deployed("prometheus/alerts.yml");
    let checked = run(&["check", "rules", rules.to_str().unwrap()]).await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/observed/alerts_test.yml");
    let tested = run(&["test", "rules", tests.to_str().unwrap()]).await.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
}
