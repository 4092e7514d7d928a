//! A share from end to end: what a visitor sends arrives, what the server says comes back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use harness::{
    Service, TestAgent, TestRelay, echoes_over_socket, full, next_piece, request, soon,
    token_policy, visitor,
};
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

#[tokio::test]
async fn a_request_reaches_the_service_and_its_answer_comes_back() {
    let (relay, agent, service) = world().await;
    let (_share, info) = agent.share(&relay, "echo", &service, AccessPolicy::public()).await;
    let url = format!("{}?a=1", info.url);
    let answer = visitor().post(url).header("x-mine", "1").body("hello").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let said: Value = answer.json().await.unwrap();
    assert_eq!(said["method"], "POST");
    assert_eq!(said["target"], "/?a=1");
    assert_eq!(said["body"], "hello");
    assert_eq!(header(&said, "x-mine").as_deref(), Some("1"));
    assert_eq!(header(&said, "x-forwarded-proto").as_deref(), Some("http"));
    assert!(header(&said, "x-forwarded-for").is_some());
}

#[tokio::test]
async fn the_same_name_works_as_a_host_and_as_a_path() {
    let (relay, agent, service) = world().await;
    let (_share, _) = agent.share(&relay, "echo", &service, AccessPolicy::public()).await;
    let host = format!("echo.localhost:{}", relay.relay.addr().port());
    let by_host = visitor().get(relay.url("/x")).header("host", host).send().await.unwrap();
    assert_eq!(by_host.json::<Value>().await.unwrap()["target"], "/x");
    let by_path = visitor().get(relay.url("/s/echo/x?y=%2F")).send().await.unwrap();
    assert_eq!(by_path.json::<Value>().await.unwrap()["target"], "/x?y=%2F");
}

#[tokio::test]
async fn the_credential_of_a_visitor_never_reaches_the_service() {
    let (relay, agent, service) = world().await;
    let (_share, info) = agent.share(&relay, "echo", &service, token_policy("sesame")).await;
    let client = visitor();
    let bearer = client.get(&info.url).bearer_auth("sesame").send().await.unwrap();
    let said: Value = bearer.json().await.unwrap();
    assert!(!said.to_string().contains("sesame"), "{said}");
    // With the other header, `Authorization` stays free for the service's own use.
    let other = client.get(&info.url).header("x-mcpm-secret", "sesame").bearer_auth("theirs");
    let said: Value = other.send().await.unwrap().json().await.unwrap();
    assert_eq!(header(&said, "authorization").as_deref(), Some("Bearer theirs"));
    assert!(!said.to_string().contains("sesame"), "{said}");
}

#[tokio::test]
async fn a_large_body_passes_both_ways_unchanged() {
    let relay = TestRelay::start().await;
    let service = Service::start(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(full(body))
    })
    .await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "big", &service, AccessPolicy::public()).await;
    let sent: Bytes = (0..12_000_000_u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
    let answer = visitor().post(&info.url).body(sent.clone()).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), sent);
}

#[tokio::test]
async fn a_service_may_answer_while_it_still_reads() {
    let relay = TestRelay::start().await;
    let service = Service::start(|request| async move {
        let echoed = request.into_body().map_err(std::io::Error::other);
        Response::new(BodyExt::boxed_unsync(echoed))
    })
    .await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "duplex", &service, AccessPolicy::public()).await;
    let (pieces, queue) = mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::unfold(queue, |mut queue| async move {
        Some((Ok::<_, std::io::Error>(queue.recv().await?), queue))
    });
    let call = visitor().post(&info.url).body(reqwest::Body::wrap_stream(body)).send();
    let mut answer = soon("the head comes", call).await.unwrap().bytes_stream();
    for piece in ["one", "two", "three"] {
        pieces.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        assert_eq!(next_piece(&mut answer).await.unwrap().unwrap(), piece);
    }
    drop(pieces);
    assert!(next_piece(&mut answer).await.is_none());
}

#[tokio::test]
async fn every_piece_of_a_stream_arrives_when_it_was_sent() {
    let relay = TestRelay::start().await;
    let (pieces, queue) = mpsc::channel::<Bytes>(1);
    let queue = std::sync::Arc::new(std::sync::Mutex::new(Some(queue)));
    let service = Service::start(move |_| {
        let queue = queue.lock().unwrap().take();
        async move {
            let pieces = futures_util::stream::unfold(queue, |queue| async move {
                let mut queue = queue?;
                let piece = queue.recv().await?;
                Some((Ok(Frame::data(piece)), Some(queue)))
            });
            let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)));
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            response
        }
    })
    .await;
    let agent = TestAgent::new();
    let asked = request("events", ShareMode::Mcp, AccessPolicy::public());
    let share = agent.open(&relay, asked, service.backend());
    let info = share.up().await;
    let answer = soon("the head comes", visitor().get(&info.url).send()).await.unwrap();
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let mut stream = answer.bytes_stream();
    for piece in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        pieces.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        assert_eq!(next_piece(&mut stream).await.unwrap().unwrap(), piece);
    }
    drop(pieces);
    assert!(next_piece(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_visitor_who_leaves_cancels_the_exchange_at_the_service() {
    let relay = TestRelay::start().await;
    let (gone, mut left) = watch::channel(false);
    let service = Service::start(move |_| {
        let guard = Told(gone.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    })
    .await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "slow", &service, AccessPolicy::public()).await;
    let call = visitor().get(&info.url).send();
    tokio::select! {
        _ = call => panic!("there is no answer"),
        () = share.has_in_flight(1) => {}
    }
    soon("the service learns of it", left.wait_for(|gone| *gone)).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let relay = TestRelay::start().await;
    let (broken, breaks) = watch::channel(false);
    let service = Service::start(move |_| {
        let mut breaks = breaks.clone();
        async move {
            let end = async move {
                breaks.wait_for(|broken| *broken).await.unwrap();
                Err(std::io::Error::other("broken"))
            };
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))]);
            let pieces = first.chain(futures_util::stream::once(end));
            Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)))
        }
    })
    .await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "half", &service, AccessPolicy::public()).await;
    let mut stream = visitor().get(&info.url).send().await.unwrap().bytes_stream();
    assert_eq!(next_piece(&mut stream).await.unwrap().unwrap(), "half");
    broken.send_replace(true);
    assert!(next_piece(&mut stream).await.unwrap().is_err());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_502_and_comes_back_without_a_hand() {
    let relay = TestRelay::start().await;
    let agent = TestAgent::new();
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = dead.local_addr().unwrap().port();
    drop(dead);
    let backend = mcpm::tunnel::Backend::Http(port.to_string().parse().unwrap());
    let share =
        agent.open(&relay, request("dead", ShareMode::Http, AccessPolicy::public()), backend);
    let info = share.up().await;
    let answer = visitor().get(&info.url).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(answer.text().await.unwrap().contains("service_unreachable"));
}

#[tokio::test]
async fn a_websocket_passes_through_a_share_of_mode_http() {
    let relay = TestRelay::start().await;
    let (service, agent) = (Service::socket().await, TestAgent::new());
    let asked = request("ws", ShareMode::Http, AccessPolicy::public());
    let share = agent.open(&relay, asked, service.backend());
    share.up().await;
    echoes_over_socket(relay.relay.addr(), "ws", &["hello"]).await;
}

#[tokio::test]
async fn a_thousand_exchanges_at_once_find_their_own_answers() {
    let (relay, agent, service) = world().await;
    let (share, info) = agent.share(&relay, "many", &service, AccessPolicy::public()).await;
    let client = visitor();
    let calls = (0..1000).map(|i| {
        let call = client.post(&info.url).body(i.to_string()).send();
        async move {
            let said: Value = call.await.unwrap().json().await.unwrap();
            assert_eq!(said["body"], i.to_string());
        }
    });
    futures_util::stream::iter(calls).buffer_unordered(64).collect::<Vec<()>>().await;
    share.has_in_flight(0).await;
    assert_eq!(share.tunnel.stats().requests, 1000);
}

#[tokio::test]
async fn an_event_stream_that_says_nothing_is_kept_alive() {
    let relay = TestRelay::start().await;
    let service = Service::start(|_| async {
        let silent = futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(silent)));
        response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        response
    })
    .await;
    let agent = TestAgent::new();
    let asked = request("quiet", ShareMode::Mcp, AccessPolicy::public());
    let share = agent.open(&relay, asked, service.backend());
    let info = share.up().await;
    let mut stream = visitor().get(&info.url).send().await.unwrap().bytes_stream();
    let piece = tokio::time::timeout(Duration::from_secs(40), stream.next()).await.unwrap();
    assert_eq!(piece.unwrap().unwrap(), ": keep-alive\n\n");
}

async fn world() -> (TestRelay, TestAgent, Service) {
    (TestRelay::start().await, TestAgent::new(), Service::echo().await)
}

fn header(said: &Value, name: &str) -> Option<String> {
    let headers = said["headers"].as_array()?;
    let found = headers.iter().find(|pair| pair[0] == name)?;
    found[1].as_str().map(str::to_owned)
}

/// Says that it was dropped.
struct Told(watch::Sender<bool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
