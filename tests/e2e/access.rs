//! The visitor gate at the relay, and the relay's own gate for agents.

use harness::{
    Service, TestAgent, TestRelay, eventually, next_piece, request, token_policy, visitor,
};
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use mcpm::gateway::{Gateway, GatewayOptions};
use mcpm::model::Server;
use mcpm::tunnel::{Backend, TunnelError};
use mcpm_relay::Config;
use mcpm_relay::config::AuthMode;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;

#[tokio::test]
async fn visitors_without_the_token_get_a_401_with_a_challenge_and_reach_nothing() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = agent.share(&relay, "gated", &service, token_policy("sesame")).await;
    let client = visitor();
    for (token, code) in [(None, "token_missing"), (Some("wrong"), "token_invalid")] {
        let mut call = client.post(&info.url);
        if let Some(token) = token {
            call = call.bearer_auth(token);
        }
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.headers()["mcpm-relay-error"], code);
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.starts_with("Bearer") && !challenge.contains("resource_metadata"));
    }
    assert_eq!(share.tunnel.stats().requests, 0);
    assert_eq!(client.get(&info.url).bearer_auth("sesame").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_revoked_token_stops_working_on_a_running_share() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = agent.share(&relay, "revoked", &service, token_policy("sesame")).await;
    let client = visitor();
    assert_eq!(client.get(&info.url).bearer_auth("sesame").send().await.unwrap().status(), 200);
    share.tunnel.update_access(token_policy("other"));
    // At the agent at once, whatever the relay knows.
    assert_eq!(client.get(&info.url).bearer_auth("sesame").send().await.unwrap().status(), 401);
    eventually("the relay knows, too", || async {
        let answer = client.get(&info.url).bearer_auth("sesame").send().await.unwrap();
        answer.headers().contains_key("mcpm-relay-error").then_some(())
    })
    .await;
    assert_eq!(client.get(&info.url).bearer_auth("other").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_revocation_ends_what_is_open() {
    let relay = TestRelay::start().await;
    let service = Service::start(|_| async {
        let piece = bytes::Bytes::from_static(&[0; 1024]);
        let endless = futures_util::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
        Response::new(StreamBody::new(endless).boxed_unsync())
    })
    .await;
    let agent = TestAgent::new();
    let (share, info) = agent.share(&relay, "open", &service, token_policy("sesame")).await;
    let mut answer = visitor().get(&info.url).bearer_auth("sesame").send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    share.tunnel.update_access(AccessPolicy::default());
    let ended = async {
        loop {
            match answer.chunk().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), ended).await;
    assert!(ended.expect("it ends").is_err(), "an answer that was cut never looks whole");
}

#[tokio::test]
async fn the_link_secret_opens_a_share_and_leaves_the_url() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let mut policy = token_policy("sesame");
    policy.link = Some(Token::new("linked").digest().into());
    let (_share, info) = agent.share(&relay, "link", &service, policy).await;
    let client = visitor();
    let url = format!("{}?s=linked&profile=p", info.url);
    let said: serde_json::Value = client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(said["target"], "/?profile=p");
    assert!(!said.to_string().contains("linked"), "{said}");
    let wrong = client.get(format!("{}?s=sesame", info.url)).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    // A visitor cannot speak in the relay's own headers.
    let forged = client.get(&info.url).header("mcpm-link-secret", "linked").send().await.unwrap();
    assert_ne!(forged.status(), 200);
}

#[tokio::test]
async fn a_client_of_the_old_transport_needs_the_link_for_its_stream_only() {
    const SERVER: &str = r#"while read -r line; do case "$line" in *initialize\"*)
        id=$(echo "$line" | sed 's/.*"id":\([^,}]*\).*/\1/')
        echo '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"sh"}}}';;
        esac; done"#;
    let relay = TestRelay::start().await;
    let (agent, scope) = (TestAgent::new(), Scope::new());
    let server = Server::stdio("sh", "sh", ["-c", SERVER]);
    let gateway = Gateway::new(&server, GatewayOptions::default(), scope.child()).unwrap();
    let link = Some(Token::new("linked").digest().into());
    let policy = AccessPolicy { link, ..token_policy("sesame") };
    let asked = request("old", ShareMode::Mcp, policy);
    let share = agent.open(&relay, asked, Backend::Gateway(gateway.clone()));
    let url = share.up().await.url.parse::<reqwest::Url>().unwrap();
    let base = url.join("sse").unwrap();
    let client = visitor();
    assert_eq!(client.get(base.clone()).send().await.unwrap().status(), 401);
    let stream = client.get(format!("{base}?s=linked")).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut events = stream.bytes_stream();
    let mut heard = String::new();
    let mut until = async |text: &str| {
        while !heard.contains(text) {
            let piece = next_piece(&mut events).await.expect("the stream lives").unwrap();
            heard.push_str(&String::from_utf8_lossy(&piece));
        }
        heard.clone()
    };
    let told = until("\n\n").await;
    assert!(told.contains("event: endpoint") && !told.contains("linked"), "{told}");
    let path = told.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let open = r#"{"jsonrpc":"2.0","id":"o","method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let post = async |path: &str| {
        let url = base.join(path).unwrap();
        let posted = client.post(url).header("content-type", "application/json").body(open);
        posted.send().await.unwrap().status().as_u16()
    };
    // The pass is for this session, and opens nothing but where its messages are taken.
    let (before, pass) = path.split_once("pass=").unwrap();
    assert_eq!(post(before.trim_end_matches('&')).await, 401);
    assert_eq!(post(&format!("{before}pass={}", "A".repeat(pass.len()))).await, 401);
    assert_eq!(post(&path.replacen("/messages", "/mcp", 1)).await, 401);
    assert_eq!(post(path).await, 202);
    until(r#""serverInfo""#).await;
    share.tunnel.update_access(token_policy("sesame"));
    eventually("the pass is void without the link", || async {
        (post(path).await == 401).then_some(())
    })
    .await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn without_a_link_the_query_belongs_to_the_service() {
    let relay = TestRelay::start().await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = agent.share(&relay, "own-s", &service, token_policy("sesame")).await;
    let call = visitor().get(format!("{}?s=hello&b=1", info.url)).bearer_auth("sesame");
    let said: serde_json::Value = call.send().await.unwrap().json().await.unwrap();
    assert_eq!(said["target"], "/?s=hello&b=1");
}

#[tokio::test]
async fn a_relay_with_a_secret_admits_those_who_know_it() {
    let secret = Token::new("team");
    let auth = AuthMode::Secret(vec![secret.clone()]);
    let relay = TestRelay::with(Config { auth, ..Config::for_tests() }).await;
    let service = Service::echo().await;
    let member = TestAgent::showing(Proof::Secret(secret));
    member.share(&relay, "member", &service, AccessPolicy::public()).await;
    for proof in
        [Proof::None, Proof::Secret(Token::new("guess")), Proof::Token(Token::new("x.y.z"))]
    {
        let stranger = TestAgent::showing(proof);
        let asked = request("stranger", ShareMode::Http, AccessPolicy::public());
        let error = stranger.open(&relay, asked, service.backend()).refused().await;
        assert_eq!(error.code(), "bad_credential", "{error}");
    }
}

#[tokio::test]
async fn a_token_allows_its_names_and_ends_with_its_revocation() {
    let relay = TestRelay::with(Config { auth: AuthMode::Token, ..Config::for_tests() }).await;
    let service = Service::echo().await;
    let (store, key) = (relay.ports().store.clone(), relay.ports().key.clone());
    let wish = mcpm_relay::grants::GrantRequest {
        subject: "alice".to_owned(),
        names: mcpm_relay::grants::NamePatterns::new(vec!["alice-*".parse().unwrap()]),
        max_shares: None,
        bound_to: None,
        expires_at: mcpm_relay::admission::unix_now() + 3600,
    };
    let now = mcpm_relay::admission::unix_now();
    let (token, record) =
        mcpm_relay::admission::issue_token(&key, store.as_ref(), wish, now).await.unwrap();
    let alice = TestAgent::showing(Proof::Token(token));
    let (share, _) = alice.share(&relay, "alice-x", &service, AccessPolicy::public()).await;
    let asked = request("bob-x", ShareMode::Http, AccessPolicy::public());
    let error = alice.open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "name_forbidden");
    assert!(mcpm_relay::admission::revoke_token(store.as_ref(), &record.jti, now).await.unwrap());
    let error = share.refused().await;
    assert!(matches!(error, TunnelError::Refused { .. }) && error.code() == "revoked", "{error}");
}

#[tokio::test]
async fn a_name_belongs_to_the_key_that_claimed_it_first() {
    let relay = TestRelay::start().await;
    let (alice, bob, service) = (TestAgent::new(), TestAgent::new(), Service::echo().await);
    let (share, _) = alice.share(&relay, "mine", &service, AccessPolicy::public()).await;
    let asked = || request("mine", ShareMode::Http, AccessPolicy::public());
    assert_eq!(bob.open(&relay, asked(), service.backend()).refused().await.code(), "name_taken");
    // Given up, it stays with its owner.
    share.tunnel.shutdown().await;
    assert_eq!(bob.open(&relay, asked(), service.backend()).refused().await.code(), "name_taken");
    alice.share(&relay, "mine", &service, AccessPolicy::public()).await;
}

#[tokio::test]
async fn reserved_names_and_modes_that_the_relay_does_not_serve_are_refused() {
    let relay = TestRelay::with(Config { http_mode: false, ..Config::for_tests() }).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let asked = request("www", ShareMode::Mcp, AccessPolicy::public());
    let error = agent.open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "name_reserved");
    let asked = request("any-http", ShareMode::Http, AccessPolicy::public());
    let error = agent.open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "mode_forbidden");
}
