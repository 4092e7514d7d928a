//! Domains of owners: who is led where, and what is never served under them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use harness::process::{Program, built, command};
use harness::{Service, TestAgent, TestRelay, eventually, visitor};
use mcpm_relay::cert::SelfSigned;
use mcpm_relay::config::Tls;
use mcpm_relay::store::{DomainRecord, DomainState};
use mcpm_relay::{Config, Ports};
use mcpm_shared::access::AccessPolicy;
use serde_json::Value;

const DOMAIN: &str = "mcp.example.org";

fn record(agent: &TestAgent, name: &str, state: DomainState) -> DomainRecord {
    DomainRecord {
        domain: DOMAIN.parse().unwrap(),
        owner: format!("key:{}", agent.key.thumbprint()),
        name: name.parse().unwrap(),
        token: "proof".to_owned(),
        state,
        added_at: 1,
        // In the far future: nobody asks the DNS meanwhile.
        checked_at: Some(1 << 40),
        proved_at: Some(1),
        failing_since: None,
        problem: String::new(),
        changed_at: 1,
        revision: 0,
    }
}

/// Keeps a domain in place of what was there.
async fn set(relay: &TestRelay, record: DomainRecord) {
    let store = &relay.ports().store;
    let seen = store.domain(DOMAIN).await.unwrap().map_or(0, |held| held.revision);
    assert!(store.set_domain(record, seen).await.unwrap());
}

async fn get(relay: &TestRelay) -> reqwest::Response {
    visitor().get(relay.url("/hello?a=b")).header("host", DOMAIN).send().await.unwrap()
}

async fn until(relay: &TestRelay, status: u16) -> reqwest::Response {
    eventually("the domain is served so", || async {
        Some(get(relay).await).filter(|answer| answer.status() == status)
    })
    .await
}

#[tokio::test]
async fn a_domain_leads_to_its_owners_share_once_it_is_verified() {
    let relay = TestRelay::start().await;
    let (ada, bob, service) = (TestAgent::new(), TestAgent::new(), Service::echo().await);
    let (_share, _) = ada.share(&relay, "calc", &service, AccessPolicy::public()).await;
    assert_eq!(get(&relay).await.status(), 421);
    set(&relay, record(&ada, "calc", DomainState::Verified)).await;
    let said: Value = until(&relay, 200).await.json().await.unwrap();
    assert_eq!(said["target"], "/hello?a=b");
    let headers = said["headers"].to_string();
    assert!(headers.contains(r#"["x-forwarded-host","mcp.example.org"]"#), "{headers}");
    assert!(!headers.contains("x-forwarded-prefix"), "{headers}");

    // A domain of somebody else, whoever has the name: a stranger's share does not answer.
    set(&relay, record(&bob, "calc", DomainState::Verified)).await;
    let refused = until(&relay, 404).await;
    assert_eq!(refused.headers()["mcpm-relay-error"], "unknown_share");
    set(&relay, record(&ada, "calc", DomainState::Verified)).await;
    until(&relay, 200).await;
    set(&relay, record(&ada, "calc", DomainState::Pending)).await;
    assert_eq!(until(&relay, 421).await.headers()["mcpm-relay-error"], "wrong_host");
    set(&relay, record(&ada, "calc", DomainState::Verified)).await;
    until(&relay, 200).await;
    set(&relay, record(&ada, "calc", DomainState::Removed)).await;
    until(&relay, 421).await;
}

/// A client for which names are where `at` is.
fn client(at: SocketAddr) -> reqwest::Client {
    drop(visitor());
    let builder =
        reqwest::Client::builder().http1_only().no_proxy().tls_danger_accept_invalid_certs(true);
    let names = [DOMAIN, "share.example.com", "calc.share.example.com"];
    names.iter().fold(builder, |builder, name| builder.resolve(name, at)).build().unwrap()
}

#[tokio::test]
async fn a_connection_for_a_domain_serves_that_domain_alone_and_browsers_learn_of_https() {
    let mut config = Config {
        domain: "share.example.com".parse().unwrap(),
        paths: false,
        tls: Tls::SelfSigned,
        hsts: Some(Duration::from_secs(60)),
        http_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..Config::for_tests()
    };
    // Nobody waits for a share that is not there.
    config.timing.hold = Duration::ZERO;
    let cert = Arc::new(SelfSigned::generate(&config.domain).unwrap());
    let ports = Ports { cert: Some(cert), ..Ports::in_memory() };
    let relay = TestRelay::on(config, ports).await;
    let ada = TestAgent::new();
    set(&relay, record(&ada, "calc", DomainState::Verified)).await;
    let (at, port) = (relay.relay.addr(), relay.relay.addr().port());
    let client = client(at);
    let ask = async |tls: &str, host: &str| {
        let url = format!("https://{tls}:{port}/mcp");
        client.get(url).header("host", host).send().await.unwrap()
    };
    eventually("the domain is known", || async {
        (ask(DOMAIN, DOMAIN).await.status() == 404).then_some(())
    })
    .await;
    for (tls, host) in [
        (DOMAIN, "calc.share.example.com"),
        ("calc.share.example.com", DOMAIN),
        ("share.example.com", DOMAIN),
        (DOMAIN, "share.example.com"),
    ] {
        let answer = ask(tls, host).await;
        assert_eq!(answer.status(), 421, "{host} on a connection for {tls}");
        assert_eq!(answer.headers()["strict-transport-security"], "max-age=60");
    }
    // By plain HTTP nobody is told of it, and everybody sent to HTTPS.
    let url = format!("http://{}/mcp", relay.relay.http_addr().unwrap());
    let sent = visitor().get(url).header("host", "MCP.Example.org").send().await.unwrap();
    assert_eq!(sent.status(), 308);
    assert_eq!(sent.headers()["location"], format!("https://{DOMAIN}:{port}/mcp").as_str());
    assert!(!sent.headers().contains_key("strict-transport-security"));
}

#[cfg(unix)]
#[tokio::test]
async fn operators_add_list_and_remove_domains_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = async |args: &[&str]| {
        let mut command = command(built("mcpm-relay"));
        command.arg("domain").args(args).arg("--data-dir").arg(dir.path());
        Program::start(command).ended().await
    };
    let add = ["add", DOMAIN, "--owner", "ada", "--name", "calc", "--json"];
    let added = run(&add).await;
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let added: Value = serde_json::from_str(&added.stdout).unwrap();
    assert_eq!((&added["owner"], &added["state"]), (&"sub:ada".into(), &"pending".into()));
    assert_eq!(added["proof"]["name"], "_mcpm-relay.mcp.example.org");
    let taken = run(&["add", DOMAIN, "--owner", "bob", "--name", "calc"]).await;
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("for sub:ada already") && taken.stderr.contains("hint: "));
    let own =
        run(&["add", "x.a.example", "--owner", "a", "--name", "x", "--relay-domain", "a.example"]);
    assert_eq!(own.await.code, Some(1));
    let bad = run(&["add", "https://a.example.org", "--owner", "ada", "--name", "calc"]).await;
    assert_eq!(bad.code, Some(2), "{}", bad.stderr);
    // Nobody listens there.
    let silent = run(&["verify", DOMAIN, "--dns-servers", "127.0.0.1:1"]).await;
    assert_eq!(silent.code, Some(1));
    assert!(silent.stderr.contains("--dns-servers"), "{}", silent.stderr);
    let listed = run(&["ls"]).await;
    assert!(listed.stdout.contains("mcp.example.org  pending  sub:ada  calc"), "{}", listed.stdout);
    assert_eq!(run(&["rm", DOMAIN]).await.code, Some(0));
    assert_eq!(run(&["rm", DOMAIN]).await.code, Some(1));
    let listed: Value = serde_json::from_str(&run(&["ls", "--json"]).await.stdout).unwrap();
    assert_eq!(listed, serde_json::json!([]));
}
