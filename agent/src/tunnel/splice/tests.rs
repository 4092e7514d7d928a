//! Exchanges over a data stream whose other end the test holds, with a real service behind.

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::mux::{self, Activity, Side};
use mcpm_shared::scope::Scope;
use tokio::net::{TcpListener, TcpSocket};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::super::testing;
use super::*;

const SOON: Duration = Duration::from_secs(20);
const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Serves one data stream in front of `target`; returns the relay's end of it.
async fn stream_to(scope: &Scope, target: HttpTarget) -> MuxStream {
    let (opener, incoming, socket) = testing::mux(scope, CancellationToken::new()).await;
    let config = Some(mux::websocket_config());
    let socket = WebSocketStream::from_raw_socket(socket, Role::Client, config).await;
    let close = scope.token().clone();
    let (_, mut streams, driver) = mux::connect(socket, Side::Agent, Activity::default(), close);
    scope.spawn(async move { driver.await.unwrap() });
    let ends = scope.guard();
    scope.spawn_until_cancelled(async move {
        let _ends_when_served = (ends, incoming);
        let gate = Arc::new(Gate::new(AccessPolicy::public(), Arc::default()));
        serve(streams.recv().await.unwrap(), &target, &gate).await;
    });
    opener.open().await.unwrap()
}

async fn service() -> (TcpListener, HttpTarget) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, target)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.unwrap()
}

async fn read_head(from: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(from.read_u8()).await.unwrap());
    }
    head
}

#[tokio::test]
async fn a_visitor_who_leaves_before_the_switch_is_noticed_at_the_service() {
    let scope = Scope::new();
    let (listener, target) = service().await;
    let mut visitor = stream_to(&scope, target).await;
    visitor.write_all(UPGRADE).await.unwrap();
    let (mut connection, _) = soon(listener.accept()).await.unwrap();
    read_head(&mut connection).await;
    drop(visitor);
    assert_eq!(soon(connection.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn what_a_visitor_says_before_the_switch_reaches_the_service_after_it() {
    let scope = Scope::new();
    let (listener, target) = service().await;
    let mut visitor = stream_to(&scope, target).await;
    visitor.write_all(&[UPGRADE, b"early "].concat()).await.unwrap();
    let (mut connection, _) = soon(listener.accept()).await.unwrap();
    read_head(&mut connection).await;
    visitor.write_all(b"birds").await.unwrap();
    let switch = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    connection.write_all(switch).await.unwrap();
    let mut said = [0; 11];
    soon(connection.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"early birds");
    connection.write_all(b"!").await.unwrap();
    let mut answer = vec![0; switch.len() + 1];
    soon(visitor.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [&switch[..], b"!"].concat());
}

/// Returns a listener whose queue is full, so that a connection to it hangs, and what fills it.
#[cfg(target_os = "linux")]
async fn swamped() -> (HttpTarget, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    let patience = Duration::from_millis(300);
    while let Ok(connected) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        queue.push(connected.unwrap());
    }
    (address.to_string().parse().unwrap(), listener, queue)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_visitor_who_leaves_while_the_service_does_not_accept_is_noticed() {
    let (target, _listener, _queue) = swamped().await;
    let scope = Scope::new();
    let mut visitor = stream_to(&scope, target).await;
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    visitor.flush().await.unwrap();
    drop(visitor);
    tokio::time::timeout(CONNECT_TIMEOUT / 2, scope.cancelled()).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_service_that_does_not_accept_is_given_up() {
    let (target, _listener, _queue) = swamped().await;
    let scope = Scope::new();
    let mut visitor = stream_to(&scope, target).await;
    tokio::time::pause();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    visitor.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 502");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn how_long_a_silent_service_was_waited_for_is_said() {
    let (target, _listener, _queue) = swamped().await;
    tokio::time::pause();
    assert_eq!(knock(&target).await.unwrap_err().to_string(), "no answer within 2 s");
}
