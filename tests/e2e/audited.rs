//! Agents that are turned away, in the audit trail: who and why, and never more than is of use.

use std::sync::Arc;

use harness::{Service, TestAgent, TestRelay, eventually, request};
use mcpm_relay::Config;
use mcpm_relay::admission::{issue_token, revoke_token, unix_now};
use mcpm_relay::config::AuthMode;
use mcpm_relay::grants::{GrantRequest, NamePatterns};
use mcpm_relay::store::{AuditEvent, AuditFilter};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;

async fn refusals(relay: &TestRelay) -> Vec<AuditEvent> {
    let filter = AuditFilter { action: Some("agent.refuse".to_owned()), ..AuditFilter::newest(99) };
    relay.ports().store.audit_events(filter).await.unwrap()
}

async fn refused(agent: &TestAgent, relay: &TestRelay, service: &Service) -> String {
    let asked = request("calc", ShareMode::Http, AccessPolicy::public());
    agent.open(relay, asked, service.backend()).refused().await.code().to_owned()
}

#[tokio::test]
async fn a_wrong_secret_is_noted_once_however_often_it_is_tried() {
    let secret = AuthMode::Secret(vec![Token::new("the secret of this relay")]);
    let relay = TestRelay::with(Config { auth: secret, ..Config::for_tests() }).await;
    let service = Service::echo().await;
    let agent = TestAgent::showing(Proof::Secret(Token::new("another one altogether")));
    for _ in 0..6 {
        assert_eq!(refused(&agent, &relay, &service).await, "bad_credential");
    }
    let noted = eventually("it is noted", || async {
        let noted = refusals(&relay).await;
        (!noted.is_empty()).then_some(noted)
    })
    .await;
    let [noted] = noted.try_into().unwrap_or_else(|all| panic!("{all:?}"));
    assert_eq!((&*noted.actor, &*noted.object), ("address:127.0.0.1", "bad_credential"));
    let owner = format!("key:{}: ", agent.key.thumbprint());
    assert!(noted.detail.starts_with(&owner), "{noted:?}");
    assert!(noted.detail.ends_with("the secret is not the one of this relay"), "{noted:?}");
    assert!(!format!("{noted:?}").contains("another one"));

    // How often it went on is told when the minute is over, or the relay.
    let store = Arc::clone(&relay.ports().store);
    relay.relay.shutdown().await;
    let all = store.audit_trail(99).await.unwrap();
    let more: Vec<_> = all.iter().filter(|it| it.action == "agent.refuse").collect();
    assert_eq!(more.len(), 2, "{more:?}");
    assert_eq!(more[0].detail, "5 more within a minute");
}

#[tokio::test]
async fn who_came_with_a_revoked_token_is_named_by_its_subject() {
    let relay = TestRelay::with(Config { auth: AuthMode::Token, ..Config::for_tests() }).await;
    let (ports, now, service) = (relay.ports(), unix_now(), Service::echo().await);
    let wish = GrantRequest {
        subject: "ada".to_owned(),
        names: NamePatterns::any(),
        max_shares: None,
        bound_to: None,
        expires_at: now + 600,
    };
    let (token, record) = issue_token(&ports.key, &*ports.store, wish, now).await.unwrap();
    assert!(revoke_token(&*ports.store, &record.jti, now).await.unwrap());
    let agent = TestAgent::showing(Proof::Token(token));
    assert_eq!(refused(&agent, &relay, &service).await, "bad_credential");
    // Whoever shows nothing at all is only an address.
    let answer = harness::visitor().get(relay.url("/v1/tunnel")).send().await.unwrap();
    assert_eq!(answer.status(), 426);
    let noted = eventually("both are noted", || async {
        let noted = refusals(&relay).await;
        (noted.len() == 2).then_some(noted)
    })
    .await;
    assert_eq!(noted[0].object, "unsupported_version");
    assert_eq!(noted[1].detail, "sub:ada: the token was revoked");
}
