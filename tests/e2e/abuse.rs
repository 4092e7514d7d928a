//! Visitors and agents that mean harm, on real sockets: what they get, and that others are served
//! meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt as _, StreamExt as _};
use harness::{Service, TestAgent, TestRelay, soon, visitor};
use mcpm_relay::Config;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::{self, Proof};
use mcpm_shared::identity::AgentKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

async fn connect(relay: &TestRelay) -> TcpStream {
    TcpStream::connect(relay.relay.addr()).await.unwrap()
}

/// Sends bytes as they are and returns all that comes back until the relay closes.
async fn raw(relay: &TestRelay, bytes: &[u8]) -> String {
    let mut stream = connect(relay).await;
    // The relay may close before all is written.
    let _sent = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = soon("the connection ends", stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok() || !answer.is_empty(), "{read:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A share that must be served whatever else goes on.
struct Bystander {
    _agent: TestAgent,
    share: harness::TestShare,
    _service: Service,
    url: String,
}

impl Bystander {
    async fn on(relay: &TestRelay) -> Self {
        let (agent, service) = (TestAgent::new(), Service::echo().await);
        let (share, info) = agent.share(relay, "calm", &service, AccessPolicy::public()).await;
        Self { _agent: agent, share, _service: service, url: info.url }
    }

    async fn is_served(&self) {
        let answer = soon("others are served", visitor().get(&self.url).send()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn what_follows_a_request_of_two_lengths_is_never_read() {
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    let chunked = "1\r\nx\r\n0\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ] {
        // No `Connection: close`: a server that believed the other length would go on reading.
        let smuggled = "GET /s/calm/evil HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let request = format!(
            "POST /s/calm/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{chunked}{smuggled}\
             GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        let answer = raw(&relay, request.as_bytes()).await;
        assert!(!answer.contains("evil"), "{fields:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answer}");
    }
    calm.is_served().await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let mut config = Config::for_tests();
    config.limits.max_header_bytes = 16 * 1024;
    let relay = TestRelay::with(config).await;
    let calm = Bystander::on(&relay).await;
    let with = |fields: &str| {
        format!("GET /s/calm/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n")
    };
    let large = with(&format!("X-Large: {}\r\n", "x".repeat(64 * 1024)));
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(80 * 1024));
    for request in [large, with(&many), long] {
        let answer = raw(&relay, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414"),
            "{answer}"
        );
    }
    // A head without end is refused before it fills the memory.
    let mut stream = connect(&relay).await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut sent = 0_usize;
    while sent < 16 * 1024 * 1024 && stream.write_all(&[b'x'; 4096]).await.is_ok() {
        sent += 4096;
    }
    assert!(sent < 16 * 1024 * 1024, "the relay read {sent} bytes of a head");
    assert_eq!(calm.share.tunnel.stats().requests, 0);
    calm.is_served().await;
}

#[tokio::test]
async fn a_visitor_cannot_say_who_it_is_or_where_it_goes() {
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    let answer = visitor()
        .get(&calm.url)
        .header("forwarded", "for=6.6.6.6;host=evil.example")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-host", "evil.example")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-anything", "evil")
        .header("x_forwarded_for", "evil")
        .header("x-forwarded_host", "evil.example")
        .header("x-real-ip", "evil")
        .header("mcpm-link-secret", "evil")
        .header("mcpm-relay-error", "evil")
        .header("connection", "x-forwarded-for, host")
        .send()
        .await
        .unwrap();
    let said: serde_json::Value = answer.json().await.unwrap();
    let headers: Vec<(String, String)> = serde_json::from_value(said["headers"].clone()).unwrap();
    let of = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    };
    assert_eq!(of("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(of("x-forwarded-proto"), ["http"]);
    assert!(!said.to_string().contains("evil"), "{said}");

    let port = relay.relay.addr().port();
    for (target, host) in [
        ("http://evil.example/", "localhost"),
        ("http://localhost/", "evil.example"),
        ("/", "localhost@evil.example"),
        ("/", "evil.example:80@localhost"),
        ("/", "localhost, evil.example"),
        ("/", "localhost:80:80"),
        ("/", "localhost/../evil"),
        ("/", ""),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw(&relay, request.as_bytes()).await;
        let refused = answer.starts_with("HTTP/1.1 421") || answer.starts_with("HTTP/1.1 400");
        assert!(refused, "{target} {host:?} at port {port}: {answer}");
    }
}

#[tokio::test]
async fn visitors_that_never_finish_a_head_keep_nobody_out() {
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    let mut slow = Vec::new();
    for n in 0..300 {
        let mut stream = connect(&relay).await;
        let begun = format!("GET /s/calm/x HTTP/1.1\r\nHost: localhost\r\nX-{n}: ");
        stream.write_all(begun.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        calm.is_served().await;
    }
    assert_eq!(calm.share.tunnel.stats().requests, 20, "what is half is passed to nobody");
    drop(slow);
}

/// Opens the tunnel endpoint as an agent with a key of its own does.
async fn upgrade(relay: &TestRelay) -> WebSocketStream<TcpStream> {
    let origin = relay.url("");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let jwt = assertion::sign(&AgentKey::generate(), &origin, &Proof::None, now).unwrap();
    let mut request = format!("ws://localhost:{}/v1/tunnel", relay.relay.addr().port())
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {jwt}").parse().unwrap());
    headers.insert("sec-websocket-protocol", "mcpm.tunnel.v1".parse().unwrap());
    let stream = connect(relay).await;
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

/// Waits until the relay has ended the connection.
async fn is_ended(socket: &mut WebSocketStream<TcpStream>) {
    soon("the relay ends the connection", async {
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
        }
    })
    .await;
}

/// A yamux frame (spec of hashicorp/yamux): version, type, flags, stream, length.
fn frame(version: u8, kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut frame = vec![version, kind];
    frame.extend(flags.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame
}

const DATA: u8 = 0;
const WINDOW: u8 = 1;
const SYN: u16 = 1;

#[tokio::test]
async fn frames_against_the_protocol_end_the_connection_that_sent_them() {
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    let too_long = Message::binary(vec![0_u8; 1024 * 1024]);
    for (what, message) in [
        ("a message over 64 KiB", too_long),
        ("text", Message::text("hello")),
        ("an unknown version", Message::binary(frame(9, WINDOW, SYN, 1, 0))),
        ("an unknown type", Message::binary(frame(0, 99, SYN, 1, 0))),
        ("a stream of our own side", Message::binary(frame(0, DATA, SYN, 2, 0))),
        ("a body that is announced too long", Message::binary(frame(0, DATA, SYN, 1, u32::MAX))),
    ] {
        let mut socket = upgrade(&relay).await;
        // The relay may close while this is written.
        let _sent = socket.send(message).await;
        is_ended(&mut socket).await;
        assert!(!what.is_empty());
        calm.is_served().await;
    }
}

#[tokio::test]
async fn a_flood_of_streams_is_bounded_and_keeps_nobody_out() {
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    let mut socket = upgrade(&relay).await;
    let mut flood = Vec::new();
    for stream in (1..20_000_u32).step_by(2) {
        flood.extend(frame(0, WINDOW, SYN, stream, 0));
    }
    let mut open = true;
    for piece in flood.chunks(48 * 1024) {
        open = open && socket.send(Message::binary(piece.to_vec())).await.is_ok();
        calm.is_served().await;
    }
    // The first stream should have been the control stream: nobody said hello on it.
    is_ended(&mut socket).await;
    calm.is_served().await;
}

#[tokio::test]
async fn agents_that_upgrade_and_say_nothing_keep_nobody_out() {
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(upgrade(&relay).await);
    }
    calm.is_served().await;
    let other = Service::echo().await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "late", &other, AccessPolicy::public()).await;
    assert_eq!(visitor().get(&info.url).send().await.unwrap().status(), 200);
    drop(silent);
}

/// Debian's `slowhttptest` against the relay, on loopback and for seconds.
#[tokio::test]
async fn slowhttptest_finds_the_relay_available() {
    if !harness::peers::programs(&["slowhttptest"]) {
        return;
    }
    let relay = TestRelay::start().await;
    let calm = Bystander::on(&relay).await;
    // Slow heads, slow bodies, and slow readers of answers.
    for mode in ["-H", "-B", "-X"] {
        let mut attack = harness::peers::peer("slowhttptest").expect("asked for above");
        let target = if mode == "-B" { calm.url.clone() } else { relay.url("/") };
        attack.args([mode, "-c", "300", "-r", "300", "-i", "2", "-l", "8", "-p", "3"]);
        attack.args(["-t", if mode == "-B" { "POST" } else { "GET" }, "-u", &target]);
        attack.kill_on_drop(true);
        let attacking = attack.output();
        let serving = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(500));
            loop {
                ticks.tick().await;
                calm.is_served().await;
            }
        };
        let output = tokio::select! {
            output = attacking => output.unwrap(),
            () = serving => unreachable!("it is served for ever"),
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.rsplit("service available:").next().unwrap_or_default();
        assert!(said.contains("service available:") && last.contains("YES"), "{mode}: {said}");
    }
    calm.is_served().await;
}
