//! A session with a relay that the test plays, in paused time.

use mcpm_shared::access::{AccessPolicy, Principal, TokenGrant};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::control::{Claim, Claimed, GoAway, Refused, Revoked};
use mcpm_shared::proto::head::Verdict as Said;
use mcpm_shared::proto::{CLAIM_TIMEOUT, DEAD_AFTER, Refusal};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Digest;

use super::super::share::{Share, StatusWatch};
use super::super::testing::{FakeRelay, share, share_with};
use super::super::{TunnelStatus, unix_now};
use super::*;
use crate::credentials::ProofSource;

/// An agent whose session runs.
struct Agent {
    shares: Vec<Arc<Share>>,
    roster: Arc<Roster>,
    connection: Scope,
    ended: tokio::sync::oneshot::Receiver<Ended>,
}

impl Agent {
    /// Waits until a share stands as wanted.
    async fn until(&self, at: usize, wanted: impl Fn(&TunnelStatus) -> bool) {
        let mut status = StatusWatch::new(Arc::clone(&self.shares[at]), &self.roster);
        let stands = status.wait_for(|now| wanted(now));
        tokio::time::timeout(Duration::from_secs(60), stands).await.unwrap().unwrap();
    }

    async fn until_up(&self, at: usize) {
        self.until(at, |now| matches!(now, TunnelStatus::Up(_))).await;
    }

    fn give_up(&self, at: usize) {
        self.shares[at].give_up();
        self.roster.wake();
    }
}

fn policy(id: &str) -> AccessPolicy {
    let digest = Digest::of(id.as_bytes());
    let grant = TokenGrant { id: id.to_owned(), label: None, digest, expires_at: None };
    AccessPolicy { tokens: vec![grant], ..AccessPolicy::default() }
}

/// Starts a session of one share; the relay has said welcome and hears the claim next.
async fn start(scope: &Scope, expires_in: Option<u64>) -> (Agent, FakeRelay) {
    let expires_at = expires_in.map(|secs| unix_now() + secs);
    start_with(scope, vec![share_with("x", policy("a"), expires_at)]).await
}

/// Starts a session of these shares.
async fn start_with(scope: &Scope, shares: Vec<Arc<Share>>) -> (Agent, FakeRelay) {
    let (socket, relay) = FakeRelay::listen(scope).await;
    let (tell, ended) = tokio::sync::oneshot::channel();
    let roster = Arc::new(Roster::new());
    for share in &shares {
        roster.add(Arc::clone(share));
    }
    let connection = scope.child();
    let agent =
        Agent { shares, roster: Arc::clone(&roster), connection: connection.clone(), ended };
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
            roster: &roster,
            max_connections: 1,
            was_up: false,
        };
        let _gone = tell.send(session.run(connection).await.0);
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
        let superseded = |now: &TunnelStatus| match now {
            TunnelStatus::Refused(error) => error.code() == code::SUPERSEDED,
            _ => false,
        };
        agent.until(0, superseded).await;
        let ended = agent.ended.await.unwrap();
        assert!(matches!(ended, Ended::Lost(_) | Ended::Released), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_changes_between_claim_and_answer_reaches_the_relay() {
    let scope = Scope::new();
    let (agent, mut relay) = start(&scope, None).await;
    let claim = relay.claim().await;
    assert_eq!(claim.access, policy("a"));
    agent.shares[0].gate.set_policy(policy("b"));
    agent.roster.wake();
    relay.idle(Duration::from_secs(1)).await;
    relay.grant(claim, None).await;
    let AgentMessage::Update(update) = relay.hear().await else { panic!("no update") };
    assert_eq!(update.access, Some(policy("b")));
    agent.until_up(0).await;
    // The same policy once more says nothing new.
    agent.shares[0].gate.set_policy(policy("b"));
    agent.roster.wake();
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
async fn a_session_ends_when_the_machine_has_slept_so_that_another_begins() {
    let scope = Scope::new();
    let (agent, mut relay) = start(&scope, None).await;
    grant(&mut relay).await;
    agent.until_up(0).await;
    // A clock that goes on during sleep: the next look at it comes far too late.
    tokio::time::advance(Duration::from_secs(300)).await;
    let ended = agent.ended.await.unwrap();
    assert!(matches!(ended, Ended::Slept), "{ended:?}");
    assert!(agent.connection.is_cancelled(), "what it left is not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_further_connection_is_left_when_it_has_rested_for_a_minute() {
    let scope = Scope::new();
    let (socket, relay) = FakeRelay::listen(&scope).await;
    let agent = scope.child();
    let table = Arc::new(Table::default());
    table.add(1, 1, share("x"));
    let greet = Connection::greet(socket, "test", Some("s".to_owned()), agent.clone());
    let (connection, mut relay) = tokio::join!(greet, relay);
    scope.spawn_until_cancelled(connection.unwrap().start(table).keep_extra());
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

fn refusal(claim: &Claim, code: &'static str, after: Option<u64>) -> RelayMessage {
    let refusal = Refusal::new(code, "no");
    let refusal = match after {
        Some(secs) => refusal.retry_after(secs),
        None => refusal,
    };
    RelayMessage::Refused(Refused { request: claim.request, refusal })
}

/// A session of three shares that are up, with the ids 1, 2 and 3.
async fn three(scope: &Scope) -> (Agent, FakeRelay) {
    let (agent, mut relay) = start_with(scope, ["a", "b", "c"].map(share).to_vec()).await;
    for at in 0..3 {
        grant(&mut relay).await;
        agent.until_up(at).await;
    }
    (agent, relay)
}

#[tokio::test(start_paused = true)]
async fn one_session_serves_several_shares_and_one_that_comes_later() {
    let scope = Scope::new();
    let (mut agent, mut relay) = three(&scope).await;
    let late = share("late");
    agent.roster.add(Arc::clone(&late));
    agent.shares.push(late);
    let claim = relay.claim().await;
    assert_eq!(claim.name.as_str(), "late");
    relay.grant(claim, None).await;
    agent.until_up(3).await;
    for id in 1..=4 {
        let (_stream, said) = relay.stream_of(id).await;
        assert_eq!(said, Said::Accepted, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_leaves_the_other_shares_as_they_are() {
    let scope = Scope::new();
    let (agent, mut relay) = start_with(&scope, ["a", "b", "c"].map(share).to_vec()).await;
    let [one, two, three] = [relay.claim().await, relay.claim().await, relay.claim().await];
    relay.say(refusal(&two, code::NAME_TAKEN, None)).await;
    relay.grant(one, None).await;
    relay.grant(three, None).await;
    agent.until(1, |now| matches!(now, TunnelStatus::Refused(_))).await;
    agent.until_up(0).await;
    agent.until_up(2).await;
    let (_stream, said) = relay.stream_of(2).await;
    assert_eq!(said, Said::Accepted);
    assert_eq!(agent.roster.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_share_that_must_wait_is_claimed_again_while_the_others_serve() {
    let scope = Scope::new();
    let (agent, mut relay) = start_with(&scope, ["a", "b"].map(share).to_vec()).await;
    let (one, two) = (relay.claim().await, relay.claim().await);
    relay.grant(one, None).await;
    relay.say(refusal(&two, code::RATE_LIMITED, Some(20))).await;
    agent.until(1, |now| matches!(now, TunnelStatus::Reconnecting { .. })).await;
    let started = Instant::now();
    let again = relay.claim().await;
    assert_eq!(again.name.as_str(), "b");
    assert!((20..25).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    agent.until(1, |now| matches!(now, TunnelStatus::Connecting { .. })).await;
    relay.grant(again, None).await;
    agent.until_up(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_of_which_every_share_must_wait_is_left_until_then() {
    let scope = Scope::new();
    let (agent, mut relay) = start_with(&scope, ["a", "b"].map(share).to_vec()).await;
    for claim in [relay.claim().await, relay.claim().await] {
        relay.say(refusal(&claim, code::UNAVAILABLE, Some(5))).await;
    }
    assert_eq!(code_of(&agent.ended.await.unwrap()), code::UNAVAILABLE);
    assert_eq!(agent.roster.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_share_that_is_given_up_is_released_alone_and_its_requests_are_cut() {
    let scope = Scope::new();
    let (agent, mut relay) = three(&scope).await;
    let mut denied = Box::pin(agent.shares[1].gate.denied(Principal::Anonymous));
    agent.give_up(1);
    let AgentMessage::Release(release) = relay.hear().await else { panic!("no release") };
    assert_eq!(release.share, 2);
    agent.until(1, |now| matches!(now, TunnelStatus::Ended(_))).await;
    denied.as_mut().await;
    assert_eq!(relay.stream_of(2).await.1, Said::UnknownShare);
    assert_eq!(relay.stream_of(1).await.1, Said::Accepted);
    // The last ones end the session.
    agent.give_up(0);
    agent.give_up(2);
    for _ in 0..2 {
        assert!(matches!(relay.hear().await, AgentMessage::Release(_)));
    }
    assert!(matches!(agent.ended.await.unwrap(), Ended::Released));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_share_that_was_given_up_is_kept_while_the_session_goes_on() {
    let (roster, one) = (Roster::new(), share("one"));
    roster.add(Arc::clone(&one));
    let mut claims = Claims::new(&roster, Arc::default(), "relay");
    let Some(AgentMessage::Claim(claim)) = claims.next_message() else { panic!("no claim") };
    claims.claimed(&Claimed {
        request: claim.request,
        share: 1,
        url: "https://one.r".to_owned(),
        name: claim.name,
        generation: 1,
        ticket: "t".to_owned(),
        expires_at: None,
    });
    one.give_up();
    assert!(matches!(claims.next_message(), Some(AgentMessage::Release(_))));
    assert!(claims.next_message().is_none());
    assert_eq!(Arc::strong_count(&one), 1);
}

#[tokio::test(start_paused = true)]
async fn a_share_that_the_relay_ends_leaves_the_others_as_they_are() {
    let scope = Scope::new();
    let (agent, mut relay) = three(&scope).await;
    relay.say(revoked(code::SUPERSEDED)).await;
    agent.until(0, |now| matches!(now, TunnelStatus::Refused(_))).await;
    assert_eq!(relay.stream_of(1).await.1, Said::UnknownShare);
    assert_eq!(relay.stream_of(3).await.1, Said::Accepted);
    relay.idle(Duration::from_secs(30)).await;
}

#[tokio::test(start_paused = true)]
async fn many_claims_are_made_a_window_at_a_time() {
    let scope = Scope::new();
    let shares: Vec<_> = (0..100).map(|at| share(&format!("s{at}"))).collect();
    let (agent, mut relay) = start_with(&scope, shares).await;
    let mut claims = Vec::new();
    while let Ok(claim) = tokio::time::timeout(Duration::from_secs(1), relay.claim()).await {
        claims.push(claim);
    }
    assert_eq!(claims.len(), 32);
    for claim in claims {
        relay.grant(claim, None).await;
    }
    for _ in 32..100 {
        grant(&mut relay).await;
    }
    agent.until_up(99).await;
}
