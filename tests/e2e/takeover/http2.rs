//! Visitors who speak HTTP/2: a relay that stops loses none of their requests.

use futures_util::future::join_all;
use harness::TestAgent;
use http::Version;

use super::*;

/// How many calls have a connection in common.
const STREAMS: usize = 4;
/// Nobody waits for the end of this grace period: whoever needs it fails.
const LONG: [&str; 4] = ["--tls", "self-signed", "--grace-secs", "600"];

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
