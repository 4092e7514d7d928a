use http_body_util::{Empty, Full};
use mcpm_shared::scope::Scope;
use serde_json::Value;

use super::super::{Gateway, GatewayOptions, Probe};
use super::testing::{Answer, Heard, Upstream};
use super::*;
use crate::mcp::era::Era;
use crate::model::{Server, Transport};

fn gateway(url: &str) -> Gateway {
    let headers = Vars::default().with("Authorization", "Bearer ours").with("X-Extra", "1");
    let transport = Transport::Remote { url: url.to_owned(), headers };
    let server = Server::new("far", transport);
    Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap()
}

async fn post(
    gateway: &Gateway,
    who: &Principal,
    heads: &[(&'static str, &str)],
) -> Response<GatewayBody> {
    let body = r#"{ "id":1e0,"method":"x" }"#;
    let mut request =
        Request::post("/mcp").body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in heads {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    gateway.handle(request, who).await
}

async fn text(response: Response<GatewayBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn an_exchange_passes_unchanged_but_for_credentials() {
    let upstream = Upstream::start(|heard: &Heard| {
        assert_eq!(heard.headers["authorization"], "Bearer ours");
        assert_eq!(heard.headers["x-extra"], "1");
        assert_eq!(heard.headers["mcp-param-x"], "y");
        for name in ["cookie", "x-forwarded-for", "origin"] {
            assert!(!heard.headers.contains_key(name), "{name}");
        }
        assert_eq!(heard.body, r#"{ "id":1e0,"method":"x" }"#);
        Answer::json(200, r#"{"id":1e0, "result":0.10}"#)
            .with("set-cookie", "a=b")
            .with("mcp-session-id", "s")
    })
    .await;
    let heads = [
        ("authorization", "Bearer visitor"),
        ("cookie", "c=d"),
        ("x-forwarded-for", "1.2.3.4"),
        ("origin", "https://page.example"),
        ("mcp-param-x", "y"),
        ("content-type", "application/json"),
    ];
    let gateway = gateway(&upstream.url());
    let answer = post(&gateway, &Principal::Anonymous, &heads).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["mcp-session-id"], "s");
    assert!(!answer.headers().contains_key("set-cookie"));
    assert_eq!(text(answer).await, r#"{"id":1e0, "result":0.10}"#);
}

#[tokio::test]
async fn a_session_of_one_visitor_is_not_there_for_another() {
    let upstream =
        Upstream::start(|_: &Heard| Answer::json(200, "{}").with("mcp-session-id", "s")).await;
    let gateway = gateway(&upstream.url());
    let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
    assert_eq!(post(&gateway, &ann, &[]).await.status(), 200);
    assert_eq!(post(&gateway, &bob, &[("mcp-session-id", "s")]).await.status(), 404);
    assert_eq!(post(&gateway, &ann, &[("mcp-session-id", "s")]).await.status(), 200);
}

#[tokio::test]
async fn a_session_that_is_not_known_is_nobodys_and_does_not_become_anybodys() {
    let upstream =
        Upstream::start(|_: &Heard| Answer::json(200, "{}").with("mcp-session-id", "s")).await;
    let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
    let gateway = gateway(&upstream.url());
    for _ in 0..2 {
        assert_eq!(post(&gateway, &bob, &[("mcp-session-id", "s")]).await.status(), 404);
    }
    assert!(upstream.heard().is_empty());
    assert_eq!(post(&gateway, &ann, &[]).await.status(), 200);
    // The server gives the same id away once more.
    assert_eq!(post(&gateway, &bob, &[]).await.status(), 200);
    assert_eq!(post(&gateway, &bob, &[("mcp-session-id", "s")]).await.status(), 404);
    assert_eq!(post(&gateway, &ann, &[("mcp-session-id", "s")]).await.status(), 200);
}

#[test]
fn of_many_sessions_the_one_that_rested_longest_is_forgotten() {
    let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
    let mut owners = Owners::default();
    owners.note("first", &ann);
    owners.note("second", &ann);
    assert!(owners.admit("first", &ann));
    for number in 0..MAX_OWNERS - 1 {
        owners.note(&number.to_string(), &bob);
    }
    assert_eq!(owners.of.len(), MAX_OWNERS);
    assert!(owners.admit("first", &ann) && !owners.admit("first", &bob));
    assert!(!owners.admit("second", &ann));
}

#[tokio::test]
async fn what_is_no_json_or_too_long_does_not_reach_the_server() {
    let upstream = Upstream::start(|_: &Heard| Answer::json(200, "{}")).await;
    let server = Server::remote("far", upstream.url());
    let options = GatewayOptions { max_body: 25, ..GatewayOptions::default() };
    let gateway = Gateway::new(&server, options, Scope::new()).unwrap();
    let status = async |heads| post(&gateway, &Principal::Anonymous, heads).await.status();
    assert_eq!(status(&[]).await, 200);
    assert_eq!(status(&[("content-type", "application/json; charset=utf-8")]).await, 200);
    assert_eq!(status(&[("content-type", "text/plain")]).await, 415);
    assert_eq!(status(&[("content-length", "26")]).await, 413);
    assert_eq!(upstream.heard().len(), 2);
    let long = Full::new(Bytes::from(vec![b' '; 26])).boxed_unsync();
    let request = Request::post("/mcp").header("content-type", "application/json").body(long);
    let answer = gateway.handle(request.unwrap(), &Principal::Anonymous).await;
    assert_eq!(answer.status(), 413);
}

#[tokio::test]
async fn a_refusal_of_our_credentials_does_not_look_like_one_of_the_visitor() {
    let upstream =
        Upstream::start(|_: &Heard| Answer::json(401, "{}").with("www-authenticate", "Bearer"))
            .await;
    let gateway = gateway(&upstream.url());
    let answer = post(&gateway, &Principal::Anonymous, &[]).await;
    assert_eq!(answer.status(), 502);
    assert!(!answer.headers().contains_key("www-authenticate"));
    let answer: Value = serde_json::from_str(&text(answer).await).unwrap();
    assert!(answer["error"]["message"].as_str().unwrap().contains("refused the credentials"));
    assert!(matches!(gateway.probe().await, Err(GatewayError::Unauthorized { status: 401, .. })));
}

#[tokio::test]
async fn a_server_that_is_down_is_a_bad_gateway() {
    let upstream = Upstream::start(|_: &Heard| Answer::json(200, "{}")).await;
    let url = upstream.url();
    upstream.stop().await;
    let gateway = gateway(&url);
    assert_eq!(post(&gateway, &Principal::Anonymous, &[]).await.status(), 502);
    assert!(matches!(gateway.probe().await, Err(GatewayError::Unreachable { .. })));
}

#[tokio::test]
async fn a_remote_server_is_probed_in_json_and_in_events() {
    let answer = r#"{"id":0,"result":{"serverInfo":{"name":"n","version":"2"}}}"#;
    let expected = Probe { server_name: "n".into(), version: "2".into(), era: Era::Legacy };
    let json = Upstream::start(move |_: &Heard| Answer::json(200, answer)).await;
    assert_eq!(gateway(&json.url()).probe().await.unwrap(), expected);
    let events = Upstream::start(move |heard: &Heard| {
        let text = format!("id: 1\ndata:\n\nevent: message\ndata: {answer}\n\n");
        if heard.method == "DELETE" { Answer::json(200, "") } else { Answer::events(&text) }
            .with("mcp-session-id", "s")
    })
    .await;
    assert_eq!(gateway(&events.url()).probe().await.unwrap(), expected);
    assert_eq!(events.heard().last().unwrap().method, "DELETE");
}

#[test]
fn urls_and_headers_that_cannot_work_are_refused_at_once() {
    let new = |url: &str| Remote::new("s", url, &Vars::default());
    assert!(new("http://h/sse-tools/mcp").is_ok());
    for url in ["h/mcp", "ftp://h/", "http:///mcp", "http://user:pw@h/mcp", "http://h h/"] {
        let error = new(url).unwrap_err();
        assert!(matches!(error, GatewayError::Url { .. }), "{url}: {error}");
    }
    let headers = Vars::default().with("X-Key", "line\nbreak");
    let error = Remote::new("s", "http://h/mcp", &headers).unwrap_err();
    assert!(matches!(error, GatewayError::Header { header, .. } if header == "X-Key"));
}

#[tokio::test]
async fn a_get_passes_too() {
    let upstream = Upstream::start(|heard: &Heard| {
        assert_eq!(heard.method, "GET");
        Answer::events("data: 1\n\n")
    })
    .await;
    let request = Request::get("/mcp").body(Empty::<Bytes>::new()).unwrap();
    let answer = gateway(&upstream.url()).handle(request, &Principal::Anonymous).await;
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    assert_eq!(text(answer).await, "data: 1\n\n");
}
