//! Visitors at one node, agents at another.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt as _;
use harness::{
    Service, TestAgent, echoes_over_socket, eventually, next_piece, request, soon, visitor,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mcpm_relay::nodes::head::HopHead;
use mcpm_relay::nodes::hello::{Hello, HelloError, Speaks};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::{Nodes, SECRET};
use crate::limits::is_served_thrice;

fn header<'a>(said: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = said["headers"].as_array().unwrap().iter();
    headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

/// Where the nodes hear each other.
async fn listener(nodes: &Nodes, at: usize) -> SocketAddr {
    let known = nodes.ports.store.beat_node("nobody", 0, false, 0).await.unwrap().nodes;
    let node = known.iter().find(|node| node.id == format!("node{at}")).unwrap();
    node.address.parse().unwrap()
}

#[tokio::test]
async fn a_visitor_at_any_node_reaches_the_agent_at_another_by_one_hop() {
    let nodes = Nodes::start(3).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = nodes.share(&agent, 1, "calc", &service).await;
    let port = nodes.balancer.port();
    assert_eq!(info.url, format!("http://localhost:{port}/s/calc"));
    for at in 0..3 {
        let url = format!("{}/deep/path?a=1&b=2", nodes.url(at, "calc"));
        let forged = json!({ "name": "other", "generation": 1, "visitor": "1.2.3.4", "https": true,
            "by_path": false });
        let call = visitor().post(url).header("mcpm-hop", forged.to_string());
        let call = call.header("x-forwarded-for", "1.2.3.4").header("x-own", "kept").body("hello");
        let said: Value = soon("the answer", call.send()).await.unwrap().json().await.unwrap();
        assert_eq!((&said["method"], &said["body"]), (&json!("POST"), &json!("hello")), "{said}");
        assert_eq!(said["target"], "/deep/path?a=1&b=2");
        assert_eq!(header(&said, "x-forwarded-for"), ["127.0.0.1"], "what visitors say is dropped");
        assert_eq!(header(&said, "x-forwarded-proto"), ["http"]);
        assert_eq!(header(&said, "x-forwarded-prefix"), ["/s/calc"]);
        assert_eq!(header(&said, "x-own"), ["kept"]);
        assert!(header(&said, "mcpm-hop").is_empty(), "{said}");
    }
    assert_eq!(nodes.metric(0, "hops_total{result=\"answered\"}").await, "1");
    assert_eq!(nodes.metric(1, "hops_total{result=\"answered\"}").await, "0");
    assert_eq!(nodes.metric(1, "hops_taken_total").await, "2");
    assert_eq!(nodes.metric(2, "nodes").await, "3");
}

#[tokio::test]
async fn a_large_body_passes_both_ways_over_a_hop() {
    let nodes = Nodes::start(2).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, _) = nodes.share(&agent, 1, "large", &service).await;
    let body = "0123456789abcdef".repeat(256 * 1024);
    let call = visitor().post(nodes.url(0, "large")).body(body.clone()).send();
    let said: Value = soon("the answer", call).await.unwrap().json().await.unwrap();
    assert!(said["body"] == body.as_str());
}

#[tokio::test]
async fn pieces_pass_a_hop_when_they_are_sent_and_a_visitor_who_leaves_is_noticed() {
    let nodes = Nodes::start(2).await;
    let (say, said) = watch::channel(0);
    let (left, mut gone) = watch::channel(false);
    let left = std::sync::Arc::new(left);
    let service = Service::start(move |_| {
        let (mut said, told) = (said.clone(), Told(std::sync::Arc::clone(&left)));
        async move {
            let pieces = futures_util::stream::once(async move {
                let piece = *said.wait_for(|said| *said > 0).await.unwrap();
                Ok(Frame::data(Bytes::from(format!("data: {piece}\n\n"))))
            });
            let endless = pieces.chain(futures_util::stream::pending()).map(move |piece| {
                let _told = &told;
                piece
            });
            let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(endless)));
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            response
        }
    })
    .await;
    let agent = TestAgent::new();
    let (_share, _) = nodes.share(&agent, 1, "events", &service).await;
    let call = visitor().get(nodes.url(0, "events")).send();
    let mut stream = soon("the head", call).await.unwrap().bytes_stream();
    say.send_replace(7);
    assert_eq!(next_piece(&mut stream).await.unwrap().unwrap(), "data: 7\n\n");
    drop(stream);
    soon("the service learns of it", gone.wait_for(|gone| *gone)).await.unwrap();
}

/// Says that it was dropped.
struct Told(std::sync::Arc<watch::Sender<bool>>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_before_the_answer_is_noticed_over_a_hop() {
    let nodes = Nodes::start(2).await;
    let (service, mut called) = Service::silent().await;
    let agent = TestAgent::new();
    let (share, _) = nodes.share(&agent, 1, "patient", &service).await;
    let call = visitor().get(nodes.url(0, "patient")).send();
    tokio::select! {
        _ = call => panic!("there is no answer"),
        arrived = called.wait_for(|calls| *calls == 1) => drop(arrived.unwrap()),
    }
    share.has_in_flight(0).await;
}

#[tokio::test]
async fn a_websocket_passes_a_hop() {
    let nodes = Nodes::start(2).await;
    let (service, agent) = (Service::socket().await, TestAgent::new());
    nodes.balancer.set([nodes.all[1].relay.addr()]);
    let asked = request("ws", ShareMode::Http, AccessPolicy::public());
    let share = agent.open_at(&nodes.balancer.url(""), asked, service.backend());
    share.up().await;
    echoes_over_socket(nodes.all[0].relay.addr(), "ws", &["hello", "again"]).await;
}

#[tokio::test]
async fn limits_are_counted_where_the_share_is() {
    let mut nodes = Nodes::start(1).await;
    let mut config = nodes.config("strict");
    config.limits.requests_per_second = std::num::NonZeroU32::new(1);
    config.limits.requests_burst = std::num::NonZeroU32::new(3).unwrap();
    let strict = harness::TestRelay::on(config, nodes.ports.clone()).await;
    nodes.all.push(strict);
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, _) = nodes.share(&agent, 1, "few", &service).await;
    let client = visitor();
    let [here, there] = [0, 1].map(|at| nodes.url(at, "few"));
    is_served_thrice(&client, &[&here, &there]).await;
    // At either node.
    for url in [&here, &there] {
        eventually("there were too many", || async {
            (client.get(url).send().await.unwrap().status() == 429).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_stranger_gets_nothing_from_the_listener_for_nodes() {
    let nodes = Nodes::start(2).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, _) = nodes.share(&agent, 1, "calc", &service).await;
    let address = listener(&nodes, 1).await;
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /s/calc HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ended = soon("it is closed", plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let stranger = Hello::new("node0", &[Token::new("x".repeat(40))]).unwrap();
    let refused = stranger.dial(&address.to_string(), "node1", Speaks::Requests).await;
    assert!(matches!(refused, Err(HelloError::Unproved)), "{refused:?}");
}

/// Sends a request to a node as if it came from another one.
async fn hop(to: SocketAddr, id: &str, head: Option<HopHead>) -> Response<Bytes> {
    let hello = Hello::new("node9", &[Token::new(SECRET)]).unwrap();
    let stream = hello.dial(&to.to_string(), id, Speaks::Requests).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let scope = mcpm_shared::scope::Scope::new();
    scope.spawn_until_cancelled(async move { drop(connection.await) });
    let mut request = Request::get("http://node/path").body(Empty::<Bytes>::new()).unwrap();
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    if let Some(head) = head {
        head.write(request.headers_mut());
    }
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    scope.cancel();
    Response::from_parts(parts, body)
}

#[tokio::test]
async fn a_request_that_was_passed_on_is_never_passed_on_again() {
    let nodes = Nodes::start(2).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = nodes.share(&agent, 1, "calc", &service).await;
    // Node 0 knows where it is.
    let there = visitor().get(nodes.url(0, "calc")).send().await.unwrap();
    assert_eq!(there.status(), 200);
    let head = HopHead {
        name: "calc".parse().unwrap(),
        generation: info.generation,
        visitor: "192.0.2.1".parse().unwrap(),
        https: true,
        by_path: false,
        owner: None,
    };
    let wrong = hop(listener(&nodes, 0).await, "node0", Some(head.clone())).await;
    assert_eq!(wrong.status(), 502);
    assert_eq!(wrong.headers()["mcpm-relay-error"], "misrouted");
    let right = hop(listener(&nodes, 1).await, "node1", Some(head)).await;
    assert_eq!(right.status(), 200);
    let said: Value = serde_json::from_slice(right.body()).unwrap();
    assert_eq!(header(&said, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(header(&said, "x-forwarded-proto"), ["https"]);
    let bare = hop(listener(&nodes, 1).await, "node1", None).await;
    assert_eq!(bare.status(), 400);
}
