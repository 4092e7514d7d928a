//! Names that survive: crashes, restarts, takeovers.

use harness::{Service, TestAgent, TestRelay, eventually, request, soon, visitor};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;

#[tokio::test]
async fn after_a_crash_of_the_relay_the_share_is_back_at_the_same_url() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, before) = agent.share(&relay, "phoenix", &service, AccessPolicy::public()).await;
    let relay = relay.crash().await;
    // A call that comes before the agent is back is held.
    let answer = soon("the held call", visitor().get(&before.url).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let after = share.up_after(before.generation).await;
    assert_eq!(after.url, before.url);
    drop(relay);
}

#[tokio::test]
async fn a_relay_that_forgot_everything_gives_the_name_back_for_the_ticket() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, before) = agent.share(&relay, "memory", &service, AccessPolicy::public()).await;
    let key = relay.ports().key.clone();
    let config =
        mcpm_relay::Config { listen: relay.relay.addr(), ..mcpm_relay::Config::for_tests() };
    drop(relay);
    let forgetful = mcpm_relay::Ports { key, ..mcpm_relay::Ports::in_memory() };
    let relay = eventually("the address is free", || async {
        mcpm_relay::Relay::start(config.clone(), forgetful.clone()).await.ok()
    })
    .await;
    let after = share.up_after(before.generation).await;
    assert_eq!((after.url, after.generation), (before.url, before.generation + 1));
    drop(relay);
}

#[tokio::test]
async fn a_ticket_beats_a_rival_who_claimed_what_the_relay_forgot() {
    let relay = TestRelay::start().await;
    let (alice, bob, service) = (TestAgent::new(), TestAgent::new(), Service::echo().await);
    let (share, info) = alice.share(&relay, "hers", &service, AccessPolicy::public()).await;
    let key = relay.ports().key.clone();
    share.tunnel.shutdown().await;
    let forgetful = mcpm_relay::Ports { key, ..mcpm_relay::Ports::in_memory() };
    let relay = TestRelay::on(mcpm_relay::Config::for_tests(), forgetful).await;
    let (rival, _) = bob.share(&relay, "hers", &service, AccessPolicy::public()).await;
    let mut asked = request("hers", ShareMode::Http, AccessPolicy::public());
    asked.ticket = info.ticket;
    let back = alice.open(&relay, asked, service.backend());
    assert_eq!(back.up().await.generation, info.generation + 1);
    assert_eq!(rival.refused().await.code(), "superseded");
}

#[tokio::test]
async fn the_newer_agent_of_the_same_owner_wins_and_the_older_gives_in() {
    let relay = TestRelay::start().await;
    let old_service = Service::start(|_| async { http::Response::new(harness::full("old")) }).await;
    let new_service = Service::start(|_| async { http::Response::new(harness::full("new")) }).await;
    let agent = TestAgent::new();
    let (old, info) = agent.share(&relay, "shared", &old_service, AccessPolicy::public()).await;
    let (_new, _) = agent.share(&relay, "shared", &new_service, AccessPolicy::public()).await;
    assert_eq!(old.refused().await.code(), "superseded");
    let answer = visitor().get(&info.url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "new");
}

#[tokio::test]
async fn a_share_whose_agent_is_away_is_a_503_and_never_a_404() {
    let mut config = mcpm_relay::Config::for_tests();
    config.timing.hold = std::time::Duration::from_millis(200);
    let relay = TestRelay::with(config).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = agent.share(&relay, "away", &service, AccessPolicy::public()).await;
    share.tunnel.shutdown().await;
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" });
    let answer = visitor().post(&info.url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "5");
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["id"], 7);
}

#[tokio::test]
async fn a_call_in_flight_when_the_agent_dies_fails_and_is_not_sent_again() {
    let relay = TestRelay::start().await;
    let (service, mut called) = Service::silent().await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "dying", &service, AccessPolicy::public()).await;
    let call = visitor().get(&info.url).send();
    let death = async {
        soon("the call arrives", called.wait_for(|calls| *calls == 1)).await.unwrap();
        drop(share);
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! { answer = call => answer.unwrap(), () = death => unreachable!() };
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["mcpm-relay-error"], "agent_failed");
    let again = agent.open(
        &relay,
        request("dying", ShareMode::Http, AccessPolicy::public()),
        service.backend(),
    );
    again.up().await;
    assert_eq!(*called.borrow(), 1);
}

#[tokio::test]
async fn an_agent_waits_for_a_relay_that_is_not_there_yet() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = listener.local_addr().unwrap();
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let relay = TestRelay::start().await;
    let asked = request("early", ShareMode::Http, AccessPolicy::public());
    let config = mcpm::tunnel::TunnelConfig {
        relay: format!("http://{listen}").parse().unwrap(),
        key: agent.key.clone(),
        proof: Default::default(),
        tls: Default::default(),
        connections: 1,
        proxy: Default::default(),
        agent_version: "test".to_owned(),
    };
    drop(listener);
    let scope = mcpm_shared::scope::Scope::new();
    let tunnel = mcpm::tunnel::Tunnel::start(config, asked, service.backend(), scope.clone());
    let share = harness::TestShare { tunnel };
    let mut status = share.tunnel.status();
    let waiting = |s: &mcpm::tunnel::TunnelStatus| {
        matches!(s, mcpm::tunnel::TunnelStatus::Reconnecting { hint: Some(_), .. })
    };
    soon("it tries again", status.wait_for(waiting)).await.unwrap();
    let config = mcpm_relay::Config { listen, ..mcpm_relay::Config::for_tests() };
    let late = TestRelay::with(config).await;
    share.up().await;
    drop((relay, late));
    scope.cancel();
}
