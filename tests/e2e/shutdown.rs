//! A relay that ends well.

use harness::{Service, TestAgent, TestRelay, eventually, full, soon, visitor};
use mcpm_shared::access::AccessPolicy;
use tokio::sync::watch;

#[tokio::test]
async fn a_call_in_flight_ends_before_the_relay_does() {
    let relay = TestRelay::start().await;
    let (finish, finished) = watch::channel(false);
    let service = Service::start(move |_| {
        let mut finished = finished.clone();
        async move {
            finished.wait_for(|finished| *finished).await.unwrap();
            http::Response::new(full("whole"))
        }
    })
    .await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "draining", &service, AccessPolicy::public()).await;
    let client = visitor();
    let call = client.get(&info.url).send();
    let end = async {
        share.has_in_flight(1).await;
        let addr = relay.relay.addr();
        let down = relay.relay.shutdown();
        let release = async {
            eventually("nothing new is accepted", || async {
                tokio::net::TcpStream::connect(addr).await.err().map(|_| ())
            })
            .await;
            finish.send_replace(true);
        };
        tokio::join!(down, release).0
    };
    let (answer, cut) = soon("the relay ends", async { tokio::join!(call, end) }).await;
    assert_eq!(answer.unwrap().text().await.unwrap(), "whole");
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_period_is_cut() {
    let mut config = mcpm_relay::Config::for_tests();
    config.timing.grace = std::time::Duration::from_millis(100);
    let relay = TestRelay::with(config).await;
    let service = Service::start(|_| std::future::pending()).await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "stuck", &service, AccessPolicy::public()).await;
    let client = visitor();
    let call = client.get(&info.url).send();
    let end = async {
        share.has_in_flight(1).await;
        relay.relay.shutdown().await
    };
    let (answer, cut) = soon("the relay ends", async { tokio::join!(call, end) }).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| !answer.status().is_success()));
    assert_eq!(cut, 1);
}

#[tokio::test]
async fn agents_come_back_by_themselves_after_a_restart() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, before) = agent.share(&relay, "again", &service, AccessPolicy::public()).await;
    let relay = relay.restart().await;
    let after = share.up_after(before.generation).await;
    assert_eq!(after.url, before.url);
    assert_eq!(visitor().get(&after.url).send().await.unwrap().status(), 200);
    drop(relay);
}

#[cfg(unix)]
#[tokio::test]
async fn a_relay_that_waits_for_its_database_stops_when_told_to() {
    use harness::process::{Program, built, command};

    let dir = tempfile::tempdir().unwrap();
    let mut serve = command(built("mcpm-relay"));
    serve.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "none"]);
    serve.args(["--database", "postgres://nobody@127.0.0.1:1/none", "--data-dir"]).arg(dir.path());
    let mut relay = Program::start(serve);
    harness::eventually("it says that it waits", || async {
        let said = relay.stderr();
        // Why, too: a pool that ran out of time helps nobody.
        (said.contains("database does not answer yet") && said.contains("onnection refused"))
            .then_some(())
    })
    .await;
    relay.signal("TERM");
    let ended = relay.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
