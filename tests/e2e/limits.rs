//! Bounds that hold.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Service, TestAgent, TestRelay, TestShare, eventually, request, visitor};
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use mcpm_relay::Config;
use mcpm_relay::admission::unix_now;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::for_tests();
    change(&mut config);
    config
}

/// Returns the hour of the clock: new names are counted in each.
pub(crate) fn hour() -> u64 {
    unix_now() / 3600
}

/// Exactly `limit` shares came up since the hour `began`; where a new one has begun meanwhile, up to as many more.
pub(crate) fn are_limited(up: &[TestShare], limit: usize, began: u64) {
    let turned = usize::try_from(hour() - began).unwrap();
    assert!((limit..=limit * (1 + turned)).contains(&up.len()), "in {turned} new hours: {up:?}");
}

/// Opens one share after the other until the relay tells one to wait with its name; returns those that came up. How many
/// that may be, [`are_limited`] tells.
pub(crate) async fn come_up(
    limit: usize,
    mut open: impl FnMut(usize) -> TestShare,
) -> Vec<TestShare> {
    let mut up = Vec::new();
    loop {
        let share = open(up.len());
        if !share.is_up_unless("new names").await {
            return up;
        }
        up.push(share);
        // An hour ends once, at most.
        assert!(up.len() <= 2 * limit, "one name too many: {up:?}");
    }
}

/// Asks until there were too many requests: the first three are not. How many are depends on how long it takes, for one a
/// second is granted anew.
pub(crate) async fn is_served_thrice(client: &reqwest::Client, urls: &[&str]) -> reqwest::Response {
    let (mut urls, began) = (urls.iter().cycle(), Instant::now());
    for served in 0..100 {
        let answer = client.get(*urls.next().unwrap()).send().await.unwrap();
        if served >= 3 && answer.status() == 429 {
            let took = began.elapsed();
            assert!(served <= 3 + took.as_secs() + 1, "{served} were served in {took:?}");
            return answer;
        }
        assert_eq!(answer.status(), 200, "request {served}");
    }
    panic!("there are never too many requests");
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
    let refused = is_served_thrice(&visitor(), &[&info.url]).await;
    assert!(refused.headers().contains_key("retry-after"));
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
        share.has_in_flight(2).await;
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
async fn an_owners_day_comes_to_an_end_and_an_operator_may_lengthen_it() {
    let relay = TestRelay::with(config(|c| c.limits.per_owner.requests_per_day = Some(2))).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_one, one) = agent.share(&relay, "one", &service, AccessPolicy::public()).await;
    let (_two, two) = agent.share(&relay, "two", &service, AccessPolicy::public()).await;
    let client = visitor();
    for url in [&one.url, &two.url] {
        assert_eq!(client.get(url).send().await.unwrap().status(), 200);
    }
    let refused = client.get(&one.url).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["mcpm-relay-error"], "quota_exceeded");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=24 * 3600).contains(&wait));
    // Another owner has a day of its own.
    let other = TestAgent::new();
    let (_three, three) = other.share(&relay, "three", &service, AccessPolicy::public()).await;
    assert_eq!(client.get(&three.url).send().await.unwrap().status(), 200);

    let store = &*relay.ports().store;
    let owner = mcpm_relay::admission::Owner::of_key(&agent.key.thumbprint());
    let more = mcpm_relay::operator::QuotaChange {
        requests_per_day: mcpm_relay::operator::Change::To(0),
        ..Default::default()
    };
    let now = mcpm_relay::admission::unix_now();
    mcpm_relay::operator::set_quota(store, &owner, more, now).await.unwrap();
    eventually("the new quota counts", || async {
        (client.get(&one.url).send().await.ok()?.status() == 200).then_some(())
    })
    .await;
    // What was used outlives the relay.
    let ports = relay.ports().clone();
    relay.relay.shutdown().await;
    let detail = mcpm_relay::operator::owner(&*ports.store, &owner, now).await.unwrap();
    assert!(detail.usage.iter().map(|used| used.amounts.requests).sum::<u64>() >= 3, "{detail:?}");
}

#[tokio::test]
async fn what_was_used_before_a_restart_counts_after_it() {
    let relay = TestRelay::with(config(|c| c.limits.per_owner.requests_per_day = Some(2))).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = agent.share(&relay, "one", &service, AccessPolicy::public()).await;
    let client = visitor();
    for _ in 0..2 {
        assert_eq!(client.get(&info.url).send().await.unwrap().status(), 200);
    }
    let _relay = relay.restart().await;
    share.up_after(info.generation).await;
    assert_eq!(client.get(&info.url).send().await.unwrap().status(), 429);
}

#[tokio::test]
async fn bytes_of_a_day_end_an_answer_that_has_no_end() {
    let relay =
        TestRelay::with(config(|c| c.limits.per_address.bytes_per_day = Some(1_000_000))).await;
    let service = Service::endless().await;
    let agent = TestAgent::new();
    let (_share, info) = agent.share(&relay, "endless", &service, AccessPolicy::public()).await;
    let client = visitor();
    let mut answer = client.get(&info.url).send().await.unwrap();
    let mut read = 0;
    let ended = loop {
        match harness::soon("the answer goes on or ends", answer.chunk()).await {
            Ok(Some(piece)) => read += piece.len(),
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "a cut answer must not look whole");
    // Cutting resets the connection, which may take along what was sent and not read yet.
    assert!((1..4_000_000).contains(&read), "{read}");
    let refused = client.get(&info.url).send().await.unwrap();
    assert_eq!(refused.headers()["mcpm-relay-error"], "quota_exceeded");
    assert!(refused.text().await.unwrap().contains("your address has used up the bytes"));
}

#[tokio::test]
async fn new_names_are_limited_and_old_ones_come_back() {
    let relay = TestRelay::with(config(|c| {
        c.limits.per_owner.names_per_hour = Some(2);
        // Every attempt of an agent that is told to wait counts.
        c.limits.claims_per_minute_per_key = None;
    }))
    .await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let began = hour();
    let mut up = come_up(2, |n| {
        let asked = request(&format!("name{n}"), ShareMode::Http, AccessPolicy::public());
        agent.open(&relay, asked, service.backend())
    })
    .await;
    are_limited(&up, 2, began);
    let info = up[0].up().await;
    up.remove(0).tunnel.shutdown().await;
    let (_again, again) = agent.share(&relay, "name0", &service, AccessPolicy::public()).await;
    assert!(again.generation > info.generation);
}

#[tokio::test]
async fn names_that_pass_for_others_are_kept_unless_an_operator_gives_them() {
    let relay = TestRelay::with(config(|c| {
        c.labels.brands = true;
        c.labels.listed = vec!["corp-*".parse().unwrap()];
    }))
    .await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    for name in ["paypa1", "corp-x", "www"] {
        let asked = request(name, ShareMode::Http, AccessPolicy::public());
        let error = agent.open(&relay, asked, service.backend()).refused().await;
        assert_eq!(error.code(), "name_reserved", "{name}");
    }
    let store = &*relay.ports().store;
    let owner = mcpm_relay::admission::Owner::of_key(&agent.key.thumbprint());
    let now = mcpm_relay::admission::unix_now();
    let name = || "corp-x".parse().unwrap();
    mcpm_relay::operator::reserve_name(store, name(), Some(owner), String::new(), now)
        .await
        .unwrap();
    eventually("the name is given", || async {
        let asked = request("corp-x", ShareMode::Http, AccessPolicy::public());
        let share = agent.open(&relay, asked, service.backend());
        let mut status = share.tunnel.status();
        let decided = status.wait_for(|now| {
            use mcpm::tunnel::TunnelStatus::{Refused, Up};
            matches!(now, Up(_) | Refused(_))
        });
        let up = matches!(*decided.await.ok()?, mcpm::tunnel::TunnelStatus::Up(_));
        up.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_blocked_share_ends_its_open_answers_at_once_and_says_so() {
    let contact = Some("abuse@relay.example".parse().unwrap());
    let relay = TestRelay::with(config(|c| c.abuse_contact = contact)).await;
    // One that sends something and then nothing, for ever.
    let service = Service::start(|_| async {
        let first = Ok(Frame::data(Bytes::from_static(b"first")));
        let silent = futures_util::stream::iter([first]);
        let silent = futures_util::StreamExt::chain(silent, futures_util::stream::pending());
        Response::new(StreamBody::new(silent).boxed_unsync())
    })
    .await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "bad", &service, AccessPolicy::public()).await;
    let (other, calm) = agent.share(&relay, "calm", &service, AccessPolicy::public()).await;
    let client = visitor();
    let mut answer = client.get(&info.url).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
    let store = &*relay.ports().store;
    let now = mcpm_relay::admission::unix_now();
    let name = "bad".parse().unwrap();
    mcpm_relay::operator::block_name(store, name, "phishing".to_owned(), now).await.unwrap();
    let cut = harness::soon("the open answer ends", answer.chunk()).await;
    assert!(cut.is_err(), "a cut answer must not look whole");
    assert_eq!(share.refused().await.code(), "name_reserved");
    let refused = client.get(&info.url).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers()["mcpm-relay-error"], "blocked");
    assert!(refused.text().await.unwrap().contains("abuse@relay.example"));
    assert_eq!(client.get(&calm.url).send().await.unwrap().status(), 200);
    drop(other);
    let apex = client.get(relay.url("/.well-known/security.txt")).send().await.unwrap();
    assert!(apex.text().await.unwrap().contains("mailto:abuse@relay.example"));
    assert!(
        client.get(relay.url("/")).send().await.unwrap().text().await.unwrap().contains("abuse@")
    );
}

#[tokio::test]
async fn a_busy_agent_opens_a_second_connection_at_once() {
    let relay = TestRelay::start().await;
    // A few bulk transfers are what keeps a connection busy; small requests share its messages.
    let service = Service::endless().await;
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
