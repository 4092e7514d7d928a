//! Visitors who speak HTTP/2: a GOAWAY loses none of their requests.

use futures_util::future::join_all;
use harness::TestAgent;
use http::Version;

use super::*;

/// How many visitors have a connection in common.
const STREAMS: usize = 4;
/// Nobody waits for the end of this grace period: whoever needs it fails.
const LONG: [&str; 4] = ["--tls", "self-signed", "--grace-secs", "600"];

/// One of several visitors on a connection, with the library's mercy: what a GOAWAY says was not begun is sent again.
struct Stream {
    client: reqwest::Client,
    url: String,
}

impl Asks for Stream {
    async fn ask(&mut self, body: &str) -> Result<(), String> {
        let answer = self.client.post(&self.url).body(body.to_owned()).send().await;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        let (status, version) = (answer.status(), answer.version());
        let text = answer.text().await.map_err(|error| format!("body: {error:?}"))?;
        match (status.as_u16(), version, text == body) {
            (200, Version::HTTP_2, true) => Ok(()),
            _ => Err(format!("{status} by {version:?}: {text}")),
        }
    }
}

/// A relay with TLS, a share at it, and the URL of the share.
async fn shared(data: &Path, service: &Service) -> (RelayProcess, TestAgent, TestShare, String) {
    let mut relay = RelayProcess::start(data, &LONG).await;
    let pin = |line: &str| line.strip_prefix("certificate SHA-256 ").map(str::to_owned);
    let pin = relay.program.line("the fingerprint", pin).await;
    let mut agent = TestAgent::new();
    agent.tls.fingerprint = Some(pin);
    let url = format!("https://localhost:{}", relay.addr.port());
    let asked = request("steady", ShareMode::Http, AccessPolicy::public());
    let share = agent.open_at(&url, asked, service.backend());
    share.up().await;
    (relay, agent, share, format!("{url}/s/steady/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_visitors_lose_no_request_to_successors() {
    let dir = tempfile::tempdir().unwrap();
    let (let_go, may) = watch::channel(false);
    let service = echo(may).await;
    let (mut relay, _agent, share, url) = shared(dir.path(), &service).await;
    // One call that lasts longer than the process that took it, on a connection with others.
    let clients: Vec<_> = (0..VISITORS / STREAMS).map(|_| visitor()).collect();
    let slow = clients[0].post(format!("{url}slow")).body("slow").send();
    let replaced = async {
        share.has_in_flight(1).await;
        let mut crowd = Crowd::of(|number, _| {
            let client = clients[number % clients.len()].clone();
            Stream { client, url: url.clone() }
        });
        crowd.goes_on().await;
        for round in 0..2 {
            let before = share.up().await;
            let args = [&LONG[..], &["--take-over"]].concat();
            let next = RelayProcess::start(dir.path(), &args).await;
            assert_eq!(next.addr, relay.addr, "the very socket");
            share.up_after(before.generation).await;
            crowd.goes_on().await;
            if round == 0 {
                let_go.send_replace(true);
            }
            std::mem::replace(&mut relay, next).ended().await;
            crowd.goes_on().await;
        }
        crowd.leave();
    };
    let (slow, ()) = tokio::join!(slow, replaced);
    assert_eq!(slow.unwrap().text().await.unwrap(), "slow");
    relay.program.signal("TERM");
    relay.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_calls_in_flight_end_before_the_relay_does_which_waits_for_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (let_go, may) = watch::channel(false);
    let service = echo(may).await;
    let (relay, _agent, share, url) = shared(dir.path(), &service).await;
    // Kept until the relay is gone: its connection, without requests, holds nobody.
    let client = visitor();
    let calls = (0..STREAMS).map(|number| {
        let call = client.post(format!("{url}slow")).body(number.to_string()).send();
        async move {
            let answer = call.await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
            assert_eq!(answer.text().await.unwrap(), number.to_string());
        }
    });
    let stop = async {
        share.has_in_flight(STREAMS).await;
        relay.program.signal("TERM");
        eventually("nothing new is accepted", || async {
            TcpStream::connect(relay.addr).await.err()
        })
        .await;
        let_go.send_replace(true);
    };
    tokio::join!(join_all(calls), stop);
    relay.ended().await;
    drop(client);
}
