use mcpm_shared::access::TokenGrant;
use mcpm_shared::token::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::gateway::GatewayOptions;
use crate::model::Server;

async fn up(options: ListenOptions) -> (SocketAddr, Scope) {
    up_with(Server::stdio("test", "cat", [""; 0]), options).await
}

async fn up_with(server: Server, options: ListenOptions) -> (SocketAddr, Scope) {
    let scope = Scope::new();
    let gateway = Gateway::new(&server, GatewayOptions::default(), scope.clone()).unwrap();
    (listen(gateway, options, &scope).await.unwrap(), scope)
}

/// Sends a request with these header lines and returns the head of the answer.
async fn call(address: SocketAddr, path: &str, heads: &str) -> String {
    let ping = r#"{"id":1,"method":"ping"}"#;
    rest(&mut ask(address, &format!("POST {path}"), heads, ping).await).await
}

/// Sends a request with these header lines and returns the connection that its answer comes by.
async fn ask(address: SocketAddr, line: &str, heads: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{line} HTTP/1.1\r\n{heads}content-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads an answer until these words are in it.
async fn until(stream: &mut TcpStream, words: &str) {
    let mut answer = Vec::new();
    while !answer.windows(words.len()).any(|seen| seen == words.as_bytes()) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{words}");
    }
}

/// Reads an answer to its end.
async fn rest(stream: &mut TcpStream) -> String {
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
    let (change, options) = for_sesame();
    let (address, _scope) = up(options).await;
    let refused = call(address, "/mcp", "host: localhost\r\n").await;
    assert_eq!(status(&refused), 401);
    assert!(refused.to_ascii_lowercase().contains("www-authenticate: bearer"));
    let with_token = "host: localhost\r\nauthorization: Bearer sesame\r\n";
    assert_eq!(status(&call(address, "/mcp", with_token).await), 400);
    change.send_replace(AccessPolicy::default());
    assert_eq!(status(&call(address, "/mcp", with_token).await), 401);
}

/// Lets those in who have the token `sesame`.
fn for_sesame() -> (watch::Sender<AccessPolicy>, ListenOptions) {
    let digest = Token::new("sesame").digest();
    let grant = TokenGrant { id: "t".to_owned(), label: None, digest, expires_at: None };
    let policy = AccessPolicy { tokens: vec![grant], ..AccessPolicy::default() };
    let (change, access) = watch::channel(policy);
    (change, ListenOptions { access: Some(access), ..ListenOptions::default() })
}

/// A server that says something when it is called, and never answers.
const HANGS: &str = r#"
id() { echo "$1" | sed 's/.*"id":\([^,}]*\).*/\1/'; }
while read -r line; do
  case "$line" in
    *initialize\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"sh"}}}';;
    *progressToken*) token=$(echo "$line" | sed 's/.*"progressToken":\([^,}]*\).*/\1/')
                     echo '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":'$token',"progress":1}}';;
    *tools/call*) echo '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}';;
    *\"id\"*\"method\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"error":{"code":-32601,"message":"unknown"}}';;
  esac
done
"#;

#[tokio::test]
async fn who_is_admitted_no_longer_loses_what_is_open_too() {
    let (change, options) = for_sesame();
    let (address, scope) = up_with(Server::stdio("test", "sh", ["-c", HANGS]), options).await;
    let heads = "host: localhost\r\nauthorization: Bearer sesame\r\n";
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let opened = rest(&mut ask(address, "POST /mcp", heads, initialize).await).await;
    let session = opened.lines().find(|line| line.starts_with("mcp-session-id: ")).unwrap();
    let heads = format!("{heads}{session}\r\n");
    let over = async {
        let events = format!("{heads}accept: text/event-stream\r\n");
        let mut listening = ask(address, "GET /mcp", &events, "").await;
        until(&mut listening, "200 OK").await;
        let tell = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":1}}}"#;
        let mut streaming = ask(address, "POST /mcp", &heads, tell).await;
        until(&mut streaming, "notifications/progress").await;
        let whole = format!("{heads}accept: application/json\r\n");
        let hang = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}"#;
        let mut waiting = ask(address, "POST /mcp", &whole, hang).await;
        // The server has been called.
        until(&mut listening, "list_changed").await;
        change.send_replace(AccessPolicy::default());
        for stream in [&mut listening, &mut streaming] {
            // The last chunk, which a whole answer ends with.
            assert!(!rest(stream).await.ends_with("0\r\n\r\n"));
        }
        assert_eq!(status(&rest(&mut waiting).await), 401);
    };
    timeout(Duration::from_secs(20), over).await.expect("it is over");
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
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
