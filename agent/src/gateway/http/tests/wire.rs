//! HTTP+SSE (2024-11-05).

use super::*;

async fn dispatch(
    gateway: &Gateway,
    principal: &Principal,
    method: Method,
    uri: &str,
    body: &str,
) -> Answer {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-forwarded-prefix", HeaderValue::from_static("/s/name"));
    gateway.dispatch(request, principal).await
}

/// Opens a session; returns its stream and where to POST to.
async fn connect(gateway: &Gateway, principal: &Principal) -> (GatewayBody, String) {
    let answer = dispatch(gateway, principal, Method::GET, "/sse", "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let first = std::str::from_utf8(&frame).unwrap();
    let endpoint = first.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end();
    let path = endpoint.strip_prefix("/s/name").unwrap().to_owned();
    let id = path.strip_prefix("/messages?sessionId=").unwrap();
    assert!(id.len() >= 32, "{id}");
    (body, path)
}

#[tokio::test]
async fn what_is_posted_is_answered_on_the_stream() {
    let gateway = legacy();
    let who = Principal::Anonymous;
    let (mut stream, path) = connect(&gateway, &who).await;
    for (message, expected) in [
        (r#"{"id":0,"method":"initialize","params":{}}"#, json!("sh")),
        (r#"{"id":"a","method":"tools/list"}"#, json!(null)),
    ] {
        let answer = dispatch(&gateway, &who, Method::POST, &path, message).await;
        assert_eq!(answer.status(), 202);
        let answer = event(&mut stream).await.unwrap();
        assert_eq!(answer["result"]["serverInfo"]["name"], expected);
    }
    assert_eq!(gateway.stats().sessions, 1);
    let heard = dispatch(&gateway, &who, Method::POST, &path, NUDGE).await;
    assert_eq!(heard.status(), 202);
    assert_eq!(event(&mut stream).await.unwrap()["method"], "notifications/heard");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_session_ends_with_its_stream_and_belongs_to_its_principal() {
    let gateway = legacy();
    let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
    let (stream, path) = connect(&gateway, &ann).await;
    let ping = r#"{"id":1,"method":"ping"}"#;
    assert_eq!(dispatch(&gateway, &bob, Method::POST, &path, ping).await.status(), 404);
    // It is no session of the other transport.
    let id = path.split_once('=').unwrap().1;
    let answer = send_as(&gateway, &ann, Method::POST, &[(SESSION_HEADER, id)], ping).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(dispatch(&gateway, &ann, Method::POST, &path, ping).await.status(), 202);
    drop(stream);
    assert_eq!(dispatch(&gateway, &ann, Method::POST, &path, ping).await.status(), 404);
    assert_eq!(gateway.stats().sessions, 0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_server_that_dies_answers_what_is_open() {
    let gateway = legacy();
    let who = Principal::Anonymous;
    let (mut stream, path) = connect(&gateway, &who).await;
    let open = r#"{"id":0,"method":"initialize","params":{}}"#;
    assert_eq!(dispatch(&gateway, &who, Method::POST, &path, open).await.status(), 202);
    assert_eq!(event(&mut stream).await.unwrap()["id"], 0);
    let long = r#"{"id":1,"method":"long"}"#;
    assert_eq!(dispatch(&gateway, &who, Method::POST, &path, long).await.status(), 202);
    assert_eq!(dispatch(&gateway, &who, Method::POST, &path, long).await.status(), 400);
    let die = r#"{"id":2,"method":"die"}"#;
    assert_eq!(dispatch(&gateway, &who, Method::POST, &path, die).await.status(), 202);
    for id in [1, 2] {
        let answer = event(&mut stream).await.unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32603)));
    }
    let again = r#"{"id":3,"method":"pid"}"#;
    assert_eq!(dispatch(&gateway, &who, Method::POST, &path, again).await.status(), 202);
    assert!(event(&mut stream).await.unwrap()["result"].is_u64());
    gateway.shutdown().await;
    assert!(stream.frame().await.is_none());
}

#[tokio::test]
async fn each_endpoint_takes_its_own_method() {
    let gateway = legacy();
    let status = async |method: Method, uri: &str, body: &str| {
        let who = Principal::Anonymous;
        dispatch(&gateway, &who, method, uri, body).await.status().as_u16()
    };
    // A POST here is how clients of newer transports find out.
    assert_eq!(status(Method::POST, "/sse", r#"{"id":0,"method":"initialize"}"#).await, 405);
    assert_eq!(status(Method::GET, "/messages", "").await, 405);
    assert_eq!(status(Method::POST, "/messages", "{}").await, 400);
    assert_eq!(status(Method::POST, "/messages?sessionId=nobody", "{}").await, 404);
    assert_eq!(status(Method::GET, "/other", "").await, 404);
    assert_eq!(status(Method::GET, "/mcp/", "").await, 400);
    assert_eq!(gateway.stats().children, 0);
}
