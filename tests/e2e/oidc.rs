//! `--auth oidc`: a real issuer on a socket, real signatures, and what agents live through with it.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{Service, TestAgent, TestRelay, eventually, full, request, soon, visitor};
use http::{Response, StatusCode};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mcpm::credentials::{ProofSource, TokenCommand};
use mcpm::tunnel::TunnelStatus;
use mcpm_relay::config::{AuthMode, Obey, Oidc, OidcRequirement, SettingsSource};
use mcpm_relay::store::AuditFilter;
use mcpm_relay::{Config, Ports};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;
use serde_json::{Value, json};

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A key of an issuer.
struct Signer {
    id: &'static str,
    key: EncodingKey,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        // PKCS #8 of a seed (RFC 8410 §7).
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend(URL_SAFE_NO_PAD.decode(Token::generate().expose()).unwrap());
        Self { id, key: EncodingKey::from_ed_der(&der) }
    }

    fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, Algorithm::EdDSA).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.id);
        jwk
    }
}

/// An identity provider: two documents over HTTP, which a test changes.
struct Issuer {
    service: Service,
    keys: Arc<Mutex<Vec<Value>>>,
    away: Arc<Mutex<bool>>,
}

impl Issuer {
    async fn start() -> Self {
        let keys = Arc::new(Mutex::new(Vec::new()));
        let away = Arc::new(Mutex::new(false));
        let own = Arc::new(Mutex::new(String::new()));
        let (served, gone, url) = (Arc::clone(&keys), Arc::clone(&away), Arc::clone(&own));
        let service = Service::start(move |request| {
            let issuer = url.lock().unwrap().clone();
            let body = match request.uri().path() {
                _ if *gone.lock().unwrap() => None,
                "/.well-known/openid-configuration" => {
                    Some(json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }))
                }
                "/keys" => Some(json!({ "keys": *served.lock().unwrap() })),
                _ => None,
            };
            async move {
                let mut response =
                    Response::new(full(body.clone().unwrap_or_default().to_string()));
                if body.is_none() {
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                }
                response
            }
        })
        .await;
        *own.lock().unwrap() = service.url();
        Self { service, keys, away }
    }

    fn publish(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = signers.iter().map(|signer| signer.public()).collect();
    }

    /// Signs a token; `changes` replace claims, and null takes one away.
    fn token(&self, signer: &Signer, changes: &Value) -> String {
        let mut claims = json!({
            "iss": self.service.url(), "aud": "mcpm", "sub": "ada", "exp": unix_now() + 300,
            "groups": ["mcp"], "names": ["ada-*"],
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(signer.id.to_owned());
        jsonwebtoken::encode(&header, &claims, &signer.key).unwrap()
    }

    fn config(&self) -> Config {
        let oidc = Oidc {
            issuer: self.service.url(),
            audiences: vec!["mcpm".to_owned()],
            owner_claim: "sub".to_owned(),
            names_claim: Some("names".to_owned()),
            require: vec![OidcRequirement { claim: "groups".to_owned(), value: "mcp".to_owned() }],
            ca: None,
        };
        Config { auth: AuthMode::Oidc(Arc::new(oidc)), ..Config::for_tests() }
    }
}

fn showing(token: String) -> TestAgent {
    TestAgent::showing(Proof::Token(Token::new(token)))
}

#[tokio::test]
async fn an_agent_shares_with_a_token_of_the_identity_provider() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("one"));
    issuer.publish(&[&signer]);
    let relay = TestRelay::with(issuer.config()).await;
    let service = Service::echo().await;
    let agent = showing(issuer.token(&signer, &json!({})));
    let (_share, info) = agent.share(&relay, "ada-calc", &service, AccessPolicy::public()).await;
    assert_eq!(visitor().get(&info.url).send().await.unwrap().status(), 200);
    let leases = relay.ports().store.leases().await.unwrap();
    assert_eq!(leases[0].owner, "sub:ada");
    let asked = request("calc", ShareMode::Http, AccessPolicy::public());
    let error = agent.open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "name_forbidden");
}

#[tokio::test]
async fn tokens_that_do_not_do_are_refused_for_good() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("one"));
    issuer.publish(&[&signer]);
    let relay = TestRelay::with(issuer.config()).await;
    let service = Service::echo().await;
    let forged = Signer::new("one");
    let unsigned = {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "iss": issuer.service.url(), "aud": "mcpm", "sub": "ada" });
        format!("{}.{}.", part(json!({ "alg": "none" })), part(claims))
    };
    for (token, code) in [
        (issuer.token(&signer, &json!({ "aud": "other" })), "bad_credential"),
        (issuer.token(&signer, &json!({ "iss": "https://idp.example" })), "bad_credential"),
        (issuer.token(&signer, &json!({ "exp": unix_now() - 60 })), "bad_credential"),
        (issuer.token(&signer, &json!({ "nbf": unix_now() + 300 })), "bad_credential"),
        (issuer.token(&signer, &json!({ "groups": ["staff"] })), "forbidden"),
        (issuer.token(&forged, &json!({})), "bad_credential"),
        (unsigned, "bad_credential"),
    ] {
        let asked = request("ada-calc", ShareMode::Http, AccessPolicy::public());
        let error = showing(token).open(&relay, asked, service.backend()).refused().await;
        assert_eq!(error.code(), code, "{error}");
    }
    let asked = request("ada-calc", ShareMode::Http, AccessPolicy::public());
    let error = TestAgent::new().open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "bad_credential");
}

#[tokio::test]
async fn a_relay_that_never_saw_the_keys_lets_nobody_in_and_looks_until_it_does() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("one"));
    issuer.publish(&[&signer]);
    *issuer.away.lock().unwrap() = true;
    let relay = TestRelay::with(issuer.config()).await;
    let service = Service::echo().await;
    let agent = showing(issuer.token(&signer, &json!({})));
    let asked = request("ada-calc", ShareMode::Http, AccessPolicy::public());
    let share = agent.open(&relay, asked, service.backend());
    let mut status = share.tunnel.status();
    let waits = |now: &TunnelStatus| match now {
        TunnelStatus::Reconnecting { reason, .. } => reason.contains("identity provider"),
        TunnelStatus::Up(_) => panic!("it must not come up"),
        _ => false,
    };
    drop(soon("it is told to wait", status.wait_for(waits)).await.unwrap());
    *issuer.away.lock().unwrap() = false;
    let info = share.up().await;
    // From then on the issuer may be away.
    *issuer.away.lock().unwrap() = true;
    drop(share);
    let (_again, again) = agent.share(&relay, "ada-calc", &service, AccessPolicy::public()).await;
    assert!(again.generation > info.generation);
}

#[tokio::test]
async fn a_rotated_key_is_believed_as_soon_as_somebody_shows_it() {
    let (issuer, old, new) = (Issuer::start().await, Signer::new("old"), Signer::new("new"));
    issuer.publish(&[&old]);
    let relay = TestRelay::with(issuer.config()).await;
    let service = Service::echo().await;
    let agent = showing(issuer.token(&old, &json!({})));
    let (_old, _) = agent.share(&relay, "ada-old", &service, AccessPolicy::public()).await;
    issuer.publish(&[&old, &new]);
    // The keys were read a moment ago: the relay may say that it looks again later, and does.
    let agent = showing(issuer.token(&new, &json!({})));
    let asked = request("ada-new", ShareMode::Http, AccessPolicy::public());
    let share = agent.open(&relay, asked, service.backend());
    let mut status = share.tunnel.status();
    let known = |now: &TunnelStatus| match now {
        TunnelStatus::Up(_) => true,
        TunnelStatus::Reconnecting { reason, retry_in, .. } => {
            assert!(reason.contains("does not know yet"), "{reason}");
            retry_in.as_secs() <= 30
        }
        TunnelStatus::Refused(error) => panic!("refused: {error}"),
        _ => false,
    };
    drop(soon("it is heard", status.wait_for(known)).await.unwrap());
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_prints_a_token_for_each_connection() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("one"));
    issuer.publish(&[&signer]);
    let relay = TestRelay::with(issuer.config()).await;
    let service = Service::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let (token, calls) = (dir.path().join("token"), dir.path().join("calls"));
    std::fs::write(&token, issuer.token(&signer, &json!({}))).unwrap();
    let line = format!("echo x >> '{}'; cat '{}'", calls.display(), token.display());
    let command = ProofSource::Command(TokenCommand::new(&line).unwrap());
    let agent = TestAgent::showing(command);
    let (share, info) = agent.share(&relay, "ada-cmd", &service, AccessPolicy::public()).await;
    let called = || std::fs::read_to_string(&calls).unwrap().lines().count();
    assert_eq!(called(), 1);
    let relay = relay.restart().await;
    let again = share.up_after(info.generation).await;
    assert!(again.generation > info.generation && called() >= 2);
    // What it prints for a while does not do: a share that was up waits for the next one.
    std::fs::write(&token, issuer.token(&signer, &json!({ "exp": unix_now() - 60 }))).unwrap();
    let relay = relay.restart().await;
    let mut status = share.tunnel.status();
    let waits = |now: &TunnelStatus| match now {
        TunnelStatus::Reconnecting { reason, .. } => reason.contains("expired"),
        TunnelStatus::Refused(error) => panic!("refused: {error}"),
        _ => false,
    };
    drop(soon("it waits for a better token", status.wait_for(waits)).await.unwrap());
    std::fs::write(&token, issuer.token(&signer, &json!({}))).unwrap();
    share.up_after(again.generation).await;
    drop(relay);
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_a_blocked_owner_at_once() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("one"));
    issuer.publish(&[&signer]);
    let relay = TestRelay::on(issuer.config(), Ports::in_memory()).await;
    let service = Service::echo().await;
    let agent = showing(issuer.token(&signer, &json!({})));
    let (share, _) = agent.share(&relay, "ada-x", &service, AccessPolicy::public()).await;
    // The leeway is over already, but for ten seconds.
    let ending = json!({ "exp": unix_now() - 20, "sub": "bob", "names": ["bob-*"] });
    let brief = showing(issuer.token(&signer, &ending));
    let asked = request("bob-x", ShareMode::Http, AccessPolicy::public());
    let error = brief.open(&relay, asked, service.backend()).refused().await;
    assert_eq!(error.code(), "expired");
    let store = &*relay.ports().store;
    let ada = mcpm_relay::operator::parse_owner("ada").unwrap();
    mcpm_relay::operator::block_owner(store, &ada, String::new(), unix_now()).await.unwrap();
    assert_eq!(share.refused().await.code(), "forbidden");
    let answer = eventually("visitors are told", || async {
        let answer = visitor().get(relay.url("/s/ada-x/")).send().await.ok()?;
        (answer.status() == 403).then_some(answer)
    });
    assert_eq!(answer.await.headers()["mcpm-relay-error"], "blocked");
}

/// Settings that a test changes.
#[derive(Debug)]
struct Settings(Mutex<Config>);

impl SettingsSource for Settings {
    fn read(&self) -> Result<Config, String> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn prepare(&self, _: &Config) -> Result<Obey, String> {
        Ok(Box::new(|| ()))
    }
}

impl Settings {
    fn change(&self, change: impl FnOnce(&mut Oidc)) {
        let mut config = self.0.lock().unwrap();
        let AuthMode::Oidc(oidc) = &config.auth else { panic!("not oidc") };
        let mut oidc = Oidc::clone(oidc);
        change(&mut oidc);
        config.auth = AuthMode::Oidc(Arc::new(oidc));
    }
}

#[tokio::test]
async fn what_is_asked_of_tokens_changes_without_a_restart_and_who_owns_names_does_not() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("one"));
    issuer.publish(&[&signer]);
    let settings = Arc::new(Settings(Mutex::new(issuer.config())));
    let source = Arc::clone(&settings) as Arc<dyn SettingsSource>;
    let ports = Ports { settings: Some(source), ..Ports::in_memory() };
    let relay = TestRelay::on(issuer.config(), ports).await;
    let service = Service::echo().await;
    let staff = showing(issuer.token(&signer, &json!({ "groups": ["staff"] })));
    let asked = || request("ada-calc", ShareMode::Http, AccessPolicy::public());
    assert_eq!(staff.open(&relay, asked(), service.backend()).refused().await.code(), "forbidden");

    settings.change(|oidc| oidc.require = vec!["groups=staff".parse().unwrap()]);
    assert_eq!(relay.relay.reload().await.unwrap().changed, ["oidc.require"]);
    // The keys that were read stay, whether the issuer answers or not.
    *issuer.away.lock().unwrap() = true;
    let (share, info) = staff.share(&relay, "ada-calc", &service, AccessPolicy::public()).await;
    let before = showing(issuer.token(&signer, &json!({})));
    assert_eq!(before.open(&relay, asked(), service.backend()).refused().await.code(), "forbidden");

    settings.change(|oidc| oidc.ca = Some("no/such/root.pem".into()));
    let error = relay.relay.reload().await.unwrap_err().to_string();
    assert!(error.contains("oidc-ca") && error.contains("no/such/root.pem"), "{error}");
    settings.change(|oidc| oidc.ca = None);

    settings.change(|oidc| oidc.issuer = "https://idp.example".to_owned());
    settings.change(|oidc| oidc.audiences = vec!["other".to_owned()]);
    let done = relay.relay.reload().await.unwrap();
    assert!(done.changed.is_empty(), "{done:?}");
    assert_eq!(done.needs_restart, ["oidc.issuer", "oidc.audience"]);
    drop(share);
    let (_again, again) = staff.share(&relay, "ada-calc", &service, AccessPolicy::public()).await;
    assert!(again.generation > info.generation);

    let trail = AuditFilter { action: Some("agent.refuse".to_owned()), ..AuditFilter::newest(9) };
    let refused = eventually("the trail tells who was refused", || async {
        let refused = relay.ports().store.audit_events(trail.clone()).await.unwrap();
        (!refused.is_empty()).then_some(refused)
    })
    .await;
    assert_eq!((&*refused[0].actor, &*refused[0].object), ("address:127.0.0.1", "forbidden"));
    assert!(refused[0].detail.starts_with("key:"), "{:?}", refused[0]);
}
