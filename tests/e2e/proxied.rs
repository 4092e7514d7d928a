//! An agent whose way to the relay leads through the proxy of the environment, or past it.

use harness::forward::ForwardProxy;
use harness::home::Home;
use harness::process::Program;
use harness::{Service, TestRelay, visitor};
use mcpm_relay::config::Tls;
use mcpm_relay::{Config, Ports};

/// A relay over TLS under an address that is this machine and does not read like it: proxies are for
/// what is elsewhere.
async fn relay() -> (TestRelay, String, String) {
    let domain = "0.0.0.0".parse().unwrap();
    let config = Config { domain, paths: true, tls: Tls::SelfSigned, ..Config::for_tests() };
    let ports = Ports::open(&config).await.unwrap();
    let fingerprint = ports.cert.as_ref().unwrap().fingerprint().unwrap().to_string();
    let relay = TestRelay::on(config, ports).await;
    let address = format!("https://0.0.0.0:{}", relay.relay.addr().port());
    (relay, address, fingerprint)
}

/// Shares a service with `variables` in the environment, visits it, and ends the share.
async fn is_shared_with(variables: &[(&str, &str)]) -> String {
    let (_relay, address, fingerprint) = relay().await;
    let (home, service) = (Home::new(), Service::echo().await);
    let login = ["relay", "login", &address, "--fingerprint", &fingerprint, "--no-secret"];
    let kept = Program::start(home.command("mcpm", &login)).ended().await;
    assert_eq!(kept.code, Some(0), "{kept:?}");
    let url = service.url();
    let share = ["tunnel", &url, "--no-auth", "--json", "--address", &address];
    let mut command = home.command("mcpm", &share);
    command.envs(variables.iter().copied());
    let mut program = Program::start(command);
    let up = program.event("up").await;
    let answer = visitor().get(up["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    program.signal("INT");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("s3cret") && !ended.stdout.contains("s3cret"), "{ended:?}");
    address.trim_start_matches("https://").to_owned()
}

#[tokio::test]
async fn an_agent_reaches_its_relay_through_the_proxy_that_https_proxy_names() {
    let proxy = ForwardProxy::start().await;
    let target = is_shared_with(&[("HTTPS_PROXY", &proxy.url("me:s3cret"))]).await;
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    for head in asked {
        assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic bWU6czNjcmV0\r\n"), "{head}");
    }
}

#[tokio::test]
async fn an_agent_passes_by_the_proxy_towards_relays_that_no_proxy_names() {
    let proxy = ForwardProxy::start().await;
    let (url, no_proxy) = (proxy.url("me:s3cret"), "relay.example, 0.0.0.0");
    is_shared_with(&[("HTTPS_PROXY", &url), ("NO_PROXY", no_proxy)]).await;
    assert_eq!(proxy.asked(), [""; 0]);
}
