use mcpm_shared::access::TokenGrant;
use mcpm_shared::token::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::gateway::GatewayOptions;
use crate::model::Server;

async fn up(options: ListenOptions) -> (SocketAddr, Scope) {
    let scope = Scope::new();
    let server = Server::stdio("test", "cat", [""; 0]);
    let gateway = Gateway::new(&server, GatewayOptions::default(), scope.clone()).unwrap();
    (listen(gateway, options, &scope).await.unwrap(), scope)
}

/// Sends a request with these header lines and returns the head of the answer.
async fn call(address: SocketAddr, path: &str, heads: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = r#"{"id":1,"method":"ping"}"#;
    let request = format!(
        "POST {path} HTTP/1.1\r\n{heads}content-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn only_requests_to_this_machine_from_pages_of_this_machine_pass() {
    let (address, scope) = up(ListenOptions::default()).await;
    for (heads, expected) in [
        ("host: localhost:1\r\n", 400),
        ("host: 127.0.0.1\r\n", 400),
        ("host: [::1]:80\r\norigin: http://localhost:3000\r\n", 400),
        ("host: 192.168.1.5:80\r\norigin: http://192.168.1.5:80\r\n", 400),
        ("host: 192.168.1.5:80\r\norigin: http://192.168.1.5:81\r\n", 403),
        ("host: localhost\r\norigin: http://[::ffff:127.0.0.1]\r\n", 400),
        ("host: localhost\r\norigin: http://6.6.6.6\r\n", 403),
        ("host: localhost\r\norigin: http://[2001:db8::1]:80\r\n", 403),
        ("host: evil.example\r\norigin: http://evil.example\r\n", 403),
        ("host: evil.example\r\n", 403),
        ("", 403),
        ("host: localhost\r\norigin: https://evil.example\r\n", 403),
        ("host: localhost\r\norigin: null\r\n", 403),
        ("host: localhost\r\norigin: http://localhost.evil.example\r\n", 403),
    ] {
        // 400: it got through to the gateway, which misses the session.
        assert_eq!(status(&call(address, "/mcp", heads).await), expected, "{heads}");
    }
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn the_endpoint_is_mcp_with_or_without_a_slash() {
    let (address, _scope) = up(ListenOptions::default()).await;
    for (path, expected) in [("/mcp", 400), ("/mcp/", 400), ("/", 404), ("/mcpx", 404)] {
        assert_eq!(status(&call(address, path, "host: localhost\r\n").await), expected, "{path}");
    }
}

#[tokio::test]
async fn clients_of_http_and_sse_are_served_on_the_same_port() {
    let (address, scope) = up(ListenOptions::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /sse HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(11).any(|seen| seen == b"?sessionId=") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("event: endpoint\ndata: /messages?sessionId="), "{answer}");
    let strange = call(address, "/messages?sessionId=x", "host: localhost\r\n").await;
    assert_eq!(status(&strange), 404);
    let evil = call(address, "/messages?sessionId=x", "host: evil.example\r\n").await;
    assert_eq!(status(&evil), 403);
    drop(stream);
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn an_access_policy_is_asked_each_time() {
    let token = Token::new("sesame");
    let grant =
        TokenGrant { id: "t".to_owned(), label: None, digest: token.digest(), expires_at: None };
    let policy = AccessPolicy { tokens: vec![grant], ..AccessPolicy::default() };
    let (change, access) = watch::channel(policy);
    let (address, _scope) =
        up(ListenOptions { access: Some(access), ..ListenOptions::default() }).await;
    let refused = call(address, "/mcp", "host: localhost\r\n").await;
    assert_eq!(status(&refused), 401);
    assert!(refused.to_ascii_lowercase().contains("www-authenticate: bearer"));
    let with_token = "host: localhost\r\nauthorization: Bearer sesame\r\n";
    assert_eq!(status(&call(address, "/mcp", with_token).await), 400);
    change.send_replace(AccessPolicy::default());
    assert_eq!(status(&call(address, "/mcp", with_token).await), 401);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (address, scope) = up(ListenOptions::default()).await;
    let server = Server::stdio("test", "cat", [""; 0]);
    let gateway = Gateway::new(&server, GatewayOptions::default(), scope.clone()).unwrap();
    let options = ListenOptions { port: address.port(), ..ListenOptions::default() };
    let error = listen(gateway, options, &scope).await.unwrap_err();
    assert!(matches!(error, ListenError::Busy { port, .. } if port == address.port()));
    assert!(error.hint().unwrap().contains("--port"));
}
