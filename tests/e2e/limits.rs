//! Bounds that hold.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use harness::{Service, TestAgent, TestRelay, eventually, request, visitor};
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use mcpm_relay::Config;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::for_tests();
    change(&mut config);
    config
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_its_length() {
    let relay = TestRelay::with(config(|c| c.limits.max_body_bytes = 1000)).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "small", &service, AccessPolicy::public()).await;
    let client = visitor();
    let told = client.post(&info.url).body(vec![b'x'; 1001]).send().await.unwrap();
    assert_eq!(told.status(), 413);
    let pieces =
        futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let streamed = client.post(&info.url).body(reqwest::Body::wrap_stream(pieces)).send().await;
    assert_eq!(streamed.unwrap().status(), 413);
    let fits = client.post(&info.url).body(vec![b'x'; 1000]).send().await.unwrap();
    assert_eq!(fits.status(), 200);
}

#[tokio::test]
async fn too_many_requests_from_one_address_are_told_when_to_come_back() {
    let relay = TestRelay::with(config(|c| {
        c.limits.requests_per_second = NonZeroU32::new(1);
        c.limits.requests_burst = NonZeroU32::new(3).unwrap();
    }))
    .await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "busy", &service, AccessPolicy::public()).await;
    let client = visitor();
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let answer = client.get(&info.url).send().await.unwrap();
        if answer.status() == 429 {
            assert!(answer.headers().contains_key("retry-after"));
        }
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn as_many_requests_are_in_flight_as_a_share_may_have() {
    let relay = TestRelay::with(config(|c| c.limits.max_streams_per_share = 2)).await;
    let service = Service::start(|_| std::future::pending()).await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "full", &service, AccessPolicy::public()).await;
    let client = visitor();
    let hanging =
        futures_util::future::join(client.get(&info.url).send(), client.get(&info.url).send());
    let third = async {
        eventually("two are in flight", || async {
            (share.tunnel.stats().active == 2).then_some(())
        })
        .await;
        client.get(&info.url).send().await.unwrap()
    };
    let third = tokio::select! { _ = hanging => panic!("they hang"), third = third => third };
    assert_eq!(third.status(), 429);
    assert_eq!(third.headers()["mcpm-relay-error"], "busy");
}

#[tokio::test]
async fn an_owner_has_as_many_shares_as_allowed() {
    let relay = TestRelay::with(config(|c| c.limits.max_shares_per_owner = 1)).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_first, _) = agent.share(&relay, "first", &service, AccessPolicy::public()).await;
    let asked = request("second", ShareMode::Http, AccessPolicy::public());
    let error = agent.open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "too_many_shares");
}

#[tokio::test]
async fn too_many_handshakes_are_told_to_wait() {
    let relay =
        TestRelay::with(config(|c| c.limits.handshakes_per_minute = NonZeroU32::new(2))).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = visitor().get(relay.url("/v1/tunnel")).send().await.unwrap();
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [426, 426, 429]);
}

#[tokio::test]
async fn a_service_that_never_answers_is_a_504() {
    let relay = TestRelay::with(config(|c| c.timing.idle = Duration::from_millis(300))).await;
    let service = Service::start(|_| std::future::pending()).await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "never", &service, AccessPolicy::public()).await;
    let answer = visitor().get(&info.url).send().await.unwrap();
    assert_eq!(answer.status(), 504);
}

#[tokio::test]
async fn a_share_ends_when_its_time_is_over() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let mut asked = request("brief", ShareMode::Http, AccessPolicy::public());
    asked.expires = Some(Duration::from_secs(1));
    let share = agent.open(&relay, asked, service.backend());
    let mut status = share.tunnel.status();
    let ended = status.wait_for(|s| matches!(s, mcpm::tunnel::TunnelStatus::Ended(_)));
    assert!(harness::soon("the share ends", ended).await.is_ok());
}

#[tokio::test]
async fn a_busy_agent_opens_a_second_connection_at_once() {
    let relay = TestRelay::start().await;
    // A few bulk transfers are what keeps a connection busy; small requests share its messages.
    let service = Service::start(|_| async {
        let piece = Bytes::from_static(&[0; 64 * 1024]);
        let endless = futures_util::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
        Response::new(StreamBody::new(endless).boxed_unsync())
    })
    .await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "wide", &service, AccessPolicy::public()).await;
    let client = visitor();
    let read = async || {
        let mut answer = client.get(&info.url).send().await.unwrap();
        while answer.chunk().await.unwrap().is_some() {}
    };
    let reading = futures_util::future::join(read(), read());
    let metrics = format!("http://{}/metrics", relay.relay.admin_addr().unwrap());
    let wide = eventually("there are two connections", || async {
        let text = client.get(&metrics).send().await.ok()?.text().await.ok()?;
        text.contains("mcpm_relay_connections 2").then_some(())
    });
    tokio::select! { _ = reading => panic!("they have no end"), () = wide => {} }
}
