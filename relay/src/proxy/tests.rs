//! Requests through the proxy to an agent whose every byte a test writes.

use std::convert::Infallible;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::mux::MuxStream;
use mcpm_shared::proto::control::{AgentMessage, Claim};
use mcpm_shared::proto::head::{HEAD_LEN, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::ports::Ports;
use crate::tunnel::tests::Agent;

const POST: &str = "POST /mcp HTTP/1.1\r\nhost: calc.localhost\r\nconnection: close\r\n\
                    content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

/// A relay without sockets, and one agent that shares `calc`.
struct World {
    edge: Arc<crate::http::Edge>,
    agent: Agent,
    _scope: Scope,
}

impl World {
    async fn new(mode: ShareMode) -> Self {
        let (scope, mut config) = (Scope::new(), Config { http_mode: true, ..Config::local() });
        // Less than the agent, which says nothing more, is waited for.
        config.timing.idle = Duration::from_secs(4);
        let bound = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
        let (config, ports) = (Arc::new(config), Ports::in_memory());
        let edge = crate::relay::edge(&config, &ports, bound, None, (&scope, &scope));
        let mut agent = Agent::connect(&edge.tunnels, &scope, None).await;
        let claim = Claim {
            request: 1,
            name: "calc".parse().unwrap(),
            mode,
            access: mcpm_shared::access::AccessPolicy::public(),
            ticket: None,
            expires_in_secs: None,
        };
        agent.say(&AgentMessage::Claim(claim)).await;
        let calc = "calc".parse().unwrap();
        while edge.tunnels.live_share(&calc).is_none() {
            tokio::task::yield_now().await;
        }
        Self { edge, agent, _scope: scope }
    }

    /// Lets `visit` ask while `serve` is the agent's end of the one stream that comes of it; returns
    /// all that the visitor is told.
    async fn ask(
        &mut self,
        visit: impl AsyncFnOnce(&mut DuplexStream),
        serve: impl AsyncFnOnce(&mut MuxStream),
    ) -> String {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let edge = Arc::clone(&self.edge);
        let service = service_fn(async |request: Request<Incoming>| {
            let path = request.uri().path_and_query().cloned();
            let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
            let address = IpAddr::from([192, 0, 2, 1]);
            let visitor = Visitor { address, https: false, by_path: false, hop: None };
            let name = "calc".parse().unwrap();
            let mut seen = Seen::default();
            let served = edge.proxy.serve(&name, path, request, visitor, &mut seen);
            Ok::<_, Infallible>(served.await)
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        let asking = async {
            visit(&mut near).await;
            let mut told = Vec::new();
            drop(near.read_to_end(&mut told).await);
            String::from_utf8_lossy(&told).into_owned()
        };
        let answering = async {
            let mut stream = self.agent.streams.recv().await.unwrap();
            stream.read_exact(&mut [0; HEAD_LEN]).await.unwrap();
            stream.write_all(&[Verdict::Accepted.encode()]).await.unwrap();
            serve(&mut stream).await;
        };
        let asked = async { tokio::join!(serving, asking).1 };
        // A request that is refused never comes to the agent.
        let mut answering = std::pin::pin!(answering);
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            told = &mut asked => told,
            () = &mut answering => asked.await,
        }
    }
}

async fn say(stream: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Reads until `end` has come.
async fn hear(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        heard.push(stream.read_u8().await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_switches_protocols_unasked_is_a_failure() {
    for mode in [ShareMode::Mcp, ShareMode::Http] {
        let mut world = World::new(mode).await;
        let told = world.ask(
            async |near| say(near, &format!("{POST}2\r\n{{}}\r\n0\r\n\r\n")).await,
            async |stream| {
                hear(stream, "0\r\n\r\n").await;
                let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\
                            connection: upgrade\r\n\r\n";
                say(stream, &format!("{head}HTTP/1.1 200 OK\r\n\r\nevil")).await;
            },
        );
        let told = told.await;
        assert!(told.starts_with("HTTP/1.1 502"), "{mode:?}: {told}");
        assert!(!told.contains("evil"), "{mode:?}: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_whose_chunks_are_none_is_told_so_and_no_agent_is_blamed() {
    let mut world = World::new(ShareMode::Mcp).await;
    let told = world.ask(
        async |near| say(near, &format!("{POST}2\r\n{{}}\r\nzz\r\n")).await,
        async |stream| {
            drop(stream.read_to_end(&mut Vec::new()).await);
        },
    );
    let told = told.await;
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("malformed"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_the_rest_of_its_request_is_not_cut() {
    let mut world = World::new(ShareMode::Mcp).await;
    let idle = world.edge.config.load().timing.idle;
    let told = world.ask(
        async |near| {
            say(near, &format!("{POST}1\r\n1\r\n")).await;
            for _ in 0..4 {
                tokio::time::sleep(idle / 2).await;
                say(near, "1\r\n2\r\n").await;
            }
            say(near, "0\r\n\r\n").await;
        },
        async |stream| {
            hear(stream, "\r\n\r\n").await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                        content-length: 4\r\n\r\n";
            say(stream, head).await;
            hear(stream, "0\r\n\r\n").await;
            say(stream, "done").await;
        },
    );
    let told = told.await;
    assert!(told.ends_with("\r\n\r\ndone"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn the_relay_is_no_proxy_to_elsewhere() {
    let mut world = World::new(ShareMode::Http).await;
    let told = world.ask(
        async |near| {
            let head = "CONNECT calc.localhost:80 HTTP/1.1\r\nhost: calc.localhost:80\r\n";
            say(near, &format!("{head}connection: close\r\n\r\n")).await;
        },
        async |stream| {
            hear(stream, "\r\n\r\n").await;
            say(stream, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
        },
    );
    let told = told.await;
    assert!(told.starts_with("HTTP/1.1 405") && !told.contains("evil"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_share_that_came_here_answers_for_no_domain_of_another_owner() {
    let world = World::new(ShareMode::Mcp).await;
    let name: Name = "calc".parse().unwrap();
    let share = world.edge.tunnels.live_share(&name).unwrap();
    let entry = world.edge.tunnels.table.find(&name).unwrap();
    let domain = "mcp.example.org".parse().unwrap();
    let route = host::Route { domain, name: name.clone(), owner: "sub:another".to_owned() };
    let (mut near, far) = tokio::io::duplex(4096);
    let service = service_fn(async |request: Request<Incoming>| {
        let mut request = request.map(RequestBody::from);
        request.extensions_mut().insert(Arc::new(host::Route {
            domain: route.domain.clone(),
            name: route.name.clone(),
            owner: route.owner.clone(),
        }));
        let address = IpAddr::from([192, 0, 2, 1]);
        let visitor = Visitor { address, https: false, by_path: false, hop: None };
        let (entry, share) = (Arc::clone(&entry), Arc::clone(&share));
        let path = PathAndQuery::from_static("/mcp");
        let mut seen = Seen::default();
        let proxy = &world.edge.proxy;
        let answer = proxy.here(entry, share, &name, path, request, visitor, &mut seen).await;
        let code = answer.err().map(|failure| failure.error.parts().1);
        Ok::<_, Infallible>(Response::new(code.unwrap_or("served").to_owned()))
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(far), service);
    let asking = async {
        say(&mut near, "GET /mcp HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let mut told = String::new();
        near.read_to_string(&mut told).await.unwrap();
        told
    };
    let told = tokio::join!(serving, asking).1;
    assert!(told.ends_with("unknown_share"), "{told}");
}
