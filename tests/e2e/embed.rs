//! The relay as a library, and its admin listener.

use harness::{Service, TestAgent, TestRelay, eventually, visitor};
use mcpm_shared::access::AccessPolicy;

#[tokio::test]
async fn a_relay_answers_until_it_is_shut_down() {
    let relay = TestRelay::start().await;
    let url = relay.url("/healthz");
    assert_eq!(visitor().get(&url).send().await.unwrap().text().await.unwrap(), "ok\n");
    relay.relay.shutdown().await;
    assert!(visitor().get(&url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn dropping_a_relay_stops_it() {
    let relay = TestRelay::start().await;
    let url = relay.url("/healthz");
    drop(relay);
    eventually("nobody answers", || async { visitor().get(&url).send().await.err().map(|_| ()) })
        .await;
}

#[tokio::test]
async fn metrics_tell_of_sessions_shares_and_requests_and_name_nobody() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "counted", &service, AccessPolicy::public()).await;
    visitor().get(&info.url).send().await.unwrap();
    let admin = format!("http://{}", relay.relay.admin_addr().unwrap());
    let metrics = visitor().get(format!("{admin}/metrics")).send().await.unwrap();
    let text = metrics.text().await.unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(value("mcpm_relay_sessions"), Some(1.0), "{text}");
    assert_eq!(value("mcpm_relay_shares"), Some(1.0), "{text}");
    assert!(!text.contains("counted"), "a label holds a name: {text}");
    let ready = visitor().get(format!("{admin}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 200);
}
