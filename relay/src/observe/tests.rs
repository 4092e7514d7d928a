use std::net::Ipv4Addr;
use std::path::Path;

use super::*;
use crate::config::{AccessLogConfig, AccessLogForm};

const VISITOR: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

/// A request with everything in it that nobody may read later.
fn request() -> Request<()> {
    Request::post("/mcp?s=link-secret&profile=x")
        .header("host", "calc.share.example.com")
        .header("authorization", "Bearer bearer-secret")
        .header("x-mcpm-secret", "header-secret")
        .header("cookie", "session=cookie-secret")
        .header("referer", "https://evil.example/?s=referer-secret")
        .body(())
        .unwrap()
}

fn logging(form: AccessLogForm, file: &Path, metrics: &Metrics, scope: &Scope) -> Arc<Observers> {
    let access_log = Some(AccessLogConfig { form, file: Some(file.to_owned()) });
    let config = Config { access_log, ..Config::local() };
    Observers::open(&config, metrics, scope).unwrap().unwrap()
}

/// Ends the log and returns what is in its file.
async fn lines(scope: Scope, file: &Path) -> Vec<String> {
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn answer(observers: &Arc<Observers>, mut request: Request<()>) {
    let mut seen = observers.begin(&mut request, VISITOR, true);
    seen.share(&"calc".parse().unwrap());
    seen.agent("thumbprint");
    seen.answered(StatusCode::OK);
    seen.sent(1834);
    seen.whole();
}

#[tokio::test]
async fn nobody_looks_at_requests_unless_asked() {
    let scope = Scope::new();
    let observers = Observers::open(&Config::local(), &Metrics::new(), &scope).unwrap();
    assert!(observers.is_none());
    assert_eq!(std::mem::size_of::<Seen>(), std::mem::size_of::<usize>());
}

#[tokio::test]
async fn a_text_line_is_the_common_log_format_and_a_little_more() {
    let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
    let file = dir.path().join("access.log");
    let observers = logging(AccessLogForm::Text, &file, &metrics, &scope);
    answer(&observers, request());
    let mut failed = observers.begin(&mut request(), VISITOR, true);
    failed.answered(StatusCode::SERVICE_UNAVAILABLE);
    failed.failed("offline");
    failed.whole();
    drop(failed);
    drop(observers.begin(&mut request(), VISITOR, true));
    let lines = lines(scope, &file).await;
    // What differs from run to run: the time, and how long it took.
    let fields = |line: &str| {
        let (before, rest) = line.split_once('[').unwrap();
        let (_, rest) = rest.split_once(']').unwrap();
        let mut words: Vec<_> = rest.split(' ').collect();
        let seconds = words.len() - 4;
        assert!(words[seconds].parse::<f64>().is_ok(), "{line}");
        words[seconds] = "TOOK";
        format!("{before}[TIME]{}", words.join(" "))
    };
    let host = "\"calc.share.example.com\" TOOK main";
    let start = "203.0.113.7 - - [TIME] \"POST /mcp HTTP/1.1\"";
    let expected = [
        format!("{start} 200 1834 {host} thumbprint -"),
        format!("{start} 503 0 {host} - offline"),
        format!("{start} 499 0 {host} - cut"),
    ];
    assert_eq!(lines.iter().map(|line| fields(line)).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_json_line_has_the_same_in_fields() {
    let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
    let file = dir.path().join("access.log");
    let observers = logging(AccessLogForm::Json, &file, &metrics, &scope);
    answer(&observers, request());
    let lines = lines(scope, &file).await;
    let mut line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let time = line["time"].take();
    assert_eq!(time.as_str().unwrap().len(), "2026-11-21T11:30:00.123Z".len(), "{time}");
    assert!(line["duration_ms"].take().is_f64());
    let expected = serde_json::json!({
        "time": null, "visitor": "203.0.113.7", "scheme": "https",
        "host": "calc.share.example.com", "method": "POST", "path": "/mcp",
        "protocol": "HTTP/1.1", "status": 200, "bytes": 1834, "duration_ms": null,
        "complete": true, "error": null, "node": "main", "share": "calc", "agent": "thumbprint",
    });
    assert_eq!(line, expected);
}

#[tokio::test]
async fn no_line_holds_a_secret() {
    for form in [AccessLogForm::Text, AccessLogForm::Json] {
        let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
        let file = dir.path().join("access.log");
        let observers = logging(form, &file, &metrics, &scope);
        answer(&observers, request());
        let lines = lines(scope, &file).await;
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].contains("secret") && !lines[0].contains('?'), "{}", lines[0]);
    }
}

#[tokio::test]
async fn what_a_visitor_sends_cannot_forge_a_line() {
    let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
    let file = dir.path().join("access.log");
    let observers = logging(AccessLogForm::Text, &file, &metrics, &scope);
    let mut forged = Request::get("/\"quoted\"").body(()).unwrap();
    let host = HeaderValue::from_bytes(b"a\" 200 0 \"b \xff\\").unwrap();
    forged.headers_mut().insert("host", host);
    answer(&observers, forged);
    let mut long = Request::get(format!("/{}", "a".repeat(10_000))).body(()).unwrap();
    drop(observers.begin(&mut long, VISITOR, false));
    let lines = lines(scope, &file).await;
    assert!(lines[0].contains(r#"/\x22quoted\x22 HTTP"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""a\x22\x20200\x200\x20\x22b\x20\xFF\x5C""#), "{}", lines[0]);
    assert!(lines[1].len() < 4096);
}

#[tokio::test]
async fn a_full_queue_drops_lines_and_counts_them() {
    let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
    let file = dir.path().join("access.log");
    let observers = logging(AccessLogForm::Json, &file, &metrics, &scope);
    // The writer gets no turn before this test waits for something.
    for _ in 0..9_000 {
        answer(&observers, request());
    }
    let dropped = metrics.access_log_dropped.get();
    assert!(dropped > 0);
    assert_eq!(lines(scope, &file).await.len() as u64 + dropped, 9_000);
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_again() {
    let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
    let (file, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let observers = logging(AccessLogForm::Json, &file, &metrics, &scope);
    answer(&observers, request());
    while std::fs::read_to_string(&file).unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    std::fs::rename(&file, &old).unwrap();
    observers.reopen();
    while !file.exists() {
        tokio::task::yield_now().await;
    }
    answer(&observers, request());
    assert_eq!(lines(scope, &file).await.len(), 1);
    assert_eq!(std::fs::read_to_string(&old).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no/such/access.log");
    let access_log = Some(AccessLogConfig { form: AccessLogForm::Text, file: Some(file) });
    let config = Config { access_log, ..Config::local() };
    let error = Observers::open(&config, &Metrics::new(), &Scope::new()).unwrap_err();
    assert!(error.to_string().starts_with("cannot write the access log "), "{error}");
}

#[cfg(feature = "otel")]
mod traced {
    use http::HeaderMap;

    use super::*;
    use crate::config::TracesConfig;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracing(ratio: f64, scope: &Scope) -> Arc<Observers> {
        let endpoint = "http://127.0.0.1:9".to_owned();
        let config = Config { traces: Some(TracesConfig { endpoint, ratio }), ..Config::local() };
        Observers::open(&config, &Metrics::new(), scope).unwrap().unwrap()
    }

    fn passed(observers: &Arc<Observers>, parent: Option<&str>) -> HeaderMap {
        let mut request = request();
        if let Some(parent) = parent {
            request.headers_mut().insert("traceparent", parent.parse().unwrap());
        }
        request.headers_mut().insert("tracestate", "vendor=1".parse().unwrap());
        drop(observers.begin(&mut request, VISITOR, true));
        request.headers().clone()
    }

    #[tokio::test]
    async fn what_follows_a_traced_request_is_part_of_the_relays_span() {
        let scope = Scope::new();
        let observers = tracing(1.0, &scope);
        let headers = passed(&observers, Some(PARENT));
        let parent = headers["traceparent"].to_str().unwrap();
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent}");
        assert!(parent.ends_with("-01") && parent != PARENT, "{parent}");
        assert_eq!(headers["tracestate"], "vendor=1");
        scope.cancel();
    }

    #[tokio::test]
    async fn what_is_not_traced_passes_unchanged() {
        let scope = Scope::new();
        let (none, all) = (tracing(0.0, &scope), tracing(1.0, &scope));
        let refused = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (observers, parent) in [(&none, PARENT), (&all, refused)] {
            let headers = passed(observers, Some(parent));
            assert_eq!(headers["traceparent"], parent);
            assert_eq!(headers["tracestate"], "vendor=1");
        }
        assert!(!passed(&none, None).contains_key("traceparent"));
        scope.cancel();
    }

    #[tokio::test]
    async fn a_trace_that_cannot_be_read_begins_anew_without_its_state() {
        let scope = Scope::new();
        let observers = tracing(1.0, &scope);
        for parent in [None, Some("00-zz-1-01")] {
            let headers = passed(&observers, parent);
            assert!(headers["traceparent"].to_str().unwrap().starts_with("00-"));
            assert!(!headers.contains_key("tracestate"));
        }
        scope.cancel();
    }
}

#[cfg(feature = "otel")]
#[tokio::test]
async fn what_is_asked_for_as_before_goes_on_and_the_rest_is_opened_anew() {
    let (dir, scope, metrics) = (tempfile::tempdir().unwrap(), Scope::new(), Metrics::new());
    let log = |file: &str| {
        let file = Some(dir.path().join(file));
        Some(AccessLogConfig { form: AccessLogForm::Text, file })
    };
    let traces = |ratio| {
        let endpoint = "http://127.0.0.1:9".to_owned();
        Some(TracesConfig { endpoint, ratio })
    };
    let config = |access_log, traces| Config { access_log, traces, ..Config::local() };
    let first = Observers::open(&config(log("a"), traces(1.0)), &metrics, &scope).unwrap().unwrap();
    let next = |config| {
        let prepared = Observers::prepare(Some(&first), &config, &metrics).unwrap();
        let (tasks, same) = (prepared.tasks.len(), prepared.same_log);
        (tasks, same, prepared.observers)
    };
    let (tasks, same, both) = next(config(log("a"), traces(1.0)));
    let both = both.unwrap();
    assert_eq!((tasks, same), (0, true));
    assert!(Arc::ptr_eq(both.traces.as_ref().unwrap(), first.traces.as_ref().unwrap()));
    let (tasks, same, sampled) = next(config(log("a"), traces(0.5)));
    assert_eq!((tasks, same), (1, true));
    let sampled = sampled.unwrap();
    assert!(!Arc::ptr_eq(sampled.traces.as_ref().unwrap(), first.traces.as_ref().unwrap()));
    let (tasks, same, untraced) = next(config(log("b"), None));
    assert_eq!((tasks, same), (1, false));
    assert!(untraced.unwrap().traces.is_none());
    assert!(next(config(None, None)).2.is_none(), "nobody looks any more");
}
