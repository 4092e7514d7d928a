use mcpm_shared::assertion::{Proof, sign};
use mcpm_shared::identity::AgentKey;

use super::*;
use crate::grants::NamePattern;
use crate::store::MemoryStore;

const RELAY: &str = "https://relay.example";
const NOW: u64 = 1_800_000_000;

struct Bench {
    admission: Admission,
    store: Arc<MemoryStore>,
    relay_key: RelayKey,
    agent: AgentKey,
}

impl Bench {
    fn new(auth: AuthMode) -> Self {
        let store = Arc::new(MemoryStore::new());
        let relay_key = RelayKey::generate();
        let admission = Admission::new(auth, relay_key.clone(), store.clone());
        Self { admission, store, relay_key, agent: AgentKey::generate() }
    }

    async fn knock(&self, proof: Proof) -> Result<Admitted, Refused> {
        self.knock_at(proof, NOW).await
    }

    async fn knock_at(&self, proof: Proof, now: u64) -> Result<Admitted, Refused> {
        let jwt = sign(&self.agent, RELAY, &proof, now).unwrap();
        self.admission.authenticate(&jwt, &[RELAY.to_owned()], now).await
    }

    fn request() -> GrantRequest {
        GrantRequest {
            subject: "ada".to_owned(),
            names: NamePatterns::new(vec!["ada-*".parse::<NamePattern>().unwrap()]),
            max_shares: Some(2),
            bound_to: None,
            expires_at: NOW + 100,
        }
    }

    async fn issue(&self, request: GrantRequest) -> (Proof, String) {
        let (token, record) =
            issue_token(&self.relay_key, &*self.store, request, NOW).await.unwrap();
        (Proof::Token(token), record.jti)
    }
}

fn code(result: Result<Admitted, Refused>) -> (u16, String) {
    let refused = result.unwrap_err();
    (refused.status.as_u16(), refused.refusal.code.into_owned())
}

fn bad_credential() -> (u16, String) {
    (401, "bad_credential".to_owned())
}

#[tokio::test]
async fn an_open_relay_admits_any_key_as_its_own_owner() {
    let bench = Bench::new(AuthMode::Open);
    let admitted = bench.knock(Proof::None).await.unwrap();
    assert_eq!(admitted.owner.as_str(), format!("key:{}", bench.agent.thumbprint()));
    assert!(admitted.names.allows(&"anything".parse().unwrap()));
    assert_eq!(bench.admission.recheck(&admitted, u64::MAX), Ok(()));
}

#[tokio::test]
async fn an_assertion_is_admitted_once() {
    let bench = Bench::new(AuthMode::Open);
    let jwt = sign(&bench.agent, RELAY, &Proof::None, NOW).unwrap();
    let audiences = [RELAY.to_owned()];
    bench.admission.authenticate(&jwt, &audiences, NOW).await.unwrap();
    let again = bench.admission.authenticate(&jwt, &audiences, NOW + 90).await;
    assert_eq!(code(again), (401, "replayed".to_owned()));
}

#[tokio::test]
async fn clocks_and_addresses_that_differ_are_told_apart() {
    let bench = Bench::new(AuthMode::Open);
    let jwt = sign(&bench.agent, RELAY, &Proof::None, NOW).unwrap();
    let late = bench.admission.authenticate(&jwt, &[RELAY.to_owned()], NOW + 600).await;
    assert_eq!(code(late), (401, "clock_skew".to_owned()));
    let elsewhere = bench.admission.authenticate(&jwt, &["https://b.c".to_owned()], NOW).await;
    let refused = elsewhere.unwrap_err();
    assert!(refused.refusal.is_terminal());
    assert!(refused.refusal.hint.unwrap().contains("--public-url"));
}

#[tokio::test]
async fn a_team_relay_admits_those_who_know_one_of_its_secrets() {
    let (old, new) = (Token::generate(), Token::generate());
    let bench = Bench::new(AuthMode::Secret(vec![old.clone(), new.clone()]));
    bench.knock(Proof::Secret(old)).await.unwrap();
    let admitted = bench.knock(Proof::Secret(new)).await.unwrap();
    assert_eq!(admitted.owner, Owner::of_key(&bench.agent.thumbprint()));
    assert_eq!(code(bench.knock(Proof::Secret(Token::generate())).await), bad_credential());
    assert_eq!(code(bench.knock(Proof::None).await), bad_credential());
}

#[tokio::test]
async fn a_token_brings_its_subject_its_names_and_its_end() {
    let bench = Bench::new(AuthMode::Token);
    let (proof, jti) = bench.issue(Bench::request()).await;
    let admitted = bench.knock(proof).await.unwrap();
    assert_eq!(admitted.owner.as_str(), "sub:ada");
    assert_eq!(admitted.subject, bench.agent.thumbprint());
    assert!(admitted.names.allows(&"ada-1".parse().unwrap()));
    assert!(!admitted.names.allows(&"bob-1".parse().unwrap()));
    assert_eq!((admitted.max_shares, admitted.expires_at), (Some(2), Some(NOW + 100)));
    assert_eq!(admitted.token_jti, Some(jti));
    assert_eq!(bench.admission.recheck(&admitted, NOW + 99), Ok(()));
    let ended = bench.admission.recheck(&admitted, NOW + 100).unwrap_err();
    assert_eq!(ended.code, "expired");
}

#[tokio::test]
async fn tokens_that_are_missing_foreign_expired_or_bound_elsewhere_are_refused() {
    let bench = Bench::new(AuthMode::Token);
    let other = Bench::new(AuthMode::Token);
    let (foreign, _) = other.issue(Bench::request()).await;
    let (good, _) = bench.issue(Bench::request()).await;
    let bound = GrantRequest { bound_to: Some("x".repeat(43)), ..Bench::request() };
    let (bound, _) = bench.issue(bound).await;
    for proof in [Proof::None, foreign, bound, Proof::Token(Token::new("x.y.z"))] {
        assert_eq!(code(bench.knock(proof).await), bad_credential());
    }
    assert_eq!(code(bench.knock_at(good, NOW + 100).await), bad_credential());
}

#[tokio::test]
async fn a_token_that_the_store_does_not_know_is_refused() {
    let bench = Bench::new(AuthMode::Token);
    let grant = Bench::request().grant("unrecorded".to_owned(), NOW).unwrap();
    let token = bench.relay_key.sign_token(&grant);
    assert_eq!(code(bench.knock(Proof::Token(token)).await), bad_credential());
}

#[tokio::test]
async fn a_revoked_token_ends_sessions_and_opens_none() {
    let bench = Bench::new(AuthMode::Token);
    let (proof, jti) = bench.issue(Bench::request()).await;
    let admitted = bench.knock(proof.clone()).await.unwrap();
    let mut revoked = bench.admission.revoked();
    assert!(!revoked.has_changed().unwrap());
    assert!(revoke_token(&*bench.store, &jti, NOW + 1).await.unwrap());
    assert_eq!(code(bench.knock(proof).await), bad_credential());
    bench.admission.refresh(NOW + 1).await.unwrap();
    assert!(revoked.has_changed().unwrap());
    assert!(revoked.borrow_and_update().contains(&jti));
    assert_eq!(bench.admission.recheck(&admitted, NOW + 1).unwrap_err().code, "revoked");
    bench.admission.refresh(NOW + 2).await.unwrap();
    assert!(!revoked.has_changed().unwrap());
    assert!(!revoke_token(&*bench.store, "none", NOW).await.unwrap());
    let trail = bench.store.audit_trail(10).await.unwrap();
    let actions: Vec<_> = trail.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["token.revoke", "token.issue"]);
    for event in &trail {
        let told = (event.object.as_str(), event.detail.as_str());
        assert_eq!(told, (jti.as_str(), "sub:ada: names ada-*"), "whose it was, never the token");
    }
}

#[tokio::test]
async fn a_token_that_was_good_is_believed_while_the_store_does_not_answer() {
    let bench = Bench::new(AuthMode::Token);
    let (known, jti) = bench.issue(Bench::request()).await;
    let (unknown, _) = bench.issue(Bench::request()).await;
    let moody = Arc::new(crate::store::moody::Moody::default());
    for record in bench.store.tokens().await.unwrap() {
        moody.insert_token(record).await.unwrap();
    }
    let key = bench.relay_key.clone();
    let admission = Admission::new(AuthMode::Token, key, Arc::clone(&moody) as Arc<dyn Store>);
    let bench = Bench { admission, ..bench };
    bench.knock(known.clone()).await.unwrap();
    moody.set_away(true);
    bench.knock(known.clone()).await.unwrap();
    assert_eq!(code(bench.knock(unknown.clone()).await), (503, "unavailable".to_owned()));
    moody.set_away(false);
    moody.revoke_token(&jti, NOW).await.unwrap();
    bench.admission.refresh(NOW).await.unwrap();
    moody.set_away(true);
    assert_eq!(code(bench.knock(known).await), bad_credential());
}

#[tokio::test(start_paused = true)]
async fn revocations_by_another_process_are_seen_within_a_second() {
    let bench = Bench::new(AuthMode::Token);
    let request = GrantRequest { expires_at: u64::MAX, ..Bench::request() };
    let (_, jti) = bench.issue(request).await;
    let mut revoked = bench.admission.revoked();
    let noticed = async {
        let started = tokio::time::Instant::now();
        bench.store.revoke_token(&jti, NOW).await.unwrap();
        revoked.changed().await.unwrap();
        started.elapsed()
    };
    tokio::select! {
        () = bench.admission.follow_revocations() => unreachable!("it follows for ever"),
        elapsed = noticed => assert!(elapsed < Duration::from_secs(1)),
    }
}

#[tokio::test]
async fn agents_of_an_identity_provider_are_asked_for_a_newer_token_before_the_end() {
    let oidc = crate::config::Oidc {
        issuer: "https://idp.example".to_owned(),
        audiences: vec!["mcpm".to_owned()],
        owner_claim: "sub".to_owned(),
        names_claim: None,
        require: Vec::new(),
        ca: None,
    };
    let bench = Bench::new(AuthMode::Oidc(Arc::new(oidc)));
    let admitted = Admitted {
        owner: Owner::of_subject("ada"),
        subject: "k".to_owned(),
        names: NamePatterns::any(),
        max_shares: None,
        token_jti: None,
        expires_at: Some(NOW + 300),
    };
    assert!(!bench.admission.should_renew(&admitted, NOW));
    assert!(bench.admission.should_renew(&admitted, NOW + 240));
    assert_eq!(bench.admission.recheck(&admitted, NOW + 300).unwrap_err().code, "expired");
    assert_eq!(code(bench.knock(Proof::None).await), bad_credential());
    // Tokens of the relay's own live for months, and nobody has another.
    assert!(!Bench::new(AuthMode::Token).admission.should_renew(&admitted, NOW + 299));
}

#[test]
fn a_subject_never_passes_for_a_key() {
    assert_ne!(Owner::of_subject("key:abc"), Owner::of_key("abc"));
}
