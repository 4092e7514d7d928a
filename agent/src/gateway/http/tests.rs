use std::time::Duration;

use http_body_util::Full;
use mcpm_shared::scope::Scope;
use serde_json::{Value, json};

use super::super::{Gateway, GatewayOptions};
use super::*;
use crate::mcp::era::{METHOD_HEADER, SESSION_HEADER, VERSION_HEADER};
use crate::mcp::sse;
use crate::model::Server;

mod streams;
mod wire;

/// A legacy server in shell: it answers `initialize`, and otherwise plays by method.
const LEGACY: &str = r#"
id() { echo "$1" | sed 's/.*"id":\([^,}]*\).*/\1/'; }
while read -r line; do
  case "$line" in
    *server/discover*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"error":{"code":-32601,"message":"unknown"}}';;
    *initialize\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"sh"}}}';;
    *tell\"*) token=$(echo "$line" | sed 's/.*"progressToken":\([^,}]*\).*/\1/')
              echo '{"method":"notifications/progress","params":{"progressToken":'$token',"progress":1}}'
              echo '{"method":"notifications/progress","params":{"progressToken":'$token',"progress":2}}'
              echo '{"id":'$(id "$line")',"result":{"x":1.0}}';;
    *long\"*) ;;
    *cancelled*) echo '{"method":"notifications/told"}';;
    *die\"*) exit 3;;
    *pid\"*) echo '{"id":'$(id "$line")',"result":'$$'}';;
    *\"id\"*\"method\"*) echo '{"id":'$(id "$line")',"result":{}}';;
    *nudge\"*) echo '{"method":"notifications/heard"}';;
  esac
done
"#;

/// To this it says something that belongs to no request.
const NUDGE: &str = r#"{"method":"notifications/nudge"}"#;

/// A modern server: it answers everything, `fail` with an unknown method.
const MODERN: &str = r#"
while read -r line; do
  id=$(echo "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in
    *cancelled*) echo 'cancelled' >&2;;
    *initialize\"*) echo '{"id":'$id',"error":{"code":-32601,"message":"no"}}';;
    *server/discover*) echo '{"id":'$id',"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}';;
    *fail\"*) echo '{"id":'$id',"error":{"code":-32601,"message":"no"}}';;
    *long\"*) ;;
    *pid\"*) echo '{"id":'$id',"result":'$$'}';;
    *) echo '{"id":'$id',"result":{"resultType":"complete"}}';;
  esac
done
"#;

fn gateway(script: &str, options: GatewayOptions) -> Gateway {
    Gateway::new(&Server::stdio("test", "sh", ["-c", script]), options, Scope::new()).unwrap()
}

fn legacy() -> Gateway {
    gateway(LEGACY, GatewayOptions::default())
}

type Heads<'a> = &'a [(&'static str, &'a str)];

async fn send(gateway: &Gateway, method: Method, heads: Heads<'_>, body: &str) -> Answer {
    send_as(gateway, &Principal::Anonymous, method, heads, body).await
}

async fn send_as(
    gateway: &Gateway,
    principal: &Principal,
    method: Method,
    heads: Heads<'_>,
    body: &str,
) -> Answer {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = method;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in heads {
        headers.insert(*name, value.parse().unwrap());
    }
    gateway.handle(request, principal).await
}

async fn post(gateway: &Gateway, heads: Heads<'_>, body: &str) -> Answer {
    send(gateway, Method::POST, heads, body).await
}

async fn text(answer: Answer) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn value(answer: Answer) -> Value {
    serde_json::from_str(&text(answer).await).unwrap()
}

async fn open_as(gateway: &Gateway, principal: &Principal) -> String {
    let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let answer = send_as(gateway, principal, Method::POST, &[], body).await;
    assert_eq!(answer.status(), 200);
    let id = answer.headers()[SESSION_HEADER].to_str().unwrap().to_owned();
    assert_eq!(value(answer).await["result"]["serverInfo"]["name"], "sh");
    id
}

async fn open(gateway: &Gateway) -> String {
    open_as(gateway, &Principal::Anonymous).await
}

/// Reads the next event of a stream.
async fn event(body: &mut GatewayBody) -> Option<Value> {
    let frame = body.frame().await?.unwrap().into_data().unwrap();
    let mut decoder = sse::Decoder::new(1_000_000);
    decoder.push(&frame);
    let event = decoder.next_event().unwrap().unwrap();
    Some(serde_json::from_slice(&event.data).unwrap())
}

fn modern_call(id: &str, method: &str) -> String {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{meta}}}}}"#)
}

async fn call_modern(gateway: &Gateway, principal: &Principal, id: &str, method: &str) -> Answer {
    let heads = [(VERSION_HEADER, "2026-07-28"), (METHOD_HEADER, method)];
    send_as(gateway, principal, Method::POST, &heads, &modern_call(id, method)).await
}

#[tokio::test]
async fn a_session_opens_answers_and_ends() {
    let gateway = legacy();
    assert_eq!(gateway.stats().children, 0);
    let id = open(&gateway).await;
    let session = [(SESSION_HEADER, id.as_str())];
    let answer = post(&gateway, &session, r#"{"id":"\u0061","method":"tools/list"}"#).await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(text(answer).await, r#"{"id":"\u0061","result":{}}"#);
    let note = post(&gateway, &session, r#"{"method":"notifications/initialized"}"#).await;
    assert_eq!(note.status(), 202);
    assert_eq!(gateway.stats().sessions, 1);
    assert_eq!(send(&gateway, Method::DELETE, &session, "").await.status(), 204);
    let gone = post(&gateway, &session, r#"{"id":2,"method":"ping"}"#).await;
    assert_eq!(gone.status(), 404);
    gateway.shutdown().await;
    assert_eq!((gateway.stats().children, gateway.stats().sessions), (0, 0));
}

#[tokio::test]
async fn progress_comes_in_order_and_before_the_result() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let call = r#"{"id":1,"method":"tell","params":{"_meta":{"progressToken":"p"}}}"#;
    let answer = post(&gateway, &[(SESSION_HEADER, &id)], call).await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let text = text(answer).await;
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.len(), 3);
    assert!(events[0].contains(r#""progress":1"#) && events[1].contains(r#""progress":2"#));
    assert_eq!(events[2], "id: p1-3\nevent: message\ndata: {\"id\":1,\"result\":{\"x\":1.0}}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_client_that_takes_only_json_or_only_events_gets_what_it_takes() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let call = r#"{"id":1,"method":"tell","params":{"_meta":{"progressToken":"p"}}}"#;
    let heads = [(SESSION_HEADER, id.as_str()), ("accept", "application/json")];
    assert_eq!(text(post(&gateway, &heads, call).await).await, r#"{"id":1,"result":{"x":1.0}}"#);
    let heads = [(SESSION_HEADER, id.as_str()), ("accept", "text/event-stream")];
    let answer = post(&gateway, &heads, r#"{"id":2,"method":"ping"}"#).await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_cancelled_call_is_told_upstream_and_its_stream_ends() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let session = [(SESSION_HEADER, id.as_str())];
    let long = post(&gateway, &session, r#"{"id":5,"method":"long"}"#);
    let cancel = async {
        let note = r#"{"method":"notifications/cancelled","params":{"requestId":5}}"#;
        loop {
            // The call must have begun first; the stream of the session shows the order.
            if gateway.stats().requests >= 2 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(post(&gateway, &session, note).await.status(), 202);
    };
    let (answer, ()) = tokio::join!(long, cancel);
    assert_eq!(text(answer).await, "");
    let mut stream = send(&gateway, Method::GET, &session, "").await.into_body();
    assert_eq!(event(&mut stream).await.unwrap()["method"], "notifications/told");
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_stream_of_a_session_is_the_latest_and_carries_what_belongs_to_no_request() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let session = [(SESSION_HEADER, id.as_str())];
    let earlier = send(&gateway, Method::GET, &session, "").await;
    let answer = send(&gateway, Method::GET, &session, "").await;
    assert_eq!((earlier.status(), answer.status()), (StatusCode::OK, StatusCode::OK));
    assert!(earlier.into_body().frame().await.is_none());
    assert_eq!(post(&gateway, &session, NUDGE).await.status(), 202);
    let mut body = answer.into_body();
    assert_eq!(event(&mut body).await.unwrap()["method"], "notifications/heard");
    assert_eq!(send(&gateway, Method::DELETE, &session, "").await.status(), 204);
    assert!(body.frame().await.is_none());
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_batch_is_answered_as_a_batch() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let batch =
        "[\n{\"id\":1,\"method\":\"a\"},\n{\"method\":\"n\"},\n{\"id\":2,\"method\":\"b\"}\n]";
    let answer = post(&gateway, &[(SESSION_HEADER, &id)], batch).await;
    assert_eq!(text(answer).await, r#"[{"id":1,"result":{}},{"id":2,"result":{}}]"#);
    let empty = post(&gateway, &[(SESSION_HEADER, &id)], "[]").await;
    assert_eq!(empty.status(), 400);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_session_belongs_to_its_principal() {
    let gateway = legacy();
    let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
    let id = open_as(&gateway, &ann).await;
    let session = [(SESSION_HEADER, id.as_str())];
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let body = r#"{"id":1,"method":"ping"}"#;
        let answer = send_as(&gateway, &bob, method, &session, body).await;
        assert_eq!(answer.status(), 404);
    }
    let body = r#"{"id":1,"method":"ping"}"#;
    assert_eq!(send_as(&gateway, &ann, Method::POST, &session, body).await.status(), 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_server_that_dies_in_a_call_answers_it_and_is_started_again() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let session = [(SESSION_HEADER, id.as_str())];
    let answer = post(&gateway, &session, r#"{"id":1,"method":"die"}"#).await;
    assert_eq!(answer.status(), 200);
    let answer = value(answer).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-32603)));
    assert_eq!(answer["error"]["data"]["status"], "exit status: 3");
    let again = value(post(&gateway, &session, r#"{"id":2,"method":"pid"}"#).await).await;
    assert!(again["result"].is_u64(), "{again}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_right_status() {
    let gateway = legacy();
    let ping = r#"{"id":1,"method":"ping"}"#;
    assert_eq!(post(&gateway, &[], ping).await.status(), 400);
    assert_eq!(post(&gateway, &[(SESSION_HEADER, "nobody")], ping).await.status(), 404);
    let answer = post(&gateway, &[], "{not json").await;
    assert_eq!(answer.status(), 400);
    assert_eq!(value(answer).await["error"]["code"], -32700);
    assert_eq!(value(post(&gateway, &[], "{}").await).await["error"]["code"], -32600);
    assert_eq!(post(&gateway, &[("content-type", "text/plain")], ping).await.status(), 415);
    assert_eq!(post(&gateway, &[(VERSION_HEADER, "1999-01-01")], ping).await.status(), 400);
    assert_eq!(send(&gateway, Method::PUT, &[], ping).await.status(), 405);
    assert_eq!(send(&gateway, Method::GET, &[], "").await.status(), 400);
    let modern = [(VERSION_HEADER, "2026-07-28")];
    assert_eq!(send(&gateway, Method::GET, &modern, "").await.status(), 405);
    assert_eq!(gateway.stats().children, 0);
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused() {
    let gateway = gateway(LEGACY, GatewayOptions { max_body: 10, ..GatewayOptions::default() });
    assert_eq!(post(&gateway, &[], r#"{"id":1,"method":"x"}"#).await.status(), 413);
}

#[tokio::test]
async fn a_server_that_cannot_start_says_so_to_whoever_opens_a_session() {
    let server = Server::stdio("test", "mcpm-no-such-command", ["x"]);
    let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
    let answer = value(post(&gateway, &[], r#"{"id":7,"method":"initialize"}"#).await).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32603)));
}

#[tokio::test]
async fn a_server_that_hangs_at_start_is_given_up() {
    let options =
        GatewayOptions { start_timeout: Duration::from_millis(200), ..GatewayOptions::default() };
    let gateway = gateway("cat >/dev/null", options);
    let answer = post(&gateway, &[], r#"{"id":7,"method":"initialize"}"#).await;
    assert!(answer.headers().get(SESSION_HEADER).is_none());
    assert!(value(answer).await["error"]["message"].as_str().unwrap().contains("did not answer"));
    assert_eq!(gateway.stats().sessions, 0);
    gateway.shutdown().await;
    assert_eq!(gateway.stats().children, 0);
}

#[tokio::test]
async fn the_longest_idle_session_makes_room_for_a_new_one() {
    let gateway = gateway(LEGACY, GatewayOptions { max_sessions: 2, ..GatewayOptions::default() });
    let ids = [open(&gateway).await, open(&gateway).await, open(&gateway).await];
    assert_eq!(gateway.stats().sessions, 2);
    let status = async |id: &str| {
        post(&gateway, &[(SESSION_HEADER, id)], r#"{"id":1,"method":"ping"}"#).await.status()
    };
    assert_eq!(status(&ids[0]).await, 404);
    assert_eq!(status(&ids[2]).await, 200);
    let mut streams = Vec::new();
    for id in &ids[1..] {
        streams.push(send(&gateway, Method::GET, &[(SESSION_HEADER, id)], "").await);
    }
    let full = post(&gateway, &[], r#"{"id":0,"method":"initialize"}"#).await;
    assert_eq!(full.status(), 503);
    assert!(full.headers().contains_key(RETRY_AFTER));
    drop(streams);
    gateway.shutdown().await;
}

#[tokio::test]
async fn modern_requests_of_one_principal_share_a_child_and_others_do_not() {
    let gateway = gateway(MODERN, GatewayOptions::default());
    let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
    let mut pids = Vec::new();
    for who in [&ann, &ann, &bob] {
        let answer = call_modern(&gateway, who, r#""\u0061""#, "pid").await;
        assert_eq!(answer.status(), 200);
        let text = text(answer).await;
        assert!(text.starts_with(r#"{"id":"\u0061","result":"#), "{text}");
        pids.push(text);
    }
    assert!(pids[0] == pids[1] && pids[0] != pids[2]);
    assert_eq!((gateway.stats().children, gateway.stats().sessions), (2, 0));
    gateway.shutdown().await;
}

#[tokio::test]
async fn modern_requests_that_come_together_start_one_child() {
    let gateway = gateway(MODERN, GatewayOptions::default());
    let who = Principal::Anonymous;
    let calls =
        (0..20).map(|_| async { text(call_modern(&gateway, &who, "1", "pid").await).await });
    let pids: std::collections::HashSet<String> =
        futures_util::future::join_all(calls).await.into_iter().collect();
    assert_eq!((pids.len(), gateway.stats().children), (1, 1));
    gateway.shutdown().await;
}

#[tokio::test]
async fn modern_errors_get_the_status_of_their_code() {
    let gateway = gateway(MODERN, GatewayOptions::default());
    let who = Principal::Anonymous;
    assert_eq!(call_modern(&gateway, &who, "1", "fail").await.status(), 404);
    assert_eq!(call_modern(&gateway, &who, "2", "server/discover").await.status(), 200);
    let heads = [(VERSION_HEADER, "2026-07-28"), (METHOD_HEADER, "other")];
    let answer = post(&gateway, &heads, &modern_call("3", "tools/list")).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(value(answer).await["error"]["code"], -32020);
    let heads = [(VERSION_HEADER, "2026-07-28"), (METHOD_HEADER, "tools/list")];
    let answer = post(&gateway, &heads, r#"{"id":4,"method":"tools/list"}"#).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(value(answer).await["error"]["code"], -32602);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_version_that_we_do_not_speak_is_refused_with_that_which_we_do() {
    let gateway = gateway(MODERN, GatewayOptions::default());
    for (version, status) in [("2026-07-28", 200), ("2027-02-02", 400), ("9", 400)] {
        let heads = [(VERSION_HEADER, version), (METHOD_HEADER, "tools/list")];
        let call = modern_call("1", "tools/list").replace("2026-07-28", version);
        let answer = post(&gateway, &heads, &call).await;
        assert_eq!(answer.status(), status, "{version}");
        if status == 400 {
            let error = value(answer).await["error"].take();
            assert_eq!(error["code"], -32022);
            assert_eq!(error["data"]["requested"], version);
            assert_eq!(error["data"]["supported"], json!(["2026-07-28"]));
        }
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn headers_that_a_tool_asks_for_are_checked_once_its_schema_passed_by() {
    let tools = r#"{"tools":[{"name":"t","inputSchema":{"properties":{"city":{"type":"string","x-mcp-header":"City"}}}}]}"#;
    let script = MODERN.replace(r#"{"resultType":"complete"}"#, tools);
    let gateway = gateway(&script, GatewayOptions::default());
    let call = async |city: Option<&str>| {
        let heads = [
            (VERSION_HEADER, "2026-07-28"),
            (METHOD_HEADER, "tools/call"),
            ("mcp-name", "t"),
            ("mcp-param-city", city.unwrap_or_default()),
        ];
        let params = r#""params":{"name":"t","arguments":{"city":"Ulm"},"#;
        let call = modern_call("1", "tools/call").replace(r#""params":{"#, params);
        post(&gateway, &heads[..if city.is_some() { 4 } else { 3 }], &call).await
    };
    assert_eq!(call(None).await.status(), 200);
    for accept in ["application/json", "text/event-stream"] {
        let heads =
            [(VERSION_HEADER, "2026-07-28"), (METHOD_HEADER, "tools/list"), ("accept", accept)];
        let listed = post(&gateway, &heads, &modern_call("2", "tools/list")).await;
        assert!(text(listed).await.contains("x-mcp-header"));
        assert_eq!(call(Some("Ulm")).await.status(), 200);
        for city in [None, Some("Bonn")] {
            let answer = call(city).await;
            assert_eq!(answer.status(), 400);
            assert_eq!(value(answer).await["error"]["code"], -32020);
        }
        let nothing = r#"{"id":1,"result":{"tools":[{"name":"t"}]}}"#.as_bytes();
        let params = &gateway.0.hub.view(None).unwrap().params;
        Learner::of(&Message::parse(&modern_call("3", "tools/list")).unwrap(), params)
            .unwrap()
            .learn(nothing);
        assert_eq!(call(None).await.status(), 200);
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_legacy_server_serves_modern_clients_too() {
    let gateway = legacy();
    let who = Principal::Anonymous;
    let answer = call_modern(&gateway, &who, r#""d""#, "server/discover").await;
    assert_eq!(answer.status(), 200);
    let answer = value(answer).await;
    assert_eq!((&answer["id"], &answer["result"]["resultType"]), (&json!("d"), &json!("complete")));
    // What the modern era has removed is not there, although the server would answer it.
    assert_eq!(call_modern(&gateway, &who, "1", "ping").await.status(), 404);
    let answer = value(call_modern(&gateway, &who, "2", "tools/none").await).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    open(&gateway).await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_server_that_ends_at_a_modern_request_is_a_legacy_one() {
    let script = r#"read -r line; case "$line" in *initialize*) ;; *) exit 1;; esac
        id=$(echo "$line" | sed 's/.*"id":\([^,}]*\).*/\1/')
        echo '{"id":'$id',"result":{"capabilities":{},"serverInfo":{"name":"sh"}}}'; cat >&2"#;
    let gateway = gateway(script, GatewayOptions::default());
    let who = Principal::Anonymous;
    assert_eq!(call_modern(&gateway, &who, "1", "server/discover").await.status(), 200);
    open(&gateway).await;
    let answer = value(call_modern(&gateway, &who, "7", "tools/list").await).await;
    assert_eq!((&answer["id"], &answer["result"]["tools"]), (&json!(7), &json!([])));
    gateway.shutdown().await;
}

#[tokio::test]
async fn closing_a_modern_stream_cancels_the_call_upstream() {
    let (told, mut heard) = mpsc::channel(4);
    let stderr = super::super::StderrSink::new(move |_, line| {
        told.try_send(line.to_owned()).unwrap();
    });
    let options = GatewayOptions { stderr: Some(stderr), ..GatewayOptions::default() };
    let gateway = gateway(MODERN, options);
    let who = Principal::Anonymous;
    // The child is there already, so that the call is on its way when the visitor leaves.
    assert_eq!(call_modern(&gateway, &who, "1", "x").await.status(), 200);
    {
        let call = call_modern(&gateway, &who, "2", "long");
        tokio::pin!(call);
        let probe = call_modern(&gateway, &who, "3", "y");
        tokio::select! {
            biased;
            _ = &mut call => panic!("it is never answered"),
            answer = probe => assert_eq!(answer.status(), 200),
        }
    }
    assert_eq!(heard.recv().await.as_deref(), Some("cancelled"));
    gateway.shutdown().await;
}

#[tokio::test]
async fn dropping_the_gateway_ends_its_children() {
    let gateway = legacy();
    open(&gateway).await;
    let alive = gateway.0.nursery.alive.subscribe();
    drop(gateway);
    let mut alive = alive;
    alive.wait_for(|alive| *alive == 0).await.unwrap();
}
