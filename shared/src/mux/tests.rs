//! Both ends of the mux over an in-memory socket with a tiny buffer, which finds framing bugs.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::scope::Scope;

async fn pair(scope: &Scope) -> ((Opener, Incoming), (Opener, Incoming)) {
    let (near, far) = tokio::io::duplex(97);
    let config = Some(websocket_config());
    let agent = WebSocketStream::from_raw_socket(near, Role::Client, config).await;
    let relay = WebSocketStream::from_raw_socket(far, Role::Server, config).await;
    let (a_open, a_in, a_run) =
        connect(agent, Side::Agent, Activity::default(), scope.token().clone());
    let (r_open, r_in, r_run) =
        connect(relay, Side::Relay, Activity::default(), scope.token().clone());
    scope.spawn(async move { a_run.await.unwrap() });
    scope.spawn(async move { r_run.await.unwrap() });
    ((a_open, a_in), (r_open, r_in))
}

#[tokio::test]
async fn bytes_pass_in_both_directions_and_in_order() {
    let scope = Scope::new();
    let ((_keep, mut agent_in), (relay, _keep_in)) = pair(&scope).await;
    let echo = scope.child();
    scope.spawn(async move {
        while let Some(stream) = agent_in.recv().await {
            echo.spawn(async move {
                let (mut from, mut to) = tokio::io::split(stream);
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            });
        }
    });
    let sent: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (mut from, mut to) = tokio::io::split(relay.open().await.unwrap());
    let expected = sent.clone();
    scope.spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    from.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, expected);
    drop(from);
    drop(relay);
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_dropped_stream_ends_at_the_peer() {
    let scope = Scope::new();
    let ((_keep, mut agent_in), (relay, _keep_in)) = pair(&scope).await;
    let mut stream = relay.open().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    let mut accepted = agent_in.recv().await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    drop(stream);
    let error = accepted.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn when_one_end_goes_the_other_learns_it() {
    let scope = Scope::new();
    let (near, far) = tokio::io::duplex(1024);
    let config = Some(websocket_config());
    let agent = WebSocketStream::from_raw_socket(near, Role::Client, config).await;
    let (opener, _incoming, run) =
        connect(agent, Side::Agent, Activity::default(), scope.token().clone());
    drop(far);
    assert!(run.await.is_ok());
    assert!(opener.is_closed());
    assert!(matches!(opener.open().await, Err(MuxError::Closed)));
}

#[tokio::test]
async fn closing_a_connection_wakes_whoever_reads_at_either_end() {
    let scope = Scope::new();
    let ((_keep, mut agent_in), (relay, _keep_in)) = pair(&scope).await;
    let mut near = relay.open().await.unwrap();
    near.write_all(b"x").await.unwrap();
    near.flush().await.unwrap();
    let mut far = agent_in.recv().await.unwrap();
    far.read_u8().await.unwrap();
    scope.cancel();
    let (mut a, mut b) = ([0; 1], [0; 1]);
    let ended = async { tokio::join!(near.read(&mut a), far.read(&mut b)) };
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert!(!matches!(ended, (Ok(1..), _) | (_, Ok(1..))));
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_noticed_and_nobody_in_it_waits_for_ever() {
    let scope = Scope::new();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let config = Some(websocket_config());
    let agent = WebSocketStream::from_raw_socket(near, Role::Client, config).await;
    let relay = WebSocketStream::from_raw_socket(far, Role::Server, config).await;
    let (_keep, mut agent_in, run) =
        connect(agent, Side::Agent, Activity::default(), scope.token().clone());
    scope.spawn(async move { run.await.unwrap() });
    let (opener, _keep_in, driver) = driver(relay, Side::Relay, Activity::default());
    let (streams, close) = (Arc::clone(&driver.streams), scope.token().clone());
    scope.spawn(async move { driver.run(close).await.unwrap() });
    let echo = scope.child();
    scope.spawn_until_cancelled(async move {
        while let Some(mut stream) = agent_in.recv().await {
            echo.spawn_until_cancelled(async move {
                while let Ok(byte) = stream.read_u8().await {
                    stream.write_all(&[byte]).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    let mut talking = tokio::task::JoinSet::new();
    for n in 0..32 {
        let mut stream = opener.open().await.unwrap();
        let streams = Arc::clone(&streams);
        talking.spawn(async move {
            let mut most = 0;
            for _ in 0..100 {
                stream.write_all(&[n]).await.unwrap();
                stream.flush().await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), n);
                most = most.max(streams.talked.load(Ordering::Relaxed));
            }
            most
        });
    }
    let most = talking.join_all().await.into_iter().max();
    assert!(most > Some(8), "{most:?}");
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
}
