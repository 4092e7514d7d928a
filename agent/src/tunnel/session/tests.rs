//! A session with a relay that the test plays, in paused time.

use mcpm_shared::access::TokenGrant;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::control::{GoAway, Revoked};
use mcpm_shared::proto::{DEAD_AFTER, code};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Digest;

use super::super::testing::FakeRelay;
use super::*;
use crate::credentials::ProofSource;

/// An agent whose session runs.
struct Agent {
    gate: Arc<Gate>,
    orders: mpsc::Sender<Order>,
    connection: Scope,
    ended: tokio::sync::oneshot::Receiver<Ended>,
    up: watch::Receiver<bool>,
}

fn policy(id: &str) -> AccessPolicy {
    let digest = Digest::of(id.as_bytes());
    let grant = TokenGrant { id: id.to_owned(), label: None, digest, expires_at: None };
    AccessPolicy { tokens: vec![grant], ..AccessPolicy::default() }
}

/// Starts a session; the relay has said welcome and hears the claim next.
async fn start(scope: &Scope, expires_in: Option<u64>) -> (Agent, FakeRelay) {
    let (socket, relay) = FakeRelay::listen(scope).await;
    let (orders, mut ordered) = mpsc::channel(4);
    let (tell, ended) = tokio::sync::oneshot::channel();
    let (rise, up) = watch::channel(false);
    let gate = Arc::new(Gate::new(policy("a")));
    let connection = scope.child();
    let agent =
        Agent { gate: Arc::clone(&gate), orders, connection: connection.clone(), ended, up };
    scope.spawn_until_cancelled(async move {
        let connection = Connection::greet(socket, "test", None, connection).await.unwrap();
        let session = Session {
            dialer: &Dialer {
                relay: "http://relay.test".parse().unwrap(),
                key: AgentKey::generate(),
                proof: ProofSource::default(),
                proxy: None,
                tls: None,
            },
            agent: "test",
            // Nobody listens there, and nobody is asked.
            backend: &Arc::new(Backend::Http("9".parse().unwrap())),
            gate: &gate,
            wanted: &Wanted {
                name: "x".parse().unwrap(),
                mode: ShareMode::Http,
                expires_at: expires_in.map(|secs| unix_now() + secs),
            },
            max_connections: 1,
        };
        let up = |_: &Claimed| {
            rise.send_replace(true);
        };
        let _gone = tell.send(session.run(connection, None, &mut ordered, up).await);
    });
    (agent, relay.await)
}

/// Grants the claim that comes next.
async fn grant(relay: &mut FakeRelay) {
    let claim = relay.claim().await;
    relay.grant(claim, None).await;
}

fn revoked(code: &'static str) -> RelayMessage {
    RelayMessage::Revoked(Revoked { share: 1, refusal: Refusal::new(code, "no") })
}

fn go_away(grace_ms: u64) -> RelayMessage {
    RelayMessage::GoAway(GoAway { reason: "restart".to_owned(), grace_ms })
}

fn code_of(ended: &Ended) -> &str {
    match ended {
        Ended::Lost(error) => error.code(),
        ended => panic!("{ended:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_never_answers_the_claim_is_given_up() {
    let scope = Scope::new();
    let (agent, mut relay) = start(&scope, None).await;
    assert!(matches!(relay.hear().await, AgentMessage::Claim(_)));
    let started = Instant::now();
    relay.idle(CLAIM_TIMEOUT - Duration::from_secs(1)).await;
    assert_eq!(code_of(&agent.ended.await.unwrap()), "relay_timeout");
    assert!(started.elapsed() < CLAIM_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn what_the_relay_says_just_before_it_closes_is_heard() {
    for _ in 0..50 {
        let scope = Scope::new();
        let (agent, mut relay) = start(&scope, None).await;
        grant(&mut relay).await;
        relay.say(revoked(code::SUPERSEDED)).await;
        relay.scope.cancel();
        assert_eq!(code_of(&agent.ended.await.unwrap()), code::SUPERSEDED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_changes_between_claim_and_answer_reaches_the_relay() {
    let scope = Scope::new();
    let (mut agent, mut relay) = start(&scope, None).await;
    let claim = relay.claim().await;
    assert_eq!(claim.access, policy("a"));
    agent.gate.set_policy(policy("b"));
    agent.orders.send(Order::Access).await.unwrap();
    relay.idle(Duration::from_secs(1)).await;
    relay.grant(claim, None).await;
    let AgentMessage::Update(update) = relay.hear().await else { panic!("no update") };
    assert_eq!(update.access, Some(policy("b")));
    agent.up.wait_for(|up| *up).await.unwrap();
    // The same policy once more says nothing new.
    agent.orders.send(Order::Access).await.unwrap();
    relay.idle(Duration::from_secs(30)).await;
}

#[tokio::test(start_paused = true)]
async fn a_share_with_an_end_is_renewed_where_the_relay_grants_less() {
    let scope = Scope::new();
    let (_agent, mut relay) = start(&scope, Some(200)).await;
    let claim = relay.claim().await;
    assert!((199..=200).contains(&claim.expires_in_secs.unwrap()));
    relay.grant(claim, Some(65)).await;
    let started = Instant::now();
    let AgentMessage::Update(first) = relay.hear().await else { panic!("no update") };
    assert!((30..=33).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(first.expires_in_secs.unwrap() > 65, "all that is left is asked for");
    let refusal = Refusal::new(code::UNAVAILABLE, "the store is away").retry_after(3);
    relay.say(RelayMessage::Refused(Refused { request: first.request, refusal })).await;
    let refused = Instant::now();
    assert!(matches!(relay.hear().await, AgentMessage::Update(_)));
    assert_eq!(refused.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_relay_wants_to_close_goes_on_while_it_carries_something() {
    let scope = Scope::new();
    let (agent, mut relay) = start(&scope, None).await;
    grant(&mut relay).await;
    let stream = relay.stream().await;
    relay.say(go_away(120_000)).await;
    assert!(matches!(agent.ended.await.unwrap(), Ended::GoAway(_)));
    // It pings, and reads: another word of the relay does not end it.
    relay.say(revoked(code::SUPERSEDED)).await;
    relay.idle(Duration::from_secs(90)).await;
    assert!(!relay.scope.is_cancelled());
    drop(stream);
    assert!(relay.until_left().await <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_relay_wants_to_close_is_closed_after_the_grace_period() {
    let scope = Scope::new();
    let (agent, mut relay) = start(&scope, None).await;
    grant(&mut relay).await;
    let _stream = relay.stream().await;
    relay.say(go_away(40_000)).await;
    assert!(matches!(agent.ended.await.unwrap(), Ended::GoAway(_)));
    let left = relay.until_left().await;
    assert!((40..=50).contains(&left.as_secs()), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lingering_connection_behind_a_dead_network_is_noticed() {
    let scope = Scope::new();
    let (agent, mut relay) = start(&scope, None).await;
    grant(&mut relay).await;
    let _stream = relay.stream().await;
    relay.say(go_away(3_600_000)).await;
    assert!(matches!(agent.ended.await.unwrap(), Ended::GoAway(_)));
    relay.dead.cancel();
    let gone = agent.connection.cancelled();
    tokio::time::timeout(2 * DEAD_AFTER, gone).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_further_connection_is_left_when_it_has_rested_for_a_minute() {
    let scope = Scope::new();
    let (socket, relay) = FakeRelay::listen(&scope).await;
    let agent = scope.child();
    let (_share, served) = watch::channel(Some((1, 1)));
    let greet = Connection::greet(socket, "test", Some("s".to_owned()), agent.clone());
    let (connection, mut relay) = tokio::join!(greet, relay);
    let serving = Serving {
        backend: Arc::new(Backend::Http("9".parse().unwrap())),
        gate: Arc::new(Gate::new(policy("a"))),
        share: served,
    };
    scope.spawn_until_cancelled(connection.unwrap().start(serving).keep_extra());
    let stream = relay.stream().await;
    relay.idle(Duration::from_secs(300)).await;
    drop(stream);
    let left = relay.until_left().await;
    assert!((60..=70).contains(&left.as_secs()), "{left:?}");
    // The relay closes it, when nothing is in flight there.
    assert!(!agent.is_cancelled());
    let late = relay.stream().await;
    relay.scope.cancel();
    agent.cancelled().await;
    drop(late);
}
