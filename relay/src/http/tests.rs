use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::*;
use crate::cert::SelfSigned;
use crate::config::Tls;
use crate::ports::Ports;
use crate::relay::Relay;

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Sends bytes as they are and returns the whole answer.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is refused may be reset.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into_bytes()
}

/// A PROXY header that names 192.0.2.1 as the visitor.
fn proxy_header() -> Vec<u8> {
    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&fixed[..], &[192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 0xBB]].concat()
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    let config = Config {
        domain: "share.example.com".parse().unwrap(),
        http_listen: Some(loopback()),
        tls: Tls::SelfSigned,
        paths: false,
        ..Config::local()
    };
    let cert = Arc::new(SelfSigned::generate(&config.domain).unwrap());
    let ports = Ports { cert: Some(cert), ..Ports::in_memory() };
    let relay = Relay::start(config, ports).await.unwrap();
    let (to, port) = (relay.http_addr().unwrap(), relay.addr().port());
    for (host, at) in [
        ("Share.Example.com:80", "share.example.com"),
        ("calc.share.example.com", "calc.share.example.com"),
    ] {
        let answer = exchange(to, &get(host, "/mcp?a=b")).await;
        assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
        let location = format!("location: https://{at}:{port}/mcp?a=b\r\n");
        assert!(answer.contains(&location), "{answer}");
    }
    for host in ["evil.example", "a.b.share.example.com"] {
        assert!(exchange(to, &get(host, "/")).await.starts_with("HTTP/1.1 421"));
    }
    let proof = get("share.example.com", "/.well-known/acme-challenge/token");
    assert!(exchange(to, &proof).await.starts_with("HTTP/1.1 404"));
    relay.shutdown().await;
}

#[tokio::test]
async fn a_proxy_header_is_a_must_where_it_is_expected_and_else_refused() {
    let believed = Config { proxy_protocol: "127.0.0.0/8".parse().unwrap(), ..Config::local() };
    let relay = Relay::start(believed, Ports::in_memory()).await.unwrap();
    let request = get("localhost", "/healthz");
    let with = [proxy_header(), request.clone()].concat();
    assert!(exchange(relay.addr(), &with).await.starts_with("HTTP/1.1 200"));
    assert_eq!(exchange(relay.addr(), &request).await, "");
    relay.shutdown().await;

    let others = Config { proxy_protocol: "10.0.0.0/8".parse().unwrap(), ..Config::local() };
    for config in [others, Config::local()] {
        let relay = Relay::start(config, Ports::in_memory()).await.unwrap();
        assert!(exchange(relay.addr(), &request).await.starts_with("HTTP/1.1 200"));
        let forged = exchange(relay.addr(), &with).await;
        assert!(!forged.contains("200 OK"), "{forged}");
        relay.shutdown().await;
    }
}

fn edge(config: Config) -> Arc<Edge> {
    let scopes = (Scope::new(), Scope::new());
    let ports = Ports::in_memory();
    crate::relay::edge(&Arc::new(config), &ports, loopback(), None, (&scopes.0, &scopes.1))
}

#[tokio::test]
async fn limits_count_the_address_that_a_trusted_proxy_names() {
    let edge = edge(Config { proxy_protocol: "127.0.0.1".parse().unwrap(), ..Config::local() });
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    proxy.write_all(&proxy_header()).await.unwrap();
    let (mut stream, peer) = listener.accept().await.unwrap();
    let named = behind(&edge, &mut stream, peer).await.unwrap();
    assert_eq!(named, "192.0.2.1:4660".parse().unwrap());
    let visitor = Connection::new(edge, named, None, Routes::Public).visitor;
    assert_eq!(visitor.address, named.ip());
}

#[tokio::test]
async fn forwarded_headers_count_only_when_a_trusted_proxy_sends_them() {
    let request = Request::builder()
        .uri(Uri::from_static("/"))
        .header("x-forwarded-for", "203.0.113.9, 192.0.2.1, 10.0.0.5")
        .header("x-forwarded-proto", "https")
        .body(())
        .unwrap();
    let seen = |nets: &str, peer: [u8; 4]| {
        let edge = edge(Config { trusted_proxies: nets.parse().unwrap(), ..Config::local() });
        let connection = Connection::new(edge, (peer, 1).into(), None, Routes::Public);
        let visitor = connection.visitor(&request);
        (visitor.address.to_string(), visitor.https)
    };
    assert_eq!(seen("10.0.0.0/8", [10, 0, 0, 1]), ("192.0.2.1".to_owned(), true));
    assert_eq!(seen("10.0.0.0/8", [192, 0, 2, 77]), ("192.0.2.77".to_owned(), false));
    assert_eq!(seen("none", [10, 0, 0, 1]), ("10.0.0.1".to_owned(), false));
}

fn visit(routes: Routes) -> Arc<Connection> {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    let (visitors, agents) = (Scope::new(), Scope::new());
    let (config, ports) = (Arc::new(Config::local()), Ports::in_memory());
    let edge = crate::relay::edge(&config, &ports, addr, None, (&visitors, &agents));
    Connection::new(edge, addr, None, routes)
}

async fn status(routes: Routes, path: &str) -> String {
    let (mut near, far) = tokio::io::duplex(4096);
    let visitor = async {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        near.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let on = patience::watch(far, Duration::from_secs(300));
    tokio::join!(serve_http1(visit(routes), on, Scope::new()), visitor).1
}

#[tokio::test]
async fn the_tunnel_listener_serves_the_tunnel_alone() {
    assert_eq!(status(Routes::Public, "/healthz").await, "200");
    assert_eq!(status(Routes::Tunnel, "/healthz").await, "404");
    assert_eq!(status(Routes::Tunnel, "/").await, "404");
    assert_eq!(status(Routes::Tunnel, "/s/calc/mcp").await, "404");
    assert_eq!(status(Routes::Tunnel, TUNNEL_PATH).await, "426");
}

fn stop() -> Stop {
    Stop { goaways: Scope::new(), visitors: Scope::new() }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_on_http_2_must_ask_soon() {
    for said in ["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let (mut near, far) = tokio::io::duplex(4096);
        near.write_all(said.as_bytes()).await.unwrap();
        let start = Instant::now();
        serve_http2(visit(Routes::Public), far, stop()).await;
        let waited = start.elapsed();
        assert!(waited.abs_diff(HEAD_TIMEOUT) < Duration::from_millis(50), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_on_http_2_that_takes_nothing_and_answers_pings_is_given_up() {
    let connection = visit(Routes::Public);
    let (open, patience) =
        (Arc::clone(&connection.open), connection.edge.config.load().timing.idle);
    let (near, far) = tokio::io::duplex(4096);
    let start = Instant::now();
    let visitor = async {
        let (mut sender, mut connection) =
            hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .initial_stream_window_size(0)
                .handshake::<_, http_body_util::Empty<Bytes>>(TokioIo::new(near))
                .await
                .unwrap();
        let request = Request::get("https://localhost/healthz").body(http_body_util::Empty::new());
        let sending = sender.send_request(request.unwrap());
        let response = tokio::select! {
            response = sending => response.unwrap(),
            _ = &mut connection => panic!("no answer"),
        };
        assert_eq!(response.status(), StatusCode::OK);
        // It holds the answer, and lives on.
        drop(connection.await);
        drop((sender, response));
    };
    let both = async { tokio::join!(serve_http2(connection, far, stop()), visitor) };
    tokio::time::timeout(10 * patience, both).await.expect("a stream is held for ever");
    let waited = start.elapsed();
    assert!(waited >= patience && waited <= 2 * patience + HEAD_TIMEOUT, "{waited:?}");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&open), 1, "its answers and what they hold are gone");
}

#[test]
fn an_ipv6_apex_is_told_with_brackets() {
    let apex = Apex::new(&"2001:db8::1".parse().unwrap(), Arc::default());
    assert_eq!(apex.classify("[2001:db8::1]:8443"), Target::Apex);
}

#[tokio::test]
async fn a_relay_that_drains_lets_a_connection_say_that_it_switches() {
    let (scope, config) = (mcpm_shared::scope::Scope::new(), Arc::new(Config::local()));
    let ports = Ports::in_memory();
    let edge = crate::relay::edge(&config, &ports, loopback(), None, (&scope, &scope));
    edge.draining.store(true, Ordering::Relaxed);
    for (status, says) in [(StatusCode::SWITCHING_PROTOCOLS, "upgrade"), (StatusCode::OK, "close")]
    {
        let mut response = Response::new(EdgeBody::empty());
        *response.status_mut() = status;
        let upgrade = HeaderValue::from_static("upgrade");
        response.headers_mut().insert(header::CONNECTION, upgrade);
        edge.close_when_draining(&mut response);
        assert_eq!(response.headers()[header::CONNECTION], says);
    }
}

/// Kinds of frames on HTTP/2 (RFC 9113 §6), and the flag of those that answer one.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// A visitor on HTTP/2 of whom a test knows each frame.
struct Frames<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    async fn greet(stream: S) -> Self {
        let mut frames = Self(stream);
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        frames.say(SETTINGS, 0, 0, b"").await;
        frames.until(|kind, flags, _| kind == SETTINGS && flags == ACK).await;
        frames
    }

    async fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Begins a request; with `END_STREAM` among the flags, that is all of it.
    async fn ask(&mut self, stream: u32, flags: u8) {
        let head = b"\x82\x87\x04\x08/healthz\x01\x09localhost";
        self.say(HEADERS, flags | 0x4, stream, head).await;
    }

    /// Reads up to a frame, or to the end; returns the kinds of those before, and what it carries.
    async fn until(&mut self, wanted: impl Fn(u8, u8, &[u8]) -> bool) -> (Vec<u8>, Vec<u8>) {
        let mut before = Vec::new();
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).await.is_err() {
                return (before, Vec::new());
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.unwrap();
            if wanted(head[3], head[4], &payload) {
                return (before, payload);
            }
            before.push(head[3]);
        }
    }
}

#[tokio::test]
async fn a_visitor_that_was_just_let_in_asks_before_it_is_told_to_go() {
    let (near, far) = tokio::io::duplex(4096);
    let stop = stop();
    stop.goaways.cancel();
    let visitor = async {
        let mut visitor = Frames::greet(near).await;
        visitor.say(PING, 0, 0, b"anything").await;
        let (before, _) = visitor.until(|kind, flags, _| kind == PING && flags == ACK).await;
        assert!(!before.contains(&GOAWAY), "{before:?}");
        visitor.ask(1, 0x1).await;
        let (mut heard, ping) = visitor.until(|kind, flags, _| kind == PING && flags == 0).await;
        assert!(heard.contains(&GOAWAY), "{heard:?}");
        visitor.say(PING, ACK, 0, &ping).await;
        heard.extend(visitor.until(|_, _, _| false).await.0);
        assert!(heard.contains(&HEADERS) && heard.contains(&DATA), "{heard:?}");
    };
    tokio::join!(serve_http2(visit(Routes::Public), far, stop), visitor);
}

#[tokio::test]
async fn a_visitor_reads_which_requests_were_not_heard_however_much_it_still_has_to_say() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let stop = stop();
    let (connection, goaways) = (visit(Routes::Public), stop.goaways.clone());
    let visitor = async {
        let mut visitor = Frames::greet(near).await;
        visitor.ask(1, 0x1).await;
        visitor.until(|kind, flags, _| kind == DATA && flags & 0x1 != 0).await;
        goaways.cancel();
        let (_, ping) = visitor.until(|kind, flags, _| kind == PING && flags == 0).await;
        // What was begun before the word came is sent only now.
        visitor.say(PING, ACK, 0, &ping).await;
        visitor.ask(3, 0).await;
        let (_, last) = visitor.until(|kind, _, _| kind == GOAWAY).await;
        assert_eq!(last, [0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(visitor.0.read(&mut [0]).await.unwrap(), 0, "the relay has no more to say");
        for _ in 0..10 {
            visitor.say(DATA, 0, 3, b"never heard").await;
            tokio::task::yield_now().await;
        }
    };
    let served = async {
        serve_http2(connection, far, stop).await;
        panic!("closed before the visitor has");
    };
    tokio::select! {
        () = served => {}
        () = visitor => {}
    }
}
