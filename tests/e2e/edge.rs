//! The edge as visitors see it: hosts, MCP mode, CORS, and requests that mean harm.

use harness::{
    Service, TestAgent, TestRelay, TestShare, full, request, soon, token_policy, visitor,
};
use http::Response;
use mcpm::tunnel::ShareInfo;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn mcp_share(
    agent: &TestAgent,
    relay: &TestRelay,
    service: &Service,
) -> (TestShare, ShareInfo) {
    let asked = request("calc", ShareMode::Mcp, AccessPolicy::public());
    let share = agent.open(relay, asked, service.backend());
    let info = share.up().await;
    (share, info)
}

async fn json_service() -> Service {
    Service::start(|request| async move {
        let echoed = serde_json::json!({ "target": request.uri().to_string() }).to_string();
        let mut response = Response::new(full(echoed));
        let headers = response.headers_mut();
        headers.insert("content-type", "application/json".parse().unwrap());
        headers.insert("set-cookie", "a=b".parse().unwrap());
        headers.insert("mcpm-relay-error", "forged".parse().unwrap());
        headers.insert("mcp-session-id", "s1".parse().unwrap());
        response
    })
    .await
}

/// Sends bytes as they are and returns the whole answer.
async fn raw(relay: &TestRelay, bytes: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(relay.relay.addr()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon("the answer ends", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn hosts_that_are_not_ours_are_misdirected() {
    let relay = TestRelay::start().await;
    for host in ["example.com", "localhost.evil", "a.b.localhost"] {
        let answer = visitor().get(relay.url("/")).header("host", host).send().await.unwrap();
        assert_eq!(answer.status(), 421, "{host}");
        assert_eq!(answer.headers()["mcpm-relay-error"], "wrong_host");
    }
    let none = raw(&relay, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(none.starts_with("HTTP/1.0 421"), "{none}");
}

#[tokio::test]
async fn a_name_nobody_has_is_a_404_once_the_relay_is_warm() {
    let mut config = mcpm_relay::Config::for_tests();
    config.timing.hold = std::time::Duration::ZERO;
    let relay = TestRelay::with(config).await;
    let answer = visitor().get(relay.url("/s/nobody/mcp")).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()["mcpm-relay-error"], "unknown_share");
}

#[tokio::test]
async fn mcp_mode_passes_mcp_and_nothing_else() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), json_service().await);
    let (_share, _) = mcp_share(&agent, &relay, &service).await;
    let client = visitor();
    let base = relay.url("/s/calc");
    for path in ["/mcp", "/mcp/", ""] {
        let call = client.post(format!("{base}{path}")).json(&serde_json::json!({}));
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("sandbox"));
        assert_eq!(answer.headers()["mcp-session-id"], "s1");
        assert!(!answer.headers().contains_key("set-cookie"));
        assert!(!answer.headers().contains_key("mcpm-relay-error"));
        assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["target"], "/mcp");
    }
    for path in ["/login", "/.well-known/oauth-protected-resource/mcp", "/mcp/more"] {
        let answer = client.get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    let put = client.put(format!("{base}/mcp")).body("x").send().await.unwrap();
    assert_eq!(put.status(), 405);
    let form = client.post(format!("{base}/mcp")).body("a=b").send().await.unwrap();
    assert_eq!(form.status(), 415);
    let page = client.get(format!("{base}/")).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("MCP server"));
}

#[tokio::test]
async fn an_answer_that_is_not_mcp_does_not_pass() {
    let relay = TestRelay::start().await;
    let service = Service::start(|_| async {
        let mut response = Response::new(full("<script>alert(1)</script>"));
        response.headers_mut().insert("content-type", "text/html".parse().unwrap());
        response
    })
    .await;
    let agent = TestAgent::new();
    let (_share, info) = mcp_share(&agent, &relay, &service).await;
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": "x-1", "method": "ping" });
    let answer = visitor().post(&info.url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    let error: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(
        (&error["id"], &error["error"]["data"]["relay"]["code"]),
        (&"x-1".into(), &"not_mcp_answer".into())
    );
}

#[tokio::test]
async fn a_browser_may_call_from_any_origin_and_read_what_it_needs() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), json_service().await);
    let asked = request("cors", ShareMode::Mcp, token_policy("t"));
    let share = agent.open(&relay, asked, service.backend());
    let info = share.up().await;
    let preflight = visitor()
        .request(http::Method::OPTIONS, &info.url)
        .header("origin", "https://inspector.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,mcp-param-x")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert_eq!(preflight.headers()["access-control-allow-headers"], "authorization,mcp-param-x");
    let refused = visitor().get(&info.url).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let exposed = refused.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("www-authenticate") && exposed.contains("mcp-session-id"));
}

#[tokio::test]
async fn requests_that_two_servers_could_read_differently_are_refused() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, _) = agent.share(&relay, "smuggle", &service, AccessPolicy::public()).await;
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: +5\r\n",
        "Host: localhost\r\n",
        "X: a\r\n folded: b\r\nContent-Length: 5\r\n",
        "Content-Length : 5\r\n",
    ] {
        let head = format!(
            "POST /s/smuggle/mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"
        );
        let answer = raw(
            &relay,
            &format!("{head}0\r\n\r\nGET /s/smuggle/evil HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{fields:?}: {answer}");
        assert!(!answer.contains("evil"), "{fields:?}: {answer}");
    }
    assert_eq!(share.tunnel.stats().requests, 0);
}

/// hyper refuses neither order of the two, drops the length and ends the connection afterwards
/// (RFC 9112 §6.1), so nothing can hide behind the body; see `abuse.rs`.
#[tokio::test]
async fn a_body_with_two_lengths_is_read_as_chunked_and_passed_on_with_one() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, _) = agent.share(&relay, "twice", &service, AccessPolicy::public()).await;
    let answer = raw(
        &relay,
        "POST /s/twice/mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\
         Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /s/twice/evil HTTP/1.1\r\n\r\n",
    )
    .await;
    assert!(answer.contains(r#""body":"x""#) && !answer.contains("content-length\""), "{answer}");
    assert!(!answer.contains("evil"), "{answer}");
}

#[tokio::test]
async fn the_tunnel_endpoint_says_which_version_it_speaks() {
    let relay = TestRelay::start().await;
    let answer = visitor().get(relay.url("/v1/tunnel")).send().await.unwrap();
    assert_eq!(answer.status(), 426);
    let refusal: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(refusal["code"], "unsupported_version");
    assert_eq!(refusal["versions"], serde_json::json!([1]));
}

#[tokio::test]
async fn visitors_come_by_http_2_over_tls() {
    let config = mcpm_relay::Config {
        tls: mcpm_relay::config::Tls::SelfSigned,
        ..mcpm_relay::Config::for_tests()
    };
    let ports = mcpm_relay::Ports::open(&config).await.unwrap();
    let fingerprint = ports.cert.as_ref().unwrap().fingerprint().unwrap().to_string();
    let relay = TestRelay::on(config, ports).await;
    let tls = mcpm::tunnel::TlsOptions { ca: None, fingerprint: Some(fingerprint.clone()) };
    let mut agent = TestAgent::new();
    agent.tls = tls;
    let service = Service::echo().await;
    let (_share, info) = agent.share(&relay, "by-tls", &service, AccessPolicy::public()).await;
    assert!(info.url.starts_with("https://"));
    let answer = visitor().get(&info.url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    let said: serde_json::Value = answer.json().await.unwrap();
    assert!(said["headers"].to_string().contains("https"));
    let address = relay.url("").parse().unwrap();
    let seen = mcpm::tunnel::fetch_fingerprint(&address, &Default::default()).await.unwrap();
    assert_eq!(seen.to_string(), fingerprint);
    // An agent that trusts only the platform's roots does not talk to it.
    let asked = request("wary", ShareMode::Http, AccessPolicy::public());
    let error = TestAgent::new().open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "relay_tls");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.starts_with("its certificate "), "{why}");
}

#[tokio::test]
async fn agents_and_visitors_that_trust_the_relays_own_authority_need_no_pin() {
    let dir = tempfile::tempdir().unwrap();
    let config = mcpm_relay::Config {
        tls: mcpm_relay::config::Tls::SelfSigned,
        data_dir: Some(dir.path().to_owned()),
        ..mcpm_relay::Config::for_tests()
    };
    let ports = mcpm_relay::Ports::open(&config).await.unwrap();
    let ca = ports.cert.as_ref().unwrap().authority().unwrap().to_owned();
    let relay = TestRelay::on(config, ports).await;
    let mut agent = TestAgent::new();
    agent.tls = mcpm::tunnel::TlsOptions { ca: Some(ca.clone()), fingerprint: None };
    let service = Service::echo().await;
    let (_share, info) = agent.share(&relay, "by-ca", &service, AccessPolicy::public()).await;
    drop(visitor());
    let root = reqwest::Certificate::from_pem(&std::fs::read(ca).unwrap()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    assert_eq!(client.get(&info.url).send().await.unwrap().status(), 200);
}

#[cfg(unix)]
#[tokio::test]
async fn a_relay_with_its_own_authority_says_what_that_is_good_for_and_for_how_long() {
    let dir = tempfile::tempdir().unwrap();
    let said = || async {
        let mut serve = harness::process::command(harness::process::built("mcpm-relay"));
        serve.args(["serve", "--domain", "intranet", "--listen", "127.0.0.1:0", "--auth", "open"]);
        serve
            .args(["--tls", "self-signed", "--admin-listen", "none", "--data-dir"])
            .arg(dir.path());
        let mut relay = harness::process::Program::start(serve);
        let until = |line: &str| line.contains("pins of this one end then").then_some(());
        relay.line("how long a pin holds", until).await;
        relay.signal("TERM");
        relay.ended().await
    };
    let first = said().await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stderr.contains("does not cover *.intranet"), "{first:?}");
    assert!(!first.stderr.contains("cannot make the next certificate"), "{first:?}");
    std::fs::remove_file(dir.path().join("self-signed-intranet.ca.key")).unwrap();
    let again = said().await;
    assert!(again.stderr.contains("cannot make the next certificate"), "{again:?}");
}
